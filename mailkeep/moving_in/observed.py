"""What `collect.sh` read on a foreign server, as data: files, the output of commands, tables, mailboxes."""

import base64
import binascii
import json
import posixpath
import re
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mailkeep.errors import UserError

Rows = tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of a mailbox. `path` is a Maildir's directory, that of a dbox, or a file in mbox format. `newest` is the
    Unix time of the last message, or 0."""

    path: str
    kind: str  # maildir, dbox, mbox
    messages: int
    size: int  # bytes
    newest: int


@dataclass(frozen=True, slots=True)
class Mailbox:
    """The folders below one path, such as /home/anna/Maildir or /var/mail/anna."""

    path: str
    kind: str
    folders: tuple[Folder, ...]

    @property
    def messages(self) -> int:
        return sum(folder.messages for folder in self.folders)

    @property
    def size(self) -> int:
        return sum(folder.size for folder in self.folders)

    @property
    def newest(self) -> int:
        return max((folder.newest for folder in self.folders), default=0)


@dataclass(frozen=True)
class Observed:
    """`files` by path, `outputs` by the name of the command, `tables` by `SERVER/DATABASE/TABLE`. `large` are paths of
    files that were too large to be read. `procmail` are users with a .procmailrc."""

    files: Mapping[str, bytes] = field(repr=False)
    outputs: Mapping[str, str]
    tables: Mapping[str, Rows] = field(repr=False)
    large: tuple[str, ...] = ()
    procmail: tuple[str, ...] = ()

    def read_text(self, path: str) -> str:
        """Empty if there is no such file."""
        return self.files.get(path, b"").decode(errors="replace")

    def output_lines(self, name: str) -> list[str]:
        return self.outputs.get(name, "").splitlines()

    @cached_property
    def mailboxes(self) -> tuple[Mailbox, ...]:
        maildirs = [folder for line in self.output_lines("maildirs") if (folder := _parse_directory(line))]
        mboxes = [folder for line in self.output_lines("mboxes") if (folder := _parse_folder(line, "mbox"))]
        directories = {folder.path for folder in maildirs}
        grouped: dict[tuple[str, str], list[Folder]] = {}
        for folder in _merge_new_and_cur(maildirs):
            grouped.setdefault((_find_mailbox_root(folder, directories), folder.kind), []).append(folder)
        for folder in mboxes:
            grouped.setdefault((_find_mbox_root(folder.path), "mbox"), []).append(folder)
        return tuple(Mailbox(path, kind, tuple(folders)) for (path, kind), folders in sorted(grouped.items()))

    @cached_property
    def mail_logins(self) -> Mapping[str, tuple[int, str]]:
        """By login name, how often its mail program logged in, and when last, as far as the logs go back."""
        rows = (line.split("\t") for line in self.output_lines("mail-logins"))
        return {row[0]: (int(row[1]), _find_time(row[2])) for row in rows if len(row) == 3}

    @cached_property
    def shell_logins(self) -> frozenset[str]:
        """Linux accounts with a login that lastlog or wtmp knows."""
        lines = self.output_lines("lastlog")[1:] + self.output_lines("lastlog2")[1:] + self.output_lines("last")
        return frozenset(line.split()[0] for line in lines if line.strip() and "Never logged in" not in line)


def parse_collection(output: bytes) -> Observed:
    """What `collect.sh` printed. UserError if it is cut off, or nothing of the kind."""
    try:
        items = json.loads(output)["items"]
        decoded = [
            (item["kind"], _decode(item["name"]).decode(errors="replace"), _decode(item["data"])) for item in items
        ]
    except (ValueError, KeyError, TypeError, binascii.Error):
        raise UserError("The answer of the server is cut off, or is not that of the program. Run it again.") from None
    files = {name: data for kind, name, data in decoded if kind == "file"}
    return Observed(
        files,
        {name: data.decode(errors="replace") for kind, name, data in decoded if kind == "command"},
        {name: parse_batch_table(data.decode(errors="replace")) for kind, name, data in decoded if kind == "table"},
        tuple(name for kind, name, _ in decoded if kind == "large"),
        tuple(name for kind, name, _ in decoded if kind == "procmail"),
    )


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def parse_batch_table(text: str) -> Rows:
    """The output of `mysql --batch`: a line of names, then rows, with tabs between fields and escapes within."""
    lines = text.splitlines()
    if not lines:
        return ()
    names = lines[0].split("\t")
    return tuple(dict(zip(names, map(_unescape_field, line.split("\t")), strict=False)) for line in lines[1:])


def _unescape_field(value: str) -> str:
    return "" if value == "NULL" else value.replace("\\n", "\n").replace("\\t", "\t").replace("\\\\", "\\")


def read_sqlite(observed: Observed, path: str) -> dict[str, Rows]:
    """The tables of an SQLite database, with its log of the last transactions. Empty if the file is none."""
    content = observed.files.get(path, b"")
    if not content.startswith(b"SQLite format 3\0"):
        return {}
    with tempfile.TemporaryDirectory(prefix="mailkeep-") as directory:  # mode 0700
        copy = Path(directory) / "copy"
        copy.write_bytes(content)
        if log := observed.files.get(f"{path}-wal"):
            copy.with_name("copy-wal").write_bytes(log)
        try:
            connection = sqlite3.connect(copy)
            return dict(_read_tables(connection))
        except sqlite3.Error:
            return {}
        finally:
            connection.close()


def _read_tables(connection: sqlite3.Connection) -> Iterator[tuple[str, Rows]]:
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for (name,) in names:
        cursor = connection.execute('SELECT * FROM "' + name.replace('"', '""') + '"')  # noqa: S608 - a quoted name
        columns = [column[0] for column in cursor.description]
        yield (
            name,
            tuple(
                {column: "" if value is None else str(value) for column, value in zip(columns, row, strict=True)}
                for row in cursor
            ),
        )


def _find_time(line: str) -> str:
    """The time with which a line of a log begins, in syslog's former form or as RFC 3339 without its zone."""
    match = re.match(r"[A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8}|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}", line)
    return match[0] if match else ""


