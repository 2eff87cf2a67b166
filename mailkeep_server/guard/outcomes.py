"""What became of a delivery to another server, by a line of Postfix's delivery agents (smtp(8), error(8)).

The text in such a line is the other server's, so it decides nothing alone: see `count_voice`.
"""

import re
from enum import StrEnum
from typing import NamedTuple

from mailkeep_server.common.addresses import hash_text


class Fate(StrEnum):
    """Of one recipient of a message. The values are in the database."""

    SENT = "sent"
    DEAD = "dead"
    """The address or its domain does not exist."""
    REFUSED = "refused"
    """As spam, or for the sender's reputation."""
    SLOWED = "slowed"
    """Deferred for too much mail, or for reputation."""
    COMPLAINED = "complained"
    """Delivered, and its reader calls it spam (`complaints`)."""


class Outcome(NamedTuple):
    queue_id: str
    recipient: str
    """Lower case."""
    fate: Fate


_DELIVERY = re.compile(
    r"(\w+): to=<([^>]*)>, (?:orig_to=<[^>]*>, )?relay=([^,]+), (?:\w+=[^,]*, )*dsn=(\d\.\d+\.\d+), "
    r"status=(sent|deferred|bounced) \((.*)\)$"
)
_MAILBOX_AGENT = "[private/dovecot-lmtp]"
_DEAD_CODES = {"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1", "5.4.4"}
"""RFC 3463, RFC 7505; 5.4.4 is Postfix's for a domain that the DNS does not know."""
_DEAD_WORDS = re.compile(
    r"user unknown|unknown (?:user|recipient|mailbox)|no such (?:user|mailbox|recipient|address)|does not exist"
    r"|(?:user|recipient|mailbox|address) not found|invalid (?:recipient|mailbox)|account (?:is )?disabled",
    re.IGNORECASE,
)
_REFUSAL_WORDS = re.compile(
    r"spam|reputation|block(?:ed|list)|black ?list|dnsbl|unsolicited|\bjunk\b|\bbulk\b|abus(?:e|ive)", re.IGNORECASE
)
_SLOWING_WORDS = re.compile(
    r"unusual (?:rate|volume)|(?:rate|volume) of (?:mail|messages|unsolicited)|too (?:many|much) (?:mail|messages)"
    r"|rate.?limit|throttl|spam|reputation|complaints|temporarily deferred due to",
    re.IGNORECASE,
)
_GREYLISTING = re.compile(r"gr[ae]y.?list", re.IGNORECASE)
# fmt: off
LARGE_PROVIDERS = frozenset({
    "163.com", "aol.com", "btinternet.com", "free.fr", "freenet.de", "gmail.com", "gmx.at", "gmx.ch",
    "gmx.com", "gmx.de", "gmx.net", "googlemail.com", "hotmail.co.uk", "hotmail.com", "hotmail.fr",
    "icloud.com", "laposte.net", "libero.it", "live.com", "mac.com", "mail.com", "mail.ru", "me.com",
    "msn.com", "naver.com", "orange.fr", "outlook.com", "posteo.de", "proton.me", "protonmail.com", "qq.com",
    "seznam.cz", "sfr.fr", "t-online.de", "web.de", "wp.pl", "yahoo.co.jp", "yahoo.co.uk", "yahoo.com",
    "yahoo.de", "yahoo.fr", "yandex.ru", "zoho.com",
})
# fmt: on
"""Where many people have an address, and which no single attacker runs."""


def read_outcome(text: str) -> Outcome | None:
    """None for other lines, for mail to a mailbox here, and for what says nothing of the sender."""
    match = _DELIVERY.match(text)
    if not match or match[3].endswith(_MAILBOX_AGENT):
        return None
    queue_id, recipient, _, code, status, answer = match.groups()
    fate = _read_fate(code, status, answer)
    return Outcome(queue_id, recipient.lower(), fate) if fate else None


def _read_fate(code: str, status: str, answer: str) -> Fate | None:
    if status == "sent":
        return Fate.SENT
    if status == "deferred":
        return Fate.SLOWED if _SLOWING_WORDS.search(answer) and not _GREYLISTING.search(answer) else None
    if code in _DEAD_CODES or _DEAD_WORDS.search(answer):
        return Fate.DEAD
    return Fate.REFUSED if _REFUSAL_WORDS.search(answer) else None


def count_voice(recipient: str) -> str:
    """Answers with the same voice count once.

    Whoever runs a mail server can refuse as much as he likes, and so must not hold up anybody's mail: all his
    addresses are one voice. Those of LARGE_PROVIDERS are one voice each.
    """
    domain = recipient.lower().rpartition("@")[2]
    return f"{domain} {hash_text(recipient)}" if domain in LARGE_PROVIDERS else domain
