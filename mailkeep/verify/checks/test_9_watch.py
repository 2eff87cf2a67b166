"""Whether the operator gets an alert when something goes wrong."""

from mailkeep.settings.models import Settings
from mailkeep.verify.outcome import fail_if_any, warn_if_any
from mailkeep.verify.probe.watch import MAX_PROOF_AGE
from mailkeep.verify.target import ProbeResult

MAX_DELAY = 20  # seconds, of a report that is due


def test_the_watch_looks_at_everything(observed: ProbeResult, deploy: str) -> None:
    """Every sensor of the watch reports when it is due."""
    fail_if_any(
        (
            f"{name}: {sensor['error'] or 'no report for {:.0f} seconds'.format(sensor['age'])}"
            for name, sensor in observed["watch"]["sensors"].items()
            if sensor["error"] or sensor["age"] > sensor["interval"] + MAX_DELAY
        ),
        expected="a report of every sensor, without errors",
        remedy=f"`systemctl status mailkeep-watch` and `journalctl -u mailkeep-watch` say why; {deploy} restores it.",
    )


def test_the_watch_finds_nothing_amiss(observed: ProbeResult) -> None:
    """The watch sees no trouble."""
    warn_if_any(
        (trouble for sensor in observed["watch"]["sensors"].values() for trouble in sensor["troubles"]),
        expected="no trouble",
        remedy="You got an alert about it. `journalctl -u mailkeep-watch` shows all alerts.",
    )


def test_jails_are_proven_by_themselves(observed: ProbeResult, deploy: str) -> None:
    """The server proves every half hour that each fail2ban jail bans."""
    proof = observed["watch"]["proof"]
    fail_if_any(
        [
            *([f"last proof {proof['age'] / 60:.0f} minutes ago"] if proof["age"] > MAX_PROOF_AGE else []),
            *(fault for faults in proof["faults"].values() for fault in faults),
        ],
        expected="a proof that each jail bans, less than 90 minutes old",
        remedy=f"`systemctl start mailkeep-jails` proves them now; {deploy} restores jails and timer.",
    )


def test_alerts_get_past_everything_and_nothing_else_does(
    observed: ProbeResult, settings: Settings, deploy: str
) -> None:
    """The services for alerts accept mail to administrators, and to nobody else."""
    fail_if_any(
        [
            f"{path}: to {recipient}: {answer}"
            for path, answers in observed["alert recipients"].items()
            for recipient, answer in answers.items()
            if answer.startswith("250") != (recipient in settings.admin.addresses)
        ],
        expected="250 for the administrators, 554 for all others",
        remedy=f"The services `alerts` and `alerts-unsigned` of master.cf do it: {deploy} restores them.",
    )
