"""A small IMAP server for tests, as Dovecot or somebody else's: folders in memory, sessions over socket pairs."""

import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

from mailkeep_server.mail_import.imap_session import ImapSession

APPENDED = re.compile(rb' \(([^)]*)\) "([^"]*)" \{(\d+)\}\r\n\Z')


@dataclass
class StoredMessage:
    uid: int
    flags: str
    date: str
    content: bytes

    @property
    def imap_content(self) -> bytes:
        return re.sub(rb"\r?\n", b"\r\n", self.content)


@dataclass
class StoredFolder:
    uid_validity: int
    uid_next: int = 1
    messages: list[StoredMessage] = field(default_factory=list)
    attributes: str = ""


class ImapStore:
    """`folders` by their names on the wire. `max_bytes` is the quota; after `dies_after` appended messages, the session
    ends before it answers; `refuses` tells which messages it does not take."""

    def __init__(self, separator: str = ".", password: str = "") -> None:
        self.separator, self.password = separator, password
        self.folders = {"INBOX": StoredFolder(1000)}
        self.subscribed: set[str] = set()
        self.commands: list[str] = []
        self.max_bytes = 10**9
        self.dies_after = -1
        self.prefix = ""
        self.refusal = b"NO [CANNOT] refused"
        self.refuses: Callable[[bytes], bool] = lambda _: False

    def connect(self) -> ImapSession:
        ours, theirs = socket.socketpair()
        threading.Thread(target=self._serve, args=(theirs,), daemon=True).start()
        with ours:
            session = ImapSession(ours.makefile("rb"), ours.makefile("wb"))
        session.read_capabilities()
        return session

    def add(self, name: str, content: bytes, flags: str = "", date: str = "01-Jan-2020 00:00:00 +0000") -> None:
        folder = self.folders.setdefault(name, StoredFolder(1000 + len(self.folders)))
        folder.messages.append(StoredMessage(folder.uid_next, flags, date, content))
        folder.uid_next += 1

    def contents(self, name: str) -> list[bytes]:
        return [message.content for message in self.folders[name].messages]

    @property
    def used(self) -> int:
        return sum(len(message.imap_content) for folder in self.folders.values() for message in folder.messages)

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as reader, connection.makefile("wb") as writer:
            try:
                _Session(self, reader, writer).serve()
            except (BrokenPipeError, ConnectionResetError, EOFError):
                return

    def update(self, name: str, *options: str) -> None:
        """As `doveadm mailbox update` does."""
        folder = self.folders[name]
        for option, value in zip(options[::2], options[1::2], strict=True):
            if option == "--uid-validity":
                folder.uid_validity = int(value)
            elif option == "--min-next-uid":
                folder.uid_next = max(folder.uid_next, int(value))


