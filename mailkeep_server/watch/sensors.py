"""What the watch looks at, and how often.

An alert must be out within ten seconds, of which it waits one for others to go with it: so what takes one look is
looked at every five seconds, and what restarts now and then, by itself or in a deploy, must be gone for three looks in
a row, two seconds apart, and one more if it is on its way. Two forks (`systemctl show` and `nft list`, every two
seconds) are what all this costs; the others read a file or two.
"""

import calendar
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from mailkeep_server.common import nft_ruleset
from mailkeep_server.common.commands import run
from mailkeep_server.watch.config import Config

Troubles = dict[str, tuple[str, str]]
"""By key: what is amiss, and what is told when it is over."""

Happening = tuple[str, str, bool]
"""Key, text, whether it is urgent."""


class Sensor:
    """`troubles` are all that are there now; `happenings` what has happened since the last look."""

    name = ""
    every = 5.0  # seconds
    looks = 1  # in a row that must see a trouble before it is one

    def troubles(self) -> Troubles:
        raise NotImplementedError

    def happenings(self) -> Iterator[Happening]:
        """None, for most."""
        yield from ()


PASSING = ("activating", "deactivating")


class Units(Sensor):
    """Whether services run. One that was killed and is back at once betrays itself by systemd's count of restarts."""

    name, every, looks = "unit", 2.0, 3
    PROPERTIES = "Id,ActiveState,Result,NRestarts,ConditionResult,ConditionTimestampMonotonic"

    def __init__(self, units: list[str]) -> None:
        self.units = units
        self.restarts: dict[str, int] = {}
        self.down: set[str] = set()
        self.crashed: list[str] = []

    def troubles(self) -> Troubles:
        said = run("systemctl", "show", f"--property={self.PROPERTIES}", "--", *self.units)
        found: Troubles = {}
        down = set()
        for block in said.strip().split("\n\n"):
            shown = dict(line.partition("=")[::2] for line in block.splitlines())
            unit = shown["Id"]
            self._count(unit, int(shown.get("NRestarts") or 0))
            if _runs(shown):
                continue
            down.add(unit)
            # One that begins so is given a look more: a service that a deploy restarts may take its time to end.
            if unit in self.down or shown["ActiveState"] not in PASSING:
                why = f"{shown['ActiveState']}, {shown.get('Result') or 'no result'}"
                found[unit] = f"{unit} is down ({why})", f"{unit} runs again"
        self.down = down
        return found

    def _count(self, unit: str, restarts: int) -> None:
        if restarts > self.restarts.get(unit, restarts):
            self.crashed.append(unit)
        self.restarts[unit] = restarts

    def happenings(self) -> Iterator[Happening]:
        crashed, self.crashed = self.crashed, []
        for unit in crashed:
            yield f"crash:{unit}", f"{unit} had ended, and systemd started it again", True


def _runs(shown: Mapping[str, str]) -> bool:
    """A condition that is not met, as for time synchronisation in a container, says that it is not meant to run."""
    tried = shown.get("ConditionTimestampMonotonic", "0") != "0"
    not_meant = tried and shown.get("ConditionResult") == "no"
    return not_meant or shown.get("ActiveState") in ("active", "reloading")


class Firewall(Sensor):
    """Whether nft has what keeps everybody out, and for each jail the sets and rules that keep out who is banned."""

    name, every, looks = "firewall", 2.0, 3

    def __init__(self, jails: Mapping[str, list[int] | None]) -> None:
        self.jails = jails

    def troubles(self) -> Troubles:
        listed = nft_ruleset.parse_ruleset(run("nft", "-j", "-t", "list", "ruleset"))
        found: Troubles = {}
        if not nft_ruleset.drops_by_default(listed.chains):
            closed = "The firewall is there again"
            found["input"] = "The firewall is not there: everything that listens can be reached", closed
        for jail, ports in self.jails.items():
            if faults := list(nft_ruleset.find_jail_faults(jail, ports, listed)):
                found[f"jail {jail}"] = f"The jail {jail} is dead: {_joined(faults)}", f"The jail {jail} works again"
        return found


def _joined(faults: list[str]) -> str:
    """Each of them begins with the jail's name."""
    return "; ".join(fault.partition(": ")[2] for fault in faults)


class Proof(Sensor):
    """What the timer has found that bans a canary in each jail, and that it still does."""

    name = "proof"
    SILENT = 3 * 1800.0  # seconds: three times its interval

    def __init__(self, file: Path) -> None:
        self.file, self.start = file, time.time()

    def troubles(self) -> Troubles:
        try:
            at, proven = self.file.stat().st_mtime, self.file.read_text()
        except FileNotFoundError:
            at, proven = self.start, "{}"
        found: Troubles = {}
        if time.time() - max(at, self.start) > self.SILENT:
            text = "No jail has been proven to ban for 90 minutes: see `systemctl status mailkeep-jails.timer`"
            found["silent"] = text, "Jails are proven again"
        for jail, faults in json.loads(proven).get("faults", {}).items():
            found[jail] = f"The jail {jail} does not ban: {_joined(faults)}", f"The jail {jail} bans again"
        return found


