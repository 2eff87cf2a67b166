"""The inventory that becomes of a foreign server: mail.yml, inventory.py, and a vault with its DKIM keys."""

import re
import shlex
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from mailkeep.errors import UserError
from mailkeep.inventory import create, secrets, vault
from mailkeep.inventory.dkim_keys import take_over_dkim_key
from mailkeep.inventory.hosts import HOSTS_FILE, SETTINGS_FILE, UNANSWERED, inventory_label
from mailkeep.moving_in.draft import DraftFacts, make_printable, render_draft
from mailkeep.moving_in.inspection import Inspection
from mailkeep.moving_in.notes import list_notes
from mailkeep.settings.load import parse_settings
from mailkeep.settings.models import Settings
from mailkeep.settings.yaml_reader import Problem, SettingsError

MAX_NAMED_IMPORTS = 5
SHORT_KEY = 2048  # bits of RSA
_RELAY_HOST = re.compile(r"\[?([^\]:]+)\]?(?::(\w+))?")  # [HOST]:PORT of Postfix


def make_draft(inspection: Inspection, server: str, today: date, addresses: list[str], *, is_same_machine: bool) -> str:
    """The text of mail.yml. `addresses` are those that the operator gave for the new server."""
    own_addresses = inspection.own_addresses if is_same_machine else []
    relay = _RELAY_HOST.fullmatch(inspection.parameters.get("relayhost", "").strip())
    size = inspection.parameters.get("message_size_limit", "")
    facts = DraftFacts(
        server=server,
        today=str(today),
        host_name=inspection.host_name,
        addresses=addresses or own_addresses,
        domains=inspection.names.domains,
        verdicts=inspection.verdicts,
        aliases=inspection.all_aliases,
        catch_all=inspection.new_aliases.catch_all,
        left_out=inspection.new_aliases.left_out,
        admin=inspection.new_aliases.root,
        keys=inspection.keys,
        relay=(relay[1], relay[2] or "25") if relay else None,
        relay_has_login=inspection.parameters.get("smtp_sasl_auth_enable") == "yes",
        message_size=int(size) if size.isdigit() else 0,
        listeners=inspection.listeners,
        jobs=inspection.jobs,
        notes=list_notes(inspection),
        sources={
            "host.name": "that of the old server"
            if inspection.host_name == inspection.names.host
            else "a name in the first domain",
            "host.addresses": "as you said" if addresses else "those of the old server",
            "domains": "mydestination, virtual domains, and those of accounts and aliases",
        },
    )
    return render_draft(facts)


def find_unanswered(text: str) -> list[Problem]:
    """What `mailkeep check` would say about this mail.yml."""
    try:
        parse_settings(Path(SETTINGS_FILE), text)
    except SettingsError as error:
        return list(error.problems)
    return []


def list_questions(text: str) -> list[tuple[int, str]]:
    """Each comment that asks something, with its line number."""
    lines = enumerate(text.splitlines(), start=1)
    return [(number, line.partition("# TODO: ")[2].strip()) for number, line in lines if "# TODO: " in line]


def write_new_inventory(target: Path, text: str, ssh_host: str, inspection: Inspection, today: date) -> list[str]:
    """Writes the inventory, complete or not at all. Returns a line for each key. UserError if `target` exists."""
    hosts = create.render_hosts(ssh_host or UNANSWERED)
    return create.write_inventory(
        target, text.encode(), hosts, lambda stage: _fill_vault(stage, text, inspection, today)
    )


def describe_outcome(
    target: Path, text: str, keys: list[str], inspection: Inspection, server: str, *, is_host_known: bool
) -> Iterator[str]:
    """What was written, what the operator must answer, and what to do next. `server` is the old one's `[USER@]HOST`."""
    label, problems = inventory_label(target), find_unanswered(text)
    identity = vault.identity_path(target)
    yield f"\nWritten: {target}/, a draft, with"
    yield from (f"  {line}" for line in keys or ["no key yet"])
    yield f"Back up {identity}: it alone opens the keys."
    if problems or not is_host_known:
        yield f"\n`mailkeep check {label}` refuses the draft until you answer:"
        yield from (
            f"  {SETTINGS_FILE}:{problem.line}: {problem.field}: expected {problem.expected}" for problem in problems
        )
        if not is_host_known:
            yield f"  {HOSTS_FILE}: how SSH reaches the new server, in place of {UNANSWERED}"
    questions = [(line, question) for line, question in list_questions(text) if line not in {p.line for p in problems}]
    if questions:
        yield "\nIt does not refuse these, and they want your answer too:"
        yield from (f"  {SETTINGS_FILE}:{line}: {question}" for line, question in questions)
    yield "\nThen look at each `guess:` in it. Next:"
    yield f"  `mailkeep keys {label}` creates the keys that are still missing."
    yield f"  `mailkeep check {label}` must accept it."
    yield f"  `mailkeep deploy {label}` builds the new server."
    yield from _list_imports(label, inspection, server)
    yield f"  `mailkeep dns {label} --moving` says which DNS records to change, and when."


def _list_imports(label: str, inspection: Inspection, server: str) -> Iterator[str]:
    """The commands that copy the mail."""
    sources = [
        (verdict.candidate.address, mailbox.path)
        for verdict in inspection.verdicts
        if verdict.becomes_account
        for mailbox in verdict.candidate.mailboxes
    ]
    for address, path in sources[:MAX_NAMED_IMPORTS]:
        source = make_printable(shlex.quote(f"ssh://{server}{path}"))
        yield f"  `mailkeep import {label} {address} --from {source}` copies mail."
    if len(sources) > MAX_NAMED_IMPORTS:
        yield f"  And so on for {len(sources) - MAX_NAMED_IMPORTS} more mailboxes, which are named above."


def _fill_vault(stage: Path, text: str, inspection: Inspection, today: date) -> list[str]:
    """The old server's DKIM keys; and if mail.yml is valid by now, all others that it needs."""
    new_vault = vault.create_vault(stage / "secrets", stage / vault.IDENTITY)
    lines = []
    for key in inspection.keys:
        try:
            entry, bits = take_over_dkim_key(new_vault, key.domain, key.selector, key.pem, key.path)
        except UserError as error:
            lines.append(f"DKIM key for {key.domain} not taken over: {error}")
            continue
        short = (
            ", short by today's measure: `mailkeep dkim rotate` replaces it after the move" if bits < SHORT_KEY else ""
        )
        lines.append(f"DKIM key for {key.domain}, selector {entry.selector}, of the old server (RSA {bits}{short})")
    settings = _parse_or_none(text)
    return [*lines, *(secrets.create_missing_keys(settings, stage, today) if settings else [])]


def _parse_or_none(text: str) -> Settings | None:
    try:
        return parse_settings(Path(SETTINGS_FILE), text)
    except SettingsError:
        return None
