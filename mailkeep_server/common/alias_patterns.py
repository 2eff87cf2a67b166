"""Aliases with a `*` in them: `shop-*@example.org` takes mail to `shop-anything@example.org`."""

import re
from collections.abc import Iterable

STAR = "*"
FILLING = "[a-z0-9._-]+"
"""What a `*` stands for. No plus sign: it begins an extension."""


class AliasPatterns:
    """The patterns among these names, by domain. No two of them match the same address."""

    def __init__(self, names: Iterable[str]) -> None:
        self._by_domain: dict[str, list[tuple[re.Pattern[str], str]]] = {}
        for name in names:
            if STAR in name:
                domain = name.rpartition("@")[2]
                self._by_domain.setdefault(domain, []).append((re.compile(to_regexp(name)), name))

    def find(self, address: str) -> str:
        """The pattern that matches an address, which has no extension and is in lower case; "" if none does."""
        patterns = self._by_domain.get(address.rpartition("@")[2], ())
        return next((name for pattern, name in patterns if pattern.fullmatch(address)), "")


def to_regexp(name: str) -> str:
    """For Python's and Postfix's regular expressions alike. A name without a `*` stands for itself."""
    return name.replace(".", r"\.").replace(STAR, FILLING)


def can_overlap(name: str, other: str) -> bool:
    """Whether some address matches both. Without a `*`, a name matches itself alone."""
    if STAR in name and STAR in other:
        (before, _, after), (other_before, _, other_after) = name.partition(STAR), other.partition(STAR)
        begin_alike = before.startswith(other_before) or other_before.startswith(before)
        return begin_alike and (after.endswith(other_after) or other_after.endswith(after))
    pattern, address = (name, other) if STAR in name else (other, name)
    return pattern == address or (STAR in pattern and re.fullmatch(to_regexp(pattern), address) is not None)
