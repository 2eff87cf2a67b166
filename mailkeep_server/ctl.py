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

from mailkeep_server import bulk_mail
from mailkeep_server.account_commands import add_account_commands
from mailkeep_server.common import paths
from mailkeep_server.common.files import atomic_write
from mailkeep_server.common.report_days import KEPT_DAYS, SHOWN_DAYS
from mailkeep_server.common.wording import count_noun
from mailkeep_server.guard import config
from mailkeep_server.log_commands import add_log_commands
from mailkeep_server.mail_log.sources import LogError
from mailkeep_server.operator import accounts, bans_command, logins_command, queue_command
from mailkeep_server.operator.accounts import find_addresses
from mailkeep_server.operator.errors import CtlError
from mailkeep_server.operator.guard_answers import ask_guard

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

    text = "Show what is wrong now, since when and what to do next, the worst first. Exit code 3: something is wrong."
    status = add("status", show_status, text, "--all", account=False)
    status.add_argument("--all", action="store_true", help="everything, beyond one screen")
    add_account_commands(add)
    text = (
        "Show what waits in the queue: by sender, by remote and by reason. Hold, release, retry, delete, show a part."
    )
    example = "delete --account anna@example.org"
    queue_command.add_options(add("queue", queue_command.run_queue, text, example, account=False))
    text = "Show which addresses are banned, why and until when; or lift the bans of one."
    bans_command.add_options(add("bans", bans_command.run_bans, text, "198.51.100.7 --lift", account=False))
    text = "Show who logged in from where, when and by which service; of an account, or from an address."
    logins_command.add_options(
        add("logins", logins_command.run_logins, text, "anna@example.org --failed", account=False)
    )
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
    add("unsort", unsort_mail, text, "anna@example.org")
    for parser_with_json in (status, limits, events, reports):
        parser_with_json.add_argument("--json", action="store_true", help="print JSON, for scripts")
    add("weekly", show_weekly, "Show the weekly mail as it would be sent now.", "", account=False)
    text = "Print figures in the text format of Prometheus; or write them for node_exporter's textfile collector."
    example = "--file /var/lib/prometheus/node-exporter/mailkeep.prom"
    metrics = add("metrics", show_metrics, text, example, account=False)
    metrics.add_argument("--file", type=Path, default=None, metavar="FILE", help="replace this file as a whole")
    return parser


def show_status(options: argparse.Namespace) -> int:
    # Other commands need none of the watch.
    from mailkeep_server.operator import status_command

    return status_command.run_status(options)


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
