"""Keeps the lines of the mail services beside the journal, in files of their own that are bounded and compressed.

Any Linux user may write into the journal, at 32 MB an entry (sd_journal_send(3)), and the journal then deletes its
oldest files, whoever wrote them. A namespace of the journal (systemd.exec(5), LogNamespace) would not help. Its sockets
are open to everybody, too, and `journalctl --unit` and fail2ban would no longer see the lines. So they are copied.
"""

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path

from mailkeep_server.common.files import atomic_write
from mailkeep_server.common.queue_owner import QUEUE_PROGRAM, find_owner

FILES = {"postfix.service": "postfix", "mailkeep-inbound.service": "postfix", "dovecot.service": "dovecot"}
"""By unit, the file; all others share a third. A flood of lines of one service does not end the others' past. What
`inbound` says of a message is beside Postfix's lines of it."""
OTHERS = "others"
UNITS = (
    *("postfix", "dovecot", "opendkim", "unbound", "fail2ban", "ssh", "nftables"),
    *("mailkeep-inbound", "mailkeep-guard", "mailkeep-watch"),
)
ROOT_PROGRAMS = ("sshd", "sshd-session", "sudo", "su", "systemd", "mailkeepctl")
"""Only root can write as root, whatever name a program gives itself."""
JOURNAL_COMMAND = (
    *("journalctl", "--follow", "--no-tail", "--quiet", "--output=json"),
    "--output-fields=MESSAGE,SYSLOG_IDENTIFIER,_PID,_SYSTEMD_UNIT,_UID",
)
MATCHES = (
    *(f"_SYSTEMD_UNIT={unit}.service" for unit in UNITS),
    *("+", "_UID=0", *(f"SYSLOG_IDENTIFIER={name}" for name in ROOT_PROGRAMS)),
)
FIRST_HOURS = 1  # that the first start copies
MAX_LINE = 8192  # characters
CURSOR_SECONDS = 1.0  # between two notes of the place in the journal
CHUNKS = 3  # of which an uncompressed file takes one, at most
Entry = dict[str, str | list[int]]
"""Of the journal, by the names of its fields. What is no UTF-8 is a list of bytes."""


class KeptLog:
    """NAME.log, and older lines in NAME-TIME.log.gz, together at most `max_bytes`."""

    def __init__(self, directory: Path, name: str, max_bytes: int) -> None:
        self.directory, self.name, self.max_bytes = directory, name, max_bytes
        self.path = directory / f"{name}.log"
        self.file = self.path.open("ab", buffering=0)

    def write_line(self, line: str) -> None:
        self.file.write(f"{line}\n".encode(errors="replace"))
        if self.file.tell() >= self.max_bytes // CHUNKS:
            self.rotate()

    def rotate(self) -> None:
        import gzip  # until then, it takes no memory
        import shutil

        self.file.close()
        archive = self.directory / f"{self.name}-{time.strftime('%Y%m%dT%H%M%S')}-{time.monotonic_ns()}.log.gz"
        with self.path.open("rb") as source, gzip.open(archive, "wb", compresslevel=5) as target:
            shutil.copyfileobj(source, target)
        self.file = self.path.open("wb", buffering=0)
        self.remove_oldest()

    def remove_oldest(self) -> None:
        archives = sorted(self.directory.glob(f"{self.name}-*.log.gz"), key=lambda path: path.stat().st_mtime_ns)
        size = sum(path.stat().st_size for path in archives)
        while archives and size > self.max_bytes - self.max_bytes // CHUNKS:
            size -= archives[0].stat().st_size
            archives.pop(0).unlink()


class LogKeeper:
    """Sorts entries of the journal into files below `directory`, at most `max_bytes` together."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        names = (*dict.fromkeys(FILES.values()), OTHERS)
        self.logs = {name: KeptLog(directory, name, max_bytes // len(names)) for name in names}
        self.cursor_file, self.noted = directory / "cursor", float("-inf")
        self.queue_owner = find_owner()

    def build_command(self) -> list[str]:
        """journalctl(1), from the last entry on that was kept."""
        try:
            start = f"--after-cursor={self.cursor_file.read_text()}"
        except FileNotFoundError:
            start = f"--since=-{FIRST_HOURS}h"
        changes = ("+", f"_UID={self.queue_owner}", f"SYSLOG_IDENTIFIER={QUEUE_PROGRAM}") if self.queue_owner else ()
        return [*JOURNAL_COMMAND, start, *MATCHES, *changes]

    def read_entries(self, lines: Iterable[bytes]) -> bool:
        """Whether there was any. One that is no entry in JSON is left out."""
        has_read = False
        for line in lines:
            has_read = True
            try:
                entry = json.loads(line)
                cursor, text = entry["__CURSOR"], format_entry(entry)
            except (ValueError, KeyError, TypeError):
                continue
            self.choose_log(entry).write_line(text)
            if time.monotonic() - self.noted >= CURSOR_SECONDS:
                self.note_cursor(cursor)
        return has_read

    def choose_log(self, entry: Entry) -> KeptLog:
        """A freeze and an operator hold, release and delete mail from units of their own, and in Postfix's name."""
        if (entry.get("SYSLOG_IDENTIFIER"), entry.get("_UID")) == (QUEUE_PROGRAM, self.queue_owner):
            return self.logs[FILES["postfix.service"]]
        return self.logs[FILES.get(str(entry.get("_SYSTEMD_UNIT")), OTHERS)]

    def note_cursor(self, cursor: str) -> None:
        atomic_write(self.cursor_file, cursor, 0o600, durable=False)
        self.noted = time.monotonic()


def format_entry(entry: Entry) -> str:
    """As rsyslog writes: `2026-11-29T02:00:00.000000+00:00 postfix/smtpd[7]: connect from …`. A message is text, or a
    list of bytes if it has bytes that are no UTF-8."""
    moment = datetime.fromtimestamp(int(str(entry["__REALTIME_TIMESTAMP"])) / 1e6, UTC).isoformat(
        timespec="microseconds"
    )
    message = entry["MESSAGE"]
    text = message if isinstance(message, str) else bytes(message).decode(errors="replace")
    return f"{moment} {entry.get('SYSLOG_IDENTIFIER', '')}[{entry.get('_PID', '')}]: {' '.join(text.split())}"[
        :MAX_LINE
    ]


def _start(command: list[str]) -> BufferedReader:
    """What the command writes. It ends with this unit. `subprocess` would do it with 1 MB more, for ever."""
    reader, writer = os.pipe()
    os.posix_spawnp(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1)])
    os.close(writer)
    return os.fdopen(reader, "rb")


def main(arguments: Sequence[str]) -> int:
    """`log-keeper DIRECTORY MAX_BYTES` ends only if journalctl does, with exit code 1: systemd starts it again."""
    directory, max_bytes = arguments
    keeper = LogKeeper(Path(directory), int(max_bytes))
    with _start(keeper.build_command()) as journal:
        has_read = keeper.read_entries(journal)
    if not has_read:  # the place may be one that journalctl does not know
        keeper.cursor_file.unlink(missing_ok=True)
    print("journalctl ended", file=sys.stderr)
    return 1
