"""The registered domain of a name: where its zone begins in a registrar's web form."""

from collections.abc import Iterator
from functools import cache

from publicsuffixlist import PublicSuffixList


@cache
def _suffix_list() -> PublicSuffixList:
    return PublicSuffixList()


@cache
def registered_domain(name: str) -> str:
    """`example.org` for `mail.example.org`, by the Public Suffix List (the organizational domain of RFC 7489 §3.2)."""
    return _suffix_list().privatesuffix(name) or name


def name_and_parents(name: str) -> Iterator[str]:
    """`name` and the names above it, up to the registered domain."""
    yield name
    while name != registered_domain(name):
        name = name.partition(".")[2]
        yield name
