"""Whether the machine is well, and stays so while nobody looks."""

from mailkeep.settings.models import Settings
from mailkeep.settings.numbers import format_size
from mailkeep.verify.outcome import CheckSkippedError, fail_if_any, warn_if_any
from mailkeep.verify.target import ProbeResult

FULL, NEARLY_FULL = 90, 80  # per cent
MAX_QUEUED = 200  # messages
MAX_CLOCK_ERROR = 30  # seconds; DNSSEC and TLS tolerate more, but a synchronised clock is never that far off
MAX_JOURNAL_EXCESS = 9 / 8  # of the cap: journald enforces it when it starts a file, which is an eighth of it
MAX_BROKEN_LINES = 5


def test_the_clock_is_right(observed: ProbeResult) -> None:
    """The server's clock is right."""
    error = observed["time"] - observed.start
    fail_if_any(
        [f"{error:+.0f} seconds, compared with this computer"] if abs(error) > MAX_CLOCK_ERROR else [],
        expected="the time of this computer",
        remedy="One of the two is wrong. On the server, `timedatectl timesync-status` shows its time server.",
    )


def test_the_clock_is_kept(observed: ProbeResult) -> None:
    """The server sets its clock by time servers."""
    if not observed["clock"]["settable"]:
        raise CheckSkippedError("a container has the clock of its host")
    warn_if_any(
        [] if observed["clock"]["synchronised"] else ["not synchronised"],
        expected="synchronised",
        remedy="After a boot it takes a minute. Later: `timedatectl timesync-status`; UDP port 123 may be blocked.",
    )


def test_security_fixes_come_by_themselves(observed: ProbeResult, deploy: str) -> None:
    """Security fixes install themselves, and no package is half installed."""
    upgrades = observed["upgrades"]
    periodic, origins = upgrades["periodic"], upgrades["origins"]
    has_security_origin = any("-security" in origin for origin in origins)
    fail_if_any(
        [
            *(
                f"APT::Periodic::{name} is {value or 'not set'}"
                for name, value in periodic.items()
                if value in ("", "0")
            ),
            *([] if has_security_origin else [f"upgrades come from {origins or 'nowhere'}"]),
            *upgrades["broken"].splitlines()[:MAX_BROKEN_LINES],
        ],
        expected="APT's daily upgrade switched on, from Debian's security archive",
        remedy=f"{deploy} restores apt.conf.d/52mailkeep; `dpkg --configure -a` finishes half-installed packages.",
    )


def test_no_reboot_is_due(observed: ProbeResult) -> None:
    """No reboot is due."""
    days = observed["upgrades"]["reboot_days"]
    warn_if_any(
        [] if days is None else [f"due for {days:.0f} days"],
        expected="the installed kernel and libraries are running",
        remedy="Run `systemctl reboot`. Otherwise the server reboots by itself at night.",
    )


def test_the_logs_cannot_fill_the_disk(observed: ProbeResult, settings: Settings, deploy: str) -> None:
    """The logs stay within the size that mail.yml allows."""
    cap, journal = settings.retention.journal, observed["journal"]
    fail_if_any(
        [
            *([f"journald's cap is {journal['cap']} bytes"] if (journal["cap"] or 0) > cap else []),
            *([f"the logs use {journal['used']} bytes"] if journal["used"] > cap * MAX_JOURNAL_EXCESS else []),
        ],
        expected=f"at most {format_size(cap)} ({cap} bytes)",
        remedy=f"{deploy} restores the cap; `journalctl --vacuum-size={format_size(cap)}` frees the space now.",
    )


def test_the_disks_have_room(observed: ProbeResult) -> None:
    """The disks have free space and free inodes."""
    remedy = "`du -xh / | sort -h | tail` and `df -i` show what uses them. A full server refuses mail."
    fail_if_any(
        _find_full_disks(observed, FULL),
        expected=f"less than {FULL} % used",
        remedy=remedy,
    )
    warn_if_any(
        _find_full_disks(observed, NEARLY_FULL),
        expected=f"less than {NEARLY_FULL} % used",
        remedy=remedy,
    )


def _find_full_disks(observed: ProbeResult, limit: int) -> list[str]:
    return [
        f"{disk['path']}: {disk['space']} % of space, {disk['inodes']} % of inodes"
        for disk in observed["disks"]
        if max(disk["space"], disk["inodes"]) >= limit
    ]


def test_the_queue_is_short(observed: ProbeResult) -> None:
    """The mail queue is short."""
    queues = observed["queue"]
    counts = ", ".join(f"{number} {queue}" for queue, number in queues.items())
    warn_if_any(
        [counts] if sum(queues.values()) > MAX_QUEUED else [],
        expected=f"at most {MAX_QUEUED} messages",
        remedy="`postqueue -p` shows senders and reasons. One sender with many recipients: an account was taken over.",
    )
