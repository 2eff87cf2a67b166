"""The old server over SSH: it is only read, by sh, find, head and tar."""

import tarfile
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import IO, Any, NamedTuple

from mailkeep.host.ssh_connection import SshConnection, SshError
from mailkeep.host.ssh_failure import explain_ssh_failure
from mailkeep.moving_in.copy_address import SourceAddress
from mailkeep.moving_in.copy_model import SOURCE_FAILED, CopyError
from mailkeep_server.common.message_bytes import CHUNK, LARGE_FILES, MAX_IN_MEMORY, Content

_PROBE = r"""
if [ -d "$1" ]; then echo kind directory; elif [ -f "$1" ]; then echo kind file; else echo kind none; fi
[ -r "$1" ] && echo readable yes
find --version 2>/dev/null | grep -q GNU && echo find gnu
tar --version 2>/dev/null | grep -q GNU && echo tar gnu
echo "zone $(cat /etc/timezone 2>/dev/null || readlink /etc/localtime 2>/dev/null)"
[ -f "$1" ] && echo "size $(wc -c < "$1")"
exit 0
"""
_LIST_GNU = r"""cd "$1" && find -L . -printf '%y|%s|%T@|%p\0' 2>/dev/null; exit 0"""
_LIST_OTHER = r"""cd "$1" && find -L . -exec stat -L -c '%F|%s|%Y|%n' {} + 2>/dev/null | tr '\n' '\0'; exit 0"""
_TAR_GNU = 'cd "$1" && exec tar --dereference --null --files-from=- --no-recursion --format=pax -cf - 2>/dev/null'
_TAR_OTHER = r"""cd "$1" && tr '\0' '\n' | exec tar -h -T - -cf - 2>/dev/null"""
_FIND_MBOXES = r"""cd "$1" && find -L . -type f ! -path '*/.imap/*' -exec sh -c '
for file do
  [ "$(head -c 5 "$file" 2>/dev/null | tr -d "\000")" = "From " ] && printf "%s\0" "$file"
done' sh {} + 2>/dev/null; exit 0"""


_COUNT_MESSAGES = r"""cd "$1" 2>/dev/null; LC_ALL=C; export LC_ALL
tr '\n' '\t' | tr '\0' '\n' | while IFS= read -r file; do
  count=$(grep -acE '^From .*[0-9]:[0-9][0-9].* [0-9]{4}' -- "${file:-$1}" 2>/dev/null); echo "${count:-0}"
done; exit 0"""


class Entry(NamedTuple):
    """A file (`f`) or directory (`d`) on the old server; the path begins with `./`."""

    kind: str
    size: int
    changed: int
    path: bytes


