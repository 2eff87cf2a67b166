"""Whether the machine is well, and will stay so while nobody looks."""

from mailkeep.settings.fields import format_size
from mailkeep.settings.models import Settings
from mailkeep.verify.outcome import CheckSkippedError, fail_if_any, warn_if_any
from mailkeep.verify.target import ProbeResult

FULL, NEARLY_FULL = 90, 80  # per cent
LONG_QUEUE = 200  # messages
CLOCK_OFF = 30  # seconds; DNSSEC and TLS bear more, but a clock that is off by this is not kept


def test_the_clock_is_right(seen: ProbeResult) -> None:
    """The server's clock is right."""
    off = seen["time"] - seen.start
    fail_if_any(
        [f"{off:+.0f} seconds, compared with this computer"] if abs(off) > CLOCK_OFF else [],
        expected="the same time as here",
        remedy="One of the two is off. On the server, `timedatectl timesync-status` shows its time server.",
    )


def test_the_clock_is_kept(seen: ProbeResult) -> None:
    """The server keeps its clock by time servers."""
    if not seen["clock"]["can"]:
        raise CheckSkippedError("its clock is its host's, as in a container")
    warn_if_any(
        [] if seen["clock"]["synchronised"] else ["not synchronised"],
        expected="synchronised",
        remedy="After a boot it takes a minute. Later: `timedatectl timesync-status`; UDP port 123 may be blocked.",
    )


def test_security_fixes_come_by_themselves(seen: ProbeResult, deploy: str) -> None:
    """Security fixes install themselves, and no package is half installed."""
    saw = seen["upgrades"]
    fail_if_any(
        [
            *(
                f"APT::Periodic::{key} is {value or 'not set'}"
                for key, value in saw["periodic"].items()
                if value in ("", "0")
            ),
            *(
                []
                if any("-security" in origin for origin in saw["origins"])
                else [f"from {saw['origins'] or 'nowhere'}"]
            ),
            *saw["broken"].splitlines()[:5],
        ],
        expected="APT's daily upgrade switched on, from Debian's security archive",
        remedy=f"{deploy} restores apt.conf.d/52mailkeep; `dpkg --configure -a` finishes what is half installed.",
    )


def test_no_reboot_is_due(seen: ProbeResult) -> None:
    """No reboot is due."""
    days = seen["upgrades"]["reboot_days"]
    warn_if_any(
        [] if days is None else [f"due for {days:.0f} days"],
        expected="the installed kernel and libraries to be those that run",
        remedy="`systemctl reboot`; by itself it happens at night.",
    )


def test_the_logs_cannot_fill_the_disk(seen: ProbeResult, settings: Settings, deploy: str) -> None:
    """The logs stay within the size that mail.yml allows them."""
    cap, saw = settings.retention.journal, seen["journal"]
    fail_if_any(
        [
            *([f"journald allows itself {saw['cap']} bytes"] if (saw["cap"] or 0) > cap else []),
            # journald looks when it makes a new file, and one file is an eighth of the cap.
            *([f"they take {saw['used']} bytes"] if saw["used"] > cap * 9 / 8 else []),
        ],
        expected=f"at most {format_size(cap)} ({cap} bytes)",
        remedy=f"{deploy} restores the cap; `journalctl --vacuum-size={format_size(cap)}` frees the space now.",
    )


def test_the_disks_have_room(seen: ProbeResult) -> None:
    """The disks have room, for mail and for files."""
    remedy = "`du -xh / | sort -h | tail` finds what takes it; `df -i` shows inodes. Full, the server refuses mail."
    fail_if_any(
        (f"{one['path']}: {one['space']} % of space, {one['inodes']} % of inodes" for one in _fuller(seen, FULL)),
        expected=f"less than {FULL} % used",
        remedy=remedy,
    )
    warn_if_any(
        (
            f"{one['path']}: {one['space']} % of space, {one['inodes']} % of inodes"
            for one in _fuller(seen, NEARLY_FULL)
        ),
        expected=f"less than {NEARLY_FULL} % used",
        remedy=remedy,
    )


def _fuller(seen: ProbeResult, limit: int) -> list[dict[str, int]]:
    return [one for one in seen["disks"] if max(one["space"], one["inodes"]) >= limit]


def test_the_queue_is_short(seen: ProbeResult) -> None:
    """The mail queue is short."""
    queues = seen["queue"]
    warn_if_any(
        [", ".join(f"{number} {queue}" for queue, number in queues.items())]
        if sum(queues.values()) > LONG_QUEUE
        else [],
        expected=f"at most {LONG_QUEUE} messages",
        remedy="`postqueue -p` shows senders and reasons. One sender with many recipients: an account was taken over.",
    )
