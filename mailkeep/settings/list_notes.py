"""Lists that are longer than their writers' limits: each member counts as a recipient, named or behind an alias."""

from collections.abc import Iterator

from mailkeep.settings.models import Settings
from mailkeep.settings.sections import Account
from mailkeep_server.common.alias_reach import AliasReach

RECIPIENT_LIMITS = ("recipients_per_10_minutes", "recipients_per_hour", "recipients_per_day")
MAX_NOTES = 10


def describe_short_limits(settings: Settings) -> list[str]:
    """A note for each list that nobody can write to in full, or not an account that sends as the list."""
    notes = [*_find_short_limits(settings)]
    more = [f"{len(notes) - MAX_NOTES} further lists are longer than their writers' limits"]
    return notes[:MAX_NOTES] + (more if len(notes) > MAX_NOTES else [])


def _find_short_limits(settings: Settings) -> Iterator[str]:
    own = frozenset((*settings.domains, settings.host.name))
    reach = AliasReach(settings.aliases, settings.catch_all, settings.account_addresses, own)
    capacities = {account.address: _smallest_limit(settings, account) for account in settings.accounts}
    largest = max((capacity for capacity, _ in capacities.values()), default=0)
    owners: dict[str, list[str]] = {}
    for account in settings.accounts:
        for address in account.send_as:
            owners.setdefault(address, []).append(account.address)
    for alias in settings.aliases:
        size = len(reach.members_of(alias))
        short = [owner for owner in owners.get(alias, ()) if capacities[owner][0] < size]
        if capacities and (short or largest < size):
            name = short[0] if short else max(capacities, key=lambda address: capacities[address][0])
            capacity, limit = capacities[name]
            who = f"{name}, which sends as it, may not" if short else "no account may"
            yield (
                f"aliases.{alias}: {size} recipients, and {who} write to all at once "
                f"({limit} of {name}: {capacity}). Its writer needs `limits`: docs/guard.md"
            )


def _smallest_limit(settings: Settings, account: Account) -> tuple[int, str]:
    """How many recipients one message may have, and the limit that says so."""
    limits = settings.effective_limits(account.limits)
    return min((limits[name], name) for name in RECIPIENT_LIMITS)
