"""Requests over HTTPS: for the texts that are served, and for anything else."""

import socket
import ssl
from typing import Any

from .config import ProbeConfig, unused_client_address
from .smtp_imap import ANSWER_TIMEOUT, unverified_context

PORT = 443


def try_requests(config: ProbeConfig) -> dict[str, Any]:
    """`answers` to requests for the served texts, by name; answers to `others`, by a description of the request."""
    if not config.web:
        return {"answers": {}, "others": {}}
    name, path, method = config.web[0]
    request = _build_request(method, path, name)
    others = {
        "the address without a name": _send_request(config, "", request),
        f"the host {config.host}": _send_request(config, config.host, request),
        f"the host {config.host}, in the name of {name}": _send_request(
            config, name, _build_request(method, path, config.host)
        ),
        "no host": _send_request(config, name, f"{method} {path} HTTP/1.0\r\n\r\n"),
        "the path /": _send_request(config, name, _build_request(method, "/", name)),
        f"the path {path}.bak": _send_request(config, name, _build_request(method, f"{path}.bak", name)),
        "another method": _send_request(config, name, _build_request("PUT", path, name)),
        "something that is not HTTP": _send_request(config, name, "EHLO verify.example.org\r\n\r\n"),
        "HTTP without TLS": _send_request(config, None, request),
    }
    answers = {
        name: _send_request(config, name, _build_request(method, path, name)) for name, path, method in config.web
    }
    return {"answers": answers, "others": others}


def _build_request(method: str, path: str, name: str) -> str:
    return f"{method} {path} HTTP/1.1\r\nHost: {name}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def _send_request(config: ProbeConfig, name: str | None, request: str) -> str:
    """The whole answer; empty when the server closes the connection. `name` is the server's (SNI); None: no TLS."""
    with socket.create_connection((config.address, PORT), ANSWER_TIMEOUT, (unused_client_address(), 0)) as tcp:
        try:
            connection = tcp if name is None else unverified_context().wrap_socket(tcp, server_hostname=name or None)
            connection.sendall(request.encode())
            with connection.makefile("rb") as stream:
                return stream.read().decode(errors="replace")
        except (ssl.SSLError, ConnectionError):
            return ""
