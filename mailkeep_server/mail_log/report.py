"""A report: what was sent, by whom, where to and with which fate, as numbers in total and by one property."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from mailkeep_server.mail_log.line_words import Needs
from mailkeep_server.mail_log.tally import (
    BOUNCED,
    DELETED,
    HELD,
    REJECTED,
    SENT,
    UNCLEAR,
    UNKNOWN,
    WAITING,
    Event,
    Moment,
    Origin,
    Tally,
)

GROUPS = ("day", "hour", "account", "network", "remote", "domain", "result")
NAMES = {
    SENT: "delivered",
    BOUNCED: "bounced",
    WAITING: "deferred",
    REJECTED: "rejected",
    DELETED: "deleted",
    UNKNOWN: "unknown",
    UNCLEAR: "unclear",
    HELD: "held",
}
"""By fate, its name in a report."""
FATES = ("delivered", "bounced", "rejected", "deferred", "deleted", "unknown", "unclear")
"""Each try to reach somebody has one of them."""
NUMBERS = (*("messages", "people", "bytes"), *FATES, *("deferrals", "held", "logins", "failed_logins"))
_AGO = re.compile(r"(\d{1,5})\s*(h|d|hours?|days?)(?: ago)?$")


@dataclass(frozen=True)
class Query:
    """`since` and `until` as the log has times, `by` one of GROUPS or empty. Of `account`, what was sent by its login;
    of `domain`, what its accounts sent, and what was sent to it."""

    since: str = ""
    until: str = ""
    account: str = ""
    domain: str = ""
    by: str = ""

    @property
    def needs(self) -> Needs:
        return Needs(
            hours=self.by in ("day", "hour"),
            networks=self.by == "network",
            remotes=self.by == "remote",
            domains=self.by == "domain" or bool(self.domain),
            codes=self.by == "result",
            since=self.since,
            until=self.until,
        )

    def matches(self, origin: Origin, event: Event | None = None) -> bool:
        if self.account and origin.account != self.account:
            return False
        domains = {origin.account.rpartition("@")[2], event.domain if event else ""}
        return not self.domain or self.domain in domains


def parse_time(text: str, now: datetime, *, is_end: bool = False) -> str:
    """`2026-11-29`, `2026-11-29 02:00`, `today`, `yesterday`, `3 days ago` or `12h`, as the log has times.

    After `@` come seconds of the epoch (systemd.time(7)). A day that is the end is included.
    ValueError for anything else.
    """
    text = text.strip().lower().removesuffix("z")
    if text.startswith("@"):
        try:
            return datetime.fromtimestamp(int(text[1:]), UTC).isoformat()[:19]
        except (OverflowError, OSError):
            raise ValueError(text) from None
    if match := _AGO.match(text):
        step = timedelta(hours=int(match[1])) if match[2].startswith("h") else timedelta(days=int(match[1]))
        return (now - step).isoformat()[:19]
    days = {"today": now, "yesterday": now - timedelta(days=1)}
    moment = datetime.fromisoformat(days[text].date().isoformat() if text in days else text.upper())
    if is_end and (text in days or len(text) == len("2026-11-29")):
        moment += timedelta(days=1)
    return moment.replace(tzinfo=None).isoformat()[:19]


def build_report(tally: Tally, query: Query) -> dict[str, Any]:
    """`totals` has NUMBERS and `attempted`; `rows` the same for each `key` of the group. For scripts, as JSON."""
    rows: defaultdict[str, Counter[str]] = defaultdict(Counter)
    totals: Counter[str] = Counter()
    for origin, moment, event, name, number in _list_numbers(tally, query):
        totals[name] += number
        if query.by:
            rows[_name_group(query.by, origin, moment, event)][name] += number
    table = [{"key": key, **_complete(numbers)} for key, numbers in rows.items() if any(numbers.values())]
    return {
        **asdict(query),
        "first": tally.first,
        "last": tally.last,
        "totals": _complete(totals),
        "rows": sorted(table, key=_find_order(query.by)),
        "not_followed": tally.dropped,
    }


Number = tuple[Origin, Moment, Event | None, str, int]


def _list_numbers(tally: Tally, query: Query) -> Iterator[Number]:
    return (number for number in _list_all_numbers(tally) if number[-1] and query.matches(number[0], number[2]))


def _list_all_numbers(tally: Tally) -> Iterator[Number]:
    for (origin, event), number in tally.fates.items():
        yield origin, Moment(event.time), event, NAMES[event.fate], number
    for (origin, event), number in tally.deferrals.items():
        yield origin, Moment(event.time), event, "deferrals", number
    for (origin, moment), numbers in tally.arrivals.items():
        for name, number in zip(("messages", "people", "bytes"), numbers, strict=True):
            yield origin, moment, None, name, number * moment.is_counted
    for (origin, moment, is_good), number in tally.logins.items():
        yield origin, moment, None, "logins" if is_good else "failed_logins", number


def _complete(numbers: Counter[str]) -> dict[str, int]:
    return {"attempted": sum(numbers[name] for name in FATES), **{name: numbers[name] for name in NUMBERS}}


def _name_group(by: str, origin: Origin, moment: Moment, event: Event | None) -> str:
    match by:
        case "day":
            name = moment.hour[:10]
        case "hour":
            name = f"{moment.hour[:10]} {moment.hour[11:]}:00" if moment.hour else ""
        case "account":
            name = origin.account
        case "network":
            name = origin.network
        case "result":
            name = f"{NAMES[event.fate]} {event.code}".rstrip() if event else ""
        case _:
            name = (event.remote if by == "remote" else event.domain) if event else ""
    return name or "-"


def _find_order(by: str) -> Callable[[dict[str, Any]], Any]:
    if by in ("day", "hour"):
        return lambda row: row["key"]
    return lambda row: (-row["attempted"], -row["people"], -row["failed_logins"], row["key"])
