"""Who a message says it is from: the From: and Sender: lines that people see (RFC 5322 section 3.6.2).

The envelope sender is Postfix's to check; readers never see it. Here the rule is the same for what they do see: every
address in these lines belongs to the login. What cannot be read with certainty is refused: mail programs would each
read it in their own way.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from email import policy
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.headerregistry import Address
from functools import lru_cache

AUTHORS = frozenset({"from", "sender", "resent-from", "resent-sender"})
LONGEST = 1000
"""Characters of all these lines together, names included: email's parser takes quadratic time, 20 ms for so many."""

_AT = re.compile(r"([\s'()>]*@<?[\s'()>@]*)")
"""An at sign with what may stand around it and still be read as part of an address: spaces, quotes, brackets."""
_BETWEEN_WORDS = re.compile(r"[\s<>(),;:]")
_QUOTES = {"Ps": "(", "Pe": ")", "Pi": "'", "Pf": "'"}
"""By Unicode's category: brackets and quotes of all scripts."""
_HARMLESS = "period in 'phrase'"
"""A defect for email, since RFC 5322 wants quotes around it: J. Q. Public <jq@example.org>. All read it alike."""


def foreign(headers: Iterable[tuple[str, str]], owns: Callable[[str], bool]) -> str | None:
    """What in these header lines (name, value) does not belong to who sends them, in words; None when all does."""
    authors = [(name.lower(), value) for name, value in headers if name.lower() in AUTHORS]
    if (count := sum(name == "from" for name, _ in authors)) != 1:
        return f"{count} From: lines, and there must be one"
    if length(authors) > LONGEST:
        return f"From: and Sender: lines of more than {LONGEST} characters"
    return next((found for name, value in authors if (found := _foreign(name, value, owns))), None)


def length(headers: Iterable[tuple[str, str]]) -> int:
    return sum(len(name) + len(value) for name, value in headers)


def _foreign(name: str, value: str, owns: Callable[[str], bool]) -> str | None:
    line = f"the {name.capitalize()}: line"
    named = _named(name, value)
    if not named:
        return f"{line}, which cannot be read"
    return next((f"{one} in {line}" for one in named if not owns(one)), None)


@lru_cache(1024)
def _named(name: str, value: str) -> tuple[str, ...]:
    """All addresses that a header line names or shows; none if there is any doubt. Most people have one such line."""
    unfolded = re.sub(r"\r?\n(?=[ \t])", "", value).replace("\t", " ")
    try:
        addresses, shown = _addresses(name, unfolded), _shown(unfolded)
    except (HeaderParseError, ValueError, LookupError, AttributeError, RecursionError):  # email's parser raises these
        return ()
    return (*(address.addr_spec for address in addresses), *_read(shown)) if addresses else ()


def _addresses(name: str, value: str) -> tuple[Address, ...]:
    """Those of a header line; none if there is any doubt which they are."""
    if not value.isprintable():
        return ()
    header = policy.SMTP.header_factory(name, value)
    doubts = [defect for defect in header.defects if str(defect) != _HARMLESS]
    return () if doubts else header.addresses


def _shown(value: str) -> str:
    """A header line as mail programs may show it: some show a name, or a comment, and not the address.

    Encoded words are decoded wherever they are (RFC 2047 allows fewer places). Letters of other widths are as good as
    theirs (NFKC), and so is any bracket or quote; what cannot be printed stays, as a sign that no address has.
    """
    text = "".join(str(make_header([part])) for part in decode_header(value)).replace("\\", "").replace('"', "'")
    known = (_QUOTES.get(unicodedata.category(one), one) for one in unicodedata.normalize("NFKC", text))
    return "".join(one if one.isprintable() else "\ufffd" for one in known)


def _read(text: str) -> Iterator[str]:
    """What may be read as an address: every at sign, with the words before and after it, whatever they are made of.

    That they look like one is not asked. Marks and blanks that nobody sees, and dots of other scripts, cannot hide an
    address from a rule that takes only what is, letter for letter, the account's own. With spaces, "Anna @ Work" is
    none, nor is "Anna (@anna)".
    """
    pieces = _AT.split(text)
    for before, at, after in zip(pieces[::2], pieces[1::2], pieces[2::2], strict=False):
        left, right = _BETWEEN_WORDS.split(before)[-1].lstrip("'"), _BETWEEN_WORDS.split(after)[0].rstrip("'.!?")
        apart = at.strip("@'<>)")
        if left and right and not (apart and _is_plain(right)):
            yield f"{left}@{right}"


def _is_plain(word: str) -> bool:
    """Whether there is no dot in it, nor what looks like one: no punctuation, no foreign digit, and no letter without
    case among letters that have it, as Lisu's U+A4F8 in a Latin word is."""
    others = {unicodedata.category(one) for one in word if not one.isascii()}
    caseless = all(unicodedata.category(one) in ("Lo", "Mn", "Mc") for one in word)
    return "." not in word and (caseless or others <= {"Lu", "Ll"})
