"""Days of mail in a minute: real SMTP through the built server, while the guard's clock is moved between messages.

Only the guard's clock is moved. Postfix counts connections and messages of each client in real minutes (anvil(8)). So
a user who sends a day's mail within seconds takes turns with seven addresses of a network; the guard counts by network.
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

from mailkeep.drills.replay import REMOTE_DIRECTORY, DrillSetup, read_guard_events
from mailkeep.lab import Container, poll
from mailkeep.lab.attacker import DISTANT_HOSTS
from mailkeep.settings.sections import DEFAULT_LIMITS

DAY, HOUR, MINUTE = 86_400.0, 3_600.0, 60.0
SUBJECT = "Drill: day "
DELIVERY_TIMEOUT = 60.0

# libfaketime is loaded into the guard, in the lab alone. It reads the clock's offset from a file at each call. The
# clock of systemd and the event loop, CLOCK_MONOTONIC, is left alone.
_CLOCK = "/run/mailkeep-clock"
_DROP_IN = "/run/systemd/system/mailkeep-guard.service.d/clock.conf"
_INSTALL_CLOCK = f"""\
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
_REMOVE_CLOCK = f"rm -f {_DROP_IN}; systemctl daemon-reload; systemctl restart mailkeep-guard.service"
_SET_CLOCK = f"while read -r offset; do echo $offset > {_CLOCK}.new; mv {_CLOCK}.new {_CLOCK}; echo done; done"


@dataclass(frozen=True)
class Mail:
    at: float
    """Seconds since the first midnight."""
    network: int
    account: str
    recipients: tuple[str, ...]


@dataclass(frozen=True)
class SimulatedDaysResult:
    """The result of some simulated days."""

    drill: str
    title: str
    tries: int
    refused: tuple[str, ...]
    """The server's answers to messages that it did not accept for all recipients."""
    messages: tuple[int, ...]
    """Messages that reached somebody outside, by day."""
    recipients: tuple[int, ...]
    """Recipients of those, by day."""
    first_warning: float | None
    """Seconds of the guard's clock from the first message until the guard first reported the account."""
    frozen: bool
    clock: float
    """Seconds by which the guard's clock was moved."""
    took: float
    """Real seconds."""
    max_recipients: int
    """Recipients a day that the limits allow."""

    @property
    def misses(self) -> list[str]:
        is_honest = self.drill == "week"
        return [
            *([f"{len(self.refused)} refused, the first with: {self.refused[0]}"] if self.refused else []),
            *(["frozen"] if self.frozen and is_honest else []),
            *(["the operator was not warned"] if self.first_warning is None and not is_honest else []),
            *(
                f"{number} recipients in a day; the limit is {self.max_recipients}"
                for number in self.recipients
                if number > self.max_recipients
            ),
        ]

    def asdict(self) -> dict[str, Any]:
        return asdict(self) | {"misses": self.misses}


# --- the senders ----------------------------------------------------------------------------------------------------


HOME, OFFICE, WEBMAIL, EDITOR, SPAMMER, ON_THE_WAY = 1, 2, 3, 4, 5, 100
"""Networks. From ON_THE_WAY on, there is one for each station of the way."""
LISTS = {name: tuple(f"{name}-{number}@outside.test" for number in range(40)) for name in ("club", "parents", "choir")}
NEWSLETTER_LIMITS = {
    "recipients_per_10_minutes": 250,
    "recipients_per_hour": 300,
    "new_recipients_per_day": 250,
}
"""Limits in mail.yml that the newsletter needs."""


