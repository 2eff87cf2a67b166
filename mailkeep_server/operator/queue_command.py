"""`mailkeepctl queue`: what waits, and what becomes of it."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime

from mailkeep_server.common import mail_queue
from mailkeep_server.common.commands import stream_output
from mailkeep_server.common.mail_queue import QueuedMessage
from mailkeep_server.common.wording import count_noun, printable_text
from mailkeep_server.freezes import freeze_list
from mailkeep_server.operator import queue_changes
from mailkeep_server.operator.accounts import find_addresses
from mailkeep_server.operator.errors import CtlError
from mailkeep_server.operator.queue_changes import Change
from mailkeep_server.operator.queue_selection import Chosen, Selection, choose_messages, iterate_messages
from mailkeep_server.operator.queue_summary import format_summary, summarise_messages

SUMMARY, LIST, SHOW, HOLD, RELEASE, RETRY, DELETE = "summary", "list", "show", "hold", "release", "retry", "delete"
ACTIONS = {
    SUMMARY: "count by sender, by remote and by reason (the default)",
    LIST: "a line for each message",
    SHOW: "the headers of messages; with --body all of them",
    HOLD: "keep messages from being sent",
    RELEASE: "send messages that were on hold; never those of a frozen account",
    RETRY: "try waiting messages now",
    DELETE: "delete messages for good, after a question",
}
MAX_SHOWN_RECIPIENTS = 3
MAX_SHOWN_MESSAGES = 20
DONE = {HOLD: "on hold", RELEASE: "on its way", RETRY: "tried again", DELETE: "deleted"}


def add_options(parser: argparse.ArgumentParser) -> None:
    actions = "; ".join(f"{name}: {text}" for name, text in ACTIONS.items())
    parser.add_argument("action", nargs="?", choices=tuple(ACTIONS), default=SUMMARY, metavar="ACTION", help=actions)
    parser.add_argument("--account", type=str.lower, default="", help="mail that this login submitted")
    parser.add_argument("--sender", type=str.lower, default="", help="the envelope sender; MAILER-DAEMON: bounces")
    parser.add_argument("--remote", type=str.lower, default="", metavar="DOMAIN", help="mail to this domain alone")
    parser.add_argument("--reason", type=str.lower, default="", metavar="TEXT", help="mail that waits for this reason")
    parser.add_argument("--message", action="append", default=[], metavar="ID", help="this queue ID; may be repeated")
    parser.add_argument("--all", action="store_true", help="the whole queue, for hold, release and retry")
    parser.add_argument("--body", action="store_true", help="show the whole message, not only its headers")
    parser.add_argument("--yes", action="store_true", help="delete without a question")
    parser.add_argument("--dry-run", action="store_true", help="only count what would be changed")
    parser.add_argument("--until", type=float, default=float("inf"), help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")


def run_queue(options: argparse.Namespace) -> None:
    selection = Selection(
        account=options.account,
        addresses=find_addresses(options.account) if options.account else frozenset(),
        sender=mail_queue.NO_SENDER.lower() if options.sender == "<>" else options.sender,
        remote=options.remote,
        reason=options.reason,
        messages=frozenset(options.message),
        until=options.until,
    )
    if options.action == SUMMARY:
        print_summary(selection, as_json=options.json)
    elif options.action == LIST:
        print_list(selection, as_json=options.json)
    elif options.action == SHOW:
        print_messages(selection, whole=options.body)
    else:
        change_queue(selection, options)


def print_summary(selection: Selection, *, as_json: bool) -> None:
    summary = summarise_messages(iterate_messages(selection))
    if as_json:
        print(json.dumps(summary.to_json(), indent=2))
    elif summary.messages:
        print("\n".join(format_summary(summary)))
    else:
        print("The queue is empty." if selection.is_empty else "No message in the queue fits.")


def print_list(selection: Selection, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(message) for message in iterate_messages(selection)], indent=2))
        return
    messages = recipients = 0
    for message in iterate_messages(selection):
        print(describe_message(message))
        messages, recipients = messages + 1, recipients + len(message.recipients)
    print(f"{count_noun(messages, 'message')}, {count_noun(recipients, 'recipient')}.")


def describe_message(message: QueuedMessage) -> str:
    arrived = datetime.fromtimestamp(message.arrived, UTC)
    recipients = ", ".join(message.recipients[:MAX_SHOWN_RECIPIENTS])
    others = len(message.recipients) - MAX_SHOWN_RECIPIENTS
    if others > 0:
        recipients += f" and {others} more"
    columns = (message.queue_id, f"{message.queue:8}", f"{arrived:%Y-%m-%d %H:%M} UTC", f"{message.size:>9}")
    return printable_text("  ".join((*columns, f"{message.sender} -> {recipients}")))


def print_messages(selection: Selection, *, whole: bool) -> None:
    """Raises CtlError without a selection: nobody wants to read all mail."""
    if selection.is_empty:
        raise CtlError("Say whose messages: --message, --account, --sender, --remote or --reason.")
    chosen = list(iterate_messages(selection))
    for message in chosen[:MAX_SHOWN_MESSAGES]:
        print(describe_message(message))
        for line in read_content(message, whole=whole):
            print(f"  {line}")
    if len(chosen) > MAX_SHOWN_MESSAGES:
        print(f"and {count_noun(len(chosen) - MAX_SHOWN_MESSAGES, 'more message')}")
    if not chosen:
        print("No message in the queue fits.")


def read_content(message: QueuedMessage, *, whole: bool) -> Iterator[str]:
    """The lines of its headers, or all of them (postcat(1)), fit for a terminal."""
    with stream_output("postcat", "-bhq" if whole else "-hq", message.queue_id, timeout=mail_queue.TIMEOUT) as lines:
        for line in lines:
            yield printable_text(line.decode(errors="replace").rstrip("\r\n").replace("\t", " "))


def change_queue(selection: Selection, options: argparse.Namespace) -> None:
    action = options.action
    if selection.is_empty and (action == DELETE or not options.all):
        whole = "" if action == DELETE else ", or --all"
        raise CtlError(f"Say which messages: --account, --sender, --remote, --reason or --message{whole}.")
    if selection.is_empty and action == RETRY:
        queue_changes.retry_all()
        print("Postfix tries all waiting mail now.")
        return
    counted_at = time.time()
    chosen = choose_messages(selection)
    frozen = 0
    if action == RELEASE:
        chosen, frozen = _leave_out_frozen(selection, chosen)
    if options.dry_run:
        print_count(chosen, counted_at, as_json=options.json)
        return
    if action == DELETE and chosen.messages and not options.yes:
        print_count(chosen, counted_at, as_json=False)
        ask_agreement()
    change = CHANGES[action](chosen.messages)
    print_change(action, change, chosen.shared, frozen, as_json=options.json)


CHANGES: dict[str, Callable[[list[QueuedMessage]], Change]] = {
    HOLD: queue_changes.hold_messages,
    RELEASE: queue_changes.release_messages,
    RETRY: queue_changes.retry_messages,
    DELETE: queue_changes.delete_messages,
}


def _leave_out_frozen(selection: Selection, chosen: Chosen) -> tuple[Chosen, int]:
    """Without the mail of frozen accounts, and how many messages that was. Raises CtlError if one was asked for."""
    frozen = freeze_list.read_freezes()
    if selection.account in frozen:
        raise CtlError(f"{selection.account} is frozen: `mailkeepctl thaw {selection.account}` first.")
    if not frozen or selection.account:
        return chosen, 0
    held = [message for message in chosen.messages if message.queue == queue_changes.HOLD]
    logins = mail_queue.read_logins([message.queue_id for message in held])
    free = [message for message in held if logins.get(message.queue_id) not in frozen]
    return Chosen(free, chosen.shared), len(held) - len(free)


def print_count(chosen: Chosen, counted_at: float, *, as_json: bool) -> None:
    summary = summarise_messages(chosen.messages)
    if as_json:
        print(json.dumps(summary.to_json() | {"shared": chosen.shared, "until": counted_at}, indent=2))
    elif chosen.messages:
        print("\n".join(format_summary(summary)))
    else:
        print("No message in the queue fits.")


def ask_agreement() -> None:
    """Raises CtlError unless the operator types yes."""
    if not sys.stdin.isatty():
        raise CtlError("There is no terminal to ask at, and nothing was deleted. With --yes it does not ask.")
    if input("Delete these for good? Type yes: ").strip() != "yes":
        raise CtlError("Nothing was deleted.")


def print_change(action: str, change: Change, shared: int, frozen: int, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"action": action, **asdict(change), "shared": shared, "frozen": frozen}, indent=2))
        return
    print(f"{count_noun(change.changed, 'message')} {DONE[action]}.")
    if change.left:
        print(f"{count_noun(change.left, 'message')} had left the queue before.")
    if shared:
        print(f"{count_noun(shared, 'message')} left alone: other recipients are in it, too.")
    if frozen:
        print(f"{count_noun(frozen, 'message')} of frozen accounts left on hold.")
