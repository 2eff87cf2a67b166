"""Whether Postfix asks the guard, and the guard's answers."""

import re
import socket
from pathlib import Path
from typing import Any

from mailkeep_server.common.bulk_folders import BULK_HEADER
from mailkeep_server.common.milter_server import OFFER
from mailkeep_server.common.paths import FREEZE_LIST, GUARD_INCOMING_SOCKET, GUARD_POLICY_SOCKET

from .commands import run_command
from .config import ProbeConfig

SERVICES = ("submission", "submissions")
PARAMETERS = ("smtpd_recipient_restrictions", "smtpd_end_of_data_restrictions", "smtpd_milters")
POLICY_TIMEOUT = 5.0  # seconds


def examine_guard(config: ProbeConfig) -> dict[str, Any]:
    account = config.accounts[0] if config.accounts else ""
    return {
        "unknown account": _ask_policy_service(f"mailkeep-probe@{config.domains[0]}"),
        "known account": _ask_policy_service(account) if account else "",
        "submission": {
            f"{service} {name}": _read_parameter(service, name) for service in SERVICES for name in PARAMETERS
        },
        "incoming": {
            "smtpd_milters": _read_parameter("smtp", "smtpd_milters"),
            "answer": _ask_incoming_milter(),
            "mark of strangers": _look_up_mark("$header_checks"),
            "mark of accounts": _look_up_mark(_read_override("submission-cleanup/unix/header_checks")),
            "scripts": run_command("doveconf", "-n", "sieve_script"),
        },
        "non_smtpd_milters": _expand_value("$non_smtpd_milters"),
        "first passdb": _read_first_passdb(),
        "freeze list": [line.split(":") for line in Path(FREEZE_LIST).read_text(errors="replace").splitlines()],
    }


def _ask_policy_service(account: str) -> str:
    """The answer about a recipient of a message that is never sent, so that nothing is counted."""
    attributes = {
        "request": "smtpd_access_policy",
        "protocol_state": "RCPT",
        "sasl_username": account,
        "client_address": "127.0.0.1",
        "sender": account,
        "instance": "mailkeep-verify",
        "recipient": "probe@example.net",
        "recipient_count": "0",
        "queue_id": "",
    }
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(POLICY_TIMEOUT)
        connection.connect(GUARD_POLICY_SOCKET)
        connection.sendall("".join(f"{name}={value}\n" for name, value in attributes.items()).encode() + b"\n")
        return connection.makefile().readline().strip()


def _ask_incoming_milter() -> str:
    """The first letter of its answer to a negotiation (MILTER_README): O."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(POLICY_TIMEOUT)
        connection.connect(GUARD_INCOMING_SOCKET)
        connection.sendall(OFFER)
        return connection.makefile("rb").read(5)[4:].decode(errors="replace")


def _look_up_mark(checks: str) -> str:
    """What Postfix does with the header by which the guard marks a mail bomb, if somebody else writes it."""
    table = _expand_value(checks)
    return run_command("postmap", "-q", f"{BULK_HEADER}: 2026-01-01", table).strip() if table else ""


def _read_parameter(service: str, name: str) -> str:
    """The value of a parameter in a service of master.cf, or else in main.cf."""
    return _expand_value(_read_override(f"{service}/inet/{name}") or f"${name}")


def _read_override(name: str) -> str:
    return run_command("postconf", "-P", name).partition("=")[2].strip()


def _expand_value(value: str) -> str:
    return run_command("postconf", "-x", "-h", "-o", f"mail_name={value}", "mail_name").strip()


def _read_first_passdb() -> str:
    """Dovecot asks its passdbs in this order."""
    block = re.search(r"^passdb .*?^}", run_command("doveconf", "-n", "passdb"), re.MULTILINE | re.DOTALL)
    return block[0] if block else ""
