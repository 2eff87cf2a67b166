"""What is answered over HTTPS to who asks for what is there, and to who asks for anything else."""

import socket
import ssl
from typing import Any

from .config import ProbeConfig, unused_client_address
from .smtp_imap import TIMEOUT, anyone

PORT = 443


def web(given: ProbeConfig) -> dict[str, Any]:
    """The `answers` to what should be answered, by name, and to what should not (`others`), by what was asked."""
    if not given.web:
        return {"answers": {}, "others": {}}
    name, path, method = given.web[0]
    good = _request(method, path, name)
    others = {
        "the address without a name": _ask(given, "", good),
        f"the host {given.host}": _ask(given, given.host, good),
        f"the host {given.host}, in the name of {name}": _ask(given, name, _request(method, path, given.host)),
        "no host": _ask(given, name, f"{method} {path} HTTP/1.0\r\n\r\n"),
        "the path /": _ask(given, name, _request(method, "/", name)),
        f"the path {path}.bak": _ask(given, name, _request(method, f"{path}.bak", name)),
        "another method": _ask(given, name, _request("PUT", path, name)),
        "something that is not HTTP": _ask(given, name, "EHLO verify.example.org\r\n\r\n"),
        "HTTP without TLS": _ask(given, None, good),
    }
    answers = {one: _ask(given, one, _request(how, where, one)) for one, where, how in given.web}
    return {"answers": answers, "others": others}


def _request(method: str, path: str, name: str) -> str:
    return f"{method} {path} HTTP/1.1\r\nHost: {name}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def _ask(given: ProbeConfig, name: str | None, request: str) -> str:
    """All that is answered; nothing where the connection is closed. `name` is the TLS client's (SNI); None: no TLS."""
    with socket.create_connection((given.address, PORT), TIMEOUT, (unused_client_address(), 0)) as plain:
        try:
            talk = plain if name is None else anyone().wrap_socket(plain, server_hostname=name or None)
            talk.sendall(request.encode())
            with talk.makefile("rb") as stream:
                return stream.read().decode(errors="replace")
        except (ssl.SSLError, ConnectionError):
            return ""
