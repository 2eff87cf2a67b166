"""A new DKIM key in place of the old one, without a message that nobody can verify.

The vault says how far it is (`mailkeep.secrets`): a key is first `.next`, and its record published beside the present
one's; it signs once that record is seen; then the former key is `.until-DAY`. Its record stays that long at least, and
for a week after the servers began to sign with the new key. Each call does what can be done by now and says what to do
next, so it may be repeated, and interrupted, at will.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from shlex import quote

import dns.resolver

from mailkeep.dns import judge, observe, records
from mailkeep.dns.client import Question
from mailkeep.errors import UserError
from mailkeep.host.remote import RemoteHost, UnreachableError
from mailkeep.inventory import hosts as inventories
from mailkeep.inventory.dkim_keys import (
    DkimKey,
    create_dkim_key,
    current_selectors,
    list_dkim_entries,
    read_dkim_key,
    signing_domains,
)
from mailkeep.inventory.hosts import inventory_label
from mailkeep.inventory.vault import Vault, open_vault
from mailkeep.inventory.vault_entries import DkimEntry
from mailkeep.parts import opendkim
from mailkeep.settings.models import Settings

KEPT = timedelta(days=7)  # longer than mail waits in our queue (at most 5 days) and then in the receiver's
LEAST_AGE = timedelta(days=30)

Unseen = Callable[[list[DkimKey]], dict[DkimKey, str]]
Since = Callable[[list[DkimEntry]], dict[DkimEntry, date]]


def rotate(
    settings: Settings, inventory: Path, today: date, unseen: Unseen, since: Since, *, now: bool = False
) -> list[str]:
    """The next step, for all keys: what was done and what to do. `unseen` looks which of these keys' records are not
    published, and says why; `since`, from when on the servers sign with these, those left out that they do not all sign
    with; `now` begins even if the keys are new."""
    safe, name = open_vault(inventory), inventory_label(inventory)
    _finish(safe)
    domains = signing_domains(settings)
    stored = [one for one in list_dkim_entries(safe) if one.domain in domains]
    if following := [one for one in stored if one.state == "next"]:
        return [*_switch(safe, following, today, unseen, name)]
    if former := [one for one in stored if one.state == "former"]:
        return [*_retire(safe, former, today, since, name)]
    return [*_begin(safe, domains, today, name, now)]


def _begin(safe: Vault, domains: Iterable[str], today: date, name: str, now: bool) -> Iterator[str]:
    signing = current_selectors(safe)
    made = {domain: DkimEntry(domain, signing[domain]).created_on for domain in domains if domain in signing}
    due = {domain for domain, day in made.items() if day < today and (now or today - day >= LEAST_AGE)}
    if not due:
        newest = max(made.values(), default=today)
        yield f"The keys are of {newest}; from {newest + LEAST_AGE} on it is time for new ones (any day later: --now)."
        return
    new = [create_dkim_key(safe, domain, today, "next") for domain in domains if domain in due]
    yield "New keys are in the vault, and do not sign yet. Publish their records beside the present ones:"
    for one in new:
        record = records.dkim_record(read_dkim_key(safe, one))
        yield f"{record.name}  {record.type}\n  {record.value}"
    yield f"Then run `mailkeep dkim rotate {name}` again: it looks whether they are seen, and only then has them sign."


def _switch(safe: Vault, following: list[DkimEntry], today: date, unseen: Unseen, name: str) -> Iterator[str]:
    keys = {read_dkim_key(safe, one): one for one in following}
    missing = unseen(list(keys))
    for key, reason in missing.items():
        yield f"{_record(keys[key])} is not seen yet: {reason}."
    signing = current_selectors(safe)
    seen = [one for key, one in keys.items() if key not in missing]
    for one in seen:
        former = DkimEntry(one.domain, signing[one.domain])
        _move(safe, former, former.as_former(today + KEPT), one)
        yield f"{one.domain}: {one.selector} signs in place of {former.selector}."
    if seen:
        yield f"Run `mailkeep deploy {name}` now. Leave the former records where they are for a week after that."
    if missing:
        yield f"Publish what is missing; `mailkeep dns {name}` prints it."
    yield f"Then run `mailkeep dkim rotate {name}` again."


def _move(safe: Vault, former: DkimEntry, kept: DkimEntry, new: DkimEntry) -> None:
    """Killed anywhere in between, no key is lost, and `_finish` does the rest."""
    safe.write(kept.name, safe.read(former.name))
    safe.write(DkimEntry(new.domain, new.selector).name, safe.read(new.name))
    safe.delete(former.name)
    safe.delete(new.name)


def _finish(safe: Vault) -> None:
    """What an interrupted `_move` has left: a key that signs needs no other state, nor a former one another name."""
    stored, signing = list_dkim_entries(safe), current_selectors(safe)
    former = {(one.domain, one.selector) for one in stored if one.state == "former"}
    for one in stored:
        signs = signing.get(one.domain) == one.selector
        if signs if one.state != "current" else not signs and (one.domain, one.selector) in former:
            safe.delete(one.name)


def _retire(safe: Vault, former: list[DkimEntry], today: date, since: Since, name: str) -> Iterator[str]:
    selectors = current_selectors(safe)
    new = {one: DkimEntry(one.domain, selectors[one.domain]) for one in former if one.until_day <= today}
    began = since(list(new.values())) if new else {}
    over: list[DkimEntry] = []
    until: list[date] = []
    for one in former:
        if one in new and new[one] not in began:
            yield f"{_record(one)} must stay: the server does not sign with {new[one].selector} yet."
            continue
        day = began[new[one]] + KEPT if one in new else one.until_day
        if day > today:
            until.append(day)
            continue
        safe.delete(one.name)
        over.append(one)
    if over:
        yield "The time of these keys is over, and they are gone from the vault:"
        yield from (f"  {_record(one)}" for one in over)
        yield f"Run `mailkeep deploy {name}`, so that the server does not miss their records; then remove those."
    if until:
        yield f"The former records must stay until {max(until)}: mail that was signed with their keys is under way."
    if len(over) < len(former):
        yield f"Run `mailkeep deploy {name}`, if you have not since the keys were switched: their week begins with it."
        again = f"From {max(until)} on" if until else "A week after that"
        yield f"{again}, run `mailkeep dkim rotate {name}` again."
    else:
        yield "The rotation is done."


def _record(key: DkimEntry) -> str:
    return f"{key.selector}._domainkey.{key.domain}"


def unseen(keys: list[DkimKey], resolver: dns.resolver.Resolver) -> dict[DkimKey, str]:
    """The keys whose record the resolver, or any server of the zone, does not give as it should be."""
    listed = {records.dkim_record(key).name: key for key in keys}
    seen = observe.query_names([Question(name, "TXT") for name in listed], resolver)
    return {listed[one.name]: one.problem for one in judge.judge_records(map(records.dkim_record, keys), seen)}


def signing_since(keys: list[DkimEntry], inventory: Path) -> dict[DkimEntry, date]:
    """Since when the servers have these keys, by the newest; those left out that one lacks, or has not loaded.
    UserError when one cannot be asked."""
    files = " ".join(quote(opendkim.key_path(key.domain, key.selector)) for key in keys)
    found: dict[DkimEntry, list[int]] = {key: [] for key in keys}
    for name, data in inventories.read_hosts(inventory).items():
        try:
            said = RemoteHost(name, data).run(_SINCE.format(files=files)).stdout.split()
        except UnreachableError as error:
            raise UserError(f"{name}: {error}. {error.remedy}") from None
        for key, second in zip(keys, map(int, said), strict=True):
            found[key].append(second)
    everywhere = {key: seconds for key, seconds in found.items() if seconds and all(seconds)}
    return {key: datetime.fromtimestamp(max(seconds)).date() for key, seconds in everywhere.items()}


# A second for each file, 0 where OpenDKIM, which reads its keys when it starts, has not started since it is there.
_SINCE = """\
started=$(systemctl show --timestamp unix --property ActiveEnterTimestamp --value opendkim.service)
started=${{started#@}}
for file in {files}; do
    since=$(stat --format %Y "$file" 2>/dev/null || echo 0)
    echo $((since <= ${{started:-0}} ? since : 0))
done"""
