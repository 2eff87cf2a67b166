"""A deploy to one host of many, by the same operations as pyinfra's program. It prints nothing.

pyinfra's program makes all hosts wait for each other, at the connection and at every operation.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from pyinfra.api import Host
from pyinfra.api.exceptions import ConnectError, PyinfraError
from pyinfra.api.operations import run_host_op
from pyinfra.api.state import StateStage
from pyinfra.context import ctx_config, ctx_host, ctx_inventory, ctx_state

from mailkeep.host import connection
from mailkeep.host.operations import converge_host
from mailkeep.host.preflight import declare_state, run_preflight
from mailkeep.parts.model import Part
from mailkeep.settings.models import Settings

Status = Literal["success", "no_change", "error"]
"""pyinfra's words: `success` is a change."""


@dataclass(frozen=True, slots=True)
class Options:
    """`adopt`: another mail server may be replaced. `allow_older`: what a newer inventory brought may be undone."""

    adopt: bool = False
    allow_older: bool = False

    def as_data(self) -> dict[str, object]:
        """As pyinfra's `--data` gives them to the deploy."""
        return {name: True for name, value in asdict(self).items() if value}


NO_OPTIONS = Options()


@dataclass(frozen=True, slots=True)
class Deployment:
    """What a deploy did to a host: the status of each operation that ran, by name and in order.

    `error` says why the host could not be reached, or could not be read. Else, after an operation with the status
    `error`, `log` has its output.
    """

    operations: tuple[tuple[str, Status], ...] = ()
    error: str = ""
    log: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def changed(self) -> tuple[str, ...]:
        """The operations that changed something."""
        return tuple(name for name, status in self.operations if status == "success")

    @property
    def failed(self) -> str:
        """The operation that failed, or nothing."""
        return next((name for name, status in self.operations if status == "error"), "")

    @property
    def succeeded(self) -> bool:
        return not self.error and not self.failed


def deploy_to_host(
    name: str, data: dict[str, object], settings: Settings, parts: tuple[Part, ...], *, options: Options = NO_OPTIONS
) -> Deployment:
    """Make the host what the parts say. Call it in a process of its own: pyinfra knows one state at a time."""
    data = {**data, **options.as_data()}
    operations: list[tuple[str, Status]] = []
    error = ""
    with connection.collect_log(name) as log:
        try:
            with connection.connect_host(name, data, check_for_changes=False) as host:
                operations.extend(_run_operations(host, settings, parts))
        except connection.CONNECTION_ERRORS as exception:
            if not operations:
                log.warnings.clear()  # pyinfra's own advice about the connection
            error = _describe_error(exception, log.errors, name, data)
    return Deployment(tuple(operations), error, tuple(log.errors), tuple(log.warnings))


def _run_operations(host: Host, settings: Settings, parts: tuple[Part, ...]) -> Iterator[tuple[str, Status]]:
    """As pyinfra's program does, with its option `-y`."""
    state = host.state
    ctx_state.set(state)  # type: ignore[no-untyped-call]
    ctx_inventory.set(state.inventory)  # type: ignore[no-untyped-call]
    state.activate_host(host)
    state.set_stage(StateStage.Prepare)
    with ctx_config.use(state.config.copy()), ctx_host.use(host):
        run_preflight(settings, parts)
        converge_host(parts, declare_state(settings, parts))
        state.set_stage(StateStage.Execute)
        state.is_executing = True
        for key in state.get_op_order():  # type: ignore[no-untyped-call]
            succeeded = run_host_op(state, host, key)
            changed = succeeded and state.ops[host][key].operation_meta.did_change()
            yield min(state.get_op_meta(key).names), "success" if changed else "no_change" if succeeded else "error"
            if not succeeded:
                return


def _describe_error(error: Exception, log: list[str], name: str, data: dict[str, object]) -> str:
    """pyinfra raises "No hosts remaining!" when a fact cannot be read, and logs the reason before."""
    if isinstance(error, PyinfraError) and not isinstance(error, ConnectError):
        return "; ".join(log) or str(error)
    return connection.describe_failure(error, name, data)
