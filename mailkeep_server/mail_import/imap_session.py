"""IMAP as a client, over a pipe to our own Dovecot or over TLS to a server elsewhere (RFC 3501, 3502, 4315, 6154).

Python's imaplib keeps a whole message in memory several times, parses no lists, and cannot append several messages in
one transaction. Literals are synchronizing: a server that refuses a command never gets the message that belongs to it.
So it cannot take the message's lines for commands.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple, TypeAlias

from mailkeep_server.common.message_bytes import CHUNK, LARGE_FILES, MAX_IN_MEMORY, Content

MAX_LINE = 2**22  # bytes of a response without its literals
END_TIMEOUT = 10.0  # seconds for Dovecot's process to end
_LITERAL = re.compile(rb"~?\{(\d+)\+?\}\r?\n\Z")
_TOKEN = re.compile(rb' *(?:(\()|(\))|"((?:[^"\\]|\\.)*)"|([^ ()"\[]*(?:\[[^\]]*\])?[^ ()"]*))')
_STATUSES = (b"OK", b"NO", b"BAD", b"BYE", b"PREAUTH")

Value: TypeAlias = "bytes | Path | list[Value]"


class ImapError(Exception):
    """The server refuses a command. The message is the server's; `code` is its response code, such as OVERQUOTA."""

    def __init__(self, text: str) -> None:
        match = re.match(r"\[([A-Z-]+)[^\]]*\] *", text)
        self.code = match.group(1) if match else ""
        super().__init__(text[match.end() :] if match else text)


class SessionEndedError(Exception):
    """The connection has ended. The message says why, as far as is known."""


class Literal:
    """A message in a command."""

    def __init__(self, content: Content) -> None:
        self.content = content
        self.size = len(content) if isinstance(content, bytes) else content.stat().st_size

    def write_to(self, writer: IO[bytes]) -> None:
        if isinstance(self.content, bytes):
            writer.write(self.content)
            return
        left = self.size
        with self.content.open("rb") as file:
            while left:
                chunk = file.read(min(CHUNK, left))
                if not chunk:
                    raise SessionEndedError(f"{self.content} became shorter while it was read")
                writer.write(chunk)
                left -= len(chunk)


class Response(NamedTuple):
    """A response: its tag, `*` or `+`; its words, with lists as lists and long literals in files; the text of a
    status."""

    tag: bytes
    words: list[Value]
    text: str


class FolderState(NamedTuple):
    """What SELECT says of a folder."""

    messages: int
    uid_validity: int
    uid_next: int


@dataclass(frozen=True)
class ListedFolder:
    """A folder of LIST: its name as the server spells it."""

    name: bytes
    separator: str
    attributes: frozenset[str]


