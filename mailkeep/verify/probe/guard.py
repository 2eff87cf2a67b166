"""Whether Postfix asks the guard, and what the guard answers."""

import re
import socket
from pathlib import Path
from typing import Any

from .config import ProbeConfig
from .linux_account import run

POLICY = "/run/mailkeep-guard.policy"
FROZEN = Path("/var/lib/mailkeep-guard/frozen/accounts")
SERVICES = ("submission", "submissions")
ASKED_AT = ("smtpd_recipient_restrictions", "smtpd_end_of_data_restrictions", "smtpd_milters")
PATIENCE = 5.0  # seconds


def guard(given: ProbeConfig) -> dict[str, Any]:
    own = given.accounts[0] if given.accounts else ""
    return {
        "stranger": _ask(f"mailkeep-probe@{given.domains[0]}"),
        "account": _ask(own) if own else "",
        "asked": {f"{service} {name}": _effective(service, name) for service in SERVICES for name in ASKED_AT},
        "local": _expanded("$non_smtpd_milters"),
        "denied": _first_passdb(),
        "frozen": [line.split(":") for line in FROZEN.read_text().splitlines()],
    }


def _ask(account: str) -> str:
    """Its answer about a recipient of a message that is never sent: nothing is counted."""
    attributes = {
        "request": "smtpd_access_policy",
        "protocol_state": "RCPT",
        "sasl_username": account,
        "client_address": "127.0.0.1",
        "instance": "mailkeep-verify",
        "recipient": "probe@example.net",
        "recipient_count": "0",
        "queue_id": "",
    }
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(POLICY)
        connection.sendall("".join(f"{name}={value}\n" for name, value in attributes.items()).encode() + b"\n")
        return connection.makefile().readline().strip()


def _effective(service: str, name: str) -> str:
    """What a service of master.cf is told, or else all of them are."""
    said = run("postconf", "-P", f"{service}/inet/{name}").partition("=")[2].strip()
    return _expanded(said or f"${name}")


def _expanded(value: str) -> str:
    return run("postconf", "-x", "-h", "-o", f"mail_name={value}", "mail_name").strip()


def _first_passdb() -> str:
    """Of several, Dovecot asks the first one first."""
    found = re.search(r"^passdb .*?^}", run("doveconf", "-n", "passdb"), re.MULTILINE | re.DOTALL)
    return found[0] if found else ""
