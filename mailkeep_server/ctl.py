"""`mailkeepctl`, on the mail server: what is wrong and who did it; freezes and thaws accounts, works on the queue.

Exit codes: 0 done; 1 an error, which the message explains; 2 wrong arguments. `status`: 3 something is wrong; 4 nothing
is, in what could be looked at.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from mailkeep_server import account_password, bulk_mail, mailbox_move, verdicts
from mailkeep_server.common import mail_queue, mailboxes, paths, unix_http
from mailkeep_server.common.commands import run
from mailkeep_server.common.files import atomic_write
from mailkeep_server.common.mail_queue import QueuedMessage
from mailkeep_server.common.report_days import KEPT_DAYS, SHOWN_DAYS
from mailkeep_server.common.wording import count_noun
from mailkeep_server.freezes import enforce, freeze_list
from mailkeep_server.guard import config
from mailkeep_server.guard.hold_targets import RELEASE_TARGET, WHY_TARGET
from mailkeep_server.log_commands import add_log_commands
from mailkeep_server.mail_log.sources import LogError
from mailkeep_server.operator import accounts, bans_command, logins_command, queue_command
from mailkeep_server.operator.accounts import find_addresses
from mailkeep_server.operator.errors import CtlError

CONTROL_SOCKET = paths.GUARD_CONTROL_SOCKET
ANSWER_TIMEOUT = 5.0  # seconds
RESTART_TIMEOUT = 30.0  # seconds
MAX_SHOWN_LIMITS = 2
DESCRIPTION = """\
See what is wrong with this mail server, what waits in its queue and who is banned;
freeze and thaw accounts; see what they have sent.
"""
EPILOG = """\
examples:
  mailkeepctl status                        what is wrong now, and what to do next
  mailkeepctl limits                        how much of its limits each account has used
  mailkeepctl events                        what the guard has reported
  mailkeepctl freeze anna@example.org --why "sends spam"
  mailkeepctl passwd anna@example.org       a new passphrase, when only a phone is at hand
  mailkeepctl queue                         what waits: by sender, by remote, by reason
  mailkeepctl queue delete --account anna@example.org
  mailkeepctl bans 198.51.100.7 --lift      lets this address in again
  mailkeepctl why anna@example.org          why anna's mail goes, waits or is refused
  mailkeepctl thaw anna@example.org         after a new password
  mailkeepctl reports --days 30             what other servers report about our mail
  mailkeepctl report --since yesterday --by account   what was sent, and what became of it
  mailkeepctl trace friend@example.net      each message from and to an address