class _Session:
    def __init__(self, store: ImapStore, reader: BinaryIO, writer: BinaryIO) -> None:
        self.store, self.reader, self.writer = store, reader, writer
        self.selected, self.selected_validity = "", 0

    def serve(self) -> None:
        self.send(b"* OK ready" if self.store.password else b"* PREAUTH logged in")
        while line := self.reader.readline():
            tag, _, command = line.partition(b" ")
            if self.selected and self.store.folders[self.selected].uid_validity != self.selected_validity:
                self.send(b"* BYE IMAP session state is inconsistent, please relogin.")
                return
            self.store.commands.append(command.decode().strip())
            self.send(tag + b" " + self.answer(command))

    def send(self, line: bytes) -> None:
        self.writer.write(line + b"\r\n")
        self.writer.flush()

    def answer(self, command: bytes) -> bytes:
        name = self.read_name(command)
        answer_command = getattr(self, f"answer_{command.split()[0].decode().lower()}", None)
        if answer_command:
            result: bytes = answer_command(name, command)
            return result
        return b"BAD unknown command"

    def answer_capability(self, _name: str, _command: bytes) -> bytes:
        self.send(b"* CAPABILITY IMAP4rev1 MULTIAPPEND UIDPLUS QUOTA NAMESPACE")
        return b"OK done"

    def answer_namespace(self, _name: str, _command: bytes) -> bytes:
        self.send(f'* NAMESPACE (("{self.store.prefix}" "{self.store.separator}")) (("Other/" "/")) NIL'.encode())
        return b"OK done"

    def answer_list(self, _name: str, _command: bytes) -> bytes:
        for folder, stored in self.store.folders.items():
            self.send(f'* LIST ({stored.attributes}) "{self.store.separator}" "{folder}"'.encode())
        return b"OK done"

    def answer_lsub(self, _name: str, _command: bytes) -> bytes:
        for folder in self.store.subscribed:
            self.send(f'* LSUB () "{self.store.separator}" "{folder}"'.encode())
        return b"OK done"

    def answer_getquotaroot(self, _name: str, _command: bytes) -> bytes:
        used, limit = self.store.used // 1024, self.store.max_bytes // 1024
        self.send(b'* QUOTAROOT "INBOX" "User quota"')
        self.send(f'* QUOTA "User quota" (STORAGE {used} {limit} MESSAGE 1 100000)'.encode())
        return b"OK done"

    def answer_create(self, name: str, _command: bytes) -> bytes:
        if name in self.store.folders:
            return b"NO [ALREADYEXISTS] Mailbox already exists"
        self.store.folders[name] = StoredFolder(2000 + len(self.store.folders))
        return b"OK done"

    def answer_subscribe(self, name: str, _command: bytes) -> bytes:
        self.store.subscribed.add(name)
        return b"OK done"

    def answer_status(self, name: str, _command: bytes) -> bytes:
        if name not in self.store.folders:
            return b"NO no such folder"
        self.send(f'* STATUS "{name}" (MESSAGES {len(self.store.folders[name].messages)})'.encode())
        return b"OK done"

    def answer_unselect(self, _name: str, _command: bytes) -> bytes:
        self.selected = ""
        return b"OK done"

    def read_name(self, command: bytes) -> str:
        match = re.match(rb'\w+ "((?:[^"\\]|\\.)*)"', command)
        return re.sub(rb"\\(.)", rb"\1", match.group(1)).decode() if match else ""

    def answer_login(self, _name: str, command: bytes) -> bytes:
        text = command
        while literal := re.search(rb"\{(\d+)\}\r\n\Z", text):
            self.send(b"+ go on")
            text = text[: literal.start()] + self.reader.read(int(literal.group(1))) + self.reader.readline()
        is_right = self.store.password.encode() in text
        return b"OK logged in" if is_right else b"NO [AUTHENTICATIONFAILED] Authentication failed."

    def answer_examine(self, name: str, _command: bytes) -> bytes:
        if name not in self.store.folders:
            return b"NO [NONEXISTENT] Mailbox does not exist"
        folder = self.store.folders[name]
        self.selected, self.selected_validity = name, folder.uid_validity
        self.send(b"* FLAGS (\\Seen)")
        self.send(f"* {len(folder.messages)} EXISTS".encode())
        self.send(f"* OK [UIDVALIDITY {folder.uid_validity}] UIDs valid".encode())
        self.send(f"* OK [UIDNEXT {folder.uid_next}] next".encode())
        return b"OK [READ-ONLY] done"

    def answer_uid(self, _name: str, command: bytes) -> bytes:
        if command.split()[1] == b"STORE":
            flags = command.partition(b"(")[2].partition(b")")[0].decode()
            for message in self.store.folders[self.selected].messages:
                if message.uid == int(command.split()[2]):
                    message.flags = flags
            return b"OK done"
        words = command.split()
        ranges = [part.split(b":") for part in words[2].split(b",")]
        items = b" ".join(words[3:])
        for number, message in enumerate(list(self.store.folders[self.selected].messages), 1):
            if not any(
                int(first) <= message.uid and (rest[:1] == [b"*"] or message.uid <= int((rest or [first])[0]))
                for first, *rest in ranges
            ):
                continue
            body = message.imap_content
            line = f"* {number} FETCH (UID {message.uid} RFC822.SIZE {len(body)}".encode()
            if b"FLAGS" in items:
                line += f' FLAGS ({message.flags}) INTERNALDATE "{message.date}"'.encode()
            if b"BODY.PEEK[]" in items:
                line += b" BODY[] {%d}\r\n" % len(body) + body
            self.send(line + b")")
        return b"OK done"

    answer_select = answer_examine

    def answer_append(self, name: str, command: bytes) -> bytes:
        rest = command.partition(b'" ')[2] if b'" (' in command else command
        batch, line = list[StoredMessage](), b" " + rest
        while match := APPENDED.search(line):
            flags, date, size = match.group(1).decode(), match.group(2).decode(), int(match.group(3))
            if self.store.used + sum(len(message.content) for message in batch) + size > self.store.max_bytes:
                return b"NO [OVERQUOTA] Quota exceeded (mailbox for user is full)"
            self.send(b"+ OK")
            content = self.reader.read(size)
            if self.store.refuses(content):
                self.reader.readline()
                return self.store.refusal
            batch.append(StoredMessage(0, flags, date, content))
            line = self.reader.readline()
        folder = self.store.folders[name]
        first = folder.uid_next
        for message in batch:
            message.uid, folder.uid_next = folder.uid_next, folder.uid_next + 1
            folder.messages.append(message)
        if (
            self.store.dies_after >= 0
            and sum(len(f.messages) for f in self.store.folders.values()) > self.store.dies_after
        ):
            raise EOFError
        return f"OK [APPENDUID {folder.uid_validity} {first}:{folder.uid_next - 1}] done".encode()