def _parse_folder(line: str, kind: str) -> Folder | None:
    fields = line.split("\t")
    if len(fields) != 4 or not all(number.isdigit() for number in fields[1:]):
        return None
    path, messages, size, newest = fields
    return Folder(path, kind, int(messages), int(size), int(newest))


def _parse_directory(line: str) -> Folder | None:
    """Of `…/cur` and `…/new` in a Maildir, or a directory of a dbox. Files in mdbox hold many messages each."""
    folder = _parse_folder(line, "maildir")
    if not folder:
        return None
    parent, name = posixpath.split(folder.path)
    if name in ("cur", "new"):
        return Folder(parent, "maildir", folder.messages, folder.size, folder.newest)
    if name in ("dbox-Mails", "storage"):
        return Folder(folder.path, "dbox", folder.messages, folder.size, folder.newest)
    return None


def _merge_new_and_cur(folders: Iterable[Folder]) -> Iterator[Folder]:
    merged: dict[str, list[Folder]] = {}
    for folder in folders:
        merged.setdefault(folder.path, []).append(folder)
    for path, parts in merged.items():
        yield Folder(
            path,
            parts[0].kind,
            sum(part.messages for part in parts),
            sum(part.size for part in parts),
            max(part.newest for part in parts),
        )


def _find_mailbox_root(folder: Folder, directories: set[str]) -> str:
    """Maildir++ has its folders beside cur, with a dot; LAYOUT=fs has them as directories below a Maildir."""
    path = folder.path
    if folder.kind == "dbox":
        return path.partition("/mailboxes/")[0] if "/mailboxes/" in path else posixpath.dirname(path)
    parent, name = posixpath.split(path)
    if name.startswith(".") and not name.startswith(".maildir"):
        return parent
    while parent not in ("", "/"):
        if parent in directories:
            path = parent
        parent = posixpath.dirname(parent)
    return path


def _find_mbox_root(path: str) -> str:
    """The spool has a file for each user; a user's own folders are below ~/mail."""
    parts = path.split("/")
    for name in ("mail", "Mail"):
        if name in parts[3:-1]:
            return "/".join(parts[: parts.index(name, 3) + 1])
    return path
