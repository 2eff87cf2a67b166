"""What is usual for an account: where, with what and when it sends, and to how many people.

Learned from the messages that it sends, and forgotten again. Each thing that is unusual about a message has points, and
a sentence. Their sum is the message's strangeness. Nothing else decides, and nobody's habits tell of another's.
"""

import json
import math
from bisect import bisect_left
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from mailkeep_server.common.networks import wide_network_of
from mailkeep_server.common.wording import count_noun
from mailkeep_server.guard.sliding_window import DAY, HOUR

PACE_DAYS, KEPT_DAYS = 30, 90
"""How far back the pace is learned; and how long a network or a program is remembered after its last use."""
MAX_NETWORKS, MAX_PROGRAMS = 40, 12
"""Of an account. The one not used for longest is forgotten."""
MAX_TRAITS = 8
"""Names of programs, and greetings."""
FAMILIAR_DAYS, FAMILIAR_AGE = 3, 7
"""Used on so many days, the first of them so many days ago: a thief must keep still for a week."""
YOUNG_DAYS, YOUNG_AGE = 5, 14
"""Days with mail, and days since the first, before which nothing is usual."""
IDLE_DAYS, NEVER_DAYS = 60, 30
"""Without mail; and the age of an account that has never sent any."""
WAKING_DAYS = 7
"""In which an account that sends again is watched more closely."""
MIN_COUNTED, RARE_SHARE = 50, 0.01
"""Messages from which hours and sizes are known; and the share of one and its neighbours below which it is rare."""
SIZE_BOUNDS = tuple(2**power for power in range(10, 24, 2))
"""Bytes: up to 1 KiB, 4 KiB, … 4 MiB, and more."""
MANY_A_DAY, MANY_A_WEEK, MANY_WHEN_YOUNG = 6, 15, 20
"""New people to whom anybody may write."""
NETWORK_POINTS, WIDE_POINTS, PROGRAM_POINTS, HOUR_POINTS, IDLE_POINTS, NEVER_POINTS = 2, 2, 3, 1, 4, 8
NAME_POINTS, GREETING_POINTS, SIZE_POINTS = 2, 2, 0.5
"""Of a familiar program: a new one has another name and greeting, and that counts once."""
POINTS_A_DOUBLING, MAX_PACE_POINTS = 2, 7
"""For each doubling of the usual number of new people. The pace alone holds nothing: people have news, too."""
UNUSUAL_FOR_ANYBODY = 100
"""New people in a day from elsewhere, who have all points: else, who usually writes to many could be used to reach
many more."""


class Reason(NamedTuple):
    """Something unusual about a message."""

    points: float
    sentence: str


@dataclass(frozen=True, slots=True)
class Source:
    """Where a message comes from, and with what it was written."""

    network: str
    """As `network_of` returns it."""
    wide_network: str
    program: int
    """By `mail_program.describe_program`."""
    name: str = ""
    """What the program calls itself (`mail_program.read_name`); empty if nobody knows."""
    greeting: str = ""
    """How it greets (`mail_program.describe_greeting`); empty if nobody knows, as after a restart of the guard."""

    @property
    def program_text(self) -> str:
        return json.dumps((self.program, self.name, self.greeting))

    @classmethod
    def from_text(cls, network: str, program_text: str) -> "Source":
        """Of a program that cannot be read, nobody knows anything."""
        wide_network = wide_network_of(network.partition("/")[0])
        with suppress(ValueError, TypeError):
            return cls(network, wide_network, *json.loads(program_text))
        return cls(network, wide_network, 0)


@dataclass(slots=True)
class Use:
    """Of a network or a program."""

    first_day: int
    last_day: int
    days: int = 1

    def note(self, day: int) -> None:
        self.days += self.last_day != day
        self.last_day = max(day, self.last_day)

    def is_familiar(self, day: int) -> bool:
        return self.days >= FAMILIAR_DAYS and day - self.first_day >= FAMILIAR_AGE


