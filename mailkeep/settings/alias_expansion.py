"""How far aliases expand: Postfix defers mail to an alias beyond its limits for ever, instead of refusing it.

cleanup(8) expands an alias in place, without removing duplicates, and counts the addresses that it then has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic_core import InitErrorDetails

from mailkeep.settings.field_errors import invalid
from mailkeep.settings.fields import MAX_EXPANSION, MAX_LOCAL_PART, strip_extension
from mailkeep.settings.sections import UncheckedSettings

MAX_NESTING = 999
"""Aliases that lead to each other in a row. The last target is looked up too: virtual_alias_recursion_limit is 1000."""


@dataclass(frozen=True, slots=True)
class Expansion:
    """What becomes of one recipient: the number of addresses, of aliases in a row, and the longest +extension that
    the aliases add."""

    addresses: int = 1
    nesting: int = 0
    extension: int = 0


NO_EXPANSION = Expansion()


def measure_expansions(settings: UncheckedSettings) -> dict[str, Expansion]:
    """By alias, its expansion. An alias of a loop, which another check reports, has none.

    Each alias is measured once: with duplicates, a chain of ten aliases can have a million addresses.
    """
    measured: dict[str, Expansion] = {}
    entered: set[str] = set()
    for start in settings.aliases:
        stack = [start]
        while stack:
            alias = stack[-1]
            following = [target for target in _list_next_aliases(settings, alias) if target not in measured]
            if following and alias not in entered:
                entered.add(alias)
                stack.extend(target for target in following if target not in entered)
                continue
            entered.add(alias)
            stack.pop()
            if alias not in measured and not following:
                measured[alias] = _join_expansions(settings, alias, measured)
    return measured


def find_endless_expansions(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    """Aliases that Postfix would not expand; each with the limit that it exceeds."""
    measured = measure_expansions(settings)
    for alias, expansion in measured.items():
        loc = ("aliases", alias)
        if expansion.addresses > MAX_EXPANSION:
            actual = f"{expansion.addresses} addresses, counting those of the aliases in it"
            expected = f"at most {MAX_EXPANSION} addresses, or Postfix defers all mail to it; use several aliases"
            yield InitErrorDetails(type=invalid(expected, actual), loc=loc, input=None)
        elif expansion.nesting > MAX_NESTING:
            actual = f"{expansion.nesting} aliases that lead to each other in a row"
            yield InitErrorDetails(type=invalid(f"at most {MAX_NESTING}", actual), loc=loc, input=None)
        elif expansion.extension > MAX_LOCAL_PART:
            actual = f"targets whose +extensions add up to {expansion.extension} characters"
            expected = f"an address of at most {MAX_LOCAL_PART} characters before the @ in the end"
            yield InitErrorDetails(type=invalid(expected, actual), loc=loc, input=None)
    yield from _check_administrators(settings, measured)


def _check_administrators(settings: UncheckedSettings, measured: Mapping[str, Expansion]) -> Iterator[InitErrorDetails]:
    """root, postmaster and others at the host's name are aliases of all administrators."""
    addresses = sum(_measure_target(settings, target, measured).addresses for target in settings.admin.addresses)
    if addresses > MAX_EXPANSION:
        expected = f"at most {MAX_EXPANSION} addresses, or Postfix defers all mail to them"
        actual = f"{addresses} addresses, counting those of the aliases in it"
        yield InitErrorDetails(type=invalid(expected, actual), loc=("admin", "addresses"), input=None)


def find_next_alias(settings: UncheckedSettings, target: str) -> str:
    """The alias to which mail to `target` goes on, also by its domain's catch-all; empty if it goes to none."""
    address = strip_extension(target)
    if address not in settings.account_addresses and not settings.find_alias(address):
        address = strip_extension(settings.catch_all.get(address.rpartition("@")[2], ""))
    return settings.find_alias(address)


def _list_next_aliases(settings: UncheckedSettings, alias: str) -> list[str]:
    return [name for target in settings.aliases[alias] if (name := find_next_alias(settings, target))]


def _join_expansions(settings: UncheckedSettings, alias: str, measured: Mapping[str, Expansion]) -> Expansion:
    parts = [_measure_target(settings, target, measured) for target in settings.aliases[alias]]
    return Expansion(
        sum(part.addresses for part in parts),
        1 + max(part.nesting for part in parts),
        max(part.extension for part in parts),
    )


def _measure_target(settings: UncheckedSettings, target: str, measured: Mapping[str, Expansion]) -> Expansion:
    local_part = target.rpartition("@")[0]
    extension = len(local_part) - len(local_part.partition("+")[0])
    following = measured.get(find_next_alias(settings, target), NO_EXPANSION)
    return Expansion(following.addresses, following.nesting, following.extension + extension)
