"""Honest people who send mail for a year, by a model of our own, and thieves with the password of one of them.

All of it follows from a seed. Time is simulated; the judge and its database are the real ones.

An honest person has a rate of mail (lognormal, median 3 messages a day), and hours. Of the recipients, 4 to 20 per cent
are new. Mail comes from a line at home, whose address changes within its provider, from a phone and perhaps an office.
The phone's network changes with the place. There are one to three mail programs (`simulated_programs`).

In a year come trips abroad, a new phone or computer, another provider, invitations, a search for a flat or a job, and
conferences. Some have a newsletter or a new address to tell. Some begin in the middle of the year, and some use their
account on eight days only.

Of first-time recipients, 1.5 per cent do not exist. Of 0.5 per cent the server names spam or too much mail.

    python tests/guard/simulated_people.py SEED…    runs the years of these seeds, and prints each hold
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from heapq import merge
from pathlib import Path

from guard_samples import HOLDS, build_config
from simulated_programs import HOME, OFFICE, PHONE, TRIP, MailProgram, choose_size

from mailkeep.settings.sections import DEFAULT_LIMITS
from mailkeep_server.common.addresses import hash_text
from mailkeep_server.common.networks import network_of, wide_network_of
from mailkeep_server.freezes import freeze_list
from mailkeep_server.guard import config
from mailkeep_server.guard.database import Database
from mailkeep_server.guard.habits import Source
from mailkeep_server.guard.judge import Judge
from mailkeep_server.guard.outcomes import Fate
from mailkeep_server.guard.policy import DUNNO, PolicyRequest
from mailkeep_server.guard.sliding_window import DAY, HOUR

START = 20_454 * DAY
"""Midnight of 2026-01-01 (UTC), in milliseconds since the epoch."""
YEAR = 365
MINUTE = 60_000
DEAD_SHARE, REFUSED_SHARE = 0.015, 0.005
RELEASED_AFTER = 12 * HOUR
"""Until somebody looks at a hold of an honest person's mail, and releases it."""
FREEZE = {"refused_tries": 30, "foreign_senders": 10, "networks": 8, "new_recipients": 300, "spam_messages": 10}
NEWSLETTER_LIMITS = DEFAULT_LIMITS | {
    "recipients_per_10_minutes": 250,
    "recipients_per_hour": 300,
    "new_recipients_per_day": 250,
}


@dataclass(frozen=True, order=True)
class Mail:
    at: int
    """Milliseconds since the epoch."""
    account: str
    client: str
    program: int
    recipients: tuple[str, ...]
    is_thief: bool = False
    name: str = ""
    """What the program calls itself."""
    greeting: str = ""
    size: int = 0


# --- honest people ----------------------------------------------------------------------------------------------------


class Dice(random.Random):
    """The seed decides all of it."""

    def happens(self, probability: float) -> bool:
        return self.random() < probability

    def address_in(self, wide: str) -> str:
        """`wide` is the beginning of an IPv4 address: two numbers."""
        return f"{wide}.{self.randrange(256)}.{self.randrange(1, 255)}"

    def wide_network(self) -> str:
        return f"{self.randrange(11, 220)}.{self.randrange(256)}"

    def split(self) -> Dice:
        """Dice that this seed decides, too. What they draw does not change what these draw."""
        copy = Dice()
        copy.setstate(self.getstate())
        return Dice(copy.getrandbits(64))

    def count(self, mean: float) -> int:
        """Poisson, by exponential gaps."""
        number, total = 0, self.expovariate(1)
        while total < mean:
            number, total = number + 1, total + self.expovariate(1)
        return number