Exit codes: 0 done; 1 an error, which the message explains; 2 wrong arguments.
Of status: 3 something is wrong; 4 nothing is, in what could be looked at.
"""


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int | None] = options.command
    try:
        if os.geteuid() != 0:
            raise CtlError("mailkeepctl needs root: `sudo mailkeepctl …`.")
        return command(options) or 0
    except (CtlError, LogError, config.ConfigError, OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        print(error, file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "mailkeepctl",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, command: Callable[[argparse.Namespace], int | None], text: str, example: str, *, account: bool = True
    ) -> Any:
        subparser = commands.add_parser(
            name, help=text, description=text, epilog=f"Example: mailkeepctl {name} {example}".rstrip()
        )
        subparser.set_defaults(command=command)
        if account:
            subparser.add_argument("account", type=str.lower, help="its address in mail.yml")
        return subparser

    anna = "anna@example.org"
    text = "Show what is wrong now, since when and what to do next, the worst first. Exit code 3: something is wrong."
    status = add("status", show_status, text, "--all", account=False)
    status.add_argument("--all", action="store_true", help="everything, beyond one screen")
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
    text = (
        "Show what waits in the queue: by sender, by remote and by reason. Hold, release, retry, delete, show a part."
    )
    example = f"delete --account {anna}"
    queue_command.add_options(add("queue", queue_command.run_queue, text, example, account=False))
    text = "Show which addresses are banned, why and until when; or lift the bans of one."
    bans_command.add_options(add("bans", bans_command.run_bans, text, "198.51.100.7 --lift", account=False))
    text = "Show who logged in from where, when and by which service; of an account, or from an address."
    logins_command.add_options(add("logins", logins_command.run_logins, text, f"{anna} --failed", account=False))
    text = "Send an account's held mail, and let it write to strangers again."
    add("release", release_mail, text, anna)
    add("why", explain_account, "Say why an account's mail goes, waits or is refused.", anna)
    text = "Show how much of its limits each account has used, the fullest first, and which are frozen."
    limits = add("limits", show_limits, text, "", account=False)
    text = "Show what the guard has reported, the oldest first: refusals, freezes, new networks of an account."
    events = add("events", show_events, text, "--after 120 --json", account=False)
    events.add_argument(
        "--after", type=int, default=0, metavar="NUMBER", help="only events after this one (default: all, of 30 days)"
    )
    text = "Show what other servers report about our mail (DMARC, TLS-RPT): by domain and source, what failed and why."
    reports = add("reports", show_reports, text, "--domain example.org --days 7", account=False)
    reports.add_argument("--domain", type=str.lower, default="", help="only this domain (default: all of mail.yml)")
    reports.add_argument(
        "--days", type=parse_days, default=SHOWN_DAYS, metavar="NUMBER", help=f"so many days, up to {KEPT_DAYS}"
    )
    add_log_commands(add)
    text = "Show which accounts get a mail bomb or more mail than their limit, and what was sorted into folders."
    add("bulk", show_bulk_mail, text, "", account=False)
    text = "Move what a mail bomb has brought from its folders to the inbox. For a day, nothing more is sorted."
    add("unsort", unsort_mail, text, anna)
    for parser_with_json in (status, limits, events, reports):
        parser_with_json.add_argument("--json", action="store_true", help="print JSON, for scripts")
    add("weekly", show_weekly, "Show the weekly mail as it would be sent now.", "", account=False)
    text = "Print figures in the text format of Prometheus; or write them for node_exporter's textfile collector."
    example = "--file /var/lib/prometheus/node-exporter/mailkeep.prom"
    metrics = add("metrics", show_metrics, text, example, account=False)
    metrics.add_argument("--file", type=Path, default=None, metavar="FILE", help="replace this file as a whole")
    return parser


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


def show_status(options: argparse.Namespace) -> int:
    # Other commands need none of the watch.
    from mailkeep_server.operator import status_command

    return status_command.run_status(options)


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


def show_limits(options: argparse.Namespace) -> None:
    status = json.loads(ask_guard("/status"))
    if options.json:
        print(json.dumps(status, indent=2))
        return
    if status["mode"] == "learn":
        print("Mode learn: nothing is refused or frozen, only reported.\n")
    if until := status.get("careful_until"):
        print(f"Counts were lost: until {until}, each account may send half of its limits.\n")
    for account in status["accounts"]:
        fullest = sorted(account["limits"], key=lambda limit: -limit["used_fraction"])[:MAX_SHOWN_LIMITS]
        is_frozen = account["account"] in status["frozen"]
        mark = "frozen" if is_frozen else f"{fullest[0]['used_fraction']:6.0%}"
        print(f"{mark:>6}  {account['account']:40} {describe_limits(fullest)}")
    for account, record in status["frozen"].items():
        print(f"\n{account} is frozen since {record['at']} by {record['by']}: {record['why']}")
    print(f"\nall together: {describe_limits(status['server'])}")


def describe_limits(limits: list[dict[str, Any]]) -> str:
    return "   ".join(f"{limit['limit']} {limit['used']}/{limit['maximum']}" for limit in limits)


def show_events(options: argparse.Namespace) -> None:
    """With --json: `events`, each with `id`, `time` (seconds since the epoch), `kind`, `account`, `detail`; and `last`,
    the number to continue after."""
    answer = read_events(options.after)
    if options.json:
        print(json.dumps(answer, indent=2))
        return
    for event in answer["events"]:
        at = datetime.fromtimestamp(event["time"], UTC)
        print(f"{event['id']:>6}  {at:%Y-%m-%d %H:%M:%S} UTC  {event['kind']:14} {event['account']}  {event['detail']}")
    print(f"{count_noun(len(answer['events']), 'event')}; `--after {answer['last']}` shows later ones.")


def read_events(after: int) -> dict[str, Any]:
    """All events after this one, in as many answers as the guard gives them."""
    answer: dict[str, Any] = json.loads(ask_guard(f"/events?after={after}"))
    events = answer["events"]
    while events and events[-1]["id"] < answer["last"]:
        further = json.loads(ask_guard(f"/events?after={events[-1]['id']}"))["events"]
        if not further:
            break
        events += further
    return answer


def parse_days(text: str) -> int:
    days = int(text)
    if not 1 <= days <= KEPT_DAYS:
        raise argparse.ArgumentTypeError(f"expected 1 to {KEPT_DAYS}")
    return days


def show_reports(options: argparse.Namespace) -> None:
    """With --json: as `summary.summarise_reports` has it."""
    # Other commands need none of it, and would start a fifth later.
    import sqlite3

    from mailkeep_server.reports import config as reports_config
    from mailkeep_server.reports import listing, store, summary

    try:
        settings = reports_config.load_config()
    except FileNotFoundError:
        raise CtlError("Reports do not arrive at this server: dns.reports in mail.yml leads elsewhere.") from None
    if options.domain and options.domain not in settings.domains:
        raise CtlError(f"{options.domain} is no domain of this server. Its domains are: {', '.join(settings.domains)}.")
    since = time.time() - options.days * store.DAY
    try:
        rows = summary.summarise_reports(Path(paths.REPORTS_DATABASE), settings, since, options.domain)
    except sqlite3.Error as error:
        raise CtlError(str(error)) from None
    print(json.dumps(rows, indent=2) if options.json else "\n".join(listing.format_summary(rows)))


def show_bulk_mail(_options: argparse.Namespace) -> None:
    state = json.loads(ask_guard("/receiving"))
    print("\n".join(bulk_mail.describe_accounts(state, config.load_config(accounts.CONFIG).addresses)))


def unsort_mail(options: argparse.Namespace) -> None:
    """May be repeated: after a failure, and for messages that were on their way."""
    account = options.account
    find_addresses(account)
    ask_guard(f"/unsort?{urlencode({'account': account})}")
    for line in bulk_mail.empty_folders(account):
        print(line, flush=True)
    print("For a day, nothing more of this account is sorted.")


def show_weekly(_options: argparse.Namespace) -> int:
    # Other commands need none of the watch.
    from mailkeep_server.operator import weekly_mail

    return weekly_mail.main(["--print"])


def show_metrics(options: argparse.Namespace) -> None:
    # Other commands need none of the watch.
    from mailkeep_server.operator import findings, metrics

    text = metrics.format_metrics(findings.load_watch_config())
    if options.file:
        atomic_write(options.file, text, durable=False)
    else:
        print(text, end="")


def ask_guard(target: str) -> str:
    """The answer of the guard's control socket. Raises CtlError."""
    try:
        return unix_http.get_body(str(CONTROL_SOCKET), target, ANSWER_TIMEOUT).decode()
    except (OSError, ValueError) as error:
        raise CtlError(f"The guard does not answer ({error}): `systemctl status mailkeep-guard` says why.") from None


def read_held_mail(account: str) -> list[QueuedMessage]:
    return [message for message in enforce.read_queue(account, find_addresses(account)) if message.queue == "hold"]


def count_recipients(messages: list[QueuedMessage]) -> int:
    return sum(len(message.recipients) for message in messages)
