"""The sections of the weekly mail: each is a few lines, of what the server keeps anyway."""

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mailkeep_server.common import backup_status, unix_http
from mailkeep_server.common.certificates import CertificateError, read_certificate
from mailkeep_server.common.wording import count_noun, printable_text
from mailkeep_server.mail_log.logins import Login
from mailkeep_server.mail_log.sources import LogError
from mailkeep_server.operator.login_log import find_log_start, read_logins_since
from mailkeep_server.watch.config import WatchConfig
from mailkeep_server.watch.guard_events import URGENT_KINDS
from mailkeep_server.watch.sensors import DiskSensor, measure_disk

HOUR, DAY = 3600, 86_400
WEEK = 7 * DAY
ERRORS = (OSError, ValueError, KeyError, RuntimeError, sqlite3.Error, LogError, CertificateError)
UNUSUAL_KINDS = URGENT_KINDS | {"frozen", "network", "would-freeze"}
"""Of the guard's events."""
MAX_ACCOUNTS, MAX_EVENTS = 12, 8
MAX_LINE = 200  # characters
ANSWER_TIMEOUT = 10.0  # seconds
BANS = "/var/lib/fail2ban/fail2ban.sqlite3"
DPKG_LOGS = (Path("/var/log/dpkg.log.1"), Path("/var/log/dpkg.log"))
REBOOT_FLAG = Path("/run/reboot-required")

Section = Callable[[WatchConfig, float], Iterator[str]]
"""Its lines, for the week that ends at this time. It raises one of ERRORS if it cannot look."""


def describe_mail(_config: WatchConfig, now: float) -> Iterator[str]:
    since = f"{datetime.fromtimestamp(now - WEEK, UTC):%Y-%m-%dT%H:%M:%S}"
    sent, good, failed, addresses = Counter[str](), 0, 0, set[str]()
    for login in read_logins_since(since):
        if not login.is_good:
            failed += login.attempts
            addresses.add(login.address) if len(addresses) < 100_000 else None
        elif _is_message(login):
            sent[login.account.lower()] += 1
        else:
            good += 1
    yield f"Mail: {count_noun(sum(sent.values()), 'message')} came in by the accounts' programs."
    for account, number in sent.most_common(MAX_ACCOUNTS):
        yield f"  {number:7}  {account}"
    if len(sent) > MAX_ACCOUNTS:
        yield f"           and {len(sent) - MAX_ACCOUNTS} more accounts"
    yield (
        f"Logins: {good} to mailboxes. {count_noun(failed, 'login')} failed, from "
        f"{count_noun(len(addresses), 'address', 'addresses')}."
    )
    if (first := find_log_start()) > since:
        yield f"  The log reaches back to {first.replace('T', ' ')} UTC only."


def _is_message(login: Login) -> bool:
    """Postfix notes the login with each message of its session."""
    return login.service == "smtp"


def describe_events(config: WatchConfig, now: float) -> Iterator[str]:
    unusual = list_unusual_events(config, now)
    if not unusual:
        yield "Unusual: nothing that the guard reports."
        return
    yield f"Unusual: {count_noun(len(unusual), 'event')}. `mailkeepctl events` has all."
    for event in unusual[-MAX_EVENTS:]:
        day = datetime.fromtimestamp(event["time"], UTC)
        yield f"  {day:%a %H:%M}  {event['account']} {event['kind']}: {event['detail']}"


def list_unusual_events(config: WatchConfig, now: float) -> list[dict[str, Any]]:
    """The guard gives its events in pages."""
    events: list[dict[str, Any]] = []
    after, last = 0, 1
    while after < last:
        body = unix_http.get_body(config.control_socket, f"/events?after={after}", ANSWER_TIMEOUT)
        answer: dict[str, Any] = json.loads(body)
        page, last = answer["events"], answer["last"]
        if not page:
            break
        events += [event for event in page if event["time"] >= now - WEEK and event["kind"] in UNUSUAL_KINDS]
        after = page[-1]["id"]
    return events


