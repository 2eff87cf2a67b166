"""The live check as a user meets it: every finding at once, to read or as JSON."""

import json
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from mailkeep.dns.findings import Finding, Level
from mailkeep.errors import UserError
from mailkeep.inventory.secrets import Secrets
from mailkeep.settings.models import Settings

_REMINDERS = 10
_STYLES: dict[Level, str] = {"error": "bold red", "warning": "bold yellow", "instruction": "bold cyan"}


def run_check(settings: Settings, secrets: Secrets, resolver: str, *, as_json: bool = False) -> int:
    """Looks, judges and prints: 1 when there is an error, 0 when there is none."""
    found = check_records(settings, secrets, resolver)
    if as_json:
        print(json.dumps([finding.asdict() for finding in found], indent=2))
    else:
        print_findings(found)
    return int(any(finding.level == "error" for finding in found))


def print_reminder(settings: Settings, secrets: Secrets, resolver: str, command: str) -> None:
    """In short, and never an error: the server is as it should be, whatever the DNS says."""
    try:
        found = check_records(settings, secrets, resolver)
    except UserError as error:
        print(f"DNS: not looked at. {error}")
        return
    for finding in [finding for finding in found if finding.level == "error"][:_REMINDERS]:
        print(f"DNS: {finding.name} {finding.type}: {finding.problem}")
    print(_counted(found) + (f"; `{command}` says what to do" if found else ""))


def check_records(settings: Settings, secrets: Secrets, resolver: str) -> list[Finding]:
    # Only here: their libraries take a third of a second to load.
    from mailkeep.dns.client import make_resolver
    from mailkeep.dns.judge import judge_observation
    from mailkeep.dns.observe import observe_server

    return judge_observation(settings, secrets, observe_server(settings, secrets, make_resolver(resolver)))


def print_findings(found: list[Finding]) -> None:
    out = Console(highlight=False, soft_wrap=True, emoji=False)
    for finding in found:
        out.print(Text.assemble((finding.level, _STYLES[finding.level]), f"  {finding.name}  {finding.type}"))
        out.print(Text(f"  {finding.problem}"))
        for label, text in (("seen", finding.observed), ("do", finding.advice)):
            if text:
                out.print(Text.assemble((f"  {label:4}  ", "dim"), text))
        out.print()
    out.print(Text(_counted(found), "bold"))


def _counted(found: Iterable[Finding]) -> str:
    levels = [finding.level for finding in found]
    counts = [f"{levels.count(level)} {level}{'' if levels.count(level) == 1 else 's'}" for level in _STYLES]
    return f"DNS: {', '.join(counts)}" if levels else "DNS: the world sees all as it should be"
