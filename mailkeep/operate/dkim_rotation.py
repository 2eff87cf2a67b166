"""New DKIM keys in place of the current ones, so that every message can be verified: `mailkeep dkim rotate`.

A next key signs once its record is seen. The record of a former key stays until its `.until-DAY`: at least for a
week after the servers sign with the current key. Mail that the former key signed may still be under way.
"""

from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from shlex import quote

import dns.resolver

from mailkeep.dns import judge, observe, records
from mailkeep.dns.client import Question
from mailkeep.errors import UserError
from mailkeep.host.remote import RemoteHost, UnreachableError
from mailkeep.inventory.dkim_keys import (
    DkimKey,
    create_dkim_key,
    current_selectors,
    list_dkim_entries,
    read_dkim_key,
    signing_domains,
)
from mailkeep.inventory.hosts import read_hosts
from mailkeep.inventory.vault_entries import DkimEntry, KeyState
from mailkeep.operate.key_rotation import KeyRotation, describe_age, format_record
from mailkeep.parts import opendkim
from mailkeep.settings.models import Settings

FORMER_PERIOD = timedelta(days=7)  # mail waits in our queue for 5 days at most, and then in the receiver's

FindUnpublished = Callable[[list[DkimKey]], dict[DkimKey, str]]
"""Those of the keys whose record is not published, each with the reason."""

FindSigningSince = Callable[[list[DkimEntry]], dict[DkimEntry, date]]
"""Since when all servers sign with a key; a key that one of them does not sign with is left out."""


class DkimRotation(KeyRotation):
    """Of the keys of all domains at once."""

    verb = "mailkeep dkim rotate"

    def __init__(
        self,
        settings: Settings,
        inventory: Path,
        today: date,
        find_unpublished: FindUnpublished,
        find_signing_since: FindSigningSince,
        *,
        start_now: bool = False,
    ) -> None:
        super().__init__(settings, inventory, start_now=start_now)
        self.today = today
        self.find_unpublished, self.find_signing_since = find_unpublished, find_signing_since

    def has_next(self) -> bool:
        return bool(self._list_entries("next"))

    def has_former(self) -> bool:
        return bool(self._list_entries("former"))

    def create_next(self) -> Iterator[str]:
        domains, selectors = signing_domains(self.settings), current_selectors(self.vault)
        created = {domain: DkimEntry(domain, selectors[domain]).created_on for domain in domains if domain in selectors}
        due = [domain for domain, day in created.items() if self.is_due(day, self.today)]
        if not due:
            yield describe_age(max(created.values(), default=self.today))
            return
        yield "New keys are in the vault. They do not sign yet. Publish their records beside the current ones:"
        for entry in [create_dkim_key(self.vault, domain, self.today, "next") for domain in due]:
            yield format_record(records.dkim_record(read_dkim_key(self.vault, entry)))
        yield f"Then run {self.next_call}: the new keys sign once their records are published."

    def switch_to_next(self) -> Iterator[str]:
        keys = {read_dkim_key(self.vault, entry): entry for entry in self._list_entries("next")}
        unpublished = self.find_unpublished(list(keys))
        for key, reason in unpublished.items():
            yield f"{_record_name(keys[key])} is not published yet: {reason}."
        selectors = current_selectors(self.vault)
        published = [entry for key, entry in keys.items() if key not in unpublished]
        for entry in published:
            current = DkimEntry(entry.domain, selectors[entry.domain])
            self._replace_current(current, current.as_former(self.today + FORMER_PERIOD), entry)
            yield f"{entry.domain}: {entry.selector} replaces {current.selector} with the next deploy."
        if published:
            yield f"Run {self.deploy_command} now. Leave the former records published for a week after that."
        if unpublished:
            yield f"Publish what is missing; {self.dns_command} prints it."
        yield f"Then run {self.next_call}."

    def retire_former(self) -> Iterator[str]:
        former, selectors = self._list_entries("former"), current_selectors(self.vault)
        successors = {
            entry: DkimEntry(entry.domain, selectors[entry.domain]) for entry in former if entry.until_day <= self.today
        }
        signing_since = self.find_signing_since(list(successors.values())) if successors else {}
        retired: list[DkimEntry] = []
        needed_until: list[date] = []
        for entry in former:
            successor = successors.get(entry)
            if successor and successor not in signing_since:
                yield f"{_record_name(entry)} must stay: the server does not sign with {successor.selector} yet."
                continue
            last_day = signing_since[successor] + FORMER_PERIOD if successor else entry.until_day
            if last_day > self.today:
                needed_until.append(last_day)
                continue
            self.vault.delete(entry.name)
            retired.append(entry)
        yield from self._report_former(retired, needed_until, len(former))

    def _report_former(self, retired: list[DkimEntry], needed_until: list[date], former_count: int) -> Iterator[str]:
        if retired:
            yield "Nothing needs these former keys any more, and they are gone from the vault:"
            yield from (f"  {_record_name(entry)}" for entry in retired)
            yield f"Run {self.deploy_command}, so that the server does not miss their records; then remove the records."
        if needed_until:
            yield f"The former records must stay until {max(needed_until)}: mail signed with their keys is under way."
        if len(retired) == former_count:
            yield "The rotation is complete."
            return
        yield f"Run {self.deploy_command} if you have not since the keys were switched: their week begins with it."
        start = f"From {max(needed_until)} on" if needed_until else "A week after that"
        yield f"{start}, run {self.next_call}."

    def finish_switch(self) -> None:
        """An interrupted `_replace_current` leaves a key in two states. A key that signs is only current; a former key
        that no longer signs is only former."""
        entries, selectors = list_dkim_entries(self.vault), current_selectors(self.vault)
        former = {(entry.domain, entry.selector) for entry in entries if entry.state == "former"}
        for entry in entries:
            signs = selectors.get(entry.domain) == entry.selector
            is_leftover = not signs and (entry.domain, entry.selector) in former if entry.state == "current" else signs
            if is_leftover:
                self.vault.delete(entry.name)

    def _replace_current(self, current: DkimEntry, former: DkimEntry, next_: DkimEntry) -> None:
        """Interrupted anywhere in between, no key is lost, and `finish_switch` does the rest."""
        self.vault.write(former.name, self.vault.read(current.name))
        self.vault.write(DkimEntry(next_.domain, next_.selector).name, self.vault.read(next_.name))
        self.vault.delete(current.name)
        self.vault.delete(next_.name)

    def _list_entries(self, state: KeyState) -> list[DkimEntry]:
        domains = signing_domains(self.settings)
        return [entry for entry in list_dkim_entries(self.vault) if entry.state == state and entry.domain in domains]


