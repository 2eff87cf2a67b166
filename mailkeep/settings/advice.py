"""What is valid in mail.yml, and yet not what its operator wants. `mailkeep check` and `deploy` note it."""

from __future__ import annotations

from collections.abc import Iterator

from mailkeep.settings.alias_expansion import find_next_alias
from mailkeep.settings.fields import strip_extension
from mailkeep.settings.list_notes import describe_short_limits
from mailkeep.settings.models import Settings
from mailkeep.settings.password_hashes import find_hash_kind

MAX_NAMED = 5
"""Addresses in a note."""


def list_advice(settings: Settings) -> list[str]:
    """A note to the operator for each such setting."""
    return [
        *_find_weak_hashes(settings),
        *_find_dead_senders(settings),
        *_find_local_administrators(settings),
        *describe_short_limits(settings),
    ]


def describe_own_senders(settings: Settings) -> str:
    """Who may write as our domains on port 25; empty if nobody may."""
    terms = settings.own_sender_terms
    if not terms:
        return ""
    return (
        f"Port 25: {_name_some(list(terms))} may use your domains without a login, as envelope sender and in From: "
        "(dns.spf, inbound.trusted)."
    )


def _find_weak_hashes(settings: Settings) -> Iterator[str]:
    """Hashes that came along from another server, and that a thief of mail.yml tries faster than Mailkeep's own. No
    login replaces them: the server does not write mail.yml."""
    hashes = {account.address: find_hash_kind(account.password) for account in settings.accounts}
    weak = {address: parsed.kind.name for address, parsed in hashes.items() if parsed and parsed.is_weaker_than_ours}
    for kind in dict.fromkeys(weak.values()):
        addresses = [address for address in weak if weak[address] == kind]
        yield (
            f"accounts: {_name_some(addresses)}: the password's hash, {kind}, is weaker than Mailkeep's own. Whoever "
            "gets hold of mail.yml guesses faster. `mailkeep account passwd` sets a new password, with a strong hash."
        )


def _name_some(addresses: list[str]) -> str:
    more = f" and {len(addresses) - MAX_NAMED} more" if len(addresses) > MAX_NAMED else ""
    return f"{', '.join(addresses[:MAX_NAMED])}{more}"


def _find_dead_senders(settings: Settings) -> Iterator[str]:
    """Addresses in `send_as` that take no mail: answers to them are refused, and so are notices of non-delivery."""
    senders = dict.fromkeys(address for account in settings.accounts for address in account.send_as)
    dead = [address for address in senders if not _takes_mail(settings, address)]
    if dead:
        yield (
            f"send_as: {_name_some(dead)} gets no mail, so answers to it are refused. Write it below "
            "`aliases`, with the address that is to get them; or leave it so if nobody is to answer."
        )


def _takes_mail(settings: Settings, address: str) -> bool:
    plain = strip_extension(address)
    is_known = plain in settings.account_addresses or bool(settings.find_alias(plain))
    return is_known or plain.rpartition("@")[2] in settings.catch_all


def _find_local_administrators(settings: Settings) -> Iterator[str]:
    """Alerts about a mail server that is down, and the mail with which others tell it, need another way."""
    if settings.alerts.webhook or any(_leads_elsewhere(settings, address) for address in settings.admin.addresses):
        return
    yield (
        "admin.addresses: all of them are mailboxes on this server, so no alert reaches you when it is down. Add an "
        "address elsewhere, or `alerts.webhook`."
    )


def _leads_elsewhere(settings: Settings, address: str) -> bool:
    """Whether mail to the address, an alias perhaps, leaves this server for somebody."""
    followed, waiting = set[str](), [address]
    while waiting:
        target = waiting.pop()
        alias = find_next_alias(settings, target)
        if not alias and not _ends_here(settings, target):
            return True
        if alias and alias not in followed:
            followed.add(alias)
            waiting.extend(settings.aliases[alias])
    return False


def _ends_here(settings: Settings, target: str) -> bool:
    plain = strip_extension(target)
    domain = plain.rpartition("@")[2]
    if domain not in settings.own_domains or plain in settings.account_addresses:
        return domain in settings.own_domains
    return settings.catch_all.get(domain, target).rpartition("@")[2] in settings.own_domains
