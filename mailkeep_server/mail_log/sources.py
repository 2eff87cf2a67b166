"""Where a log comes from: files, or this server's own, in chunks of whole lines.

Memory holds one chunk, whatever a file's length. Compressed files are unpacked as they are read. The server's own log
is what the log keeper has, which only the services' lines get into; around that, the journal.
"""

import bz2
import gzip
import lzma
import os
import re
import subprocess
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from mailkeep_server.common.queue_owner import QUEUE_PROGRAM, find_owner
from mailkeep_server.mail_log.journal_forms import convert_export, convert_json, is_export, is_json
from mailkeep_server.mail_log.line_forms import LINE, TimeReader, split_line
from mailkeep_server.mail_log.rfc5424_form import convert_rfc5424, is_rfc5424

CHUNK_SIZE = 1 << 18  # bytes
MAX_LINE = 1 << 16  # bytes; the rest of a line is left out. Postfix cuts its lines at 2 kB, Dovecot at 8 kB
KEPT_LOGS = Path("/var/log/mailkeep")
KEPT_UNITS = {"postfix": ("postfix", "mailkeep-inbound"), "dovecot": ("dovecot",)}
"""By the log keeper's name for a file, the units whose lines it has."""
JOURNAL_COMMAND = ("journalctl", "--quiet", "--utc", "--output=short-iso-precise", "--no-pager", "--no-hostname")
UNPACKERS: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7": lzma.open,
}
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
CONVERTERS = ((is_export, convert_export), (is_json, convert_json), (is_rfc5424, convert_rfc5424))
"""How to know a form by the beginning of a file, and what makes it into lines."""
PEEK = 4096  # bytes
MICROSECOND = timedelta(microseconds=1)
ISO_LENGTH = 26  # of `2026-11-29T02:00:00.000000`
_ROTATION = re.compile(r"[.-](\d{1,4})(?:\.\w+)?$")


class LogError(Exception):
    """A log that cannot be read. The message says which, and why."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole lines. `last_day` is the latest day that times without a year can mean."""

    text: bytes
    last_day: date


def read_files(paths: Iterable[Path]) -> Iterator[Chunk]:
    """The lines of files, the oldest file first. Raises LogError."""
    for path in order_files(paths):
        yield from _read_file(path)


def refuse_other_files(paths: Iterable[Path]) -> None:
    """Raises LogError for a pipe, since files are read more than once, and for a file that has no line of a log: what
    cannot be read must not count as silence."""
    for path in paths:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise LogError(f"{path} is no file. It is read more than once, so write it into a file first")
        chunk = next(_read_file(path), None)
        if chunk and chunk.text.strip() and not any(map(LINE.match, chunk.text.split(b"\n"))):
            raise LogError(
                f"{path}: no line of it is a log's. These are read: what syslog writes (RFC 3164, RFC 5424, with ISO "
                "times), and what journalctl writes with --output short-iso, export or json; also compressed"
            )


def order_files(paths: Iterable[Path]) -> list[Path]:
    """By the last change; of the same moment, `mail.log.2.gz` before `mail.log.1`. Raises LogError."""

    def key(path: Path) -> tuple[int, int]:
        rotation = _ROTATION.search(path.name)
        return path.stat().st_mtime_ns, -int(rotation[1]) if rotation else 0

    try:
        return sorted(paths, key=key)
    except OSError as error:
        raise LogError(f"{error.filename}: {error.strerror}") from None


def read_server_log(since: str = "", units: Sequence[str] = tuple(KEPT_UNITS)) -> Iterator[Chunk]:
    """The log of this server's mail services. What was before `since` (`2026-11-29T02:00:00`) may be left out. Raises
    LogError."""
    for name in units:
        yield from _read_kept_log(name, since)


def find_first_time(name: str = "postfix") -> str:
    """How far back the server's log of Postfix or Dovecot reaches: `2026-11-29T02:00:00`, or "" if it is empty."""
    kept = next((time for path in _list_kept_logs(name) if (time := _find_first_time(path))), "")
    journal = (
        chunk.text[:ISO_LENGTH].decode(errors="replace") for chunk in _read_journal(name, "", "", ("--lines=+1",))
    )
    return min(filter(None, (kept, next(journal, ""))), default="")[:19]


def find_first_time_of(paths: Iterable[Path]) -> str:
    """The same of files. Raises LogError."""
    times = []
    for path in paths:
        chunk = next(_read_file(path), None)
        fields = split_line(chunk.text.partition(b"\n")[0], TimeReader(chunk.last_day).read) if chunk else None
        times += [fields[0].decode()] if fields else []
    return min(times, default="")


def _read_kept_log(name: str, since: str) -> Iterator[Chunk]:
    """The journal up to the first kept line, the kept lines, the journal from the last of them on."""
    files = _list_kept_logs(name)
    first = next((time for path in files if (time := _find_first_time(path))), "")
    last = ""
    if not first or since < first:
        yield from _read_journal(name, since, _shift(first, -MICROSECOND))
    for path in files:
        for chunk in _read_file(path):
            last = _find_last_time(chunk.text) or last
            if last >= since:
                yield chunk
    if first:
        yield from _read_journal(name, max(since, _shift(last or first, MICROSECOND)), "")


def _list_kept_logs(name: str) -> list[Path]:
    """`postfix-20261129T020000-7.log.gz` and others, then `postfix.log`."""
    current = KEPT_LOGS / f"{name}.log"
    return [*sorted(KEPT_LOGS.glob(f"{name}-*.log.gz")), *([current] if current.exists() else [])]


