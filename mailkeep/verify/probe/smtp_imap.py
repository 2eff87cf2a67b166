"""A client for SMTP, IMAP and ManageSieve that sends any line, even what a well-behaved client never sends."""

import socket
import ssl
from collections.abc import Iterable
from types import TracebackType
from typing import Any

ANSWER_TIMEOUT = 15.0  # seconds; Postfix and Dovecot delay their answers to failures
HELO = "verify.example.org"
IMPLICIT_TLS_PORTS = (443, 465, 993)
IMAP_PORTS = (143, 993)
SIEVE_PORT = 4190

Reply = dict[str, Any]
"""`command`, and the `code` and `text` of its reply; `source` is the client's address."""


class LineClient:
    """A connection, line by line, from the client address `source` (None: the system's choice)."""

    def __init__(self, address: str, port: int, source: str | None = None) -> None:
        self.port = port
        self.socket = socket.create_connection((address, port), ANSWER_TIMEOUT, (source, 0) if source else None)
        self.lines = self.socket.makefile("rb")

    def __enter__(self) -> "LineClient":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.lines.close()
        self.socket.close()

    def send(self, data: str) -> None:
        self.socket.sendall(data.encode())

    def read_line(self) -> str:
        """A line without its end; empty when the server has closed the connection. Raises TimeoutError."""
        try:
            return self.lines.readline().decode(errors="replace").rstrip("\r\n")
        except ConnectionError:
            return ""
        except TimeoutError:
            raise TimeoutError(f"port {self.port}: no answer within {ANSWER_TIMEOUT:.0f} seconds") from None

    def smtp(self, command: str | None = None) -> tuple[int, str]:
        """Send `command`, if any, and read a reply: its code and text. Code 0 is a closed connection."""
        try:
            if command is not None:
                self.send(f"{command}\r\n")
        except ConnectionError:
            return 0, "connection closed"
        lines = [self.read_line()]
        while lines[-1][3:4] == "-":
            lines.append(self.read_line())
        if not lines[0][:3].isdigit():
            return 0, lines[0] or "connection closed"
        return int(lines[0][:3]), "\n".join(line[4:] for line in lines)

    def imap(self, command: str) -> str:
        """Send `command`, and read all lines of the answer."""
        self.send(f"a {command}\r\n")
        lines = [self.read_line()]
        while lines[-1] and not lines[-1].startswith("a "):
            lines.append(self.read_line())
        return "\n".join(lines)

    def sieve(self, command: str | None = None) -> str:
        """Send `command`, if any, and read all lines of the answer (RFC 5804 section 1.2)."""
        if command is not None:
            self.send(f"{command}\r\n")
        lines = [self.read_line()]
        while lines[-1] and not lines[-1].startswith(("OK", "NO", "BYE")):
            lines.append(self.read_line())
        return "\n".join(lines)

    def encrypt(self, context: ssl.SSLContext, name: str | None = None) -> ssl.SSLSocket:
        """Make the TLS handshake; `name` is the server's name (SNI)."""
        wrapped = context.wrap_socket(self.socket, server_hostname=name)
        self.socket, self.lines = wrapped, wrapped.makefile("rb")
        return wrapped

    def greet(self) -> None:
        """Read the greeting, and in SMTP send EHLO. Raises ConnectionError when the server does not welcome us."""
        if self.port == SIEVE_PORT:
            if "\nOK" not in (greeting := self.sieve()):
                raise ConnectionError(f"port {self.port} greets with: {greeting or 'nothing'}")
            return
        if self.port in IMAP_PORTS:
            if "OK" not in (greeting := self.read_line()):
                raise ConnectionError(f"port {self.port} greets with: {greeting or 'nothing'}")
            return
        for command in (None, f"EHLO {HELO}"):
            code, text = self.smtp(command)
            if code // 100 != 2:
                raise ConnectionError(f"port {self.port} answers {command or 'a connection'} with: {code} {text}")

    def starttls(self) -> None:
        """Raises ConnectionError when the server refuses."""
        if self.port == SIEVE_PORT:
            answer = self.sieve("STARTTLS")
        else:
            answer = self.imap("STARTTLS") if self.port == 143 else " ".join(map(str, self.smtp("STARTTLS")))
        if not answer.startswith(("220", "a OK", "OK")):
            raise ConnectionError(f"port {self.port} answers STARTTLS with: {answer}")


def unverified_context() -> ssl.SSLContext:
    """Accepts any certificate: the checks judge it elsewhere."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def open_encrypted(
    address: str, port: int, context: ssl.SSLContext, source: str | None = None, name: str | None = None
) -> tuple[LineClient, ssl.SSLSocket]:
    """A connection after its TLS handshake, implicit or by STARTTLS. `name` is the server's name (SNI)."""
    client = LineClient(address, port, source)
    try:
        if port not in IMPLICIT_TLS_PORTS:
            client.greet()
            client.starttls()
        return client, client.encrypt(context, name)
    except BaseException:
        client.socket.close()
        raise


def run_session(address: str, source: str | None, commands: Iterable[str]) -> list[Reply]:
    """A session on port 25: the reply to each command."""
    with LineClient(address, 25, source) as client:
        client.greet()
        replies = [(command, *client.smtp(command)) for command in commands]
    return [
        {"source": source or address, "command": command, "code": code, "text": text} for command, code, text in replies
    ]
