"""Talking SMTP and IMAP as any client may, down to what a well-behaved one never sends."""

import socket
import ssl
from collections.abc import Iterable
from types import TracebackType
from typing import Any

TIMEOUT = 15.0  # seconds; Postfix and Dovecot delay their answers to failures
HELO = "verify.example.org"

Reply = dict[str, Any]


class LineClient:
    """A connection, line by line. `source` is the client address to come from."""

    def __init__(self, address: str, port: int, source: str | None = None) -> None:
        self.port = port
        self.socket = socket.create_connection((address, port), TIMEOUT, (source, 0) if source else None)
        self.lines = self.socket.makefile("rb")

    def __enter__(self) -> "LineClient":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.lines.close()
        self.socket.close()

    def send(self, data: str) -> None:
        self.socket.sendall(data.encode())

    def line(self) -> str:
        """Without its end; empty when the server has closed the connection."""
        try:
            return self.lines.readline().decode(errors="replace").rstrip("\r\n")
        except ConnectionError:
            return ""
        except TimeoutError:
            raise TimeoutError(f"port {self.port}: no answer within {TIMEOUT:.0f} seconds") from None

    def smtp(self, command: str | None = None) -> tuple[int, str]:
        """The code and text of the reply to `command`, or without one of the next reply; 0 when there is none."""
        try:
            if command is not None:
                self.send(f"{command}\r\n")
        except ConnectionError:
            return 0, "connection closed"
        lines = [self.line()]
        while lines[-1][3:4] == "-":
            lines.append(self.line())
        if not lines[0][:3].isdigit():
            return 0, lines[0] or "connection closed"
        return int(lines[0][:3]), "\n".join(line[4:] for line in lines)

    def imap(self, command: str) -> str:
        """All lines of the answer."""
        self.send(f"a {command}\r\n")
        lines = [self.line()]
        while lines[-1] and not lines[-1].startswith("a "):
            lines.append(self.line())
        return "\n".join(lines)

    def encrypt(self, context: ssl.SSLContext, name: str | None = None) -> ssl.SSLSocket:
        """`name`: the server's, of which it may have several (SNI)."""
        wrapped = context.wrap_socket(self.socket, server_hostname=name)
        self.socket, self.lines = wrapped, wrapped.makefile("rb")
        return wrapped

    def greet(self) -> None:
        """Up to where commands are taken: over SMTP the greeting and EHLO, over IMAP the greeting."""
        if self.port in (143, 993):
            if "OK" not in (said := self.line()):
                raise ConnectionError(f"port {self.port} greets with: {said or 'nothing'}")
            return
        for command in (None, f"EHLO {HELO}"):
            code, text = self.smtp(command)
            if code // 100 != 2:
                raise ConnectionError(f"port {self.port} answers {command or 'a connection'} with: {code} {text}")

    def starttls(self) -> None:
        said = self.imap("STARTTLS") if self.port == 143 else " ".join(map(str, self.smtp("STARTTLS")))
        if not said.startswith(("220", "a OK")):
            raise ConnectionError(f"port {self.port} answers STARTTLS with: {said}")


def anyone() -> ssl.SSLContext:
    """A client that takes any certificate: what is shown is judge_results elsewhere."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def encrypted(
    address: str, port: int, context: ssl.SSLContext, source: str | None = None, name: str | None = None
) -> tuple[LineClient, ssl.SSLSocket]:
    """A connection after its TLS handshake, implicit (443, 465, 993) or by STARTTLS."""
    talk = LineClient(address, port, source)
    try:
        if port not in (443, 465, 993):
            talk.greet()
            talk.starttls()
        return talk, talk.encrypt(context, name)
    except BaseException:
        talk.socket.close()
        raise


def smtp(address: str, source: str | None, commands: Iterable[str]) -> list[Reply]:
    """One session on port 25: each command with its reply."""
    with LineClient(address, 25, source) as talk:
        talk.greet()
        said = [(command, *talk.smtp(command)) for command in commands]
    return [{"source": source or address, "command": c, "code": code, "text": text} for c, code, text in said]
