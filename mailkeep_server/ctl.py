"""`mailkeepctl`, on the mail server: freeze and thaw accounts, see what they use and what they have in the queue.

Exit codes: 0 done, 1 an error that the message explains, 2 the arguments make no sense.
"""

import argparse
import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mailkeep_server.freezes import enforce, freeze_list
from mailkeep_server.guard import config

CONFIG = Path("/etc/mailkeep/guard.json")
CONTROL = Path("/run/mailkeep-guard/control")
EXAMPLES = """\
examples:
  mailkeepctl status                        who has sent how much of what they may
  mailkeepctl freeze anna@example.org --why "sends spam"
  mailkeepctl queue anna@example.org        her mail that waits or is held
  mailkeepctl delete anna@example.org       … goes, for good
  mailkeepctl thaw anna@example.org         after a new password
"""


class CtlError(Exception):
    """The message is all that the operator needs."""


def main(arguments: list[str]) -> int:
    given = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = given.command
    try:
        if os.geteuid() != 0:
            raise CtlError("Only root may: `sudo mailkeepctl …`.")
        command(given)
    except (CtlError, config.ConfigError, OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "mailkeepctl", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], None], text: str, account: bool = True) -> Any:
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(command=command)
        if account:
            one.add_argument("account", type=str.lower, help="an address of mail.yml")
        return one

    freeze = add("freeze", _freeze, "No mail, no login, sessions cut, queued mail held.")
    freeze.add_argument("--why", default="frozen by hand", help="for whoever reads it later")
    freeze.add_argument("--by", default=os.environ.get("SUDO_USER", "root"), help=argparse.SUPPRESS)
    add("thaw", _thaw, "May send and log in again; says what is still held.")
    add("queue", _queue, "The account's mail in the queue.").add_argument("--json", action="store_true")
    add("release", _release, "The account's held mail goes out after all.")
    add("delete", _delete, "The account's mail in the queue is deleted, for good.")
    status = add("status", _status, "Accounts by use of their limits, and who is frozen.", account=False)
    status.add_argument("--json", action="store_true")
    add("metrics", _metrics, "Numbers in Prometheus' text format.", account=False)
    return parser


def _freeze(given: argparse.Namespace) -> None:
    addresses = _addresses(given.account)
    new = freeze_list.freeze_account(given.account, given.by, given.why, datetime.now(UTC))
    done = enforce.enforce_freeze(given.account, addresses)
    print(f"{given.account} {'is frozen' if new else 'was frozen already'}: no mail, no login.")
    print(f"{_count(done.messages_held, 'message')} put on hold, {_count(done.sessions_cut, 'session')} cut.")
    if done.sample:
        print(f"A sample of its mail is in {done.sample}/.")
    if done.error:
        raise CtlError(f"NOT ALL was done, and the watch tries again: {done.error}")


def _thaw(given: argparse.Namespace) -> None:
    held = [one for one in enforce.read_queue(given.account, _addresses(given.account)) if one.queue == "hold"]
    if not freeze_list.thaw_account(given.account):
        raise CtlError(f"{given.account} is not frozen.")
    print(f"{given.account} may send and log in again. Has it a new password?")
    if held:
        print(f"{_count(len(held), 'message')} of it still held, to {_count(_recipients(held), 'recipient')}:")
        print(f"  mailkeepctl queue {given.account}     shows them")
        print(f"  mailkeepctl release {given.account}   sends them")
        print(f"  mailkeepctl delete {given.account}    deletes them")


def _queue(given: argparse.Namespace) -> None:
    found = enforce.read_queue(given.account, _addresses(given.account))
    if given.json:
        print(
            json.dumps(
                [{name: getattr(one, name) for name in enforce.QueuedMessage.__slots__} for one in found], indent=2
            )
        )
        return
    for one in found:
        arrived = datetime.fromtimestamp(one.arrived, UTC)
        shown = ", ".join(one.recipients[:3]) + (f" and {len(one.recipients) - 3} more" if one.recipients[3:] else "")
        print(f"{one.queue_id}  {one.queue:8}  {arrived:%Y-%m-%d %H:%M} UTC  {one.size:>9}  {one.sender} -> {shown}")
    print(f"{_count(len(found), 'message')}, {_count(_recipients(found), 'recipient')}.")


def _release(given: argparse.Namespace) -> None:
    if given.account in freeze_list.read_freezes():
        raise CtlError(f"{given.account} is frozen: `mailkeepctl thaw {given.account}` first.")
    held = [one for one in enforce.read_queue(given.account, _addresses(given.account)) if one.queue == "hold"]
    enforce.release_messages(held)
    print(f"{_count(len(held), 'message')} on its way.")


def _delete(given: argparse.Namespace) -> None:
    found = enforce.read_queue(given.account, _addresses(given.account))
    enforce.delete_messages(found)
    print(f"{_count(len(found), 'message')} deleted.")


def _status(given: argparse.Namespace) -> None:
    found = json.loads(_get("/status"))
    if given.json:
        print(json.dumps(found, indent=2))
        return
    if found["mode"] == "learn":
        print("Mode learn: nothing is refused or frozen, only reported.\n")
    for one in found["accounts"]:
        shown = sorted(one["limits"], key=lambda limit: -limit["used_fraction"])[:2]
        uses = "   ".join(f"{use['limit']} {use['used']}/{use['maximum']}" for use in shown)
        mark = "frozen" if one["account"] in found["frozen"] else f"{shown[0]['used_fraction']:6.0%}"
        print(f"{mark:>6}  {one['account']:40} {uses}")
    for name, one in found["frozen"].items():
        print(f"\n{name} is frozen since {one['at']} by {one['by']}: {one['why']}")
    server = "   ".join(f"{use['limit']} {use['used']}/{use['maximum']}" for use in found["server"])
    print(f"\nall together: {server}")


def _metrics(_given: argparse.Namespace) -> None:
    print(_get("/metrics"), end="")


def _get(target: str) -> str:
    """From the guard's control socket."""
    connection = http.client.HTTPConnection("guard", timeout=5)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(5)
    try:
        connection.sock.connect(str(CONTROL))
        connection.request("GET", target)
        return connection.getresponse().read().decode()
    except OSError as error:
        raise CtlError(f"The guard does not answer ({error}): `systemctl status mailkeep-guard` says why.") from None
    finally:
        connection.close()


def _addresses(account: str) -> frozenset[str]:
    known = config.load_config(CONFIG).addresses
    if account in known:
        return frozenset(known[account])
    if account in freeze_list.read_freezes():  # it has left mail.yml meanwhile
        return frozenset({account})
    near = ", ".join(sorted(known)[:5]) + (", …" if len(known) > 5 else "")
    raise CtlError(f"{account}: no account of this server. There are: {near}.")


def _recipients(messages: list[enforce.QueuedMessage]) -> int:
    return sum(len(one.recipients) for one in messages)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