class Written(Sensor):
    """What others have found and written down: `world`, the daily look at our own DNS records and at blocklists
    (mailkeep-dns.timer); `renewal`, the hourly one at the certificate (mailkeep-certificate.timer)."""

    def __init__(self, name: str, file: Path) -> None:
        self.name, self.file = name, file

    def troubles(self) -> Troubles:
        try:
            found: dict[str, str] = json.loads(self.file.read_text())["troubles"]
        except FileNotFoundError:
            return {}
        return {key: (text, f"No more: {text}") for key, text in found.items()}


class Disks(Sensor):
    """Space and inodes of every file system that mail or logs are on."""

    name = "disk"
    DIRECTORIES = ("/", "/var", "/var/log", "/var/spool/postfix", "/var/vmail")

    def __init__(self, most: int) -> None:
        self.most, self.full = most, set[str]()

    def troubles(self) -> Troubles:
        found: Troubles = {}
        for path in reversed(self.DIRECTORIES):
            try:
                device, stat = os.stat(path).st_dev, os.statvfs(path)  # noqa: PTH116
            except FileNotFoundError:
                continue
            used = stat.f_blocks - stat.f_bfree
            space = 100 * used / (used + stat.f_bavail or 1)
            inodes = 100 * (stat.f_files - stat.f_ffree) / (stat.f_files or 1)
            # Two per cent of slack, lest it is told and taken back all day.
            bound = self.most - (2 if str(device) in self.full else 0)
            if max(space, inodes) >= bound:
                text = f"The disk of {path} is full to {space:.0f} % of space, {inodes:.0f} % of inodes"
                found[str(device)] = text, f"The disk of {path} has room again"
        self.full = set(found)
        return found


class Queue(Sensor):
    """How many messages wait. Held ones do not count: they go nowhere, and their freeze was told."""

    name = "queue"
    SPOOL = Path("/var/spool/postfix")
    QUEUES = ("maildrop", "incoming", "active", "deferred")
    COUNTED = 100_000  # no more: it would take longer than the next look

    def __init__(self, most: int) -> None:
        self.most, self.long = most, False

    def troubles(self) -> Troubles:
        counts = {queue: _files(self.SPOOL / queue, self.COUNTED) for queue in self.QUEUES}
        total = sum(counts.values())
        self.long = total > (self.most // 2 if self.long else self.most)
        if not self.long:
            return {}
        told = ", ".join(f"{number} {queue}" for queue, number in counts.items() if number)
        return {"long": (f"The mail queue grows: {told}; `postqueue -p` shows it", "The mail queue is short again")}


def _files(directory: Path, most: int) -> int:
    """Files in it and in the directories below; Postfix moves them about meanwhile."""
    count, left = 0, [str(directory)]
    while left and count < most:
        try:
            with os.scandir(left.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        left.append(entry.path)
                    else:
                        count += 1
        except FileNotFoundError:
            continue
    return count


class Certificate(Sensor):
    """When it ends. The file is read anew only when it has changed."""

    name = "certificate"

    def __init__(self, file: str, days: int) -> None:
        self.file, self.days = file, days
        self.read, self.end = -1, 0.0

    def troubles(self) -> Troubles:
        changed = os.stat(self.file).st_mtime_ns  # noqa: PTH116
        if changed != self.read:
            said = run("openssl", "x509", "-noout", "-enddate", "-dateopt", "iso_8601", "-in", self.file)
            written = said.strip().partition("=")[2]
            self.end = float(_epoch(written))
            self.read = changed
        days = (self.end - time.time()) / 86400
        if days >= self.days:
            return {}
        text = f"The certificate ends in {days:.0f} days" if days > 0 else "The certificate has ended"
        return {"end": (text, "The certificate was renewed")}


def _epoch(written: str) -> int:
    """`2026-11-25 16:00:00Z`, as openssl writes it."""
    return calendar.timegm(time.strptime(written, "%Y-%m-%d %H:%M:%SZ"))


def all_of(config: Config, proof: Path) -> list[Sensor]:
    return [
        Units(config.units),
        Firewall(config.jails),
        Proof(proof),
        Written("world", Path(config.world)),
        *([Written("renewal", Path(config.renewal))] if config.renewal else ()),
        Disks(config.disk),
        Queue(config.queue),
        Certificate(config.certificate, config.certificate_days),
    ]
