"""A copy of a dbox directory of another server, which our own Dovecot reads: nobody else knows its format and flags."""

import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import IO

from mailkeep_server.common import mailboxes
from mailkeep_server.common.mail_frames import CutError, read_line
from mailkeep_server.mail_import.imap_session import ImapSession, LocalSession, SessionEndedError
from mailkeep_server.mail_import.imap_source import SourceError


class DboxCopy:
    """A directory beside the mailboxes, which ends with this object's user. `size` is what must fit into it."""

    def __init__(self, address: str, size: int) -> None:
        self._address = address
        free = shutil.disk_usage(mailboxes.ROOT).free
        if size * 2 > free:
            raise SourceError(
                f"A copy of the dbox directory and the mail out of it need {2 * size // 2**20} MiB below "
                f"{mailboxes.ROOT}, and {free // 2**20} MiB are free.",
                step="room",
            )
        prefix = f".import-{address}-"
        for left in Path(mailboxes.ROOT).glob(f"{prefix}*"):  # by an import that was killed
            shutil.rmtree(left, ignore_errors=True)
        self._directory = Path(tempfile.mkdtemp(prefix=prefix, dir=mailboxes.ROOT))
        shutil.chown(self._directory, mailboxes.USER, mailboxes.USER)

    def unpack(self, reader: "ChunkReader") -> None:
        """Takes a tar archive from the stream, and no link or device out of it. Raises SourceError."""
        try:
            with tarfile.open(fileobj=reader, mode="r|") as archive:  # type: ignore[call-overload]
                for member in archive:
                    if member.isfile() or member.isdir():
                        archive.extract(member, self._directory, set_attrs=False, filter="data")
        except tarfile.TarError as error:
            raise SourceError(f"The archive of the dbox directory is cut: {error}", step="read") from None
        reader.skip_rest()
        for path in self._directory.rglob("*"):
            shutil.chown(path, mailboxes.USER, mailboxes.USER)

    def open(self) -> ImapSession:
        """A session in which the copy is the account's mail. Raises SourceError."""
        driver = "mdbox" if (self._directory / "storage").is_dir() else "sdbox"
        options = {
            "mail_driver": driver,
            "mail_path": str(self._directory),
            "mailbox_list_layout": "fs",
            "mail_index_path": "",
        }
        words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        try:
            session = LocalSession(["doveadm", "exec", "imap", "-u", self._address, *words])
            session.read_capabilities()
        except SessionEndedError as error:
            raise SourceError(f"Dovecot cannot open the copy: {error}", step="read") from None
        return session

    def remove(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


class ChunkReader:
    """The bytes that come in lines with `chunk`, each with its bytes, until a line with `end`."""

    def __init__(self, reader: IO[bytes]) -> None:
        self._reader, self._rest, self._has_ended = reader, b"", False

    def read(self, size: int) -> bytes:
        """Fewer bytes at the end only. Raises CutError."""
        while len(self._rest) < size and not self._has_ended:
            values = read_line(self._reader)
            self._has_ended = bool(values.get("end"))
            if not self._has_ended:
                chunk = self._reader.read(values["size"])
                if len(chunk) < values["size"]:
                    raise CutError("the connection has ended")
                self._rest += chunk
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def skip_rest(self) -> None:
        while self.read(2**18):
            pass