def _record_name(entry: DkimEntry) -> str:
    return f"{entry.selector}._domainkey.{entry.domain}"


def find_unpublished(keys: list[DkimKey], resolver: dns.resolver.Resolver) -> dict[DkimKey, str]:
    """The keys whose record the resolver, or a server of the zone, does not give as it should be, each with the
    reason."""
    key_by_name = {records.dkim_record(key).name: key for key in keys}
    answers = observe.query_names([Question(name, "TXT") for name in key_by_name], resolver)
    findings = judge.judge_records(map(records.dkim_record, keys), answers)
    return {key_by_name[finding.name]: finding.problem for finding in findings}


def find_signing_since(entries: list[DkimEntry], inventory: Path) -> dict[DkimEntry, date]:
    """Since when all servers sign with these keys. UserError when a server cannot be asked."""
    files = " ".join(quote(opendkim.key_path(entry.domain, entry.selector)) for entry in entries)
    seconds: dict[DkimEntry, list[int]] = {entry: [] for entry in entries}
    for name, data in read_hosts(inventory).items():
        try:
            output = RemoteHost(name, data).run(_SIGNING_SINCE.format(files=files)).stdout
        except UnreachableError as error:
            raise UserError(f"{name}: {error}. {error.remedy}") from None
        for entry, second in zip(entries, map(int, output.split()), strict=True):
            seconds[entry].append(second)
    return {
        entry: datetime.fromtimestamp(max(on_hosts)).date()
        for entry, on_hosts in seconds.items()
        if on_hosts and all(on_hosts)
    }


# For each file its Unix time; 0 if it is missing, or if OpenDKIM, which reads keys only when it starts, is older.
_SIGNING_SINCE = """\
started=$(systemctl show --timestamp unix --property ActiveEnterTimestamp --value opendkim.service)
started=${{started#@}}
for file in {files}; do
    since=$(stat --format %Y "$file" 2>/dev/null || echo 0)
    echo $((since <= ${{started:-0}} ? since : 0))
done"""