@dataclass
class Person:
    account: str
    dice: Dice
    first_day: int = 0
    is_seasonal: bool = False
    newsletter: int = 0
    """Its readers."""
    known: list[str] = field(default_factory=list)
    met: int = 0

    def __post_init__(self) -> None:
        dice, self.program_dice = self.dice, self.dice.split()
        self.rate = min(dice.lognormvariate(1.1, 0.9), 25.0)
        self.new_share = dice.uniform(0.04, 0.20)
        self.wake = dice.randrange(5, 10)
        self.home_provider, self.phone_provider = dice.wide_network(), dice.wide_network()
        self.home = dice.address_in(self.home_provider)
        self.home_changes = dice.choice((0.0, 0.0, 1 / 90, 1 / 30, 1 / 7, 1.0))
        """A day: a fixed line, or one whose address changes."""
        self.office = dice.address_in(dice.wide_network()) if dice.happens(0.4) else ""
        self.programs = [dice.getrandbits(32) for _ in range(dice.choice((1, 2, 2, 3)))]
        """The first is at home and in the office, the second the phone's."""
        self.devices = [MailProgram(self.program_dice) for _ in self.programs]
        self.median_size = self.program_dice.lognormvariate(8.3, 0.5)
        self.newsletter_size = self.program_dice.randrange(20_000, 200_000)
        self.trips = sorted((day := dice.randrange(YEAR), day + dice.randrange(3, 22)) for _ in range(dice.count(2.5)))
        self.trip_network = ""
        self.hunts = [dice.randrange(YEAR)] if dice.happens(0.15) else []
        self.conferences = [dice.randrange(YEAR) for _ in range(dice.count(0.3))]
        self.parties = [dice.randrange(YEAR) for _ in range(dice.count(1.5))]
        self.moves = [dice.randrange(40, YEAR)] if dice.happens(0.06) else []
        self.seasons = {dice.randrange(YEAR) for _ in range(8)}
        self.first_newsletter = dice.randrange(30, 300)

    def live(self) -> Iterator[Mail]:
        """The mail of a year."""
        for day in range(self.first_day, YEAR):
            self._change_things(day)
            yield from sorted(self._live_a_day(day))

    def _change_things(self, day: int) -> None:
        dice = self.dice
        if dice.happens(self.home_changes):
            self.home = dice.address_in(self.home_provider)
        if dice.happens(1 / 900) or day in self.moves:
            self.home_provider = dice.wide_network()
            self.home = dice.address_in(self.home_provider)
        for number in range(len(self.programs)):
            if dice.happens(1 / 600):  # a new phone or computer, or an update that writes otherwise
                self.programs[number] = dice.getrandbits(32)
                self.devices[number].change()
        if self._is_abroad(day) and (not self.trip_network or dice.happens(0.4)):
            self.trip_network = dice.wide_network()
        elif not self._is_abroad(day):
            self.trip_network = ""

    def _is_abroad(self, day: int) -> bool:
        return any(first <= day <= last for first, last in self.trips) or any(
            0 <= day - conference <= 3 for conference in self.conferences
        )

    def _live_a_day(self, day: int) -> Iterator[Mail]:
        dice = self.dice
        rate = self.rate * (0.4 if day % 7 in (2, 3) else 1.2) * (0.4 if self._is_abroad(day) else 1)
        if self.is_seasonal:
            rate = 3.0 if day in self.seasons else 0.0
        for _ in range(dice.count(rate)):
            yield self._write(day, self._choose_recipients())
        yield from self._live_through_events(day)

    def _live_through_events(self, day: int) -> Iterator[Mail]:
        if not self.is_seasonal:
            yield from self._meet_people(day)
            yield from self._write_to_many(day)

    def _meet_people(self, day: int) -> Iterator[Mail]:
        dice = self.dice
        if any(0 <= day - hunt < 10 for hunt in self.hunts):
            yield from (self._write(day, (self._meet(),)) for _ in range(dice.randrange(3, 10)))
        if any(day - conference in (2, 3, 4) for conference in self.conferences):
            yield from (self._write(day, (self._meet(),)) for _ in range(dice.randrange(4, 12)))
        if self.first_day and 0 < day - self.first_day < 4:  # "this is my new address"
            yield from (self._write(day, (self._meet(),)) for _ in range(dice.randrange(3, 13)))

    def _write_to_many(self, day: int) -> Iterator[Mail]:
        dice = self.dice
        if day in self.parties and len(self.known) > 10:
            guests = {*dice.sample(self.known, min(len(self.known), dice.randrange(8, 30)))}
            yield self._write(day, (*sorted(guests), *(self._meet() for _ in range(dice.randrange(4)))))
        if any(day - move in (3, 4) for move in self.moves) and self.known:
            for _ in range(4):
                friends = {dice.choice(self.known) for _ in range(25)}
                yield self._write(day, (*sorted(friends), *(self._meet() for _ in range(6))))
        if self.newsletter and day >= self.first_newsletter and (day - self.first_newsletter) % 30 == 0:
            readers = [
                f"reader{n}@{self.account.partition('@')[0]}-{n % 90}.example.net" for n in range(self.newsletter)
            ]
            self.newsletter += dice.randrange(6)
            yield replace(self._write(day, tuple(readers)), size=self.newsletter_size)

    def _choose_recipients(self) -> tuple[str, ...]:
        dice = self.dice
        number = 1 if dice.happens(0.85) else dice.randrange(2, 6)
        is_new = not self.known or dice.happens(self.new_share)
        first = self._meet() if is_new else self._pick()
        return (first, *{self._pick() for _ in range(number - 1)} - {first})

    def _pick(self) -> str:
        """Mostly those to whom it wrote last."""
        back = int(self.dice.expovariate(1 / 15))
        return self.known[-1 - min(back, len(self.known) - 1)]

    def _meet(self) -> str:
        self.met += 1
        domain = "gmail.com" if self.dice.happens(0.4) else f"d{self.dice.randrange(5000)}.example.net"
        self.known.append(f"{self.account.partition('@')[0]}.{self.met}@{domain}")
        return self.known[-1]

    def _write(self, day: int, recipients: tuple[str, ...]) -> Mail:
        dice = self.dice
        hour = dice.randrange(24) if dice.happens(0.02) else (self.wake + int(dice.triangular(0, 16, 5))) % 24
        at = START + day * DAY + hour * HOUR + dice.randrange(HOUR)
        place, client, number = self._choose_place(hour)
        device, size = self.devices[number], choose_size(self.program_dice, self.median_size)
        return Mail(
            *(at, self.account, client, self.programs[number], recipients),
            name=device.name,
            greeting=device.greet(place),
            size=size,
        )

    def _choose_place(self, hour: int) -> tuple[str, str, int]:
        """The place, the client's address, and the number of the program."""
        dice, phone = self.dice, min(1, len(self.programs) - 1)
        if self.trip_network:
            return TRIP, dice.address_in(self.trip_network), phone if dice.happens(0.7) else 0
        if self.office and 8 <= hour < 17 and dice.happens(0.7):
            return OFFICE, self.office, 0
        if len(self.programs) > 1 and dice.happens(0.3):
            return PHONE, dice.address_in(self.phone_provider), phone
        return HOME, self.home, dice.choice(range(len(self.programs)))


