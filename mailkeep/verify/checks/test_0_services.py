"""Whether everything runs that must. It comes first: what is down breaks most other promises, too."""

from mailkeep.host.snapshot import UnitState
from mailkeep.parts.model import Unit
from mailkeep.verify.outcome import fail_if_any
from mailkeep.verify.target import ProbeResult, Target


def test_services_run_and_start_at_boot(seen: ProbeResult, target: Target, deploy: str) -> None:
    """Every service runs, and will after a reboot."""
    shown = {unit["Id"]: UnitState(unit) for unit in seen["units"]["shown"]}
    units = [unit for part in target.parts for unit in part.units]
    fail_if_any(
        (f"{unit.name}: {fault}" for unit in units if (fault := _fault(unit, shown.get(unit.name, UnitState({}))))),
        expected="active and enabled",
        remedy=f"`systemctl status UNIT` and `journalctl -u UNIT` say why not; {deploy} starts and enables them.",
    )


def _fault(unit: Unit, state: UnitState) -> str:
    """Its state, where it is not as declared."""
    if (state.is_active == unit.running or state.is_skipped) and state.is_enabled == unit.enabled:
        return ""
    shown = state.properties
    return f"{shown.get('ActiveState', 'unknown')}, {shown.get('UnitFileState') or shown.get('LoadState', 'unknown')}"


def test_nothing_has_failed(seen: ProbeResult) -> None:
    """No unit of systemd has failed."""
    fail_if_any(
        seen["units"]["failed"],
        expected="none",
        remedy="`systemctl status UNIT` says why; `systemctl reset-failed UNIT` forgets it.",
    )


def test_services_run_what_is_installed(seen: ProbeResult) -> None:
    """No service runs a program or library that an upgrade has replaced."""
    fail_if_any(
        (f"{unit} runs {path}, which was replaced" for unit, path in seen["replaced"]),
        expected="what is on the disk, with its security fixes",
        remedy="`systemctl restart UNIT`, or reboot.",
    )
