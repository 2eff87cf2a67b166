"""An IMAP server elsewhere as a source of mail. It is read with EXAMINE and BODY.PEEK, so nothing changes there."""

import hashlib
import shutil
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mailkeep_server.mail_import.folder_reader import read_flags
from mailkeep_server.mail_import.imap_session import (
    FolderState,
    ImapError,
    ImapSession,
    ListedFolder,
    Literal,
    SessionEndedError,
    Value,
    join_uids,
    quote_text,
    read_bytes,
)
from mailkeep_server.mail_import.messages import Message, read_date

CONNECT_TIMEOUT = 20.0  # seconds
ANSWER_TIMEOUT = 300.0  # seconds: a slow server opens a folder of 100,000 messages
MAX_FETCHED = 200  # messages of a command
_UNREADABLE = frozenset({"\\noselect", "\\nonexistent"})


class SourceError(Exception):
    """The source cannot be read. `details` has what the operator's machine needs for its text."""

    def __init__(self, text: str, **details: str) -> None:
        super().__init__(text)
        self.details = details


class ScannedMessage(NamedTuple):
    uid: int
    flags: list[str]
    date: int
    size: int


class ImapSource:
    """`names` is filled by `list_folders`: the names as the server spells them, by their text for JSON."""

    def __init__(self, session: ImapSession, names: dict[str, bytes]) -> None:
        self._session, self._names = session, names

    @classmethod
    def log_in(cls, host: str, port: int, user: str, password: str, certificate: str = "") -> "ImapSource":
        """Over TLS. `certificate` is the SHA-256 of a certificate that is accepted whatever its name and signature.
        Raises SourceError."""
        try:
            connection = connect_tls(host, port, certificate)
        except OSError as error:
            raise SourceError(f"{host}:{port}: {error.strerror or error}", step="connect") from None
        connection.settimeout(ANSWER_TIMEOUT)
        try:
            with connection:
                session = ImapSession(connection.makefile("rb"), connection.makefile("wb"), f"{host}:{port}")
            session.run(b"LOGIN ", Literal(user.encode()), b" ", Literal(password.encode()))
            session.read_capabilities()
        except ImapError as error:
            raise SourceError(str(error), step="login") from None
        except SessionEndedError as error:
            raise SourceError(str(error), step="connect") from None
        return cls(session, {})

    def close(self) -> None:
        self._session.close()

    def list_folders(self) -> list[dict[str, Any]]:
        """The folders that can hold mail: `name` for later requests, the separator, attributes, whether the account is
        subscribed to it, and how many messages and bytes are in it. Raises SourceError."""
        try:
            folders = self._session.list_folders()
            subscribed = self._read_subscribed()
            prefix, others = self._read_namespaces()
            return [
                self._describe_folder(folder, folder.name in subscribed, prefix)
                for folder in folders
                if not {attribute.lower() for attribute in folder.attributes} & _UNREADABLE
                and not folder.name.startswith(others)
            ]
        except (ImapError, SessionEndedError) as error:
            raise SourceError(str(error), step="read") from None

    def scan_folder(self, name: str) -> tuple[FolderState, Iterator[ScannedMessage]]:
        """Raises SourceError, also while it is read."""
        state = self._select(name)
        return state, self._scan_messages() if state.messages else iter(())

    def read_messages(self, name: str, uids: list[int], prefix: str, directory: str) -> Iterator[Message]:
        """The messages with these UIDs. Large ones are files in `directory`, which the caller removes."""
        state = self._select(name)
        for start in range(0, len(uids), MAX_FETCHED):
            part = uids[start : start + MAX_FETCHED]
            try:
                for values in self._session.fetch(join_uids(part), "UID FLAGS INTERNALDATE BODY.PEEK[]"):
                    body, uid = values.get("BODY[]"), int(read_bytes(values.get("UID", b"0")))
                    if not uid or not isinstance(body, bytes | Path):
                        continue
                    flags = frozenset(read_flags(values))
                    yield Message(
                        keep_content(body, directory),
                        flags,
                        flags,
                        _read_date(values.get("INTERNALDATE")),
                        uid,
                        f"{prefix}{state.uid_validity}.{uid}",
                    )
            except (ImapError, SessionEndedError) as error:
                raise SourceError(f"{name}: {error}", step="read") from None

    def _select(self, name: str) -> FolderState:
        try:
            return self._session.select_folder(self._names[name])
        except (ImapError, SessionEndedError, ValueError) as error:
            raise SourceError(f"{name}: {error}", step="read") from None

    def _scan_messages(self) -> Iterator[ScannedMessage]:
        try:
            for values in self._session.fetch("1:*", "UID FLAGS INTERNALDATE RFC822.SIZE"):
                if "RFC822.SIZE" in values:  # else it is news about a message that another client has changed
                    yield ScannedMessage(
                        int(read_bytes(values["UID"])),
                        read_flags(values),
                        _read_date(values.get("INTERNALDATE")),
                        int(read_bytes(values["RFC822.SIZE"])),
                    )
        except (ImapError, SessionEndedError) as error:
            raise SourceError(str(error), step="read") from None

    def _read_subscribed(self) -> set[bytes]:
        responses, _ = self._session.run(b'LSUB "" "*"')
        return {read_bytes(words[3]) for _, words, _ in responses if len(words) >= 4 and words[0] == b"LSUB"}

    def _read_namespaces(self) -> tuple[bytes, tuple[bytes, ...]]:
        """The prefix of the account's own folders, such as `INBOX.`; and those of other people's and shared folders,
        which are not the account's mail (RFC 2342)."""
        if "NAMESPACE" not in self._session.capabilities:
            return b"", ()
        responses, _ = self._session.run(b"NAMESPACE")
        for _, words, _ in responses:
            if words[:1] == [b"NAMESPACE"]:
                own_prefixes, *foreign = [_read_prefixes(word) for word in words[1:]]
                return (own_prefixes or [b""])[0], tuple(
                    prefix for prefixes in foreign for prefix in prefixes if prefix
                )
        return b"", ()

    def _describe_folder(self, folder: ListedFolder, is_subscribed: bool, prefix: bytes) -> dict[str, Any]:
        name = folder.name.decode(errors="backslashreplace")
        self._names[name] = folder.name
        short = folder.name.removeprefix(prefix) if folder.name != prefix else folder.name
        return {
            "name": name,
            "short": short.decode("latin-1"),
            "separator": folder.separator,
            "attributes": sorted(folder.attributes),
            "subscribed": is_subscribed,
            **self._measure_folder(folder.name),
        }

    def _measure_folder(self, name: bytes) -> dict[str, int]:
        """Counts by STATUS (RFC 3501); SIZE is of RFC 8438, else every message is asked."""
        items = b" (MESSAGES SIZE)" if "STATUS=SIZE" in self._session.capabilities else b" (MESSAGES)"
        responses, _ = self._session.run(b"STATUS ", quote_text(name), items)
        values: dict[bytes, int] = {}
        for _, words, _ in responses:
            if words[:1] == [b"STATUS"] and isinstance(pairs := words[2], list):
                values = {
                    read_bytes(key): int(read_bytes(value)) for key, value in zip(pairs[::2], pairs[1::2], strict=False)
                }
        messages = values.get(b"MESSAGES", 0)
        size = values.get(b"SIZE", -1)
        if size < 0:
            size = 0
            if messages and self._session.select_folder(name).messages:
                size = sum(
                    int(read_bytes(item.get("RFC822.SIZE", b"0"))) for item in self._session.fetch("1:*", "RFC822.SIZE")
                )
        return {"messages": messages, "size": size}


