"""Whether everything runs that must. It comes first: what is down breaks most other promises, too."""

from mailkeep.part import Unit
from mailkeep.verify.promises import hold
from mailkeep.verify.target import Seen, Target

ENABLED = {"enabled", "static", "generated", "alias", "indirect"}


def test_services_run_and_start_at_boot(seen: Seen, target: Target, deploy: str) -> None:
    """Every service runs, and will after a reboot."""
    shown = {unit["Id"]: unit for unit in seen["units"]["shown"]}
    units = [unit for part in target.parts for unit in part.units]
    hold(
        (f"{unit.name}: {fault}" for unit in units if (fault := _fault(unit, shown.get(unit.name, {})))),
        expected="active and enabled",
        remedy=f"`systemctl status UNIT` and `journalctl -u UNIT` say why not; {deploy} starts and enables them.",
    )


def _fault(unit: Unit, shown: dict[str, str]) -> str:
    """systemd's state of it, where it is not as declared. A condition that is not met, as for time synchronisation in
    a container, says that it is not meant to run."""
    tried = shown.get("ConditionTimestampMonotonic", "0") != "0"
    not_meant = tried and shown.get("ConditionResult") == "no"
    running, enabled = shown.get("ActiveState") in ("active", "reloading"), shown.get("UnitFileState") in ENABLED
    if (running == unit.running or not_meant) and enabled == unit.enabled:
        return ""
    return f"{shown.get('ActiveState', 'unknown')}, {shown.get('UnitFileState') or shown.get('LoadState', 'unknown')}"


def test_nothing_has_failed(seen: Seen) -> None:
    """No unit of systemd has failed."""
    hold(
        seen["units"]["failed"],
        expected="none",
        remedy="`systemctl status UNIT` says why; `systemctl reset-failed UNIT` forgets it.",
    )


def test_services_run_what_is_installed(seen: Seen) -> None:
    """No service runs a program or library that an upgrade has replaced."""
    hold(
        (f"{unit} runs {path}, which was replaced" for unit, path in seen["replaced"]),
        expected="what is on the disk, with its security fixes",
        remedy="`systemctl restart UNIT`, or reboot.",
    )