def _read_journal(name: str, since: str, until: str, options: Sequence[str] = ()) -> Iterator[Chunk]:
    bounds = [f"--{word}={_format_bound(time)}" for word, time in (("since", since), ("until", until)) if time]
    matches = [f"_SYSTEMD_UNIT={unit}.service" for unit in KEPT_UNITS[name]]
    if name == "postfix" and (owner := find_owner()):  # a freeze and an operator change the queue from other units
        matches += ["+", f"_UID={owner}", f"SYSLOG_IDENTIFIER={QUEUE_PROGRAM}"]
    today = datetime.now(UTC).date()
    with _open_pipe([*JOURNAL_COMMAND, *bounds, *options, *matches], None) as file:
        for text in _split_chunks(file):
            yield Chunk(text, today)


def _format_bound(time: str) -> str:
    """systemd.time(7) knows no `T`."""
    return f"{time.replace('T', ' ')} UTC"


def _shift(time: str, step: timedelta) -> str:
    return (datetime.fromisoformat(time) + step).isoformat(timespec="microseconds") if time else ""


def _find_first_time(path: Path) -> str:
    try:
        with open_log(path) as file:
            return _read_time(file.readline(MAX_LINE))
    except (EOFError, OSError, LogError):
        return ""


def _find_last_time(text: bytes) -> str:
    return _read_time(text[text.rfind(b"\n", 0, -1) + 1 :])


def _read_time(line: bytes) -> str:
    match = LINE.match(line)
    return match["time"][:ISO_LENGTH].decode() if match else ""


def is_plain(path: Path) -> bool:
    """Whether it is text of lines, which can be read from any place on. Raises OSError."""
    with path.open("rb") as file:
        beginning = file.read(PEEK)
    return not beginning.startswith((*UNPACKERS, ZSTD_MAGIC)) and not any(form(beginning) for form, _ in CONVERTERS)


def read_part(path: Path, begin: int, end: int) -> Iterator[Chunk]:
    """The lines of a plain file that begin from `begin` on and before `end`. Raises LogError."""
    try:
        with path.open("rb") as file:
            if begin:
                file.seek(begin - 1)
                file.readline()
            for text in _split_chunks(file, end):
                yield Chunk(text, _find_last_day(path))
    except OSError as error:
        raise LogError(f"{path}: {error.strerror or error}") from None


def _find_last_day(path: Path) -> date:
    """Its last line may be a day later where the reader's zone differs."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).date() + timedelta(days=1)


def _read_file(path: Path) -> Iterator[Chunk]:
    try:
        with open_log(path) as file:
            last_day = _find_last_day(path)
            beginning = file.peek(PEEK) if hasattr(file, "peek") else b""
            for text in _choose_reader(beginning)(file):
                yield Chunk(text, last_day)
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise LogError(f"{path}: the compressed file is damaged: {error}") from None
    except OSError as error:
        raise LogError(f"{path}: {error.strerror or error}") from None


def _choose_reader(beginning: bytes) -> Callable[[IO[bytes]], Iterator[bytes]]:
    for has_form, convert in CONVERTERS:
        if has_form(beginning):
            return convert
    return _split_chunks


@contextmanager
def open_log(path: Path) -> Iterator[IO[bytes]]:
    """A log file, unpacked if it is compressed. Raises OSError, and LogError if zstd fails."""
    with path.open("rb") as file:
        magic = file.peek(4)[:4]
        if magic == ZSTD_MAGIC:
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            with _open_pipe(["zstd", "--decompress", "--stdout"], file) as pipe:
                yield pipe
            return
        unpack = next((unpack for start, unpack in UNPACKERS.items() if magic.startswith(start)), None)
        if not unpack:
            yield file
            return
        with unpack(file) as unpacked:
            yield unpacked


@contextmanager
def _open_pipe(command: Sequence[str], source: IO[bytes] | None) -> Iterator[IO[bytes]]:
    """The output of a command. A reader that stops early ends it. Raises LogError if it fails."""
    stdin = source if source is not None else subprocess.DEVNULL
    try:
        process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError:
        raise LogError(f"{command[0]} is needed to read this, and is not installed.") from None
    with process:
        assert process.stdout
        assert process.stderr
        try:
            yield process.stdout
            is_read = not process.stdout.read(1)
        except BaseException:
            process.kill()
            raise
        if not is_read:
            process.kill()
        elif process.wait():
            reason = process.stderr.read().decode(errors="replace").strip()
            raise LogError(f"{command[0]} failed: {reason[-200:]}")


def _split_chunks(file: IO[bytes], end: int | None = None) -> Iterator[bytes]:
    """Chunks of whole lines, up to the line that begins before the byte `end`."""
    rest, left = b"", CHUNK_SIZE if end is None else end - file.tell()
    while left > 0 and (block := file.read(min(left, CHUNK_SIZE))):
        left -= len(block) if end is not None else 0
        length = block.rfind(b"\n") + 1
        if length:
            yield rest + block[:length]
            rest = block[length : length + MAX_LINE]
        else:
            rest = (rest + block)[:MAX_LINE]
    if rest and end is not None:
        rest += file.readline(MAX_LINE)
    if rest:
        yield rest if rest.endswith(b"\n") else rest + b"\n"
