"""Whether somebody is told when something goes wrong."""

from mailkeep.settings.models import Settings
from mailkeep.verify.outcome import fail_if_any, warn_if_any
from mailkeep.verify.probe.watch import UNPROVEN
from mailkeep.verify.target import ProbeResult

LATE = 20  # seconds since a sensor's last look; each looks every five or more often


def test_the_watch_looks_at_everything(seen: ProbeResult, deploy: str) -> None:
    """The watch looks at everything every few seconds."""
    fail_if_any(
        (
            f"{name}: {one['error'] or 'no look for {:.0f} seconds'.format(one['ago'])}"
            for name, one in seen["watch"]["looked"].items()
            if one["error"] or one["ago"] > LATE
        ),
        expected="every sensor to look",
        remedy=f"`systemctl status mailkeep-watch` and `journalctl -u mailkeep-watch` say why; {deploy} restores it.",
    )


def test_the_watch_finds_nothing_amiss(seen: ProbeResult) -> None:
    """The watch finds nothing amiss."""
    warn_if_any(
        (trouble for one in seen["watch"]["looked"].values() for trouble in one["troubles"]),
        expected="no trouble",
        remedy="You were told of it. `journalctl -u mailkeep-watch` has all alerts.",
    )


def test_jails_are_proven_by_themselves(seen: ProbeResult, deploy: str) -> None:
    """Every fail2ban jail is proven to ban, every half hour."""
    saw = seen["watch"]["proof"]
    fail_if_any(
        [
            *([f"last done {saw['ago'] / 60:.0f} minutes ago"] if saw["ago"] > UNPROVEN else []),
            *(fault for faults in saw["faults"].values() for fault in faults),
        ],
        expected="a proof, less than 90 minutes old, that each jail bans",
        remedy=f"`systemctl start mailkeep-jails` proves them now; {deploy} restores jails and timer.",
    )


def test_alerts_get_past_everything_and_nothing_else_does(seen: ProbeResult, settings: Settings, deploy: str) -> None:
    """The way of alerts takes mail to the administrators, and to nobody else."""
    answers = seen["alert path"]
    fail_if_any(
        [
            f"to {recipient}: {said}"
            for recipient, said in answers.items()
            if said.startswith("250") != (recipient in settings.admin.addresses)
        ],
        expected="250 for the administrators, 554 for all others",
        remedy=f"The service `alerts` of master.cf does it: {deploy} restores it.",
    )