def describe_bans(_config: WatchConfig, now: float) -> Iterator[str]:
    bans = count_bans(BANS, now - WEEK)
    by_jail = ", ".join(f"{jail} {number}" for jail, number in bans.most_common())
    yield f"Bans: {count_noun(sum(bans.values()), 'address', 'addresses')}{f' ({by_jail})' if bans else ''}."


def count_bans(database: str, since: float) -> Counter[str]:
    """By jail, from fail2ban's database; a ban that was lifted is not in it."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=ANSWER_TIMEOUT)
    try:
        rows = connection.execute("SELECT jail, count(*) FROM bans WHERE timeofban >= ? GROUP BY jail", (int(since),))
        return Counter({str(jail): int(number) for jail, number in rows})
    finally:
        connection.close()


def describe_updates(_config: WatchConfig, now: float) -> Iterator[str]:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now - WEEK))
    logs = [log for log in DPKG_LOGS if log.exists()]
    lines = [line for log in logs for line in log.read_text(errors="replace").splitlines() if line >= since]
    upgraded = {line.split()[3] for line in lines if line.split()[2:3] == ["upgrade"]}
    if not logs:
        raise FileNotFoundError(2, "there is no such log", str(DPKG_LOGS[-1]))
    reboot = "a reboot is due" if REBOOT_FLAG.exists() else "no reboot is due"
    yield f"Updates: {count_noun(len(upgraded), 'package')} upgraded; {reboot}."


def describe_disks(_config: WatchConfig, _now: float) -> Iterator[str]:
    disks = {}
    for path in reversed(DiskSensor.DIRECTORIES):
        if Path(path).exists():
            device, space, inodes = measure_disk(path)
            disks[device] = f"{path} {space:.0f} % (inodes {inodes:.0f} %)"
    yield f"Disk: {', '.join(disks.values())} in use."


def describe_certificate(config: WatchConfig, now: float) -> Iterator[str]:
    certificate = read_certificate(Path(config.certificate_file).read_text())
    day = datetime.fromtimestamp(certificate.not_after, UTC)
    yield f"Certificate: ends on {day:%Y-%m-%d}, in {(certificate.not_after - now) / DAY:.0f} days."


def describe_backups(config: WatchConfig, now: float) -> Iterator[str]:
    if not config.backup:
        yield "Backups: none are set up. docs/backup.md says how."
        return
    status = backup_status.load_status()
    for name in config.backup.targets:
        target = status.of(name)
        last_backup = f"last made {_describe_age(now - target.succeeded)} ago" if target.succeeded else "never made"
        proved = f"proven {_describe_age(now - target.proved)} ago" if target.proved else "never proven"
        yield f"Backup at {name}: {last_backup}, {proved}."


def describe_dns(config: WatchConfig, now: float) -> Iterator[str]:
    if not config.dns_troubles_file:
        yield "DNS and blocklists: not looked at from here, as the server asks another resolver."
        return
    file = Path(config.dns_troubles_file)
    troubles: dict[str, str] = json.loads(file.read_text())["troubles"]
    age = _describe_age(now - file.stat().st_mtime)
    outcome = count_noun(len(troubles), "trouble") if troubles else "as it should be"
    yield f"DNS and blocklists: looked at {age} ago; {outcome}."
    for text in troubles.values():
        yield f"  {text}"


def _describe_age(seconds: float) -> str:
    if seconds >= 2 * DAY:
        return count_noun(int(seconds // DAY), "day")
    return count_noun(max(0, int(seconds // HOUR)), "hour")


SECTIONS: dict[str, Section] = {
    "mail": describe_mail,
    "events": describe_events,
    "bans": describe_bans,
    "updates": describe_updates,
    "disk": describe_disks,
    "certificate": describe_certificate,
    "backups": describe_backups,
    "DNS": describe_dns,
}


def clean_line(line: str) -> str:
    return printable_text(line)[:MAX_LINE]
