"""Logging in as a Linux account, and where no login should be on offer at all."""

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from secrets import token_urlsafe
from typing import Any

from .config import ProbeConfig, unused_client_address
from .smtp_imap import HELO, LineClient, anyone, encrypted
from .unprivileged import NAME

PORTS = (465, 587, 143, 993)


def linux_account(given: ProbeConfig, password: str) -> list[dict[str, Any]]:
    """Tries the account `NAME`, whose password this is, on every port: with it, and with a wrong one."""
    tries = [(port, right) for port in PORTS for right in (True, False)]
    with ThreadPoolExecutor(len(tries)) as pool:  # Dovecot answers a failure after auth_failure_delay
        said = pool.map(lambda one: _log_in(given, one[0], password if one[1] else token_urlsafe()), tries)
        return [
            {"port": port, "right": right, "said": answer} for (port, right), answer in zip(tries, said, strict=True)
        ]


def _log_in(given: ProbeConfig, port: int, password: str) -> str:
    talk, _ = encrypted(given.address, port, anyone(), unused_client_address())
    with talk:
        if port == 143:
            return talk.imap(f"LOGIN {NAME} {password}")
        talk.greet() if port != 587 else talk.smtp(f"EHLO {HELO}")
        if port == 993:
            return talk.imap(f"LOGIN {NAME} {password}")
        return _line(talk.smtp(f"AUTH PLAIN {_plain(password)}"))


def _plain(password: str) -> str:
    return base64.b64encode(f"\0{NAME}\0{password}".encode()).decode()


def offers(given: ProbeConfig) -> dict[str, list[str]]:
    """What is said about logging in where it should not be possible."""
    return {
        "port 25": list(_smtp(given, 25, encrypt=False)),
        "port 25, encrypted": list(_smtp(given, 25, encrypt=True)),
        "port 587, not encrypted": list(_smtp(given, 587, encrypt=False)),
        "port 143, not encrypted": _imap(given),
    }


def _smtp(given: ProbeConfig, port: int, *, encrypt: bool) -> Iterator[str]:
    """The capabilities, then the answer to a login."""
    talk = (
        encrypted(given.address, port, anyone(), unused_client_address())[0]
        if encrypt
        else LineClient(given.address, port, unused_client_address())
    )
    with talk:
        if not encrypt:
            talk.smtp()
        yield _line(talk.smtp(f"EHLO {HELO}"))
        yield _line(talk.smtp(f"AUTH PLAIN {_plain(token_urlsafe())}"))


def _imap(given: ProbeConfig) -> list[str]:
    with LineClient(given.address, 143, unused_client_address()) as talk:
        talk.greet()
        return [talk.imap("CAPABILITY"), talk.imap(f"LOGIN {NAME} {token_urlsafe()}")]


def _line(reply: tuple[int, str]) -> str:
    return f"{reply[0]} {reply[1]}"
