"""An attack replayed in the lab: against a built server, amid an Internet that counts and people who use mail."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from mailkeep.drills.attacks import Attack
from mailkeep.drills.result import DELAYED_AFTER, DrillResult, Innocents
from mailkeep.lab import Attacker, Container, Internet, LabError, Server, poll
from mailkeep.lab.site import Site
from mailkeep_server.common.paths import FREEZE_LIST, GUARD_STATE

REMOTE_SCRIPTS = Path(__file__).parent / "remote"
REMOTE_DIRECTORY = "/opt/drills"  # of the scripts, on each machine of the lab
OUTSIDE_DOMAIN = "outside.test"
SPAM, INNOCENT = "Drill: spam", "Drill: innocent "  # subjects
ALERT_TIMEOUT = 15.0  # seconds after the attack; an alert that takes longer than 10 s is a miss
DELIVERY_TIMEOUT = 40.0
EXTRA_SECONDS = 60  # that a script may take beyond its attack

Event = dict[str, Any]
"""A line of a remote script: `kind`, `at` and `until` (seconds since the epoch), `answer`, and more."""

# Back to a server without history: nothing queued, counted, frozen or banned. The journal is cleared because fail2ban
# would read its last hour again.
_RESET = f"""\
set -e
systemctl stop postfix.service fail2ban.service mailkeep-guard.service mailkeep-watch.service
find /var/spool/postfix/active /var/spool/postfix/deferred /var/spool/postfix/hold /var/spool/postfix/incoming \\
  /var/spool/postfix/defer /var/spool/postfix/bounce -type f -delete
rm -rf {GUARD_STATE}/guard.db* {FREEZE_LIST}
find /var/lib/mailkeep-watch -mindepth 1 ! -name jails.json -delete  # the next proof of the jails is half an hour away
rm -f /var/lib/fail2ban/fail2ban.sqlite3
journalctl --quiet --rotate --vacuum-time=1s
systemctl start fail2ban.service mailkeep-guard.service postfix.service mailkeep-watch.service
"""


@dataclass(frozen=True)
class DrillSetup:
    """The machines and accounts of a drill in the lab."""

    site: Site
    internet: Internet
    attacker: Attacker
    stolen: str
    """The account whose password the attacker has."""
    innocent: str
    """An account that its owner uses meanwhile."""

    @property
    def server(self) -> Server:
        return self.site.server

    def prepare(self) -> None:
        """Copy the scripts to all machines, and reset the server and the Internet."""
        directory = REMOTE_DIRECTORY.lstrip("/")
        scripts = {f"{directory}/{path.name}": (path.read_bytes(), 0o755) for path in REMOTE_SCRIPTS.glob("*.py")}
        for machine in (self.server, self.internet, self.attacker):
            machine.unpack(scripts)
            machine.run(f"rm -f {REMOTE_DIRECTORY}/over")
        self.attacker.add_distant_addresses(self.server)
        self.server.run(_RESET)
        self.internet.clear_messages()


def replay_attack(setup: DrillSetup, attack: Attack) -> DrillResult:
    setup.prepare()
    disk_before = _read_disk_use(setup.server)
    with ThreadPoolExecutor(2) as pool:
        with _run_observers(setup, attack, pool) as (queue, innocents):
            timeout = attack.seconds + EXTRA_SECONDS
            events = _run_script(setup.attacker, "attack.py", _attack_job(setup, attack), timeout)
            alert = _wait_for_alert(setup)
        return _build_result(setup, attack, events, queue.result(), innocents.result(), alert, disk_before)


@contextmanager
def _run_observers(
    setup: DrillSetup, attack: Attack, pool: ThreadPoolExecutor
) -> Iterator[tuple[Future[list[Event]], Future[list[Event]]]]:
    """Run the witness of the queue and the innocent people until the attack is over."""
    seconds = attack.seconds + EXTRA_SECONDS
    job = {
        "host": str(setup.server.ip),
        "login": [setup.innocent, setup.site.passphrases[setup.innocent]],
        "colleague": setup.stolen,
        "seconds": seconds,
    }
    witness = f"witness.py {setup.stolen} {seconds}"
    queue = pool.submit(_run_script, setup.server, witness, {}, seconds + EXTRA_SECONDS)
    innocents = pool.submit(_run_script, setup.internet, "innocents.py", job, seconds + EXTRA_SECONDS)
    try:
        yield queue, innocents
    finally:
        for machine in (setup.server, setup.internet):
            machine.run(f"touch {REMOTE_DIRECTORY}/over")


def _attack_job(setup: DrillSetup, attack: Attack) -> dict[str, Any]:
    attacker = setup.attacker
    distant = [attacker.distant_address(network) for network in range(attack.sources)]
    sources = distant if attack.far else attacker.sources[: attack.sources]
    return asdict(attack) | {
        "host": str(setup.server.ip),
        "host6": str(setup.server.ip6),
        "login": [setup.stolen, setup.site.passphrases[setup.stolen]],
        "guesses": [f"{setup.stolen.partition('@')[0]}{number}" for number in range(attack.guesses)],
        "sources": [str(source) for source in sources],
        "to": "",
    }


def _run_script(machine: Container, script: str, job: dict[str, Any], timeout: float) -> list[Event]:
    output = machine.run(f"python3 {REMOTE_DIRECTORY}/{script}", stdin=json.dumps(job), timeout=timeout).stdout
    return [json.loads(line) for line in output.splitlines()]


def _wait_for_alert(setup: DrillSetup) -> float | None:
    """When the alert of the freeze reached the administrator's mail server, in seconds since the epoch."""
    admins = {address for address in setup.site.settings.admin.addresses if address.endswith(f"@{OUTSIDE_DOMAIN}")}
    pattern = re.compile(rf"{re.escape(setup.stolen)}.*frozen", re.S)

    def find_alert() -> float | None:
        letters = (mail for mail in setup.internet.read_messages() if admins & set(mail.recipients))
        return next((mail.time for mail in letters if pattern.search(_decode(mail.data))), None)

    if _frozen_at(setup) is not None:
        with suppress(LabError):
            return poll(find_alert, ALERT_TIMEOUT, "no alert", interval=0.5)
    return None