@dataclass(slots=True)
class DayCount:
    day: int
    strangers: int = 0
    """New people that it wrote to."""
    from_elsewhere: int = 0
    """Of these, from a network or by a program that was not familiar then, and that nobody has released."""


@dataclass(slots=True)
class Habits:
    """Of one account. All days are days since the epoch."""

    networks: dict[str, Use] = field(default_factory=dict)
    """Wide ones, too."""
    programs: dict[str, Use] = field(default_factory=dict)
    names: dict[str, Use] = field(default_factory=dict)
    greetings: dict[str, Use] = field(default_factory=dict)
    hours: list[int] = field(default_factory=lambda: [0] * 24)
    """Messages by hour (UTC)."""
    sizes: list[int] = field(default_factory=lambda: [0] * (len(SIZE_BOUNDS) + 1))
    """Messages by SIZE_BOUNDS."""
    pace: list[DayCount] = field(default_factory=list)
    """The last PACE_DAYS with mail."""
    days: int = 0
    """With mail, in all."""
    first_day: int = 0
    last_day: int = 0
    woke: int = 0
    """When it last sent again after a long silence, and since when that lasted; 0: it had never sent before."""
    slept_since: int = 0

    # --- learning -----------------------------------------------------------------------------------------------------

    def learn(self, now: int, birth: int, source: Source, strangers: int, size: int = 0) -> None:
        """From a message that leaves. `strangers`: how many new people it goes to; the others as in `find_reasons`."""
        day, is_usual = now // DAY, self.is_usual(now, source)
        if self._is_asleep(day, birth):
            self.woke, self.slept_since = day, self.last_day
        if day > self.last_day:
            self.first_day = self.first_day or day
            self.days += 1
            self.last_day = day
            self._forget(day)
        for uses, key, limit in self._find_uses(source):
            _note_use(uses, key, day, limit)
        self.hours[now % DAY // HOUR] += 1
        if size:
            self.sizes[_class_of(size)] += 1
        if not self.pace or self.pace[-1].day < day:
            self.pace.append(DayCount(day))
        self.pace[-1].strangers += strangers
        self.pace[-1].from_elsewhere += 0 if is_usual else strangers

    def _find_uses(self, source: Source) -> list[tuple[dict[str, Use], str, int]]:
        """Where its parts are kept, by which key, and how many at most. What nobody knows is left out."""
        uses = [
            (self.networks, source.network, MAX_NETWORKS),
            (self.networks, source.wide_network, MAX_NETWORKS),
            (self.programs, str(source.program), MAX_PROGRAMS),
            (self.names, source.name, MAX_TRAITS),
            (self.greetings, source.greeting, MAX_TRAITS),
        ]
        return [use for use in uses if use[1]]

    def _forget(self, day: int) -> None:
        for uses in (self.networks, self.programs, self.names, self.greetings):
            for key in [key for key, use in uses.items() if use.last_day < day - KEPT_DAYS]:
                del uses[key]
        self.pace = self.pace[-PACE_DAYS:]
        self.hours, self.sizes = _bound_counts(self.hours), _bound_counts(self.sizes)

    def trust(self, now: int, source: Source) -> None:
        """Somebody has looked: the source is the owner's, and so was its mail."""
        day, self.woke = now // DAY, 0
        for count in self.pace:
            count.from_elsewhere = 0
        for uses, key, _ in self._find_uses(source):
            uses[key] = Use(day - FAMILIAR_AGE, day, FAMILIAR_DAYS)

    def is_usual(self, now: int, source: Source) -> bool:
        return not self.is_young(now // DAY) and not self._judge_source(now // DAY, source)

    def is_nearly_usual(self, now: int, source: Source) -> bool:
        """Whether it is, or its network is near a familiar one, as a phone's."""
        reasons = self._judge_source(now // DAY, source)
        return not self.is_young(now // DAY) and sum(reason.points for reason in reasons) <= NETWORK_POINTS

    # --- judging ------------------------------------------------------------------------------------------------------

    def is_young(self, day: int) -> bool:
        return self.days < YOUNG_DAYS or day - self.first_day < YOUNG_AGE

    def find_reasons(self, now: int, birth: int, source: Source, strangers: int, size: int = 0) -> list[Reason]:
        """Of a message to so many new people. `birth` is the account's first day here. A size of 0 is not known."""
        day = now // DAY
        reasons = [
            *self._judge_silence(day, birth),
            *self._judge_source(day, source),
            *self._judge_hour(now),
            *self._judge_size(size),
            *self._judge_pace(day, birth, strangers),
        ]
        return [reason for reason in reasons if reason.points > 0]

    def _judge_silence(self, day: int, birth: int) -> list[Reason]:
        if self._is_asleep(day, birth):
            woke, slept_since = day, self.last_day
        elif self.woke and day - self.woke < WAKING_DAYS:
            woke, slept_since = self.woke, self.slept_since
        else:
            return []
        if not slept_since:
            return [Reason(NEVER_POINTS, f"it had never sent before {_format_day(woke)}, since {_format_day(birth)}")]
        return [Reason(IDLE_POINTS, f"it sent nothing from {_format_day(slept_since)} to {_format_day(woke)}")]

    def _is_asleep(self, day: int, birth: int) -> bool:
        return day - self.last_day >= IDLE_DAYS if self.days else day - birth >= NEVER_DAYS

    def _judge_source(self, day: int, source: Source) -> list[Reason]:
        """Of a young account, each source is new."""
        if self.is_young(day):
            return []
        reasons = []
        is_near = _is_familiar(self.networks, source.wide_network, day)
        if not _is_familiar(self.networks, source.network, day):
            points = NETWORK_POINTS + (0 if is_near else WIDE_POINTS)
            around = "in a familiar one" if is_near else f"and so is {source.wide_network}"
            reasons.append(Reason(points, f"the network {source.network} is new to it, {around}"))
        if not _is_familiar(self.programs, str(source.program), day):
            return [*reasons, Reason(PROGRAM_POINTS, "its mail program is new to it")]
        if _is_new_trait(self.names, source.name, day):
            reasons.append(Reason(NAME_POINTS, f"its mail program calls itself '{source.name}', and that is new to it"))
        # Elsewhere, as in a hotel, the network may have named the device (DHCP).
        if is_near and _is_new_trait(self.greetings, source.greeting, day):
            reasons.append(Reason(GREETING_POINTS, f"its program greets as {source.greeting}, and that is new to it"))
        return reasons

    def _judge_size(self, size: int) -> list[Reason]:
        place, total = _class_of(size), sum(self.sizes)
        number = sum(self.sizes[max(place - 1, 0) : place + 2])
        if not size or total < MIN_COUNTED or number >= RARE_SHARE * total:
            return []
        return [Reason(SIZE_POINTS, f"its messages are hardly ever of some {_format_size(size)}")]

    def _judge_hour(self, now: int) -> list[Reason]:
        hour, total = now % DAY // HOUR, sum(self.hours)
        number = sum(self.hours[(hour + shift) % 24] for shift in (-1, 0, 1))
        if total < MIN_COUNTED or number >= RARE_SHARE * total:
            return []
        return [Reason(HOUR_POINTS, f"it hardly ever sends at {hour:02}:00 UTC")]

    def _judge_pace(self, day: int, birth: int, strangers: int) -> list[Reason]:
        """By day and by week: whichever is more unusual. Mail from where it usually sends does not count."""
        reasons = []
        is_new = self.is_young(day) and day - birth < NEVER_DAYS
        for days, anybody, word in ((1, MANY_A_DAY, "a day"), (7, MANY_A_WEEK, "a week")):
            number = strangers + sum(count.from_elsewhere for count in self.pace if count.day > day - days)
            usual = max(self._usual_strangers(day, days), MANY_WHEN_YOUNG * days if is_new else anybody)
            points = POINTS_A_DOUBLING * math.log2(number / usual) if number else 0
            if days == 1 and number >= UNUSUAL_FOR_ANYBODY:
                points = MAX_PACE_POINTS
            people = count_noun(number, "new person", "new people")
            sentence = f"it writes to {people} in {word} so, and usually to {usual} at most"
            reasons.append(Reason(min(points, MAX_PACE_POINTS), sentence))
        return [max(reasons)]

    def _usual_strangers(self, day: int, days: int) -> int:
        """Before these days, in PACE_DAYS: of days the second most, so that one alone teaches nothing; of weeks twice
        the mean."""
        before = [count.strangers for count in self.pace if day - PACE_DAYS <= count.day <= day - days]
        if days == 1:
            return sorted(before)[-2] if len(before) > 1 else 0
        return 2 * days * sum(before) // (PACE_DAYS - days)

    # --- storing ------------------------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """Once a message, so it is quick: dataclasses.asdict() copies each value."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        for name in _USES:
            fields[name] = {key: (use.first_day, use.last_day, use.days) for key, use in fields[name].items()}
        fields["pace"] = [(count.day, count.strangers, count.from_elsewhere) for count in self.pace]
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Habits":
        """Raises ValueError, TypeError or KeyError for other text."""
        fields = json.loads(text)
        for name in _USES & fields.keys():  # a model of before has fewer
            fields[name] = {key: Use(*use) for key, use in fields[name].items()}
        return cls(**fields | {"pace": [DayCount(*count) for count in fields["pace"]]})

    def describe(self, day: int) -> list[str]:
        """Sentences, for `mailkeepctl why`."""
        if not self.days:
            return ["It has not sent yet."]
        networks = [key for key in self.networks if _is_familiar(self.networks, key, day)]
        programs = sum(_is_familiar(self.programs, key, day) for key in self.programs)
        names, greetings = (
            [key for key in uses if _is_familiar(uses, key, day)] for uses in (self.names, self.greetings)
        )
        busiest = sorted(range(24), key=lambda hour: -self.hours[hour])[:3]
        return [
            f"It sent on {count_noun(self.days, 'day')}, the last time on {_format_day(self.last_day)}.",
            f"It usually sends from {', '.join(networks) or 'no network in particular'}, "
            f"by {count_noun(programs, 'mail program')}, most at {', '.join(f'{hour:02}:00' for hour in busiest)} UTC.",
            f"Its programs call themselves {', '.join(names) or 'nothing in particular'}, and greet as "
            f"{', '.join(greetings) or 'nothing in particular'}.",
            f"It usually writes to {max(self._usual_strangers(day, 1), MANY_A_DAY)} new people a day at most, and to "
            f"{max(self._usual_strangers(day, 7), MANY_A_WEEK)} a week.",
        ]


def _note_use(uses: dict[str, Use], key: str, day: int, limit: int) -> None:
    if use := uses.get(key):
        use.note(day)
        return
    if len(uses) >= limit:
        del uses[min(uses, key=lambda other: uses[other].last_day)]
    uses[key] = Use(day, day)


_USES = {"networks", "programs", "names", "greetings"}


def _is_new_trait(uses: dict[str, Use], key: str, day: int) -> bool:
    """A model that has just begun to learn names and greetings knows none."""
    return bool(key) and not _is_familiar(uses, key, day) and any(use.is_familiar(day) for use in uses.values())


def _is_familiar(uses: dict[str, Use], key: str, day: int) -> bool:
    return key in uses and uses[key].is_familiar(day)


def _bound_counts(counts: list[int]) -> list[int]:
    """What is long ago counts less and less."""
    return [number // 2 for number in counts] if sum(counts) > 40 * MIN_COUNTED else counts


def _class_of(size: int) -> int:
    return bisect_left(SIZE_BOUNDS, size)


def _format_size(size: int) -> str:
    return f"{max(size // 1024, 1)} KiB" if size < 1 << 20 else f"{size >> 20} MiB"


def _format_day(day: int) -> str:
    return f"{datetime.fromtimestamp(day * DAY / 1000, UTC):%Y-%m-%d}"
