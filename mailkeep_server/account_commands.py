"""What `mailkeepctl` does with one account: freezes, thaws, gives a new password, renames, releases mail, says why."""

import argparse
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from mailkeep_server import account_password, mailbox_move, verdicts
from mailkeep_server.common import mail_queue, mailboxes, paths
from mailkeep_server.common.commands import run
from mailkeep_server.common.mail_queue import QueuedMessage
from mailkeep_server.common.wording import count_noun
from mailkeep_server.freezes import enforce, freeze_list
from mailkeep_server.guard import config
from mailkeep_server.guard.hold_targets import RELEASE_TARGET, WHY_TARGET
from mailkeep_server.operator import accounts
from mailkeep_server.operator.accounts import find_addresses
from mailkeep_server.operator.errors import CtlError
from mailkeep_server.operator.guard_answers import ask_guard

RESTART_TIMEOUT = 30.0  # seconds


def add_account_commands(add: Callable[..., Any]) -> None:
    """`add` makes a command of its name, function, help and example."""
    anna = "anna@example.org"
    text = "Freeze an account: no mail, no login; its sessions are cut, its queued mail is held."
    freeze = add("freeze", freeze_account, text, f"{anna} --why 'sends spam'")
    freeze.add_argument("--why", default="frozen by hand", help="the reason, shown by `status` and in the alert")
    freeze.add_argument("--by", default=os.environ.get("SUDO_USER", "root"), help=argparse.SUPPRESS)
    text = "Give an account a new passphrase, shown once, and cut its sessions. Take it into mail.yml before a deploy."
    add("passwd", change_password, text, anna)
    text = "After `mailkeep account rename` and a deploy: move mailbox, counts and freeze to the new address."
    add("rename", rename_account, text, f"{anna} anna.b@example.org").add_argument(
        "new", type=str.lower, help="the new one"
    )
    add("password-hash", show_password_hash, "For `mailkeep account passwd --from-host`.", anna)
    add("thaw", thaw_account, "Let a frozen account send and log in again; shows which mail is still held.", anna)
    text = "Send an account's held mail, and let it write to strangers again."
    add("release", release_mail, text, anna)
    add("why", explain_account, "Say why an account's mail goes, waits or is refused.", anna)


def freeze_account(options: argparse.Namespace) -> None:
    addresses = find_addresses(options.account)
    is_new = freeze_list.freeze_account(options.account, options.by, options.why, datetime.now(UTC))
    result = enforce.enforce_freeze(options.account, addresses)
    print(f"{options.account} {'is frozen' if is_new else 'was frozen already'}: no mail, no login.")
    print(
        f"{count_noun(result.messages_held, 'message')} put on hold, {count_noun(result.sessions_cut, 'session')} cut."
    )
    if result.sample:
        print(f"A sample of its mail is in {result.sample}/.")
    if result.error:
        raise CtlError(f"NOT ALL was done, and the watch tries again: {result.error}")


def thaw_account(options: argparse.Namespace) -> None:
    account = options.account
    held = read_held_mail(account)
    if not freeze_list.thaw_account(account):
        raise CtlError(f"{account} is not frozen.")
    print(f"{account} may send and log in again. Does it have a new password?")
    if held:
        recipients = count_noun(count_recipients(held), "recipient")
        print(f"{count_noun(len(held), 'message')} of it still held, to {recipients}:")
        for action, effect in (("list", "shows them"), ("release", "sends them"), ("delete", "deletes them")):
            print(f"  mailkeepctl queue {action:7} --account {account}   {effect}")


def change_password(options: argparse.Namespace) -> None:
    account = options.account
    find_addresses(account)
    password = account_password.generate_password()
    try:
        account_password.replace_password(account, account_password.hash_password(password))
    except ValueError as error:
        raise CtlError(f"The password of {account} is not changed: {error}.") from None
    print(
        f"{account} has a new passphrase on this server, shown only now and stored nowhere:\n  {password}", flush=True
    )
    print(f"{count_noun(enforce.cut_sessions(account), 'session')} cut.")
    if account in freeze_list.read_freezes():
        print(f"It is still frozen: `mailkeepctl thaw {account}` lets it send and log in again.")
    print("On your machine, before the next deploy: `mailkeep account passwd NAME ACCOUNT --from-host`")
    print("takes it into mail.yml. Until then, a deploy is refused. Other servers still have the old password.")


def rename_account(options: argparse.Namespace) -> None:
    """Each step may be repeated: after a failure, run it again."""
    old, new = options.account, options.new
    addresses = config.load_config(accounts.CONFIG).addresses
    if record := freeze_list.read_freezes().get(old):
        freeze_list.freeze_account(new, record.by, record.why, record.at)
        print(f"{new} is frozen, as {old} is.")
    if old in addresses or new not in addresses:
        raise CtlError(
            f"Nothing else is moved: rename {old} by `mailkeep account rename`, deploy, then run this again."
        )
    for account in (old, new):
        enforce.cut_sessions(account)
    with mailbox_move.act_as(mailboxes.USER):
        moved = mailbox_move.move_mailbox(mailbox_move.find_home(old), mailbox_move.find_home(new))
        mailbox_move.move_words(old, new)
    print(f"The mailbox of {old} is that of {new}; {count_noun(moved, 'message')} that came meanwhile is in it, too.")
    ask_guard(f"/rename?{urlencode({'old': old, 'new': new})}")
    run("systemctl", "restart", paths.GUARD_SERVICE, timeout=RESTART_TIMEOUT)
    if record:
        freeze_list.thaw_account(old)
    print(f"What {old} has sent counts for {new}.")


def show_password_hash(options: argparse.Namespace) -> None:
    """Nothing, if `mailkeepctl passwd` has not changed the password on this server."""
    find_addresses(options.account)
    if account_password.was_set_here(options.account):
        print(account_password.read_hash(options.account))


def release_mail(options: argparse.Namespace) -> None:
    account = options.account
    if account in freeze_list.read_freezes():
        raise CtlError(f"{account} is frozen: `mailkeepctl thaw {account}` first.")
    held = read_held_mail(account)
    ask_guard(f"{RELEASE_TARGET}?{urlencode({'account': account})}")
    mail_queue.release_messages(held)
    mail_queue.retry_messages(held[: mail_queue.BATCH])
    print(f"{count_noun(len(held), 'message')} on its way.")


def explain_account(options: argparse.Namespace) -> None:
    account = options.account
    find_addresses(account)
    explanation = json.loads(ask_guard(f"{WHY_TARGET}?{urlencode({'account': account})}"))
    record = freeze_list.read_freezes().get(account)
    print("\n".join(verdicts.explain_account(account, explanation, record)))


def read_held_mail(account: str) -> list[QueuedMessage]:
    return [message for message in enforce.read_queue(account, find_addresses(account)) if message.queue == "hold"]


def count_recipients(messages: list[QueuedMessage]) -> int:
    return sum(len(message.recipients) for message in messages)
