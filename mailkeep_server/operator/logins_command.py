"""`mailkeepctl logins`: who logged in from where, when, and by which service; and who failed.

From the log of Dovecot and Postfix, as far back as the server keeps it.
"""

import argparse
import ipaddress
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from mailkeep_server.common.wording import count_noun, printable_text
from mailkeep_server.mail_log.logins import Login
from mailkeep_server.mail_log.sources import LogError
from mailkeep_server.operator.errors import CtlError
from mailkeep_server.operator.login_log import find_log_start, read_logins_since

DEFAULT_DAYS = 7
MAX_DAYS = 3660
MAX_ROWS = 20_000
"""Kept in memory. A guesser has many addresses: failures of further ones are counted together."""
MAX_SHOWN = 60
MAX_ACCOUNT = 64  # characters of a name that somebody typed
OTHERS = "(others)"


@dataclass
class LoginRow:
    """Logins of one account from one address by one service. Times are UTC, as `2026-11-29T02:00:00`."""

    account: str
    address: str
    service: str
    first: str
    last: str
    good: int = 0
    failed: int = 0


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("who", nargs="?", default="", metavar="ADDRESS", help="an account, or an IP address or network")
    parser.add_argument("--days", type=_parse_days, default=DEFAULT_DAYS, metavar="NUMBER", help="so many days back")
    parser.add_argument("--failed", action="store_true", help="failed logins, too")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")


def _parse_days(text: str) -> int:
    days = int(text)
    if not 1 <= days <= MAX_DAYS:
        raise argparse.ArgumentTypeError(f"expected 1 to {MAX_DAYS}")
    return days


def run_logins(options: argparse.Namespace) -> None:
    since = f"{datetime.now(UTC) - timedelta(days=options.days):%Y-%m-%dT%H:%M:%S}"
    try:
        reaches_to = find_log_start()
        rows = gather_rows(login for login in read_logins_since(since) if fits(login, options.who.lower()))
    except LogError as error:
        raise CtlError(str(error)) from None
    shown = [row for row in rows if row.good or options.failed]
    if options.json:
        print(json.dumps({"since": since, "log_since": reaches_to, "logins": [asdict(row) for row in shown]}, indent=2))
        return
    print("\n".join(format_rows(shown, len(rows) - len(shown), since, reaches_to)))


def fits(login: Login, who: str) -> bool:
    """Whether it is of this account, or from this address or network."""
    if not who or login.account.lower() == who:
        return True
    try:
        return ipaddress.ip_address(login.address) in ipaddress.ip_network(who, strict=False)
    except ValueError:
        return False


def gather_rows(logins: Iterable[Login]) -> list[LoginRow]:
    """By account, then by the first login."""
    rows: dict[tuple[str, str, str], LoginRow] = {}
    for login in logins:
        account = printable_text(login.account.lower())[:MAX_ACCOUNT]
        key = (account, login.address, login.service)
        if key not in rows and len(rows) >= MAX_ROWS and not login.is_good:
            key = (OTHERS, OTHERS, login.service)
        row = rows.setdefault(key, LoginRow(*key, login.time, login.time))
        row.first, row.last = min(row.first, login.time), max(row.last, login.time)
        if login.is_good:
            row.good += 1
        else:
            row.failed += login.attempts
    return sorted(rows.values(), key=lambda row: (row.account, row.first, row.address))


def format_rows(rows: list[LoginRow], failing: int, since: str, reaches_to: str) -> Iterator[str]:
    yield f"{'account':32} {'from':39} {'by':11} {'first':16} {'last':16} {'good':>6} {'failed':>6}"
    for row in rows[:MAX_SHOWN]:
        first, last = row.first[:16].replace("T", " "), row.last[:16].replace("T", " ")
        yield f"{row.account:32} {row.address:39} {row.service:11} {first:16} {last:16} {row.good:6} {row.failed:6}"
    if len(rows) > MAX_SHOWN:
        yield f"and {len(rows) - MAX_SHOWN} more; --json has all."
    if failing:
        yield f"{count_noun(failing, 'line')} of failed logins alone: --failed shows them."
    yield f"Times are UTC, since {since.replace('T', ' ')}. By smtp, each message counts."
    if not reaches_to:
        yield "The log of mail logins is empty: nothing is known."
    elif reaches_to > since:
        yield f"The log reaches back to {reaches_to.replace('T', ' ')} only; what was before is not known."
