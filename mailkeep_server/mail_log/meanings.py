"""What the words of a server mean, and what to type next. NAME stands for the inventory.

The words are another server's. They decide which sentence of ours is shown, and nothing else.
"""

import re
from typing import NamedTuple

CHECK_DNS, BLOCKLISTS = "mailkeep dns NAME --check", "mailkeep blocklists NAME"


class Meaning(NamedTuple):
    """`text` follows the name of a server; `remedy` is a command or advice, or empty."""

    text: str
    remedy: str = ""


PROVIDERS = {
    "google.com": "Gmail",
    "googlemail.com": "Gmail",
    "outlook.com": "Microsoft",
    "hotmail.com": "Microsoft",
    "yahoodns.net": "Yahoo",
    "icloud.com": "iCloud",
    "gmx.net": "GMX",
    "web.de": "WEB.DE",
    "t-online.de": "T-Online",
    "protonmail.ch": "Proton",
}
"""By the end of a mail exchanger's name."""


def _compile(*rules: tuple[str, str, str]) -> list[tuple[re.Pattern[str], Meaning]]:
    return [(re.compile(words, re.IGNORECASE), Meaning(text, remedy)) for words, text, remedy in rules]


# The first that fits. Codes are RFC 3463's, and those of the large providers' own lists.
OF_OTHERS = _compile(
    (
        r"\b5\.7\.25\b|PTR record|reverse (?:DNS|hostname)|\brDNS\b|find your (?:reverse )?hostname",
        "your address has no reverse DNS, or one that does not lead back",
        CHECK_DNS,
    ),
    (
        r"spamhaus|block ?list|black ?list|\bRBL\b|\bDNSBL\b|S3140|banned sending|5\.7\.6\d\d|barracuda",
        "your address or domain is on a blocklist",
        BLOCKLISTS,
    ),
    (
        r"\b[45]\.7\.(?:26|27|30|20|23|9|515|509)\b|unauthenticated|\bDMARC\b|\bSPF\b|\bDKIM\b",
        "your mail did not pass SPF, DKIM or DMARC",
        CHECK_DNS,
    ),
    (r"gr[ea]ylist|\b4\.7\.1\b.*(?:later|again)", "it takes only the second try of a stranger", ""),
    (
        r"TSS0\d|unexpected volume|rate.?limit|too many|\b4\.7\.28\b|unusual rate|RP-00\d|throttl|temporarily deferred",
        "it slows your mail down: too much at once, or complaints about it",
        "mailkeep report NAME --by account",
    ),
    (
        r"\b[45]\.2\.2\b|over.?quota|quota exceeded|mailbox (?:is )?full|out of storage|insufficient.*storage",
        "the mailbox is full",
        "",
    ),
    (
        r"\b5\.1\.[0136]\b|(?:no such|unknown|invalid) (?:user|recipient|mailbox)|user unknown|does(?: not|n't) exist",
        "there is no such mailbox",
        "",
    ),
    (r"loops back to myself", "its mail exchanger is this server, which does not know the domain", CHECK_DNS),
    (
        r"Host (?:or domain name )?not found|Name service error|no MX|nullMX|does not accept mail",
        "the domain has no mail server in the DNS: it is misspelt, or its DNS is down",
        "",
    ),
    (
        r"Connection timed out|Connection refused|No route to host|unreachable|lost connection",
        "its server does not answer",
        "",
    ),
    (r"TLS|certificate", "no encryption that both sides trust came about", ""),
    (r"\b5\.3\.4\b|message size|too (?:large|big)", "the message is too large for it", ""),
    (r"Relay(?:ing)? (?:access )?denied", "it does not take mail for this domain", ""),
    (r"delivery temporarily suspended", "its server has failed just before, and is left alone for a while", ""),
    (r"spam|\b5\.7\.1\b|content|policy", "it takes the message for spam, or forbids it by a rule of its own", ""),
)
OF_OURS = _compile(
    (r"account is frozen", "the account is frozen", "mailkeepctl status"),
    (
        r"not owned by user|is not yours|does not own",
        "the login may not write as this address",
        "add it to send_as of the account in mail.yml",
    ),
    (r"User unknown", "no account and no alias has this address", "mailkeep account list NAME"),
    (r"Relay access denied", "a stranger wanted to send to somebody elsewhere through this server", ""),
    (r"Insufficient system storage|No space left", "the disk is full", "mailkeep status NAME"),
    (r"SPF|DKIM|DMARC|forged|author", "it claims to be from somebody who did not send it", ""),
    (r"limit|too many|\b450 4\.7\.1\b", "a limit was reached for now", "mailkeepctl limits"),
    (r"not logged in|Authentication required", "it came without a login to a port that needs one", ""),
)
REMOTE_WORDS = {"deferred": "puts it off", "bounced": "refuses it", "delivered": "has it"}


def explain_remote(words: str) -> Meaning | None:
    return _explain(OF_OTHERS, words)


def explain_refusal(words: str) -> Meaning | None:
    return _explain(OF_OURS, words)


def _explain(rules: list[tuple[re.Pattern[str], Meaning]], words: str) -> Meaning | None:
    return next((meaning for pattern, meaning in rules if pattern.search(words)), None)


def name_remote(host: str) -> str:
    """`Gmail`, or the host's own name."""
    host = host.lower().rstrip(".")
    return next((name for end, name in PROVIDERS.items() if host == end or host.endswith(f".{end}")), host)
