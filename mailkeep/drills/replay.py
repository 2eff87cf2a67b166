"""An attack replayed in the lab: against the built server, amid an Internet that counts and people who use mail."""

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
from mailkeep.drills.result import DELAYED, Innocents, Result
from mailkeep.lab import Attacker, Container, Internet, Server, poll
from mailkeep.lab.podman import LabError
from mailkeep.lab.site import Site
from mailkeep.parts.guard import FROZEN, STATE

REMOTE = Path(__file__).parent / "remote"
THERE = "/opt/drills"
OUTSIDE = "outside.test"
SPAM, INNOCENT = "Drill: spam", "Drill: innocent "
ALERT_PATIENCE = 15.0
"""Seconds to wait for an alert after the attack; it is too late before."""
DELIVERY_PATIENCE = 40.0

# As if nothing had happened yet: nothing queued, nothing counted, nobody frozen or banned. The journal goes because
# fail2ban would read the last hour of it again.
_AFRESH = f"""\
set -e
systemctl stop postfix.service fail2ban.service mailkeep-guard.service mailkeep-watch.service
find /var/spool/postfix/active /var/spool/postfix/deferred /var/spool/postfix/hold /var/spool/postfix/incoming \\
  /var/spool/postfix/defer /var/spool/postfix/bounce -type f -delete
rm -rf {STATE}/guard.db* {FROZEN}
find /var/lib/mailkeep-watch -mindepth 1 ! -name jails.json -delete  # the next proof of the jails is half an hour away
rm -f /var/lib/fail2ban/fail2ban.sqlite3
journalctl --quiet --rotate --vacuum-time=1s
systemctl start fail2ban.service mailkeep-guard.service postfix.service mailkeep-watch.service
"""
_EVENTS = """\
import sys; sys.path.insert(0, "/usr/lib/mailkeep")
from mailkeep_server import ctl
print(ctl._get("/events?after=0"))
"""


@dataclass(frozen=True)
class Range:
    """Where drills take place: a built server of the lab, and who is around it."""

    site: Site
    internet: Internet
    attacker: Attacker
    stolen: str
    """The account whose password is in the wrong hands, and one that is not."""
    innocent: str

    @property
    def server(self) -> Server:
        return self.site.server

    def prepare(self) -> None:
        scripts = {f"{THERE.lstrip('/')}/{path.name}": (path.read_bytes(), 0o755) for path in REMOTE.glob("*.py")}
        for machine in (self.server, self.internet, self.attacker):
            machine.unpack(scripts)
            machine.run(f"rm -f {THERE}/over")
        self.attacker.add_distant_addresses(self.server)
        self.server.run(_AFRESH)
        self.internet.clear_messages()


def replay(where: Range, attack: Attack) -> Result:
    where.prepare()
    before = _disk(where.server)
    with ThreadPoolExecutor(3) as pool:
        with _looking_on(where, attack, pool) as (queue, innocents):
            said = _lines(where.attacker, "attack.py", _job(where, attack), attack.seconds + 60)
            alert = _alert(where)
        return _result(where, attack, said, queue.result(), innocents.result(), alert, before)


@contextmanager
def _looking_on(where: Range, attack: Attack, pool: ThreadPoolExecutor) -> Iterator[tuple[Future[Any], Future[Any]]]:
    """The witness at the queue and the innocents, who go on until the attack is over."""
    most = attack.seconds + 60
    people = {
        "host": str(where.server.ip),
        "login": [where.innocent, where.site.passphrases[where.innocent]],
        "colleague": where.stolen,
        "seconds": most,
    }
    queue = pool.submit(_lines, where.server, f"witness.py {where.stolen} {most}", {}, most + 60)
    innocents = pool.submit(_lines, where.internet, "innocents.py", people, most + 60)
    try:
        yield queue, innocents
    finally:
        for machine in (where.server, where.internet):
            machine.run(f"touch {THERE}/over")


def _job(where: Range, attack: Attack) -> dict[str, Any]:
    attacker = where.attacker
    far = [attacker.distant_address(network) for network in range(attack.sources)]
    sources = far if attack.far else attacker.sources[: attack.sources]
    return asdict(attack) | {
        "host": str(where.server.ip),
        "host6": str(where.server.ip6),
        "login": [where.stolen, where.site.passphrases[where.stolen]],
        "guesses": [f"{where.stolen.partition('@')[0]}{number}" for number in range(attack.guesses)],
        "sources": [str(source) for source in sources],
        "to": "",
    }


def _lines(machine: Container, script: str, job: dict[str, Any], timeout: float) -> list[dict[str, Any]]:
    said = machine.run(f"python3 {THERE}/{script}", stdin=json.dumps(job), timeout=timeout).stdout
    return [json.loads(line) for line in said.splitlines()]


def _alert(where: Range) -> float | None:
    """When the operator was told that the account is frozen: when that mail reached his server."""
    admins = {address for address in where.site.settings.admin.addresses if address.endswith(f"@{OUTSIDE}")}

    said = re.compile(rf"{re.escape(where.stolen)}.*frozen", re.S)

    def told() -> float | None:
        letters = (mail for mail in where.internet.read_messages() if admins & set(mail.recipients))
        return next((mail.time for mail in letters if said.search(_text(mail.data))), None)

    if _frozen(where) is not None:
        with suppress(LabError):
            return poll(told, ALERT_PATIENCE, "no alert", interval=0.5)
    return None


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _disk(server: Server) -> int:
    """KiB in use by all that may grow."""
    return int(server.run("du -sk --exclude=/var/cache --exclude=/var/lib/apt /var").stdout.split()[0])


