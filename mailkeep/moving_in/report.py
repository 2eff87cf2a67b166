"""What `mailkeep inspect` prints: as text for people, as data for scripts. Neither holds a hash or a key."""

import re
from collections.abc import Iterator
from typing import Any

from mailkeep.moving_in.accounts import Verdict
from mailkeep.moving_in.draft import describe_use, make_printable
from mailkeep.moving_in.inspection import Inspection
from mailkeep.moving_in.notes import list_notes
from mailkeep.settings.password_hashes import find_hash_kind
from mailkeep_server.common.wording import count_noun

MAX_FOLDERS = 6


def format_inspection(inspection: Inspection, server: str) -> list[str]:
    """Lines, with what becomes of everything."""
    lines = [
        f"{server}: {_name_system(inspection)}. {_list_words('mail domain', inspection.names.domains)}.",
        *_format_accounts(inspection),
        *_format_aliases(inspection),
        *_format_keys(inspection),
        *_format_others(inspection),
    ]
    return [make_printable(line) if line.strip() else line for text in lines for line in text.split("\n")]


def _name_system(inspection: Inspection) -> str:
    match = re.search(r'^PRETTY_NAME="?([^"\n]+)', inspection.observed.read_text("/etc/os-release"), re.MULTILINE)
    return match[1] if match else "an unknown system"


def _list_words(noun: str, words: tuple[str, ...]) -> str:
    return f"{count_noun(len(words), noun)}: {', '.join(words)}" if words else f"no {noun}"


def _format_accounts(inspection: Inspection) -> Iterator[str]:
    accounts = [verdict for verdict in inspection.verdicts if verdict.becomes_account]
    others = [verdict for verdict in inspection.verdicts if not verdict.becomes_account]
    yield f"\n{count_noun(len(accounts), 'account')}, with the passwords that they have:"
    for verdict in accounts:
        yield f"  {verdict.candidate.address}  {describe_use(verdict.candidate)}; {_describe_hash(verdict)}"
        for mailbox in verdict.candidate.mailboxes:
            folders = [folder.path.removeprefix(mailbox.path).lstrip("/.") for folder in mailbox.folders]
            names = sorted(name for name in folders if name)
            more = f" and {len(names) - MAX_FOLDERS} more" if len(names) > MAX_FOLDERS else ""
            listing = f", with {', '.join(names[:MAX_FOLDERS])}{more}" if names else ""
            yield f"    {mailbox.kind} {mailbox.path}{listing}"
    if others:
        yield f"\n{len(others)} that do not become accounts:"
    for verdict in others:
        candidate = verdict.candidate
        mark = "  (TODO: only you know whether a person uses it)" if verdict.needs_answer else ""
        yield f"  {candidate.address or candidate.login}  {verdict.reason}. {describe_use(candidate)}{mark}"


def _describe_hash(verdict: Verdict) -> str:
    parsed = find_hash_kind(verdict.password)
    weaker = ", weaker than ours" if parsed and parsed.is_weaker_than_ours else ""
    result = parsed.kind.name if parsed else "no hash"
    return f"{result}{weaker}"


def _format_aliases(inspection: Inspection) -> Iterator[str]:
    new = inspection.new_aliases
    yield f"\n{count_noun(len(inspection.all_aliases), 'alias', 'aliases')}, {len(new.catch_all)} catch-all"
    for row in new.left_out:
        yield f"  without a counterpart: {row.line}: {row.reason}"


def _format_keys(inspection: Inspection) -> Iterator[str]:
    yield "" if inspection.keys else "\nNo DKIM key: the new server signs with keys of its own, whose records are new."
    for key in inspection.keys:
        yield f"DKIM: {key.domain} keeps its key, selector {key.selector} ({key.program}, {key.path})"


def _format_others(inspection: Inspection) -> Iterator[str]:
    yield ""
    for listener in inspection.listeners:
        program = f" ({listener.program})" if listener.program else ""
        yield f"Also listens: {listener.port}/{listener.protocol} {listener.kind or 'something unknown'}{program}"
    for job in inspection.jobs:
        yield f"Cron job that sends mail: {job.file}, as {job.user}: {job.line}"
    yield from list_notes(inspection)


def describe_as_data(inspection: Inspection, server: str) -> dict[str, Any]:
    """For `--json`."""
    return {
        "server": server,
        "system": _name_system(inspection),
        "host_name": inspection.names.host,
        "domains": list(inspection.names.domains),
        "accounts": [_verdict_as_data(inspection, verdict) for verdict in inspection.verdicts],
        "aliases": {name: list(targets) for name, targets in inspection.all_aliases.items()},
        "catch_all": dict(inspection.new_aliases.catch_all),
        "left_out": [{"line": row.line, "reason": row.reason} for row in inspection.new_aliases.left_out],
        "dkim": [
            {
                "domain": key.domain,
                "selector": key.selector,
                "path": key.path,
                "program": key.program,
                "taken_over": key in inspection.keys,
            }
            for key in inspection.all_keys
        ],
        "listening": [
            {"port": item.port, "protocol": item.protocol, "program": item.program, "kind": item.kind}
            for item in inspection.listeners
        ],
        "cron": [{"file": job.file, "user": job.user, "line": job.line} for job in inspection.jobs],
        "sieve": [line.partition("\t")[0] for line in inspection.observed.output_lines("sieve")],
        "notes": list_notes(inspection),
    }


def _verdict_as_data(inspection: Inspection, verdict: Verdict) -> dict[str, Any]:
    candidate, result = verdict.candidate, inspection.results.get(verdict.candidate.address)
    parsed = find_hash_kind(verdict.password)
    return {
        "address": candidate.address,
        "login": candidate.login,
        "source": candidate.source,
        "becomes_account": verdict.becomes_account,
        "needs_answer": verdict.needs_answer,
        "reason": verdict.reason,
        "hash": parsed.kind.name if parsed else "",
        "tried_passwords": result.tries if result else 0,
        "messages": candidate.messages,
        "bytes": candidate.size,
        "logins": candidate.logins,
        "mailboxes": [
            {
                "path": mailbox.path,
                "kind": mailbox.kind,
                "folders": [
                    {"path": folder.path, "messages": folder.messages, "bytes": folder.size}
                    for folder in mailbox.folders
                ],
            }
            for mailbox in candidate.mailboxes
        ],
    }
