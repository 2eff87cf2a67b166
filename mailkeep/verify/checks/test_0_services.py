"""Services and units. These checks come first: a stopped service breaks most other promises, too."""

from mailkeep.host.snapshot import UnitState
from mailkeep.parts.model import SYSTEMD, Unit
from mailkeep.verify.outcome import fail_if_any, warn_if_any
from mailkeep.verify.probe.hardening import MEMORY, RESTART, SANDBOX, START_LIMIT
from mailkeep.verify.target import ProbeResult, Target


def test_services_run_and_start_at_boot(observed: ProbeResult, target: Target, deploy: str) -> None:
    """Every service runs, and will after a reboot."""
    states = {unit["Id"]: UnitState(unit) for unit in observed["units"]["properties"]}
    units = [unit for part in target.parts for unit in part.units]
    faults = [(unit.name, _describe_fault(unit, states.get(unit.name, UnitState({})))) for unit in units]
    fail_if_any(
        (f"{name}: {fault}" for name, fault in (*faults, *observed["milters"].items()) if fault),
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


def test_services_have_read_their_configuration(observed: ProbeResult, deploy: str) -> None:
    """Every service has read its configuration since it last changed."""
    stale = observed["stale services"]
    fail_if_any(
        (f"{service['unit']} is older than {', '.join(service['files'])}" for service in stale if service["files"]),
        expected="a start or reload after the last change of each file",
        remedy="Nobody knows what such a service does: it read the file before it changed. `systemctl reload UNIT` "
        f"(`restart` for the guard, the watch and drop-ins); {deploy} restores a file that differs.",
    )
    warn_if_any(
        (
            f"{service['unit']}: since it read {', '.join(service['touched'])}, somebody has put back an older file, "
            "or changed its owner, mode or links"
            for service in stale
            if service["touched"]
        ),
        expected="files that nobody touched since the last start or reload",
        remedy="If a file was put back, the service still runs with the one in between. `systemctl reload UNIT` "
        "(`restart` for the guard, the watch and drop-ins) ends the doubt.",
    )


def test_services_have_their_sandboxes(observed: ProbeResult, target: Target, deploy: str) -> None:
    """Every service runs in the sandbox that is declared for it."""
    services = {service["properties"]["Id"]: service for service in observed["sandboxes"]}
    fail_if_any(
        [
            *(
                f"{unit}: {name}={services[unit]['properties'].get(name, '')}, declared {value}"
                for unit, options in _list_declared_options(target).items()
                if unit in services
                for name, value in options.items()
                if name in CONFINEMENTS and not _is_same(name, services[unit]["properties"].get(name, value), value)
            ),
            *(f"{unit} runs without {loss}" for unit, service in services.items() for loss in service["lacking"]),
            *(
                f"{unit}: systemd has not read its files again"
                for unit, service in services.items()
                if service["properties"].get("NeedDaemonReload") == "yes"
            ),
        ],
        expected="what the unit files and drop-ins of Mailkeep say",
        remedy=f"`systemctl cat UNIT` shows which file differs: remove it. {deploy} restores the others; then "
        "`systemctl daemon-reload` and `systemctl restart UNIT`.",
    )


def test_services_come_back(observed: ProbeResult, target: Target, deploy: str) -> None:
    """A service that ends is started again, however often that happens."""
    services = {service["properties"]["Id"]: service["properties"] for service in observed["sandboxes"]}
    fail_if_any(
        (
            f"{unit}: {name}={services[unit].get(name, '')}, declared {value}"
            for unit, options in _list_declared_options(target).items()
            if unit in services
            for name, value in ((RESTART, options.get(RESTART)), (START_LIMIT, options.get("StartLimitIntervalSec")))
            if value is not None and services[unit].get(name, value) != value
        ),
        expected="what the unit files and drop-ins of Mailkeep say",
        remedy=f"`systemctl cat UNIT` shows which file differs: remove it. {deploy} restores the others.",
    )


CONFINEMENTS = (*SANDBOX, MEMORY, "CapabilityBoundingSet")
COMPARED = (*CONFINEMENTS, RESTART, "StartLimitIntervalSec")


def _list_declared_options(target: Target) -> dict[str, dict[str, str]]:
    """By unit, the options of its declared unit file and drop-ins that are COMPARED; a later one counts
    (systemd.exec(5))."""
    sandboxes: dict[str, dict[str, str]] = {}
    for file in (file for part in target.parts for file in part.files if file.path.startswith(f"{SYSTEMD}/")):
        unit = file.path.removeprefix(f"{SYSTEMD}/").partition("/")[0].removesuffix(".d")
        lines = (line.partition("=") for line in file.content.decode().splitlines())
        options = {name: value for name, _, value in lines if name in COMPARED}
        sandboxes.setdefault(unit, {}).update(options)
    return sandboxes


def _is_same(name: str, value: str, declared: str) -> bool:
    """Whatever the order and case of the words: systemd prints sets its own way, and memory in bytes."""
    if name == MEMORY:
        return value != "infinity"
    return sorted(value.lower().split()) == sorted(declared.lower().split())
