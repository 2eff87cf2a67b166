"""Logins as a Linux account, and logins where none may be offered."""

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from secrets import token_urlsafe
from typing import Any

from .config import ProbeConfig, unused_client_address
from .smtp_imap import HELO, SIEVE_PORT, LineClient, open_encrypted, unverified_context
from .unprivileged import NAME

PORTS = (465, 587, 143, 993, SIEVE_PORT)


def try_linux_account(config: ProbeConfig, password: str) -> list[dict[str, Any]]:
    """The answers to logins as the Linux account NAME on every port, with its password and with a wrong password."""
    tries = [(port, is_right) for port in PORTS for is_right in (True, False)]

    def log_in(port: int, is_right: bool) -> dict[str, Any]:
        answer = _log_in(config, port, password if is_right else token_urlsafe())
        return {"port": port, "password": "right" if is_right else "wrong", "answer": answer}

    with ThreadPoolExecutor(len(tries)) as pool:  # Dovecot delays the answer to a failure (auth_failure_delay)
        return list(pool.map(lambda attempt: log_in(*attempt), tries))


def _log_in(config: ProbeConfig, port: int, password: str) -> str:
    client, _ = open_encrypted(config.address, port, unverified_context(), unused_client_address())
    with client:
        if port == SIEVE_PORT:
            client.sieve()  # the capabilities once more, now under TLS
            return client.sieve(_authenticate(password))
        if port == 143:
            return client.imap(f"LOGIN {NAME} {password}")
        client.greet() if port != 587 else client.smtp(f"EHLO {HELO}")
        if port == 993:
            return client.imap(f"LOGIN {NAME} {password}")
        return _format_reply(client.smtp(f"AUTH PLAIN {_plain_response(password)}"))


def _plain_response(password: str) -> str:
    """RFC 4616."""
    return base64.b64encode(f"\0{NAME}\0{password}".encode()).decode()


def _authenticate(password: str) -> str:
    """RFC 5804 section 2.1."""
    return f'AUTHENTICATE "PLAIN" "{_plain_response(password)}"'


def try_forbidden_logins(config: ProbeConfig) -> dict[str, list[str]]:
    """For each port on which nobody may log in: the capabilities, and the answer to a login."""
    return {
        "port 25": list(_try_smtp_login(config, 25, encrypt=False)),
        "port 25, encrypted": list(_try_smtp_login(config, 25, encrypt=True)),
        "port 587, not encrypted": list(_try_smtp_login(config, 587, encrypt=False)),
        "port 143, not encrypted": _try_imap_login(config),
        "port 4190, not encrypted": _try_sieve_login(config),
    }


def _try_smtp_login(config: ProbeConfig, port: int, *, encrypt: bool) -> Iterator[str]:
    source = unused_client_address()
    if encrypt:
        client, _ = open_encrypted(config.address, port, unverified_context(), source)
    else:
        client = LineClient(config.address, port, source)
    with client:
        if not encrypt:
            client.smtp()
        yield _format_reply(client.smtp(f"EHLO {HELO}"))
        yield _format_reply(client.smtp(f"AUTH PLAIN {_plain_response(token_urlsafe())}"))


def _try_imap_login(config: ProbeConfig) -> list[str]:
    with LineClient(config.address, 143, unused_client_address()) as client:
        client.greet()
        return [client.imap("CAPABILITY"), client.imap(f"LOGIN {NAME} {token_urlsafe()}")]


def _try_sieve_login(config: ProbeConfig) -> list[str]:
    with LineClient(config.address, SIEVE_PORT, unused_client_address()) as client:
        return [client.sieve(), client.sieve(_authenticate(token_urlsafe()))]


def _format_reply(reply: tuple[int, str]) -> str:
    return f"{reply[0]} {reply[1]}"
