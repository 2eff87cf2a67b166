"""All that `mailkeep inspect` concludes from what a foreign server showed."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from pydantic_core import PydanticCustomError

from mailkeep.moving_in import accounts, aliases, dkim, draft, postfix_config, services
from mailkeep.moving_in.observed import Observed
from mailkeep.moving_in.server_names import ServerNames, find_names
from mailkeep.moving_in.weak_passwords import Trial, TrialResult, try_passwords
from mailkeep.settings.fields import parse_host_name, parse_public_address

TryAll = Callable[[Mapping[str, Trial]], Mapping[str, TrialResult]]


@dataclass(frozen=True)
class Inspection:
    """What a server is, by what it showed. `results` are those of the tried passwords, by address."""

    observed: Observed
    parameters: Mapping[str, str]
    names: ServerNames
    candidates: tuple[accounts.Candidate, ...]
    old_aliases: tuple[aliases.Alias, ...]
    results: Mapping[str, TrialResult]

    @cached_property
    def verdicts(self) -> tuple[accounts.Verdict, ...]:
        guessed = {address: result.guessed for address, result in self.results.items() if result.guessed}
        untried = {address: result.untried for address, result in self.results.items() if result.untried}
        return tuple(accounts.judge_candidates(self.candidates, self.observed, guessed, untried))

    @cached_property
    def new_aliases(self) -> aliases.NewAliases:
        addresses = draft.list_addresses(self.verdicts)
        linux = [verdict.candidate for verdict in self.verdicts if verdict.becomes_account]
        # A Linux account gets mail in every domain of mydestination.
        everywhere = [
            aliases.Alias(f"{candidate.login.lower()}@{domain}", (candidate.address,), "mydestination")
            for candidate in linux
            if candidate.uid is not None
            for domain in self.names.local[1:]
        ]
        system_users = frozenset(
            fields[0]
            for line in self.observed.read_text("/etc/passwd").splitlines()
            if len(fields := line.split(":")) > 2 and fields[2].isdigit() and int(fields[2]) < accounts.FIRST_USER
        )
        return aliases.translate_aliases((*self.old_aliases, *everywhere), self.names, addresses, system_users)

    @cached_property
    def all_aliases(self) -> dict[str, tuple[str, ...]]:
        """With postmaster and abuse for each domain, if anybody is there to get their mail."""
        present = dict(self.new_aliases.aliases)
        addresses = draft.list_addresses(self.verdicts)
        first = self.new_aliases.root or tuple(sorted(addresses))[:1]
        for domain in self.names.domains:
            for role in aliases.ROLES:
                if first and (name := f"{role}@{domain}") not in addresses:
                    present.setdefault(name, first)
        return present

    @cached_property
    def keys(self) -> list[dkim.SigningKey]:
        """The key that signs for each domain of the new server, if its file was there."""
        by_domain: dict[str, dkim.SigningKey] = {}
        for key in self.all_keys:
            if key.pem and key.domain in (*self.names.domains, self.host_name):
                by_domain.setdefault(key.domain, key)
        return list(by_domain.values())

    @cached_property
    def all_keys(self) -> list[dkim.SigningKey]:
        return dkim.find_signing_keys(self.observed, (*self.names.domains, self.names.host))

    @property
    def host_name(self) -> str:
        """For the new server: the old name, unless that is a mail domain."""
        for name in (self.names.host, f"mail.{self.names.primary}" if self.names.primary else ""):
            try:
                if name and name not in self.names.domains:
                    return parse_host_name(name)
            except PydanticCustomError:
                continue
        return ""

    @cached_property
    def listeners(self) -> list[services.Listener]:
        return services.find_listeners(self.observed)

    @cached_property
    def jobs(self) -> list[services.MailingJob]:
        return services.find_mailing_jobs(self.observed)

    @cached_property
    def own_addresses(self) -> list[str]:
        """The old server's public addresses."""
        texts = re.findall(r"\binet6? ([0-9a-f.:]+)/", self.observed.outputs.get("addresses", ""))
        addresses = []
        for text in texts:
            try:
                addresses.append(str(parse_public_address(text)))
            except PydanticCustomError:
                continue
        return list(dict.fromkeys(addresses))


def inspect_observed(observed: Observed, try_all: TryAll = try_passwords) -> Inspection:
    """`try_all` tries the passwords, which may take minutes."""
    parameters = postfix_config.read_parameters(observed)
    old_aliases = tuple(aliases.read_aliases(observed, parameters))
    names = find_names(observed, parameters, aliases.list_alias_domains(old_aliases))
    # Virtual accounts may be in domains that nothing else names.
    virtual = [candidate for candidate in accounts.find_candidates(observed, names) if candidate.uid is None]
    domains = [candidate.address.rpartition("@")[2] for candidate in virtual]
    names = find_names(observed, parameters, [*domains, *aliases.list_alias_domains(old_aliases)])
    candidates = tuple(accounts.find_candidates(observed, names))
    results = try_all(accounts.list_hashes_to_try(candidates, names))
    return Inspection(observed, parameters, names, candidates, old_aliases, results)
