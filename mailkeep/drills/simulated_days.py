"""Days of mail in a minute: real SMTP through the built server, whose guard has its clock moved between messages.

Only the guard's: Postfix counts connections and messages of each client in real minutes (anvil(8)). So whoever sends a
day's mail within seconds takes turns with seven addresses of the same network, which is one to the guard.
"""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import IO, Any, cast

from mailkeep.drills.replay import THERE, Range, events
from mailkeep.lab import Container, poll
from mailkeep.lab.attacker import DISTANT_HOSTS
from mailkeep.settings.sections import DEFAULT_LIMITS

DAY, HOUR, MINUTE = 86_400.0, 3_600.0, 60.0
SUBJECT = "Drill: day "
DELIVERY_PATIENCE = 60.0

# faketime(1) before the guard, in the lab alone. Its clock is what the file says, read anew each time; the event loop's
# and systemd's clock, CLOCK_MONOTONIC, stays what it is.
_CLOCK = "/run/mailkeep-clock"
_DROP_IN = "/run/systemd/system/mailkeep-guard.service.d/clock.conf"
_MOVABLE = f"""\
set -e
export DEBIAN_FRONTEND=noninteractive
dpkg -s libfaketime > /dev/null 2>&1 || {{ apt-get -qq update; apt-get -qq install -y libfaketime > /dev/null; }}
echo +0 > {_CLOCK}
mkdir -p {_DROP_IN.rpartition("/")[0]}
cat > {_DROP_IN} << END
[Service]
Environment=LD_PRELOAD=$(dpkg -L libfaketime | grep '/libfaketime\\.so') FAKETIME_TIMESTAMP_FILE={_CLOCK}
Environment=FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1
END
systemctl daemon-reload
systemctl restart mailkeep-guard.service
"""
_FIXED = f"rm -f {_DROP_IN}; systemctl daemon-reload; systemctl restart mailkeep-guard.service"
_MOVE = f"while read -r offset; do echo $offset > {_CLOCK}.new; mv {_CLOCK}.new {_CLOCK}; echo done; done"


@dataclass(frozen=True)
class Mail:
    at: float
    """Seconds since the first midnight."""
    network: int
    account: str
    recipients: tuple[str, ...]


@dataclass(frozen=True)
class Days:
    """What came of some simulated days."""

    drill: str
    title: str
    tries: int
    refused: tuple[str, ...]
    """What the server said to those that it did not take whole."""
    messages: tuple[int, ...]
    """That reached somebody outside, by day, and how many people."""
    recipients: tuple[int, ...]
    told: float | None
    """Seconds, of the guard's clock, from the first message until the guard first reported the account."""
    frozen: bool
    clock: float
    """Seconds that the guard's clock was moved, and how long that took."""
    took: float
    most: int
    """Recipients a day that are within the limits."""

    @property
    def misses(self) -> list[str]:
        honest = self.drill == "week"
        return [
            *([f"{len(self.refused)} refused, the first with: {self.refused[0]}"] if self.refused else []),
            *(["frozen"] if self.frozen and honest else []),
            *(["nobody was told"] if self.told is None and not honest else []),
            *(f"{one} recipients in a day, and the limit is {self.most}" for one in self.recipients if one > self.most),
        ]

    def asdict(self) -> dict[str, Any]:
        return asdict(self) | {"misses": self.misses}


# --- who sends ------------------------------------------------------------------------------------------------------


HOME, OFFICE, WEBMAIL, EDITOR, SPAMMER, ON_THE_WAY = 1, 2, 3, 4, 5, 100
"""Networks; of those on the way there are more."""
LISTS = {name: tuple(f"{name}-{one}@outside.test" for one in range(40)) for name in ("club", "parents", "choir")}
NEWSLETTER = {
    "recipients_per_10_minutes": 250,
    "recipients_per_hour": 300,
    "new_recipients_per_day": 250,
}
"""What the sender of the newsletter has in mail.yml."""