def honest_week(heavy: str, editor: str) -> list[Mail]:
    """Sixty messages a day of the account `heavy`, and one newsletter of `editor` to 200 readers.

    The messages come from a laptop at home and in the office, from webmail, and from a phone whose network changes at
    every station. Two a day go to a list of forty.
    """
    dice = random.Random(3)  # noqa: S311 - the same week at each run
    mails = []
    for day in range(7):
        new_recipients = iter(f"new-{day}-{number}@outside.test" for number in range(58))
        for hour, network, count in (
            *((7, HOME, 9), (8, ON_THE_WAY, 8), (9, OFFICE, 12), (11, OFFICE, 6), (13, WEBMAIL, 7)),
            *((17, ON_THE_WAY, 8), (20, HOME, 8)),
        ):
            # A third of an hour's mail falls within ten minutes: people who clear an inbox answer in a row.
            minutes = sorted([*(dice.uniform(0, 59) for _ in range(count - count // 3)), *range(20, 20 + count // 3)])
            for number, minute in enumerate(minutes):
                recipient = next(new_recipients) if dice.random() < 0.3 else f"friend-{dice.randrange(60)}@outside.test"
                station = ON_THE_WAY + 8 * day + 4 * (hour > 12) + number // 2
                source = station if network == ON_THE_WAY else network
                mails.append(Mail(day * DAY + hour * HOUR + minute * MINUTE, source, heavy, (recipient,)))
        for hour, minute in ((10, 0), (10, 30)):
            mails.append(Mail(day * DAY + hour * HOUR + minute * MINUTE, OFFICE, heavy, [*LISTS.values()][day % 3]))
    readers = (f"reader-{number}@outside.test" for number in range(200))
    mails.append(Mail(2 * DAY + 18 * HOUR, EDITOR, editor, tuple(readers)))
    return sorted(mails, key=lambda mail: mail.at)


HABIT_DAYS = 20
BOUGHT, DEAD_EVERY = 60, 7
"""Addresses of the thief's list; and every which does not exist."""
MAX_REACHED = 60
"""By a thief whose list has 15 per cent of dead addresses."""


def habits_of(account: str) -> list[Mail]:
    """Three weeks of its owner, who writes to two friends a day, and every other day to somebody new."""
    mails = []
    for day in range(HABIT_DAYS):
        friends = (f"friend-{(2 * day + number) % 9}@outside.test" for number in range(2))
        new = [f"new-{day}@outside.test"] if day % 2 else []
        for number, recipient in enumerate((*friends, *new)):
            mails.append(Mail(day * DAY + (10 + number) * HOUR, HOME, account, (recipient,)))
    return mails


def patient_thief(account: str) -> list[Mail]:
    """One message to one stranger at a time, at its owner's hours, as many as the limits allow."""
    pace = 12 * HOUR / DEFAULT_LIMITS["new_recipients_per_day"]
    return [
        Mail(HABIT_DAYS * DAY + 9 * HOUR + number * pace, SPAMMER, account, (_bought_address(number),))
        for number in range(BOUGHT)
    ]


def _bought_address(number: int) -> str:
    return f"bought-{number}@" + ("outside.test" if (number + 1) % DEAD_EVERY else f"gone-{number}.test")


# --- sending --------------------------------------------------------------------------------------------------------


def run_honest_week(setup: DrillSetup) -> SimulatedDaysResult:
    """The stolen account, here the editor's, must have NEWSLETTER_LIMITS in mail.yml."""
    title = "a week of a heavy but honest user, and a newsletter to 200"
    return _simulate_days(setup, "week", title, honest_week(setup.innocent, setup.stolen), 7)


def run_patient_thief(setup: DrillSetup) -> SimulatedDaysResult:
    """The owner's habits first. Then the thief, who waits for what becomes of each dead address."""
    began, refused, dead = time.monotonic(), list[str](), 0
    setup.prepare()
    with movable_clock(setup.server), _converse(setup.attacker, f"python3 {REMOTE_DIRECTORY}/post.py") as post:
        with _converse(setup.server, _SET_CLOCK) as set_clock:
            start, offset, habits = time.time(), 0.0, habits_of(setup.stolen)
            for number, mail in enumerate([*habits, *(mails := patient_thief(setup.stolen))]):
                offset = max(offset, start + mail.at - time.time())
                set_clock(f"+{offset:.0f}")
                is_thief = number >= len(habits)
                job = _message_job(setup, mail, int(is_thief), number) | {"copies_program": not is_thief}
                if (answer := post(json.dumps(job))) != '"250"':
                    refused.append(answer)
                elif mail.recipients[0].rpartition("@")[2] != "outside.test" and not _is_held(setup):
                    dead += 1
                    _wait_for_outcomes(setup, dead)
        events = read_guard_events(setup.server)
    _wait_for_empty_queue(setup)
    [_, arrivals] = _count_arrivals(setup, 2)
    thief_start = start + mails[0].at
    warnings = (event for event in events if event["kind"] == "hold" and event["account"] == setup.stolen)
    return SimulatedDaysResult(
        drill="E",
        title="a patient thief with a list of which 15 per cent are dead, at its owner's hours",
        tries=len(mails),
        refused=tuple(refused),
        messages=(len(arrivals),),
        recipients=(sum(arrivals),),
        first_warning=next((event["time"] - thief_start for event in warnings), None),
        frozen=any(event["kind"] == "frozen" for event in events),
        clock=offset,
        took=time.monotonic() - began,
        max_recipients=MAX_REACHED,
    )


def _is_held(setup: DrillSetup) -> bool:
    return "is put on hold since" in setup.server.run(f"mailkeepctl why {setup.stolen}").stdout


def _wait_for_outcomes(setup: DrillSetup, dead: int) -> None:
    """Until the guard has heard of so many dead addresses."""
    text = f" {dead} do not exist"
    poll(lambda: text in setup.server.run(f"mailkeepctl why {setup.stolen}").stdout, DELIVERY_TIMEOUT, "no outcome")


def _wait_for_empty_queue(setup: DrillSetup) -> None:
    """But for what is on hold."""

    def is_empty() -> bool:
        rows = map(json.loads, setup.server.run("postqueue -j").stdout.splitlines())
        return all(row["queue_name"] == "hold" for row in rows)

    poll(is_empty, DELIVERY_TIMEOUT, "the queue is not empty", interval=1.0)


def _simulate_days(setup: DrillSetup, drill: str, title: str, mails: list[Mail], days: int) -> SimulatedDaysResult:
    began = time.monotonic()
    setup.prepare()
    refused, delivered = [], 0
    with movable_clock(setup.server), _converse(setup.attacker, f"python3 {REMOTE_DIRECTORY}/post.py") as post:
        with _converse(setup.server, _SET_CLOCK) as set_clock:
            start, offset = time.time(), 0.0
            for number, mail in enumerate(mails):
                offset = max(offset, start + mail.at - mails[0].at - time.time())
                set_clock(f"+{offset:.0f}")
                answer = post(json.dumps(_message_job(setup, mail, int(mail.at // DAY), number)))
                if answer == '"250"':
                    delivered += len(mail.recipients)
                else:
                    refused.append(answer)
        events = read_guard_events(setup.server)
    arrivals = _wait_for_arrivals(setup, delivered, days)
    warnings = (event for event in events if event["kind"] == "near" and event["account"] == mails[0].account)
    return SimulatedDaysResult(
        drill=drill,
        title=title,
        tries=len(mails),
        refused=tuple(refused),
        messages=tuple(len(of_a_day) for of_a_day in arrivals),
        recipients=tuple(sum(of_a_day) for of_a_day in arrivals),
        first_warning=next((event["time"] - start for event in warnings), None),
        frozen=any(event["kind"] == "frozen" for event in events),
        clock=offset,
        took=time.monotonic() - began,
        max_recipients=DEFAULT_LIMITS["recipients_per_day"] + (200 if drill == "week" else 0),
    )


def _message_job(setup: DrillSetup, mail: Mail, day: int, number: int) -> dict[str, Any]:
    """A line of input for remote/post.py."""
    return {
        "host": str(setup.server.ip6),
        "source": str(setup.attacker.distant_address(mail.network, 1 + number % DISTANT_HOSTS)),
        "login": [mail.account, setup.site.passphrases[mail.account]],
        "recipients": mail.recipients,
        "subject": f"{SUBJECT}{day} {number}",
    }


def _wait_for_arrivals(setup: DrillSetup, expected: int, days: int) -> list[list[int]]:
    """As `_count_arrivals`, once all `expected` recipients got theirs."""

    def have_all_arrived() -> bool:
        return sum(map(sum, _count_arrivals(setup, days))) >= expected

    poll(have_all_arrived, DELIVERY_TIMEOUT, "not all mail has arrived", interval=1.0)
    return _count_arrivals(setup, days)


def _count_arrivals(setup: DrillSetup, days: int) -> list[list[int]]:
    """For each day the number of recipients of each message that arrived outside. Messages to many arrive in parts."""
    recipients: dict[str, int] = {}
    for mail in setup.internet.read_messages():
        if (subject := str(mail.message["Subject"])).startswith(SUBJECT):
            recipients[subject] = recipients.get(subject, 0) + len(mail.recipients)
    prefixes = [f"{SUBJECT}{day} " for day in range(days)]
    return [[count for subject, count in recipients.items() if subject.startswith(prefix)] for prefix in prefixes]


@contextmanager
def movable_clock(server: Container) -> Iterator[None]:
    """Run the guard with a clock whose offset can be set."""
    server.run(_INSTALL_CLOCK)
    try:
        yield
    finally:
        server.run(_REMOVE_CLOCK)


@contextmanager
def _converse(machine: Container, command: str) -> Iterator[Callable[[str], str]]:
    """Run a program that answers each line of its input with a line; yields a function that sends and receives."""
    with subprocess.Popen(
        ["ssh", "-F", str(machine.ssh_config), machine.name, "--", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        stdin, stdout = cast(IO[str], program.stdin), cast(IO[str], program.stdout)

        def send_line(line: str) -> str:
            stdin.write(line + "\n")
            stdin.flush()
            return stdout.readline().strip()

        yield send_line
        stdin.close()