class ImapSession:
    """`reader` and `writer` are the connection's ends; `peer` is its name in messages. It is logged in, or `log_in`
    follows."""

    def __init__(self, reader: IO[bytes], writer: IO[bytes], peer: str = "Dovecot") -> None:
        self._reader, self._writer, self._peer = reader, writer, peer
        self._number = 0
        self._files = tempfile.TemporaryDirectory(prefix="mailkeep-", dir=LARGE_FILES)
        self.capabilities: frozenset[str] = frozenset()
        greeting = self._read_response()
        if not greeting.words or greeting.words[0] not in (b"OK", b"PREAUTH"):
            raise SessionEndedError(greeting.text or f"{self._peer} does not greet as an IMAP server")

    def run(self, *parts: bytes | Literal) -> tuple[list[Response], str]:
        """Sends a command, and returns the untagged responses and the text of the answer. Raises ImapError when the
        server refuses it, and SessionEndedError."""
        tag, responses = self._make_tag(), list[Response]()
        line = tag + b" "
        for part in parts:
            if isinstance(part, Literal):
                self._write(line + b"{%d}\r\n" % part.size)
                answer = self._read_until(tag, responses)
                if answer is not None:
                    return responses, answer
                self._write(part)
                line = b""
            else:
                line += part
        self._write(line + b"\r\n")
        answer = self._read_until(tag, responses)
        if answer is None:
            raise SessionEndedError(f"{self._peer} asks for more than the command has")
        return responses, answer

    def stream(self, command: bytes) -> Iterator[Response]:
        """The untagged responses to a command as they come. The caller reads all of them. Raises as `run` does."""
        tag = self._make_tag()
        self._write(tag + b" " + command + b"\r\n")
        while (response := self._read_response()).tag != tag:
            yield response
        _check_answer(response)

    def read_capabilities(self) -> None:
        responses, _ = self.run(b"CAPABILITY")
        words = [word for response in responses for word in response.words if isinstance(word, bytes)]
        self.capabilities = frozenset(word.decode(errors="replace").upper() for word in words)

    def select_folder(self, name: bytes, *, read_only: bool = True) -> FolderState:
        """`name` is spelt as on the server."""
        responses, _ = self.run(b"EXAMINE " if read_only else b"SELECT ", quote_text(name))
        messages = uid_validity = uid_next = 0
        for _, words, text in responses:
            if words[1:2] == [b"EXISTS"]:
                messages = int(read_bytes(words[0]))
            if match := re.match(r"\[UIDVALIDITY (\d+)\]", text):
                uid_validity = int(match.group(1))
            if match := re.match(r"\[UIDNEXT (\d+)\]", text):
                uid_next = int(match.group(1))
        return FolderState(messages, uid_validity, uid_next)

    def unselect_folder(self) -> None:
        """No folder is selected (RFC 3691). Dovecot ends a session whose folder gets another UIDVALIDITY."""
        self.run(b"UNSELECT")

    def fetch(self, uids: str, items: str) -> Iterator[dict[str, Value]]:
        """The items of messages of the selected folder, by the names that the server returns. A body in a file is
        removed when the next message is read."""
        for _, words, _ in self.stream(f"UID FETCH {uids} ({items})".encode()):
            if len(words) == 3 and words[1] == b"FETCH" and isinstance(values := words[2], list):
                names = [read_bytes(word).decode(errors="replace").upper() for word in values[::2]]
                yield dict(zip(names, values[1::2], strict=False))
                for value in values:
                    if isinstance(value, Path):
                        value.unlink(missing_ok=True)

    def list_folders(self) -> list[ListedFolder]:
        options = b" RETURN (SPECIAL-USE)" if {"SPECIAL-USE", "LIST-EXTENDED"} <= self.capabilities else b""
        responses, _ = self.run(b'LIST "" "*"', options)
        folders = []
        for _, words, _ in responses:
            if len(words) >= 4 and words[0] == b"LIST" and isinstance(words[1], list):
                attributes = frozenset(read_bytes(word).decode(errors="replace") for word in words[1])
                separator = read_bytes(words[2]).decode(errors="replace")
                name = read_bytes(words[3])
                folders.append(ListedFolder(name, "" if separator == "NIL" else separator, attributes))
        return folders

    def append(self, name: bytes, messages: Sequence[tuple[str, Content]]) -> tuple[int, list[int]]:
        """Appends all of the messages or none (RFC 3502). Each is its flags and date as IMAP has them, and its bytes.

        Returns the folder's UIDVALIDITY and their UIDs (RFC 4315); 0 and none from a server that does not tell. Raises
        as `run` does.
        """
        parts: list[bytes | Literal] = [b"APPEND ", quote_text(name)]
        for attributes, content in messages:
            parts += [f" {attributes} ".encode(), Literal(content)]
        _, answer = self.run(*parts)
        match = re.match(r"\[APPENDUID (\d+) ([\d:,]+)\]", answer)
        return (int(match.group(1)), expand_uids(match.group(2))) if match else (0, [])

    def close(self) -> None:
        self._files.cleanup()
        for pipe in (self._writer, self._reader):
            with suppress(OSError):  # bytes that were not sent belong to a connection that has ended
                pipe.close()

    def _make_tag(self) -> bytes:
        self._number += 1
        return b"m%d" % self._number

    def _write(self, part: bytes | Literal) -> None:
        try:
            if isinstance(part, Literal):
                part.write_to(self._writer)
            else:
                self._writer.write(part)
            self._writer.flush()
        except (BrokenPipeError, ConnectionError) as error:
            raise SessionEndedError(f"{self._peer}: {error.strerror or error}") from None

    def _read_until(self, tag: bytes, responses: list[Response]) -> str | None:
        """Collects untagged responses until the answer, whose text it returns, or None when the server wants the
        literal. Raises ImapError."""
        while True:
            response = self._read_response()
            if response.tag == b"+":
                return None
            if response.tag == tag:
                return _check_answer(response)
            responses.append(response)

    def _read_response(self) -> Response:
        line = self._read_line()
        tag, _, rest = line.partition(b" ")
        status, _, text = rest.strip().partition(b" ")
        if tag == b"+":
            return Response(tag, [], text.decode(errors="replace"))
        if status.upper() in _STATUSES:
            if status.upper() == b"BYE" and tag == b"*":
                raise SessionEndedError(f"{self._peer}: {text.decode(errors='replace')}")
            return Response(tag, [status.upper()], text.decode(errors="replace"))
        return Response(tag, self._read_words(rest), "")

    def _read_words(self, text: bytes) -> list[Value]:
        top: list[Value] = []
        stack = [top]
        while True:
            literal = _LITERAL.search(text)
            _read_tokens(text[: literal.start()] if literal else text.rstrip(b"\r\n"), stack)
            if not literal:
                return top
            stack[-1].append(self._read_literal(int(literal.group(1))))
            text = self._read_line()

    def _read_line(self) -> bytes:
        try:
            line = self._reader.readline(MAX_LINE)
        except OSError as error:
            raise SessionEndedError(f"{self._peer}: {error.strerror or error}") from None
        if not line.endswith(b"\n"):
            raise SessionEndedError(f"{self._peer} has ended the connection")
        return line

    def _read_literal(self, size: int) -> Content:
        if size <= MAX_IN_MEMORY:
            content = self._reader.read(size)
            self._check_length(len(content), size)
            return content
        with tempfile.NamedTemporaryFile(dir=self._files.name, delete=False) as file:
            left = size
            while left and (chunk := self._reader.read(min(CHUNK, left))):
                file.write(chunk)
                left -= len(chunk)
        self._check_length(size - left, size)
        return Path(file.name)

    def _check_length(self, length: int, size: int) -> None:
        if length != size:
            raise SessionEndedError(f"{self._peer} has ended the connection within a message")