def honest_week(heavy: str, editor: str) -> list[Mail]:
    """Sixty messages a day from a laptop at home and in the office, webmail, and a phone whose network changes with
    every station; two of them to forty people. Once, somebody else's newsletter to 200."""
    dice = random.Random(3)  # noqa: S311 - the same week each time
    mails = []
    for day in range(7):
        new = iter(f"new-{day}-{one}@outside.test" for one in range(58))
        for hour, network, count in (
            *((7, HOME, 9), (8, ON_THE_WAY, 8), (9, OFFICE, 12), (11, OFFICE, 6), (13, WEBMAIL, 7)),
            *((17, ON_THE_WAY, 8), (20, HOME, 8)),
        ):
            # A third of an hour's mail within ten minutes: who clears an inbox answers one after the other.
            minutes = sorted([*(dice.uniform(0, 59) for _ in range(count - count // 3)), *range(20, 20 + count // 3)])
            for number, minute in enumerate(minutes):
                recipient = next(new) if dice.random() < 0.3 else f"friend-{dice.randrange(60)}@outside.test"
                where = network if network != ON_THE_WAY else ON_THE_WAY + 8 * day + 4 * (hour > 12) + number // 2
                mails.append(Mail(day * DAY + hour * HOUR + minute * MINUTE, where, heavy, (recipient,)))
        for hour, minute in ((10, 0), (10, 30)):
            mails.append(Mail(day * DAY + hour * HOUR + minute * MINUTE, OFFICE, heavy, [*LISTS.values()][day % 3]))
    readers = (f"reader-{one}@outside.test" for one in range(200))
    mails.append(Mail(2 * DAY + 18 * HOUR, EDITOR, editor, tuple(readers)))
    return sorted(mails, key=lambda mail: mail.at)


def patient_spammer(account: str, days: int) -> list[Mail]:
    """Knows each limit and stays below it: as many messages, recipients and strangers a day as there may be."""
    messages, people, strangers = (
        DEFAULT_LIMITS[name] for name in ("messages_per_day", "recipients_per_day", "new_recipients_per_day")
    )
    pace = HOUR / DEFAULT_LIMITS["messages_per_hour"] + 1
    mails, known = [], list[str]()
    for day in range(days):
        for number in range(messages):
            to = known[-1:] if number < people - messages else []
            if number < strangers:
                known.append(f"stranger-{day}-{number}@outside.test")
            to = [*to, known[-1] if number < strangers else known[number - messages]]
            mails.append(Mail(day * (DAY + MINUTE) + number * pace, SPAMMER, account, tuple(to)))
    return mails


# --- sending --------------------------------------------------------------------------------------------------------


def week(where: Range) -> Days:
    """The range's editor must have NEWSLETTER's limits in mail.yml."""
    title = "a week of a heavy but honest user, and a newsletter to 200"
    return _live(where, "week", title, honest_week(where.innocent, where.stolen), 7)


def patience(where: Range, days: int = 2) -> Days:
    title = "a patient spammer, who stays just under every limit"
    return _live(where, "E", title, patient_spammer(where.stolen, days), days)


def _live(where: Range, drill: str, title: str, mails: list[Mail], days: int) -> Days:
    began = time.monotonic()
    where.prepare()
    account = mails[0].account
    refused, people = [], 0
    with movable_clock(where.server), _talk(where.attacker, f"python3 {THERE}/post.py") as post:
        with _talk(where.server, _MOVE) as clock:
            start, offset = time.time(), 0.0
            for number, mail in enumerate(mails):
                offset = max(offset, start + mail.at - mails[0].at - time.time())
                clock(f"+{offset:.0f}")
                answer = post(json.dumps(_job(where, mail, int(mail.at // DAY), number)))
                if answer == '"250"':
                    people += len(mail.recipients)
                else:
                    refused.append(answer)
        told = events(where.server)
    arrived = _arrived(where, people, days)
    return Days(
        drill=drill,
        title=title,
        tries=len(mails),
        refused=tuple(refused),
        messages=tuple(len(of_a_day) for of_a_day in arrived),
        recipients=tuple(sum(of_a_day) for of_a_day in arrived),
        told=next((one["time"] - start for one in told if one["account"] == account and one["kind"] == "near"), None),
        frozen=any(one["kind"] == "frozen" for one in told),
        clock=offset,
        took=time.monotonic() - began,
        most=DEFAULT_LIMITS["recipients_per_day"] + (200 if drill == "week" else 0),
    )


def _job(where: Range, mail: Mail, day: int, number: int) -> dict[str, Any]:
    return {
        "host": str(where.server.ip6),
        "source": str(where.attacker.distant_address(mail.network, 1 + number % DISTANT_HOSTS)),
        "login": [mail.account, where.site.passphrases[mail.account]],
        "recipients": mail.recipients,
        "subject": f"{SUBJECT}{day} {number}",
    }


def _arrived(where: Range, people: int, days: int) -> list[list[int]]:
    """For each day the numbers of recipients of what arrived outside; a message may arrive in several parts."""

    def there() -> dict[str, int]:
        found: dict[str, int] = {}
        for mail in where.internet.read_messages():
            if (subject := str(mail.message["Subject"])).startswith(SUBJECT):
                found[subject] = found.get(subject, 0) + len(mail.recipients)
        return found

    poll(lambda: sum(there().values()) >= people, DELIVERY_PATIENCE, "not all mail has arrived", interval=1.0)
    found = there()
    return [[count for name, count in found.items() if name.startswith(f"{SUBJECT}{day} ")] for day in range(days)]


@contextmanager
def movable_clock(server: Container) -> Iterator[None]:
    server.run(_MOVABLE)
    try:
        yield
    finally:
        server.run(_FIXED)


@contextmanager
def _talk(machine: Container, command: str) -> Iterator[Callable[[str], str]]:
    """A program on the machine that answers each line with one."""
    with subprocess.Popen(
        ["ssh", "-F", str(machine.ssh_config), machine.name, "--", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        told, heard = cast(IO[str], program.stdin), cast(IO[str], program.stdout)

        def say(line: str) -> str:
            told.write(line + "\n")
            told.flush()
            return heard.readline().strip()

        yield say
        told.close()
