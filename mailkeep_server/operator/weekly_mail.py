"""`mailkeep-weekly.timer`: a mail of one page to the administrators, each Monday. It says that all is well, when it is.

Usage: weekly [--print]
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from mailkeep_server.common.wording import count_noun, describe_error
from mailkeep_server.operator.findings import HARM, Findings, collect_findings
from mailkeep_server.operator.weekly_facts import ERRORS, SECTIONS, WEEK, clean_line, list_unusual_events
from mailkeep_server.watch.alert_queue import Notification
from mailkeep_server.watch.channels import NotSentError, send_mail
from mailkeep_server.watch.config import FILE, WatchConfig, load_config

MAX_FINDINGS = 5


@dataclass(frozen=True)
class Weekly:
    subject: str
    lines: tuple[str, ...]


def main(arguments: list[str]) -> int:
    try:
        config = load_config()
    except (OSError, ValueError, TypeError, KeyError) as error:
        print(f"{FILE}: {describe_error(error)}", file=sys.stderr)
        return 1
    now = time.time()
    weekly = build_weekly(config, now)
    text = "".join(f"{line}\n" for line in weekly.lines)
    if arguments == ["--print"]:
        print(f"{weekly.subject}\n\n{text}", end="")
        return 0
    try:
        print(send_mail(Notification(int(now * 1000), now, weekly.subject, text, urgent=False), config))
    except (NotSentError, OSError) as error:
        print(f"The weekly mail was not sent: {error}", file=sys.stderr)
        return 1
    return 0


def build_weekly(config: WatchConfig, now: float) -> Weekly:
    findings = collect_findings(config)
    unread: dict[str, str] = {}
    sections = [line for name in SECTIONS for line in _read_section(name, config, now, unread)]
    unusual = _count_unusual(config, now)
    first, last = (f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}" for at in (now - WEEK, now))
    lines = [f"The week from {first} to {last} on {config.host}.", "", *_describe_now(findings), "", *sections, ""]
    lines += [f"Not known: {name} ({reason})." for name, reason in unread.items()]
    lines.append("`mailkeep status` shows what is wrong now. `alerts: {weekly: no}` in mail.yml ends this mail.")
    verdict = _judge(findings, unusual, unread)
    return Weekly(f"[{config.host}] The week: {verdict}", tuple(map(clean_line, lines)))


def _judge(findings: Findings, unusual: int, unread: dict[str, str]) -> str:
    """All is well only if all was looked at, and is."""
    if findings.wrong:
        return f"{count_noun(len(findings.wrong), 'thing is', 'things are')} wrong"
    if unusual:
        return f"{count_noun(unusual, 'unusual event')}"
    if unread or findings.not_looked_at:
        return "nothing is wrong in what could be looked at"
    return "all is well"


def _describe_now(findings: Findings) -> Iterator[str]:
    looked_at = count_noun(len(findings.looked_at), "thing")
    if findings.wrong:
        yield f"Now: {count_noun(len(findings.wrong), 'thing is', 'things are')} wrong, the worst first."
    else:
        yield f"Now: nothing is wrong, in {looked_at} that were looked at."
    for finding in findings.wrong[:MAX_FINDINGS]:
        yield f"  {HARM[finding.harm]}: {finding.text}"
    if len(findings.wrong) > MAX_FINDINGS:
        yield f"  and {len(findings.wrong) - MAX_FINDINGS} more"
    if findings.not_looked_at:
        yield f"  Not looked at: {', '.join(findings.not_looked_at)}."


def _read_section(name: str, config: WatchConfig, now: float, unread: dict[str, str]) -> list[str]:
    """Its lines; none if it cannot look, and then the reason is in `unread`."""
    try:
        return list(SECTIONS[name](config, now))
    except ERRORS as error:
        unread[name] = describe_error(error)
        return []


def _count_unusual(config: WatchConfig, now: float) -> int:
    """0 also if the guard does not answer, which its section says."""
    try:
        return len(list_unusual_events(config, now))
    except ERRORS:
        return 0