def _decode(data: bytes) -> str:
    return data.decode(errors="replace")


def _read_disk_use(server: Server) -> int:
    """KiB in use by everything that may grow."""
    return int(server.run("du -sk --exclude=/var/cache --exclude=/var/lib/apt /var").stdout.split()[0])


# --- the result -----------------------------------------------------------------------------------------------------


def _build_result(
    setup: DrillSetup,
    attack: Attack,
    events: list[Event],
    queue: list[Event],
    innocent_events: list[Event],
    alert: float | None,
    disk_before: int,
) -> DrillResult:
    innocents, innocents_at = _judge_innocents(setup, innocent_events)
    began = min(event["at"] for event in events)
    tries = [event for event in events if event["kind"] == "try"]
    cuts = (event["at"] for event in events if event["kind"] == "mailbox" and event["answer"] == "cut")
    spam = [mail for mail in setup.internet.read_messages() if f"Subject: {SPAM}" in _decode(mail.data)]
    left = queue[-1] if queue else {"queued": 0, "held": 0, "at": began}

    def seconds_from_start(moment: float | None) -> float | None:
        return None if moment is None else moment - began

    return DrillResult(
        drill=attack.name,
        title=attack.title,
        incident=attack.incident,
        tries=len(tries),
        taken=sum(bool(event["recipients"]) for event in tries),
        messages=len(spam),
        recipients=sum(len(mail.recipients) for mail in spam),
        limit=seconds_from_start(
            min((event["until"] for event in tries if _is_limited(event["answer"])), default=None)
        ),
        threshold=seconds_from_start(_find_threshold(setup, tries)),
        freeze=seconds_from_start(_frozen_at(setup)),
        cut=seconds_from_start(next(cuts, None)),
        held=seconds_from_start(left["at"]) if left["queued"] == left["held"] else None,
        alert=seconds_from_start(alert),
        queued=left["queued"] - left["held"],
        on_hold=left["held"],
        disk=(disk_before, _read_disk_use(setup.server)),
        innocents=innocents,
        tried_at=tuple(sorted(event["at"] - began for event in tries)),
        out_at=tuple(sorted(mail.time - began for mail in spam)),
        innocents_at=tuple(sorted(at - began for at in innocents_at)),
    )


def _is_limited(answer: str) -> bool:
    return " may send " in answer or "does not own" in answer