# --- what came of it ------------------------------------------------------------------------------------------------


def _result(
    where: Range,
    attack: Attack,
    said: list[dict[str, Any]],
    queue: list[dict[str, Any]],
    people: list[dict[str, Any]],
    alert: float | None,
    before: int,
) -> Result:
    innocents, innocents_at = _innocents(where, people)
    began = min(one["at"] for one in said)
    tries = [one for one in said if one["kind"] == "try"]
    spam = [mail for mail in where.internet.read_messages() if f"Subject: {SPAM}" in _text(mail.data)]
    left = queue[-1] if queue else {"queued": 0, "held": 0, "at": began}

    def since(moment: float | None) -> float | None:
        return None if moment is None else moment - began

    return Result(
        drill=attack.name,
        title=attack.title,
        incident=attack.incident,
        tries=len(tries),
        taken=sum(bool(one["recipients"]) for one in tries),
        messages=len(spam),
        recipients=sum(len(mail.recipients) for mail in spam),
        limit=since(min((one["until"] for one in tries if _over(one["answer"])), default=None)),
        threshold=since(_threshold(where, tries)),
        freeze=since(_frozen(where)),
        cut=since(next((one["at"] for one in said if one["kind"] == "mailbox" and one["answer"] == "cut"), None)),
        held=since(left["at"]) if left["queued"] == left["held"] else None,
        alert=since(alert),
        queued=left["queued"] - left["held"],
        on_hold=left["held"],
        disk=(before, _disk(where.server)),
        innocents=innocents,
        tried_at=tuple(sorted(one["at"] - began for one in tries)),
        out_at=tuple(sorted(mail.time - began for mail in spam)),
        innocents_at=tuple(sorted(at - began for at in innocents_at)),
    )


def _over(answer: str) -> bool:
    return " may send " in answer or "does not own" in answer


def _threshold(where: Range, tries: list[dict[str, Any]]) -> float | None:
    """When the try began that makes one too many of a kind (mail.yml, guard.freeze), by the attacker's own account."""
    most = where.site.settings.guard.freeze
    frozen = [one for one in tries if "is frozen" in one["answer"]]
    over = [one for one in tries if re.search(r" may send \d+ (?!networks|from)", one["answer"])]
    foreign = [one for one in tries if "does not own" in one["answer"]]
    networks: dict[str, dict[str, Any]] = {}
    for one in sorted(tries, key=lambda one: float(one["at"])):
        if " networks in " in one["answer"] or one in frozen:
            networks.setdefault(_network(one["source"]), one)
    reached = [
        sorted(one["at"] for one in of_a_kind)[number - 1]
        for of_a_kind, number in (
            ([*over, *frozen], most.refused_tries),
            ([*foreign, *frozen], most.foreign_senders),
            (list(networks.values()), most.networks),
        )
        if len(of_a_kind) >= number and len(of_a_kind) > len(frozen)
    ]
    return min(reached, default=None)


def _network(address: str) -> str:
    return str(ip_network(f"{address}/{48 if ':' in address else 24}", strict=False))


def _frozen(where: Range) -> float | None:
    """When the guard froze the account."""
    found = (one for one in events(where.server) if one["kind"] == "frozen" and one["account"] == where.stolen)
    return next((float(one["time"]) for one in found), None)


def events(server: Server) -> list[dict[str, Any]]:
    """All that the guard has reported."""
    found: list[dict[str, Any]] = json.loads(server.run("python3 -IB -", stdin=_EVENTS).stdout)["events"]
    return found


def _innocents(where: Range, said: list[dict[str, Any]]) -> tuple[Innocents, list[float]]:
    """How they fared; and when their messages arrived."""
    sent = [one for one in said if one["kind"] == "sent"]
    logins = [one for one in said if one["kind"] == "read"]
    refused = [one for one in said if one["answer"] not in ("250", "OK")]
    expected = {(one["name"], who): one["at"] for one in sent if one["answer"] == "250" for who in one["recipients"]}
    arrived: dict[tuple[str, str], float] = {}

    def all_there() -> bool:
        arrived.update(_arrived_outside(where.internet) | _arrived_inside(where.server))
        return expected.keys() <= arrived.keys()

    with suppress(LabError):  # what has not arrived by then counts as lost
        poll(all_there, DELIVERY_PATIENCE, "innocents' mail has not arrived", interval=1.0)
    took = [arrived[one] - at for one, at in expected.items() if one in arrived]
    counted = Innocents(
        sent=len(sent),
        logins=len(logins),
        lost=len(expected) - len(took),
        refused=len(refused),
        delayed=sum(one > DELAYED for one in took),
        slowest=max(took, default=0.0),
    )
    return counted, [arrived[one] for one in expected if one in arrived]


def _arrived_outside(internet: Internet) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    for mail in internet.read_messages():
        if name := re.search(rf"^Subject: {INNOCENT}(\w+)", _text(mail.data), re.M):
            found |= {(name[1], who): mail.time for who in mail.recipients}
    return found


def _arrived_inside(server: Server) -> dict[tuple[str, str], float]:
    """Maildir names begin with the time of delivery: 1764086400.M123456P…"""
    said = server.run(f"cd /var/vmail && grep -rH '^Subject: {INNOCENT}' . || true").stdout
    lines = re.findall(rf"^\./([^/]+)/([^/]+)/Maildir/\w+/(\d+)\.M(\d+)P.*:Subject: {INNOCENT}(\w+)", said, re.M)
    return {(name, f"{user}@{domain}"): int(at) + int(micro) / 1e6 for domain, user, at, micro, name in lines}
