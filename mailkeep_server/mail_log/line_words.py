"""The words of a line as what is counted: its moment, where a message came from, and a fate.

The same words come again and again. So each is made once, and found by its bytes afterwards.
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime

from mailkeep_server.common.networks import network_of
from mailkeep_server.mail_log.line_forms import LINE, TimeReader
from mailkeep_server.mail_log.log_lines import clean_text
from mailkeep_server.mail_log.message_states import SIMPLE_WAIT
from mailkeep_server.mail_log.tally import (
    BOUNCED,
    MAX_NAMES,
    NO_LOGIN,
    OTHERS,
    SENT,
    UNCLEAR,
    WAITING,
    Event,
    Moment,
    Origin,
)

MAX_CACHE = 20_000
HOUR_LENGTH = 13  # of `2026-11-29T02`
FATES = {b"sen": SENT, b"def": WAITING, b"bou": BOUNCED, b"exp": BOUNCED, b"unc": UNCLEAR}
"""By the first three letters of Postfix's status. A probe of an address (`deliverable`, `undeliverable`) is no fate."""
_CACHED_TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:")
_LOGIN = re.compile(rb"sasl_username=(.+?)(?:, sasl_sender=.*)?$")
_CLIENT = re.compile(rb"[^\[]*\[([0-9a-fA-F:.]+)\]")
_REMOTE = re.compile(rb"relay=([^\[,\s]+)")


@dataclass(frozen=True)
class Needs:
    """What a report wants to know beyond fates and accounts; each makes reading slower. `since` and `until` are times
    as the log has them."""

    hours: bool = False
    networks: bool = False
    remotes: bool = False
    domains: bool = False
    codes: bool = False
    since: str = ""
    until: str = ""

    @property
    def of_fates(self) -> bool:
        """Whether a fate has more to tell than its name."""
        return bool(self.hours or self.remotes or self.domains or self.codes or self.since or self.until)


NOW = Moment()


class LineWords:
    def __init__(self, needs: Needs) -> None:
        self.needs, self.reader = needs, TimeReader(datetime.now(UTC).date())
        self.has_moments = bool(needs.hours or needs.since or needs.until)
        self.has_bounds = bool(needs.since or needs.until)
        self.simple_events = {code: Event(fate) for code, fate in FATES.items()} | {b"def": SIMPLE_WAIT}
        self._hours: dict[bytes, Moment] = {}
        self._origins: dict[tuple[bytes, bytes], Origin] = {}
        self._events: dict[tuple[object, ...], Event] = {}
        self._names: dict[str, dict[bytes, str]] = {}

    def set_last_day(self, last_day: date) -> None:
        if last_day != self.reader.last_day:
            self.reader = TimeReader(last_day)
            self._hours.clear()

    def read_moment(self, line: bytes) -> Moment:
        if not self.has_moments:
            return NOW
        if not self.has_bounds and (moment := self._hours.get(line[:HOUR_LENGTH])):
            return moment
        return self._read_moment(line)

    def _read_moment(self, line: bytes) -> Moment:
        if not (time := self.read_time(line)):
            return NOW
        since, until = self.needs.since, self.needs.until
        is_counted = time >= since and not (until and time >= until)
        moment = Moment(time[:HOUR_LENGTH] if self.needs.hours else "", is_counted)
        if not self.has_bounds and _CACHED_TIME.match(line):
            _put(self._hours, line[:HOUR_LENGTH], moment)
        return moment

    def read_time(self, line: bytes) -> str:
        """`2026-11-29T02:00:00`, or "" for what no syslog wrote."""
        try:
            match = LINE.match(line)
            return self.reader.read(match["time"]).decode() if match else ""
        except ValueError:
            return ""

    def read_origin(self, client: bytes, login: bytes) -> Origin:
        """`client` as `name[192.0.2.1]`, `login` as the rest of smtpd's line, or empty."""
        key = client if self.needs.networks else b"", login
        if (origin := self._origins.get(key)) is None:
            match = _LOGIN.search(login)
            account = self.name("account", match[1].lower()) if match else NO_LOGIN
            origin = Origin(account, self.read_network(client))
            _put(self._origins, key, origin)
        return origin

    def read_network(self, client: bytes) -> str:
        if not self.needs.networks or not (match := _CLIENT.match(client)):
            return ""
        try:
            return self.name("network", network_of(match[1].decode()).encode())
        except ValueError:
            return ""

    def make_event(self, line: bytes, fate: str, relay: bytes = b"", address: bytes = b"", code: bytes = b"") -> Event:
        """`relay` as `relay=mx.example.net[192.0.2.1]:25`, `address` that of the recipient."""
        needs = self.needs
        key = (
            self.read_moment(line),
            fate,
            relay if needs.remotes else b"",
            address[address.rfind(b"@") + 1 :] if needs.domains else b"",
            code if needs.codes else b"",
        )
        if (event := self._events.get(key)) is None:
            event = self._make_event(*key)
            _put(self._events, key, event)
        return event

    def _make_event(self, moment: Moment, fate: str, relay: bytes, domain: bytes, code: bytes) -> Event:
        remote = _REMOTE.match(relay)
        return Event(
            fate,
            moment.hour,
            self.name("remote", remote[1].lower()) if remote else "",
            self.name("domain", domain.lower()) if domain else "",
            self.name("code", code),
            moment.is_counted,
        )

    def name(self, kind: str, text: bytes) -> str:
        """Safe to show, and of a bounded number."""
        names = self._names.setdefault(kind, {})
        if (name := names.get(text)) is None:
            name = names[text] = clean_text(text) if len(names) < MAX_NAMES else OTHERS
            if name is OTHERS:
                del names[text]
        return name


def _put(cache: dict, key: object, value: object) -> None:  # type: ignore[type-arg]
    if len(cache) >= MAX_CACHE:
        cache.clear()
    cache[key] = value
