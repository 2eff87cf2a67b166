"""Prints plans: one in full, or many by a line each, and equal changes once."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.text import Text

from mailkeep.host.preflight_rules import Verdict
from mailkeep_server.common.wording import count_noun

K = TypeVar("K")
MAX_NAMES = 8  # of hosts in one line
GONE = "after this deploy, these are gone, since mail.yml does not declare them"
KEPT = "these stay"
_DIFF_STYLES = {"+": "green", "-": "red", "@": "cyan"}


@dataclass(frozen=True, slots=True)
class Change:
    """`operation` is the deploy operation that makes the change. `diff` is a unified diff; empty for a new or secret
    file, and for all but files."""

    operation: str
    action: str
    diff: str = ""


@dataclass(frozen=True, slots=True)
class HostPlan:
    """The changes that a deploy would make to a host, or the reasons why it would make none.

    `losses` are those of a takeover, a line for each kind; `kept` is what stays, likewise.
    For its `problems` a deploy would refuse the host; the `error` kept Mailkeep from reading its state.
    """

    error: str = ""
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    losses: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


def print_host_plan(name: str, plan: HostPlan) -> None:
    """One plan in full."""
    out, err = _open_consoles()
    for warning in plan.warnings:
        err.print(Text.assemble((f"{name}: warning: ", "yellow"), warning))
    if plan.error or plan.problems:
        refusal = Verdict(plan.problems).refusal(name)
        err.print(Text(f"{name}: {plan.error}" if plan.error else refusal, "red"))
        return
    _print_takeover(out, name, plan.losses, plan.kept)
    out.print(Text(f"{name}: {_count_changes(plan.changes)}", "bold"))
    _print_changes(out, plan.changes)


def print_line(name: str, plan: HostPlan) -> None:
    """One of many plans in a line."""
    out, err = _open_consoles()
    if plan.error:
        err.print(Text(f"{name}: not reached: {plan.error}", "red"))
    elif plan.problems:
        err.print(Text(f"{name}: a deploy would refuse it; the reasons are below", "red"))
    else:
        out.print(Text(f"{name}: {_count_changes(plan.changes)}"))


def print_broken_and_changes(plans: Mapping[str, HostPlan]) -> None:
    """After a line for each: warnings, reasons and changes in full, each once with its hosts; and a summary."""
    out, err = _open_consoles()
    for warning, names in group_hosts((name, text) for name, plan in plans.items() for text in plan.warnings).items():
        err.print(Text.assemble((f"{list_names(names)}: warning: ", "yellow"), warning))
    for problems, names in group_hosts((name, plan.problems) for name, plan in plans.items()).items():
        if problems:
            err.print(Text(Verdict(problems).refusal(list_names(names)), "red"))
    takeovers = group_hosts((name, (plan.losses, plan.kept)) for name, plan in plans.items())
    for (losses, kept), names in takeovers.items():
        _print_takeover(out, list_names(names), losses, kept)
    for changes, names in group_hosts((name, plan.changes) for name, plan in plans.items()).items():
        if changes:
            out.print(Text(f"Changes on {list_names(names)}:", "bold"))
            _print_changes(out, changes)
    out.print(_summarize(plans))


def group_hosts(pairs: Iterable[tuple[str, K]]) -> dict[K, list[str]]:
    """The hosts' names by what they have in common."""
    groups: dict[K, list[str]] = {}
    for name, key in pairs:
        groups.setdefault(key, []).append(name)
    return groups


def list_names(names: list[str]) -> str:
    """Such as `mail1, mail2 and 18 more`."""
    more = len(names) - MAX_NAMES
    return f"{', '.join(names[:MAX_NAMES])} and {more} more" if more > 1 else ", ".join(names)


def _summarize(plans: Mapping[str, HostPlan]) -> str:
    unreached = [name for name, plan in plans.items() if plan.error]
    refused = [name for name, plan in plans.items() if plan.problems and not plan.error]
    changed = [name for name, plan in plans.items() if plan.changes]
    idle = len(plans) - len(unreached) - len(refused) - len(changed)
    parts = [f"{idle} with nothing to do"] if idle else []
    for names, text in ((changed, "with changes"), (refused, "that a deploy refuses"), (unreached, "not reached")):
        if names:
            parts.append(f"{len(names)} {text} ({list_names(names)})")
    return f"{count_noun(len(plans), 'host')}: {', '.join(parts)}; nothing was touched"


def _open_consoles() -> tuple[Console, Console]:
    out, err = (Console(stderr=stderr, highlight=False, soft_wrap=True) for stderr in (False, True))
    return out, err


def _print_changes(out: Console, changes: tuple[Change, ...]) -> None:
    operation = ""
    for change in changes:
        if change.operation != operation:
            operation = change.operation
            out.print(Text(f"  {operation}", "bold"))
        out.print(Text(f"    {change.action}"))
        for line in change.diff.splitlines():
            out.print(Text(f"      {line}", _DIFF_STYLES.get(line[:1], "")))


def _print_takeover(out: Console, name: str, losses: tuple[str, ...], kept: tuple[str, ...]) -> None:
    for title, style, lines in ((GONE, "bold red", losses), (KEPT, "bold", kept)):
        if lines:
            out.print(Text(f"{name}: {title}:", style))
            for line in lines:
                out.print(Text(f"  {line}"))


def _count_changes(changes: tuple[Change, ...]) -> str:
    if not changes:
        return "nothing to do"
    return f"{len(changes)} change{'s' if len(changes) > 1 else ''}; nothing was touched"