class OldHost:
    """The old server, with the path that the operator has named. `ssh_config` is a file for ssh's option -F."""

    def __init__(self, address: SourceAddress, ssh_config: str = "") -> None:
        self.address = address
        self._data: dict[str, Any] = {
            "ssh_user": address.user,
            "ssh_port": address.port or None,
            "ssh_config_file": ssh_config or None,
        }
        self._connection = SshConnection(address.host, self._data)
        self._sudo = ""
        self._facts: dict[str, str] = {}

    def probe(self) -> str:
        """Logs in, and says whether the path is a "directory" or a "file". Raises CopyError."""
        for self._sudo in ("", "sudo -n "):
            self._facts = dict(
                line.partition(" ")[::2] for line in self._run(_PROBE).decode(errors="replace").splitlines()
            )
            if "readable" in self._facts:
                return self._facts["kind"]
        self._sudo = ""
        raise CopyError(
            f"{self.address.path} on {self.address.host}: there is no such file or directory, or the login may not "
            "read it. Give its whole path; log in as root, or as a user for whom `sudo -n` works.",
            SOURCE_FAILED,
        )

    @property
    def zone(self) -> str:
        """The name of the old server's time zone, or ""."""
        return self._facts.get("zone", "").rpartition("zoneinfo/")[2]

    @property
    def file_size(self) -> int:
        return int(self._facts.get("size") or 0)

    def list_entries(self) -> list[Entry]:
        """All files and directories below the path."""
        output = self._run(_LIST_GNU if "find" in self._facts else _LIST_OTHER)
        entries = []
        for record in output.split(b"\0"):
            kind, *numbers = record.split(b"|", 3)
            if len(numbers) == 3 and kind[:1] in (b"f", b"r", b"d"):  # "f", "regular file", "regular empty file"
                entries.append(
                    Entry("d" if kind[:1] == b"d" else "f", int(numbers[0]), int(float(numbers[1])), numbers[2])
                )
        return entries

    def find_mboxes(self) -> set[bytes]:
        """The files below the path that begin as an mbox does."""
        return set(self._run(_FIND_MBOXES).split(b"\0")) - {b""}

    def count_messages(self, paths: list[bytes]) -> list[int]:
        """About how many messages each mbox has: lines of text can look like the beginning of one. An empty path is
        the operator's own."""
        output = self._run(_COUNT_MESSAGES, b"".join(path + b"\0" for path in paths)).split()
        return [int(number) for number in output] if len(output) == len(paths) else [-1] * len(paths)

    def read_files(self, paths: Iterable[bytes]) -> Iterator[tuple[bytes, Content]]:
        """The contents of these files, in their order, as they are read. Files that cannot be read are left out.
        A large one is a temporary file, which is removed when the next is read. Raises CopyError."""
        paths = list(paths)
        if not paths:
            return
        with (
            self.stream_output(_TAR_GNU if "tar" in self._facts else _TAR_OTHER, b"\0".join(paths) + b"\0") as output,
            tempfile.TemporaryDirectory(prefix="mailkeep-", dir=LARGE_FILES) as directory,
        ):
            try:
                with tarfile.open(
                    fileobj=output, mode="r|", bufsize=CHUNK, encoding="utf-8", errors="surrogateescape"
                ) as archive:
                    for member in archive:
                        archive.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
                        if member.isfile() and (file := archive.extractfile(member)):
                            content = _read_member(file, member.size, directory)
                            yield b"./" + member.name.encode("utf-8", "surrogateescape").removeprefix(b"./"), content
                            if isinstance(content, Path):
                                content.unlink(missing_ok=True)
            except tarfile.ReadError:
                if paths:
                    raise self.cut_error() from None

    @contextmanager
    def stream_file(self, path: bytes, size: int) -> Iterator[IO[bytes]]:
        """The first `size` bytes of a file; `path` is below the operator's path, or empty for that itself."""
        name = '"$1"' if not path else f'"$1"/{_quote(path)}'
        with self.stream_output(f"exec head -c {size} {name}") as output:
            yield output

    @contextmanager
    def stream_output(self, script: str, stdin: bytes = b"") -> Iterator[IO[bytes]]:
        """What a script writes, of which `$1` is the path. Raises CopyError."""
        try:
            process = self._connection.start(self._build_command(script))
        except SshError as error:
            raise self._connect_error(error) from None
        assert process.stdin
        assert process.stdout
        feeder = threading.Thread(target=_feed, args=(process.stdin, stdin), daemon=True)
        feeder.start()
        try:
            yield process.stdout
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            feeder.join()

    def cut_error(self) -> CopyError:
        return CopyError(
            f"The connection to {self.address.host} has ended before all was read. What has arrived stays; run the "
            "same command again, and it goes on from there.",
            SOURCE_FAILED,
        )

    def _run(self, script: str, stdin: bytes = b"") -> bytes:
        try:
            return self._connection.run(self._build_command(script), stdin).stdout
        except SshError as error:
            raise self._connect_error(error) from None

    def _connect_error(self, error: SshError) -> CopyError:
        remedy = explain_ssh_failure(str(error), self.address.host, self._data)
        remedy = remedy.replace("inventory.py", "--from")
        return CopyError(f"{self.address.host}: ssh: {error}. {remedy}", SOURCE_FAILED)

    def _build_command(self, script: str) -> str:
        path = self.address.path
        argument = f'"$HOME"/{quote(path[2:])}' if path.startswith("~/") else quote(path)
        return f"{self._sudo}sh -c {quote(script)} sh {argument}"


def _quote(path: bytes) -> str:
    return quote(path.decode("utf-8", "surrogateescape"))


def _feed(pipe: IO[bytes], data: bytes) -> None:
    with suppress(OSError):  # the reader has ended, which its output tells
        pipe.write(data)
    with suppress(OSError):
        pipe.close()


def _read_member(file: IO[bytes], size: int, directory: str) -> Content:
    if size <= MAX_IN_MEMORY:
        return file.read()
    with tempfile.NamedTemporaryFile(dir=directory, delete=False) as copy:
        while chunk := file.read(CHUNK):
            copy.write(chunk)
    return Path(copy.name)