def make_people(seed: int, number: int = 50) -> list[Person]:
    """Of 50: five begin during the year, three use their account on eight days, four write a newsletter."""
    dice = Dice(seed)
    return [
        Person(
            f"p{index}@example.org",
            Dice(f"{seed} {index}"),
            first_day=dice.randrange(30, 300) if index % 10 == 1 else 0,
            is_seasonal=index % 17 == 5,
            newsletter=dice.randrange(50, 200) if index % 12 == 7 else 0,
        )
        for index in range(number)
    ]


# --- the server -------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """Of one account."""

    sent: int = 0
    holds: list[str] = field(default_factory=list)
    """The reasons."""
    frozen: list[str] = field(default_factory=list)
    refused: int = 0
    reached: set[str] = field(default_factory=set)
    """By the thief."""
    told_at: int = 0
    """When the operator got an alert of a hold or a freeze, once the thief had begun."""


class SimulatedServer:
    """A judge with its database, and a clock that the mail moves."""

    def __init__(
        self,
        directory: Path,
        people: list[Person],
        aliases: dict[str, list[str]] | None = None,
        newsletter_limits: dict[str, int] = NEWSLETTER_LIMITS,
    ) -> None:
        directory.mkdir(exist_ok=True)
        (directory / "frozen").mkdir(exist_ok=True)
        accounts = {
            person.account: {"addresses": [], **({"limits": newsletter_limits} if person.newsletter else {})}
            for person in people
        }
        (directory / "guard.json").write_text(
            json.dumps(
                build_config(
                    accounts=accounts, limits=DEFAULT_LIMITS, freeze=FREEZE, holds=HOLDS, aliases=aliases or {}
                )
            )
        )
        self.database = Database(directory / "guard.db")
        self.database.began_at = START
        loaded = config.load_config(directory / "guard.json")
        freeze_list.create_if_missing(directory / "frozen" / "accounts")
        self.judge = Judge(loaded, self.database, directory / "frozen" / "accounts", START)
        for person in people:
            self.database.change(
                "UPDATE births SET day = ? WHERE account = ?", START // DAY + person.first_day, person.account
            )
        self.tallies = {person.account: Tally() for person in people}
        self.dice = Dice("fates")
        self.releases: list[tuple[int, str]] = []
        self.serial, self.swept, self.last_event = 0, START, 0
        self.is_released = True

    def take(self, mail: Mail, fates: Callable[[str], Fate | None] | None = None) -> str:
        """What became of it: `left`, `held`, or the refusal."""
        self._pass_time(mail.at)
        self.serial += 1
        request = PolicyRequest(
            *(mail.account, mail.client, f"i{self.serial}"),
            queue_id=f"Q{self.serial}",
            greeting=mail.greeting,
            size=mail.size,
        )
        answer = self._ask(mail, request)
        tally = self.tallies[mail.account]
        if answer == "left":
            tally.sent += 1
            if mail.is_thief:
                tally.reached.update(mail.recipients)
            for recipient in mail.recipients:
                if fate := (fates or self._decide_fate)(recipient):
                    self.judge.strangers.note_outcome(mail.at, request.queue_id, hash_text(recipient), fate)
        elif answer != "held":
            tally.refused += 1
        self._read_events(mail)
        return answer

    def _ask(self, mail: Mail, request: PolicyRequest) -> str:
        judge = self.judge
        for recipient in mail.recipients:
            action = judge.judge_recipient(mail.at, request._replace(recipient=recipient))
            if action != DUNNO:
                return action
        action = judge.judge_message(mail.at, request._replace(recipients=len(mail.recipients)))
        if action != DUNNO:
            return action
        source = Source(network_of(mail.client), wide_network_of(mail.client), mail.program, mail.name)
        verdict = judge.strangers.judge_message(mail.at, mail.account, mail.recipients, request.queue_id, source)
        if verdict.refusal:
            judge.ledger.message_dropped(request.queue_id)
            return verdict.refusal
        if verdict.hold:
            return "held"
        judge.ledger.message_accepted(request.queue_id)
        return "left"

    def _decide_fate(self, _recipient: str) -> Fate:
        number = self.dice.random()
        if number < DEAD_SHARE:
            return Fate.DEAD
        return Fate.REFUSED if number < DEAD_SHARE + REFUSED_SHARE else Fate.SENT

    def _read_events(self, mail: Mail) -> None:
        for event in self.database.events_after(self.last_event):
            self.last_event = event.id
            tally = self.tallies.get(event.account)
            if tally and event.kind in ("hold", "frozen"):
                (tally.holds if event.kind == "hold" else tally.frozen).append(event.detail)
                if event.kind == "hold" and self.is_released:
                    self.releases.append((mail.at + RELEASED_AFTER, event.account))
                if mail.is_thief:
                    tally.told_at = tally.told_at or event.time

    def _pass_time(self, now: int) -> None:
        for at, account in self.releases.copy():
            if at <= now:
                self.releases.remove((at, account))
                self.judge.strangers.release(at, account)
        if now - self.swept > DAY:
            self.swept = now
            self.judge.ledger.forget_expired(now)
            for _ in self.database.forget_expired(now):
                pass


def run_year(directory: Path, seed: int, number: int = 50) -> dict[str, Tally]:
    people = make_people(seed, number)
    server = SimulatedServer(directory, people)
    for mail in merge(*(person.live() for person in people)):
        server.take(mail)
    return server.tallies


def print_year(seed: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        tallies = run_year(Path(directory), seed)
    numbers = [len(tally.holds) for tally in tallies.values()]
    print(
        f"seed {seed}: {sum(tally.sent for tally in tallies.values())} messages of {len(numbers)} people, "
        f"{sum(numbers)} holds, {max(numbers)} of one person at most, "
        f"{sum(len(tally.frozen) for tally in tallies.values())} freezes"
    )
    for account, tally in tallies.items():
        for reason in (*tally.holds, *tally.frozen):
            print(f"  {account}: {reason}")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print_year(int(argument))
