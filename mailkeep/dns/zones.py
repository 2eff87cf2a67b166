"""Which part of a name was registered: where its zone begins for whoever has a registrar's web form before them."""

from collections.abc import Iterator
from functools import cache

from publicsuffixlist import PublicSuffixList


@cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()


def registered(name: str) -> str:
    """`example.org` of `mail.example.org`, by the Public Suffix List (the organizational domain of RFC 7489 §3.2)."""
    return _suffixes().privatesuffix(name) or name


def parents(name: str) -> Iterator[str]:
    """`name` and what is above it, up to the registered domain."""
    yield name
    while name != registered(name):
        name = name.partition(".")[2]
        yield name
