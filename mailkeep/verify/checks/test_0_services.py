"""Services and units. These checks come first: a stopped service breaks most other promises, too."""

from mailkeep.host.snapshot import UnitState
from mailkeep.parts.model import Unit
from mailkeep.verify.outcome import fail_if_any
from mailkeep.verify.target import ProbeResult, Target


def test_services_run_and_start_at_boot(observed: ProbeResult, target: Target, deploy: str) -> None:
    """Every service runs, and will after a reboot."""
    states = {unit["Id"]: UnitState(unit) for unit in observed["units"]["properties"]}
    units = [unit for part in target.parts for unit in part.units]
    faults = {unit.name: _describe_fault(unit, states.get(unit.name, UnitState({}))) for unit in units}
    fail_if_any(
        (f"{name}: {fault}" for name, fault in faults.items() if fault),
        expected="active and enabled",
        remedy=f"`systemctl status UNIT` and `journalctl -u UNIT` say why not; {deploy} starts and enables them.",
    )


def _describe_fault(unit: Unit, state: UnitState) -> str:
    """The state of a unit; empty when it is as declared."""
    if (state.is_active == unit.running or state.is_skipped) and state.is_enabled == unit.enabled:
        return ""
    properties = state.properties
    enabled = properties.get("UnitFileState") or properties.get("LoadState", "unknown")
    return f"{properties.get('ActiveState', 'unknown')}, {enabled}"


def test_nothing_has_failed(observed: ProbeResult) -> None:
    """No unit of systemd has failed."""
    fail_if_any(
        observed["units"]["failed"],
        expected="no failed unit",
        remedy="`systemctl status UNIT` says why; `systemctl reset-failed UNIT` clears the failure afterwards.",
    )


def test_services_run_what_is_installed(observed: ProbeResult) -> None:
    """No service runs a program or library that an upgrade has replaced."""
    fail_if_any(
        (f"{unit} runs {path}, which was replaced" for unit, path in observed["replaced files"]),
        expected="the installed programs and libraries, with their security fixes",
        remedy="`systemctl restart UNIT`, or reboot.",
    )
