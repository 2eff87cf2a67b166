"""Prints the findings of the DNS check, as text or as JSON."""

import json
from collections.abc import Callable, Iterable

from rich.console import Console
from rich.text import Text

from mailkeep.dns.findings import Finding, Level
from mailkeep.errors import UserError
from mailkeep.inventory.secrets import Secrets
from mailkeep.settings.models import Settings
from mailkeep_server.common.wording import count_noun

MAX_REMINDERS = 10
_STYLES: dict[Level, str] = {"error": "bold red", "warning": "bold yellow", "instruction": "bold cyan"}


def run_check(
    settings: Settings,
    secrets: Secrets,
    resolver: str,
    read_further: Callable[[], Iterable[Finding]] = tuple,
    *,
    as_json: bool = False,
) -> int:
    """Check the records and print the findings, with those of `read_further`. Return the exit code: 1 if there is an
    error."""
    findings = [*check_records(settings, secrets, resolver), *read_further()]
    if as_json:
        print(json.dumps([finding.asdict() for finding in findings], indent=2))
    else:
        print_findings(findings)
    return int(any(finding.level == "error" for finding in findings))


def print_reminder(settings: Settings, secrets: Secrets, resolver: str, command: str) -> None:
    """A short form of the check, after a deploy. It never fails: the deploy itself succeeded."""
    try:
        findings = check_records(settings, secrets, resolver)
    except UserError as error:
        print(f"DNS: not checked. {error}")
        return
    for finding in [finding for finding in findings if finding.level == "error"][:MAX_REMINDERS]:
        print(f"DNS: {finding.name} {finding.type}: {finding.problem}")
    print(_summarise(findings) + (f"; `{command}` says what to do" if findings else ""))


def check_records(settings: Settings, secrets: Secrets, resolver: str) -> list[Finding]:
    """Raises UserError if the resolver is invalid or answers nothing."""
    # Imported late: their libraries take a third of a second to load.
    from mailkeep.dns.client import make_resolver
    from mailkeep.dns.judge import judge_observation
    from mailkeep.dns.observe import observe_server

    return judge_observation(settings, secrets, observe_server(settings, secrets, make_resolver(resolver)))


def print_findings(findings: list[Finding]) -> None:
    out = Console(highlight=False, soft_wrap=True, emoji=False)
    for finding in findings:
        out.print(Text.assemble((finding.level, _STYLES[finding.level]), f"  {finding.name}  {finding.type}"))
        out.print(Text(f"  {finding.problem}"))
        for label, text in (("observed", finding.observed), ("to do", finding.advice)):
            if text:
                out.print(Text.assemble((f"  {label:8}  ", "dim"), text))
        out.print()
    out.print(Text(_summarise(findings), "bold"))


def _summarise(findings: Iterable[Finding]) -> str:
    levels = [finding.level for finding in findings]
    counts = [count_noun(levels.count(level), level) for level in _STYLES]
    return f"DNS: {', '.join(counts)}" if levels else "DNS: all records are published as they should be"
