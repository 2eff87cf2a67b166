"""What the checks between settings share: a conflict, and where mail to an address goes."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic_core import InitErrorDetails

from mailkeep.settings.field_errors import invalid
from mailkeep.settings.fields import strip_extension
from mailkeep.settings.sections import UncheckedSettings
from mailkeep.settings.yaml_reader import Loc


def make_conflict(loc: Loc, value: object, expected: str, actual: str | None = None) -> InitErrorDetails:
    return InitErrorDetails(type=invalid(expected, actual), loc=loc, input=value)


def check_target(settings: UncheckedSettings, loc: Loc, target: str) -> Iterator[InitErrorDetails]:
    """An address that mail is sent to must lead somewhere."""
    domain = domain_of(target)
    if domain == settings.host.name:
        expected = "an address in a mail domain or elsewhere; mail to the host's own name goes to admin.addresses"
        yield make_conflict(loc, target, expected)
    elif domain in settings.own_domains and not (domain in settings.catch_all or is_known(settings, target)):
        expected = f"an account, an alias or an address elsewhere; {domain} has no catch_all either"
        yield make_conflict(loc, target, expected)


def domain_of(address: str) -> str:
    return address.rpartition("@")[2]


def is_known(settings: UncheckedSettings, address: str) -> bool:
    """Whether an account or an alias takes mail to this address."""
    plain = strip_extension(address)
    return plain in settings.account_addresses or bool(settings.find_alias(plain))
