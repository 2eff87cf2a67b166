"""A test alert by each channel, from the servers of an inventory, and what became of it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mailkeep.errors import UserError
from mailkeep.host.remote import RemoteHost, for_each_host
from mailkeep.parts.server_package import PYTHON


@dataclass(frozen=True, slots=True)
class AlertTest:
    """`channel` is `mail` or `webhook`; `recipient` an administrator, or the webhook's format; `answer` that of the
    mail server or webhook, or the reason for which there is none."""

    host: str
    channel: str
    recipient: str
    arrived: bool
    answer: str


def send_test_alerts(inventory: Path) -> Iterator[AlertTest]:
    """Raises UserError after the last host if any cannot be reached or has no watch; the others have sent theirs."""
    for tests in for_each_host(inventory, _send_from):
        yield from tests


def _send_from(host: RemoteHost) -> list[AlertTest]:
    done = host.run_mailkeep(f"{PYTHON} alert-test")
    deploy = f"`mailkeep deploy {host.inventory_label}`"
    try:
        return [AlertTest(host.name, **fields) for fields in json.loads(done.stdout)]
    except TypeError:  # version 0.1.0 has other fields
        reason = "the server tried to send alerts, but its Mailkeep is too old to say which arrived"
        raise UserError(f"{reason}. {deploy} upgrades it.") from None
    except ValueError:
        lines = (done.stderr or done.stdout).strip().splitlines()
        reason = lines[-1] if lines else f"exit {done.rc}"
        raise UserError(f"no alert was sent: {reason}. {deploy} sets alerts up.") from None
