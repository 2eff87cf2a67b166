"""Which archives of a repository are this server's, and which of them is the last.

Several servers may share a repository. And borg sorts archives by the time that the server's clock had, which may have
been wrong.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

_NAME = re.compile(r"(?P<host>.+)-\d{8}T\d{6}Z")
NAME_GLOB = "[0-9]" * 8 + "T" + "[0-9]" * 6 + "Z"
"""For borg, after `HOST-`. It finds no archives of `HOST-something`."""
MAX_FUTURE = 300.0  # seconds that a clock may be off
CLOCK_FAULT = (
    "{archive} is dated later than {other}: a clock was or is wrong. borg would keep the wrong archives, so nothing is "
    "deleted. See docs/backup.md, When a clock was wrong"
)


@dataclass(frozen=True)
class Archive:
    name: str
    time: datetime  # UTC

    @property
    def is_future(self) -> bool:
        """Whether it is dated later than now: the clock was wrong at its time, or is wrong now."""
        return (self.time - datetime.now(UTC)).total_seconds() > MAX_FUTURE


def name_archive(host: str, time: datetime) -> str:
    """`time` is in UTC."""
    return f"{host}-{time:%Y%m%dT%H%M%SZ}"


def find_host(name: str) -> str:
    """The server that an archive is of; empty for a name that Mailkeep does not give, such as a broken-off archive's
    (`.checkpoint`)."""
    match = _NAME.fullmatch(name)
    return match["host"] if match else ""


def select_archives(archives: Iterable[Archive], host: str) -> list[Archive]:
    """Those of a server."""
    return [archive for archive in archives if find_host(archive.name) == host]


def describe_lack(archives: Iterable[Archive], host: str) -> str:
    """What to say of a repository without archives of this server."""
    others = ", ".join(sorted({find_host(archive.name) for archive in archives}))
    return f"it has no archive of {host}" + (f", but of {others}" if others else "")


def find_newest(archives: Sequence[Archive]) -> Archive:
    """Of those of a server, from the oldest to the newest. Raises IndexError if there are none, and ValueError if the
    newest is dated later than now."""
    newest = archives[-1]
    if newest.is_future:
        earlier = next((archive.name for archive in reversed(archives) if not archive.is_future), "")
        raise ValueError(
            f"{newest.name} is dated later than now, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC. The clock was wrong then, "
            f"or is wrong now. Say which archive to take"
            + (f": the last one before now is {earlier}" if earlier else "")
        )
    return newest


def find_clock_fault(archives: Sequence[Archive], earlier: Collection[str]) -> str:
    """Why nothing may be deleted by the archives' dates; empty if it may. `earlier` are known to be older than the
    others.

    borg keeps those with the latest dates. With a clock that was wrong, these are not the last ones.
    """
    future = [archive.name for archive in archives if archive.is_future]
    if future:
        return CLOCK_FAULT.format(archive=future[-1], other="now")
    former = [archive for archive in archives if archive.name in earlier]
    later = [archive for archive in archives if archive.name not in earlier]
    if former and later and former[-1].time > later[0].time:
        return CLOCK_FAULT.format(archive=former[-1].name, other=f"{later[0].name}, which was made after it")
    return ""