class LocalSession(ImapSession):
    """A session of an account with our own Dovecot, which needs no password of root."""

    def __init__(self, command: Sequence[str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - ends with this object
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=CHUNK
        )
        assert self._process.stdin
        assert self._process.stdout
        try:
            super().__init__(self._process.stdout, self._process.stdin)
        except SessionEndedError as error:
            self._process.kill()
            self._process.wait()
            self._errors.seek(0)
            reason = self._errors.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise SessionEndedError(reason or str(error)) from None

    def close(self) -> None:
        super().close()
        try:
            self._process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()


def open_account(address: str, *options: str) -> LocalSession:
    """A session of this account. Dovecot's process has the account's rights, quota and Dovecot's locks. `options` are
    doveadm(1)'s. Raises SessionEndedError and OSError."""
    session = LocalSession(["doveadm", *options, "exec", "imap", "-u", address])
    session.read_capabilities()
    return session


def quote_text(text: bytes) -> bytes:
    """A quoted string. Raises ValueError for what none can hold."""
    if not text.isascii() or b"\n" in text or b"\r" in text or b"\0" in text:
        raise ValueError(f"{text!r} cannot be sent by IMAP")
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def expand_uids(text: str) -> list[int]:
    """The numbers of a set such as `3:5,9`."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition(":")
        low, high = sorted((int(first), int(last or first)))
        numbers += range(low, high + 1)
    return numbers


def join_uids(uids: list[int]) -> str:
    """The shortest set of these numbers."""
    parts, start = list[str](), 0
    uids = sorted(uids)
    for position, uid in enumerate(uids):
        if position + 1 == len(uids) or uids[position + 1] != uid + 1:
            parts.append(f"{uids[start]}:{uid}" if start < position else str(uid))
            start = position + 1
    return ",".join(parts)


def read_bytes(value: Value) -> bytes:
    """A word that cannot be a list. Raises SessionEndedError if it is."""
    if isinstance(value, list):
        raise SessionEndedError(f"a list where a word was expected: {value!r:.80}")
    return value.read_bytes() if isinstance(value, Path) else value


def _check_answer(response: Response) -> str:
    if response.words != [b"OK"]:
        raise ImapError(response.text)
    return response.text


def _read_tokens(text: bytes, stack: list[list[Value]]) -> None:
    """Adds the words of `text` to the innermost open list."""
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if not match or match.end() == position:
            raise SessionEndedError(f"an answer that is not IMAP: {text[position : position + 80]!r}")
        position = match.end()
        opening, closing, quoted, atom = match.groups()
        if opening:
            stack[-1].append(inner := list[Value]())
            stack.append(inner)
        elif closing:
            if len(stack) == 1:
                raise SessionEndedError(f"an answer that is not IMAP: {text!r:.80}")
            stack.pop()
        elif quoted is not None:
            stack[-1].append(re.sub(rb"\\(.)", rb"\1", quoted))
        elif atom:
            stack[-1].append(atom)
