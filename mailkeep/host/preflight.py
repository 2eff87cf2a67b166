"""The preflight: refuse an unfit host before anything on it changes, with all reasons in one message.

`plan` and `deploy` read the same facts and go by the same verdict.
"""

import sys
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any, cast

from pyinfra import host, logger
from pyinfra.api import StringCommand, operation

from mailkeep.host import adoption, deploy_history, preflight_rules, takeover
from mailkeep.host.preflight_facts import (
    ConnectFact,
    HostFacts,
    Login,
    LoginFact,
    PreflightFact,
    outbound_peer,
)
from mailkeep.host.preflight_rules import Verdict
from mailkeep.host.snapshot import SnapshotFact
from mailkeep.host.ssh_connection import COMMAND_TIMEOUT
from mailkeep.host.stopped_units import BRING_BACK_NOW
from mailkeep.inventory import hosts
from mailkeep.parts.model import Part
from mailkeep.settings.models import Settings

OPERATION = "Preflight"

ReadFact = Callable[..., Any]
"""Reads a fact from the host: the fact's class, then its arguments by name."""


def examine_host(
    settings: Settings, login: Login, read_fact: ReadFact, *, adopt: bool = False, can_ask: bool = False
) -> tuple[HostFacts | None, Verdict]:
    """Read the host's facts and judge them; the facts are None if they could not be read."""
    if problem := preflight_rules.sudo_problem(login, can_ask):
        return None, Verdict((". ".join(problem),))
    facts = read_fact(PreflightFact, user=login.user)
    if facts is None:
        return None, Verdict(("Mailkeep could not read the host's state; the error is above.",))
    verdict = preflight_rules.judge_host(settings, login, facts, adopt=adopt)
    peer = None if facts.is_built else outbound_peer(settings)
    if peer and not read_fact(ConnectFact, address=peer.address, port=peer.port):
        verdict = Verdict(verdict.problems, (*verdict.warnings, preflight_rules.closed_port_warning(peer)))
    return facts, verdict


def can_ask_password(data: Any) -> bool:
    """Whether sudo's password is in the host's data, or can be asked for."""
    at_terminal = sys.stdin is not None and sys.stdin.isatty()  # None if it was closed (`<&-`)
    return at_terminal or bool(data.get("_sudo_password"))


def read_login() -> Login | None:
    """The SSH login on the current host, whatever `_sudo` its data has; read once."""
    cache = host.connector_data
    if "mailkeep login" not in cache:
        cache["mailkeep login"] = host.get_fact(LoginFact, _sudo=False, _timeout=COMMAND_TIMEOUT)
    return cast(Login | None, cache["mailkeep login"])


def needs_sudo() -> bool:
    """Whether to use sudo although neither the inventory nor the command line asks for it: the login is not root."""
    login = read_login()
    return login is not None and login.uid != 0


def run_preflight(settings: Settings, parts: tuple[Part, ...]) -> None:
    """Declare the operation that refuses the current host if it is unfit."""
    login = read_login()
    if login is not None:  # else the connection is lost, and pyinfra has printed why
        sudo = login.uid != 0 and not preflight_rules.sudo_problem(login, can_ask_password(host.data))
        _preflight(settings=settings, parts=parts, login=login, name=OPERATION, _sudo=sudo)


def declare_state(settings: Settings, parts: tuple[Part, ...]) -> deploy_history.DeclaredState:
    """What is about to be deployed to the current host."""
    return deploy_history.declare_state(hosts.settings_path(host.name, host.data), settings, parts)


def read_history() -> deploy_history.History | None:
    """The current host's history of deploys, as the preflight read it. None without a preflight."""
    return cast(deploy_history.History | None, host.connector_data.get("mailkeep history"))


def read_history_text() -> str | None:
    """The text of the file with that history, likewise."""
    return cast(str | None, host.connector_data.get("mailkeep history text"))


@operation()
def _preflight(settings: Settings, parts: tuple[Part, ...], login: Login) -> Generator[StringCommand, None, None]:
    adopt = bool(host.data.get("adopt"))
    can_ask, read_fact = can_ask_password(host.data), partial(host.get_fact, _timeout=COMMAND_TIMEOUT)
    facts, verdict = examine_host(settings, login, read_fact, adopt=adopt, can_ask=can_ask)
    if facts is not None:
        history = host.connector_data["mailkeep history"] = deploy_history.parse_history(facts.deploy_history)
        host.connector_data["mailkeep history text"] = facts.deploy_history
        older = deploy_history.describe_undone(history, declare_state(settings, parts))
        if older and not host.data.get("allow_older"):
            verdict = Verdict((*verdict.problems, older), verdict.warnings)
    for warning in verdict.warnings:
        host.log(warning, logger.warning)
    if verdict.problems or facts is None:
        has_stopped = facts is not None and bool(facts.stopped_units)
        script = f"cat >&2\n{BRING_BACK_NOW}\nexit 1" if has_stopped else "cat >&2; exit 1"
        yield StringCommand(script, _stdin=verdict.refusal(host.name, has_stopped=has_stopped).splitlines())
    elif preflight_rules.is_takeover(facts) or not facts.is_built:
        for line in _describe_takeover(settings, parts, facts, read_fact):
            host.log(line, logger.warning)
        yield StringCommand(adoption.save_script(facts, parts))


def _describe_takeover(
    settings: Settings, parts: tuple[Part, ...], facts: HostFacts, read_fact: ReadFact
) -> Iterator[str]:
    """Before the first change, as `plan --adopt` tells it."""
    if takeover.is_told(facts) and host.data.get("adopt"):
        former, actual = read_fact(takeover.TakeoverFact), read_fact(SnapshotFact, parts=parts)
        if former is not None and actual is not None:
            arguments = (settings, parts, facts, former, actual)
            yield from (f"gone: {line}" for line in takeover.describe_losses(*arguments))
            yield from (f"stays: {line}" for line in takeover.describe_kept(*arguments))
