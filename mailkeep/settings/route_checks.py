"""Where mail goes on to, and who may write: `forward`, patterns, `members_only` and `catch_all_except`."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic_core import InitErrorDetails

from mailkeep.settings.conflicts import check_target, domain_of, make_conflict
from mailkeep.settings.fields import strip_extension
from mailkeep.settings.sections import UncheckedSettings
from mailkeep_server.common.alias_patterns import STAR, can_overlap
from mailkeep_server.common.alias_reach import AliasReach

MAX_PATTERNS = 100
"""Each is compared with each address."""


def check_forwards(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    """Each target leads somewhere, and no copy comes back to the account by other accounts that forward."""
    reach = AliasReach(settings.aliases, settings.catch_all, settings.account_addresses, settings.own_domains)
    forwards = {account.address: account.forward for account in settings.accounts}
    for index, account in enumerate(settings.accounts):
        for position, target in enumerate(account.forward):
            loc = ("accounts", index, "forward", position)
            if path := _find_way_back(account.address, target, reach, forwards):
                expected = "addresses from which no copy comes back to this account"
                yield make_conflict(loc, target, expected, f"a loop: {' → '.join(path)}")
            else:
                yield from check_target(settings, loc, target)


def _find_way_back(
    account: str, target: str, reach: AliasReach, forwards: dict[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """The accounts by which a copy to `target` comes back to `account`, both ends included; empty if none does."""
    waiting: list[tuple[str, ...]] = [(account, member) for member in reach.expand(target)]
    entered: set[str] = set()
    while waiting:
        *before, member = waiting.pop()
        plain = strip_extension(member)
        if plain == account:
            return (*before, account)
        if plain not in entered:
            entered.add(plain)
            following = [name for address in forwards.get(plain, ()) for name in reach.expand(address)]
            waiting += [(*before, plain, name) for name in following]
    return ()


def check_patterns(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    """No address matches two patterns: who gets its mail must not depend on their order."""
    patterns = [name for name in settings.aliases if STAR in name]
    if len(patterns) > MAX_PATTERNS:
        actual = f"{len(patterns)} of them"
        yield make_conflict(("aliases",), None, f"at most {MAX_PATTERNS} aliases with a `*`", actual)
        return
    for number, pattern in enumerate(patterns):
        if other := next((other for other in patterns[:number] if can_overlap(pattern, other)), ""):
            expected = "patterns of which no two match the same address"
            yield make_conflict(("aliases", pattern), None, expected, f"{pattern}, which can match as {other} does")


def check_members_only(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    """Each is an alias, and nothing else leads to it: that would be a way past the check of the sender."""
    for index, name in enumerate(settings.members_only):
        loc = ("members_only", index)
        if name not in settings.aliases:
            yield make_conflict(loc, name, "an exact alias, as in `aliases`")
        elif ways := [way for way, target in _list_ways(settings) if strip_extension(target) == name]:
            expected = "a list that no other setting leads to: whoever may write there could write to it"
            yield make_conflict(loc, name, expected, f"{name}, to which {ways[0]} leads")


def _list_ways(settings: UncheckedSettings) -> Iterator[tuple[str, str]]:
    """The settings that send mail on, each with a target."""
    for alias, targets in settings.aliases.items():
        yield from ((f"aliases.{alias}", target) for target in targets)
    for account in settings.accounts:
        yield from ((f"forward of {account.address}", target) for target in account.forward)
    yield from ((f"catch_all.{domain}", target) for domain, target in settings.catch_all.items())
    yield from (("admin.addresses", target) for target in settings.admin.addresses)


def check_catch_all_exceptions(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    """They are in a domain with a catch-all, and none is an address that takes mail."""
    taken = [*settings.account_addresses, *settings.aliases]
    for index, name in enumerate(settings.catch_all_except):
        loc = ("catch_all_except", index)
        if domain_of(name) not in settings.catch_all:
            yield make_conflict(loc, name, "an address in a domain of `catch_all`: all others refuse it anyway")
        elif other := next((other for other in taken if can_overlap(name, other)), ""):
            expected = "addresses without an account or alias, whose mail would be refused"
            yield make_conflict(loc, name, expected, f"{name}, which can match as {other} does")