def _find_threshold(setup: DrillSetup, tries: list[Event]) -> float | None:
    """When the try began that reaches a threshold of mail.yml (guard.freeze), by the answers that the attacker got."""
    thresholds = setup.site.settings.guard.freeze
    frozen = [event for event in tries if "is frozen" in event["answer"]]
    over = [event for event in tries if re.search(r" may send \d+ (?!networks|from)", event["answer"])]
    foreign = [event for event in tries if "does not own" in event["answer"]]
    networks: dict[str, Event] = {}
    for event in sorted(tries, key=lambda event: float(event["at"])):
        if " networks in " in event["answer"] or event in frozen:
            networks.setdefault(_network_of(event["source"]), event)
    reached_at = [
        sorted(event["at"] for event in counted)[threshold - 1]
        for counted, threshold in (
            ([*over, *frozen], thresholds.refused_tries),
            ([*foreign, *frozen], thresholds.foreign_senders),
            (list(networks.values()), thresholds.networks),
        )
        if len(counted) >= threshold and len(counted) > len(frozen)
    ]
    return min(reached_at, default=None)


def _network_of(address: str) -> str:
    return str(ip_network(f"{address}/{48 if ':' in address else 24}", strict=False))


def _frozen_at(setup: DrillSetup) -> float | None:
    """When the guard froze the stolen account, in seconds since the epoch."""
    for event in read_guard_events(setup.server):
        if event["kind"] == "frozen" and event["account"] == setup.stolen:
            return float(event["time"])
    return None


def read_guard_events(server: Server) -> list[dict[str, Any]]:
    """All events that the guard has reported: `time` (seconds since the epoch), `kind`, `account`, and more."""
    events: list[dict[str, Any]] = json.loads(server.run("mailkeepctl events --json").stdout)["events"]
    return events


def _judge_innocents(setup: DrillSetup, events: list[Event]) -> tuple[Innocents, list[float]]:
    """How the innocents fared, and when their messages arrived."""
    sent = [event for event in events if event["kind"] == "sent"]
    expected = {
        (event["name"], recipient): event["at"]
        for event in sent
        if event["answer"] == "250"
        for recipient in event["recipients"]
    }
    arrivals: dict[tuple[str, str], float] = {}

    def have_all_arrived() -> bool:
        arrivals.update(_arrivals_outside(setup.internet) | _arrivals_inside(setup.server))
        return expected.keys() <= arrivals.keys()

    with suppress(LabError):  # a message that has not arrived by then counts as lost
        poll(have_all_arrived, DELIVERY_TIMEOUT, "innocents' mail has not arrived", interval=1.0)
    seconds = [arrivals[delivery] - at for delivery, at in expected.items() if delivery in arrivals]
    innocents = Innocents(
        sent=len(sent),
        logins=sum(event["kind"] == "read" for event in events),
        lost=len(expected) - len(seconds),
        refused=sum(event["answer"] not in ("250", "OK") for event in events),
        delayed=sum(duration > DELAYED_AFTER for duration in seconds),
        slowest=max(seconds, default=0.0),
    )
    return innocents, [arrivals[delivery] for delivery in expected if delivery in arrivals]


def _arrivals_outside(internet: Internet) -> dict[tuple[str, str], float]:
    """The time of arrival by (message, recipient)."""
    arrivals: dict[tuple[str, str], float] = {}
    for mail in internet.read_messages():
        if name := re.search(rf"^Subject: {INNOCENT}(\w+)", _decode(mail.data), re.M):
            arrivals |= {(name[1], recipient): mail.time for recipient in mail.recipients}
    return arrivals


def _arrivals_inside(server: Server) -> dict[tuple[str, str], float]:
    """As `_arrivals_outside`. Maildir file names begin with the time of delivery: 1764086400.M123456P…"""
    output = server.run(f"cd /var/vmail && grep -rH '^Subject: {INNOCENT}' . || true").stdout
    files = re.findall(rf"^\./([^/]+)/([^/]+)/Maildir/\w+/(\d+)\.M(\d+)P.*:Subject: {INNOCENT}(\w+)", output, re.M)
    return {(name, f"{user}@{domain}"): int(at) + int(micro) / 1e6 for domain, user, at, micro, name in files}
