"""`mailkeepctl status`: one screen for three in the morning. What is wrong now, since when, what to do next."""

import argparse
import json
import re
import textwrap
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from mailkeep_server.common.wording import count_noun
from mailkeep_server.operator.findings import HARM, Finding, Findings, collect_findings, load_watch_config

COLUMNS, LINES = 79, 23
"""Of a terminal of 80 x 24, whose last line has the prompt."""
_NO_BREAK = "\0"
WELL, WRONG, UNSEEN = 0, 3, 4
"""Exit codes. 1 is an error of the command itself, 2 wrong arguments."""


def run_status(options: argparse.Namespace) -> int:
    findings = collect_findings(load_watch_config())
    if options.json:
        print(json.dumps(_to_json(findings), indent=2))
    else:
        print("\n".join(format_screen(findings, 10**6 if options.all else LINES)))
    if findings.wrong:
        return WRONG
    return UNSEEN if findings.not_looked_at else WELL


def _to_json(findings: Findings) -> dict[str, object]:
    wrong = [
        {"key": finding.key, "harm": HARM[finding.harm], "text": finding.text, "since": finding.since or None}
        for finding in findings.wrong
    ]
    return {
        "host": findings.host,
        "at": findings.at,
        "wrong": wrong,
        "looked_at": sorted(findings.looked_at),
        "not_looked_at": findings.not_looked_at,
    }


def format_screen(findings: Findings, max_lines: int) -> Iterator[str]:
    moment = f"{datetime.fromtimestamp(findings.at, UTC):%Y-%m-%d %H:%M} UTC"
    looked_at = count_noun(len(findings.looked_at), "thing")
    unseen = [*_format_unseen(findings)]
    if not findings.wrong:
        extent = f"nothing is wrong in {looked_at}" if unseen else f"all is well: {looked_at} looked at"
        yield f"{findings.host}, {moment}: {extent}."
        yield from unseen
        return
    number = count_noun(len(findings.wrong), "thing is", "things are")
    yield f"{findings.host}, {moment}: {number} wrong, the worst first."
    blocks = [[*_format_finding(finding, findings.at)] for finding in findings.wrong]
    room, shown = max_lines - 2 - len(unseen), 0  # the head, and the line about the rest
    for block in blocks:
        if shown and len(block) > room:
            break
        yield from block
        room, shown = room - len(block), shown + 1
    if shown < len(blocks):
        yield f"and {len(blocks) - shown} more: `mailkeepctl status --all`"
    yield from unseen


def _format_finding(finding: Finding, now: float) -> Iterator[str]:
    yield f"* {HARM[finding.harm].upper()}, {_describe_since(finding.since, now)}"
    # A command stays on one line, to be copied.
    text = re.sub(r"`[^`]*`", lambda command: command[0].replace(" ", _NO_BREAK), finding.text)
    for line in textwrap.wrap(text, COLUMNS, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False):
        yield line.replace(_NO_BREAK, " ")


def _describe_since(since: float, now: float) -> str:
    if not since:
        return "since when is not known"
    minutes = max(0, int(now - since) // 60)
    length = (
        f"{minutes} min" if minutes < 120 else f"{minutes // 60} h" if minutes < 2880 else f"{minutes // 1440} days"
    )
    return f"since {time.strftime('%Y-%m-%d %H:%M', time.gmtime(since))} UTC ({length})"


def _format_unseen(findings: Findings) -> list[str]:
    """In a few lines: a reason names all that has it."""
    reasons: dict[str, list[str]] = {}
    for name, reason in findings.not_looked_at.items():
        reasons.setdefault(reason, []).append(name)
    texts = [f"{', '.join(names)} ({reason})" for reason, names in reasons.items()]
    if not texts:
        return []
    return textwrap.wrap(f"Not looked at: {'; '.join(texts)}.", COLUMNS, max_lines=4, placeholder=" …")