def _read_prefixes(namespaces: Value) -> list[bytes]:
    """Of a list of namespaces, or NIL."""
    if not isinstance(namespaces, list):
        return []
    return [read_bytes(namespace[0]) for namespace in namespaces if isinstance(namespace, list) and namespace]


def connect_tls(host: str, port: int, certificate: str = "") -> ssl.SSLSocket:
    """Raises OSError, and SourceError for a certificate that is neither valid nor the accepted one."""
    context = ssl.create_default_context()
    if certificate:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        connection = context.wrap_socket(socket.create_connection((host, port), CONNECT_TIMEOUT), server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        raise SourceError(
            error.verify_message, step="certificate", certificate=read_certificate_hash(host, port)
        ) from None
    if certificate and _hash_certificate(connection) != certificate.replace(":", "").lower():
        seen_hash = _hash_certificate(connection)
        connection.close()
        raise SourceError("The server shows another certificate.", step="certificate", certificate=seen_hash)
    return connection


def read_certificate_hash(host: str, port: int) -> str:
    """The SHA-256 of the certificate that a server shows; "" if it shows none now."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), CONNECT_TIMEOUT) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            return _hash_certificate(connection)
    except OSError:
        return ""


def keep_content(body: bytes | Path, directory: str) -> bytes | Path:
    """The body, in a file of its own if it is in a file."""
    if isinstance(body, bytes):
        return body
    with tempfile.NamedTemporaryFile(dir=directory, delete=False) as file:
        pass
    shutil.move(body, file.name)
    return Path(file.name)


def _hash_certificate(connection: ssl.SSLSocket) -> str:
    return hashlib.sha256(connection.getpeercert(binary_form=True) or b"").hexdigest()


def _read_date(value: Any) -> int:
    try:
        return read_date(read_bytes(value).decode(errors="replace"))
    except (ValueError, TypeError, AttributeError):
        return 0
