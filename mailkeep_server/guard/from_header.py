"""The addresses that readers see a message come from: the From: and Sender: lines (RFC 5322 section 3.6.2).

Postfix checks the envelope sender, which readers never see. Here the same rule holds for the visible lines: every
address in them belongs to the login. A line that cannot be read with certainty is refused, since mail programs would
each read it in their own way.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from email import policy
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.headerregistry import Address
from functools import lru_cache

AUTHOR_HEADERS = frozenset({"from", "sender", "resent-from", "resent-sender"})
MAX_LENGTH = 1000
"""Characters of all these lines together, names included. email's parser takes quadratic time: 20 ms for this many."""

_AT_SIGN = re.compile(r"([\s'()>]*@<?[\s'()>@]*)")
"""An at sign with the spaces, quotes and brackets around it that mail programs may accept in an address."""
_WORD_END = re.compile(r"[\s<>(),;:]")
_PLAIN_QUOTES = {"Ps": "(", "Pe": ")", "Pi": "'", "Pf": "'"}
"""Brackets and quotes of all scripts, by Unicode category."""
_HARMLESS_DEFECT = "period in 'phrase'"
"""RFC 5322 wants quotes around J. Q. Public <jq@example.org>. All mail programs read it alike."""


def unowned_address(headers: Iterable[tuple[str, str]], owns_address: Callable[[str], bool]) -> str | None:
    """The address in these header lines (name, value) that the sender does not own, or the fault; None if all is well.

    The text completes the sentence "ACCOUNT does not own …".
    """
    lines = [(name.lower(), value) for name, value in headers if name.lower() in AUTHOR_HEADERS]
    if (count := sum(name == "from" for name, _ in lines)) != 1:
        return f"{count} From: lines, and there must be one"
    if total_length(lines) > MAX_LENGTH:
        return f"From: and Sender: lines of more than {MAX_LENGTH} characters"
    faults = (_find_unowned(name, value, owns_address) for name, value in lines)
    return next((fault for fault in faults if fault), None)


def total_length(headers: Iterable[tuple[str, str]]) -> int:
    return sum(len(name) + len(value) for name, value in headers)


def _find_unowned(name: str, value: str, owns_address: Callable[[str], bool]) -> str | None:
    line = f"the {name.capitalize()}: line"
    addresses = _find_addresses(name, value)
    if not addresses:
        return f"{line}, which cannot be read"
    return next((f"{address} in {line}" for address in addresses if not owns_address(address)), None)


@lru_cache(1024)  # most people have one such line
def _find_addresses(name: str, value: str) -> tuple[str, ...]:
    """All addresses that a header line contains or seems to contain; none if there is any doubt."""
    unfolded = re.sub(r"\r?\n(?=[ \t])", "", value).replace("\t", " ")
    try:
        addresses, shown = _parse_addresses(name, unfolded), _decode_shown(unfolded)
    except (HeaderParseError, ValueError, LookupError, AttributeError, RecursionError):  # email's parser raises these
        return ()
    return (*(address.addr_spec for address in addresses), *_find_lookalikes(shown)) if addresses else ()


def _parse_addresses(name: str, value: str) -> tuple[Address, ...]:
    """By email's parser; none if it reports any defect but the harmless one."""
    if not value.isprintable():
        return ()
    header = policy.SMTP.header_factory(name, value)
    defects = [defect for defect in header.defects if str(defect) != _HARMLESS_DEFECT]
    return () if defects else header.addresses


def _decode_shown(value: str) -> str:
    """A header line as mail programs may show it: some show a name or a comment instead of the address.

    Encoded words are decoded wherever they are (RFC 2047 allows fewer places). Letters of other widths become plain
    ones (NFKC), as do brackets and quotes. A character that cannot be printed becomes U+FFFD, which no owned address
    has.
    """
    text = "".join(str(make_header([part])) for part in decode_header(value)).replace("\\", "").replace('"', "'")
    plain = (_PLAIN_QUOTES.get(unicodedata.category(letter), letter) for letter in unicodedata.normalize("NFKC", text))
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in plain)


def _find_lookalikes(text: str) -> Iterator[str]:
    """Whatever may be read as an address: each at sign, with the words before and after it, of whatever characters.

    No check asks whether it looks like an address. So invisible marks, odd blanks and dots of other scripts cannot hide
    one: only the account's own address, letter for letter, passes. With spaces around the at sign, "Anna @ Work" is no
    address, nor is "Anna (@anna)".
    """
    pieces = _AT_SIGN.split(text)
    for before, at_sign, after in zip(pieces[::2], pieces[1::2], pieces[2::2], strict=False):
        left, right = _WORD_END.split(before)[-1].lstrip("'"), _WORD_END.split(after)[0].rstrip("'.!?")
        has_space = at_sign.strip("@'<>)")
        if left and right and not (has_space and _is_plain_word(right)):
            yield f"{left}@{right}"


def _is_plain_word(word: str) -> bool:
    """Whether it has no dot, and nothing that looks like one: no punctuation, no digit of another script.

    Nor a caseless letter among letters that have case: Lisu's U+A4F8 in a Latin word looks like a dot.
    """
    others = {unicodedata.category(letter) for letter in word if not letter.isascii()}
    is_caseless = all(unicodedata.category(letter) in ("Lo", "Mn", "Mc") for letter in word)
    return "." not in word and (is_caseless or others <= {"Lu", "Ll"})
