"""The addresses that a reader sees in a line, wherever they are and whatever signs they are written with."""

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

_AT_SIGN = re.compile(r"([\s'()>]*@<?[\s'()>@]*)")
"""An at sign with the spaces, quotes and brackets around it that mail programs may accept in an address."""
_WORD_END = re.compile(r"[\s<>(),;:]")
_DOMAIN_END = re.compile(r"[\s<>(),;:/|]")
_PLAIN_QUOTES = {"Ps": "(", "Pe": ")", "Pi": "'", "Pf": "'"}
"""Brackets and quotes of all scripts, by Unicode category."""
_ROUND_A = re.compile("[\u24d0\u24b6\u249c\U0001f110\U0001f130\U0001f150\U0001f170][\u24e3\u24c9\U0001f163\U0001f183]?")
"""A letter A in a circle, a square or brackets looks like an at sign; NFKC would make a plain letter of it. A T in a
circle may follow."""
_BRACKETED_AT = re.compile(r"[ ']*[(<] *(?:at|a) *[)>][ ']*", re.IGNORECASE)
_BRACKETED_DOT = re.compile(r" *[(<] *(?:dot|\.) *[)>] *", re.IGNORECASE)
_SPOKEN = re.compile(r"(?<=\S) at (?=\S+ dot \S)", re.IGNORECASE)
_SPOKEN_DOT = re.compile(r"(?<=\S) dot (?=\S)", re.IGNORECASE)
_PLAIN = re.compile(r"[^\s@\ufffd]+@[\w-]+(?:\.[\w-]+)+")
_AFTER_A_NAME = re.compile(r"[')>]*(?:$| +(?:$|[^\W_]|[(<&|/+\u2010-\u2015-]))")
"""What may follow `Shop@Home`: the end, or a space and one more word. Not a dot, nor what looks like one."""
_TURNS = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Characters that turn the direction of writing: `elpmaxe.knab@oec` may be shown as an address."""
_FILLERS = re.compile("[\u115f\u1160]")
"""Letters that nobody sees."""
_BELOW = 220
"""Unicode's combining class of marks below a letter, which look like dots."""


class ShownAddress(NamedTuple):
    address: str
    is_plain: bool
    """Whether it is written as addresses are. Else it only reads like one, as the handle `@anna@social.example`."""


def find_shown_addresses(text: str) -> Iterator[ShownAddress]:
    """Whatever may be read as an address: each at sign, with the words before and after it, of whatever characters.

    No check asks whether it looks like an address. So invisible marks, odd blanks and dots of other scripts cannot hide
    one: only the account's own address, letter for letter, passes. A name such as `Shop@Home` or `Anna (@anna)` is no
    address: on the Internet, every domain has a dot (RFC 5321 section 2.3.5).
    """
    pieces, is_turned = _AT_SIGN.split(write_plainly(text)), bool(_TURNS.search(text))
    for number, (before, at_sign, after) in enumerate(zip(pieces[::2], pieces[1::2], pieces[2::2], strict=False)):
        left, end = _WORD_END.split(before)[-1].lstrip("'"), _DOMAIN_END.search(after)
        word = after[: end.start()] if end else after
        right = word.rstrip("'.!?")
        if not left or not right:
            continue
        has_space = bool(at_sign.strip("@'<>)"))
        if not is_turned and _is_plain_word(right) and (has_space or _is_name(right, after[len(right) :])):
            continue
        is_handle = before == left and number > 0  # another at sign stands before it
        yield ShownAddress(f"{left}@{right}", not is_handle and bool(_PLAIN.fullmatch(f"{left}{at_sign}{right}")))


def write_plainly(text: str) -> str:
    """Letters of other widths become plain ones (NFKC), as do brackets, quotes, and at signs and dots that are spelt
    out. A character that cannot be printed becomes U+FFFD, which no owned address has."""
    text = _ROUND_A.sub("@", text.replace("\\", "").replace('"', "'").replace("\t", " "))
    plain = (_PLAIN_QUOTES.get(unicodedata.category(letter), letter) for letter in unicodedata.normalize("NFKC", text))
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in plain)
    shown = _BRACKETED_DOT.sub(".", _BRACKETED_AT.sub(" @ ", shown))
    return _SPOKEN_DOT.sub(".", _SPOKEN.sub(" @ ", shown)) if _SPOKEN.search(shown) else shown


def _is_name(word: str, rest: str) -> bool:
    """Whether nothing looks like a dot in or after the word behind an at sign, as in `Shop@Home`, and nothing hides."""
    marks = unicodedata.normalize("NFD", word)
    is_seen = word[0].isalnum() and not _FILLERS.search(word)
    return (
        is_seen and bool(_AFTER_A_NAME.match(rest)) and not any(unicodedata.combining(mark) == _BELOW for mark in marks)
    )


def _is_plain_word(word: str) -> bool:
    """Whether it has no dot, and nothing that looks like one: no punctuation, no digit of another script.

    Nor a caseless letter among letters that have case: Lisu's U+A4F8 in a Latin word looks like a dot.
    """
    others = {unicodedata.category(letter) for letter in word if not letter.isascii()}
    is_caseless = all(unicodedata.category(letter) in ("Lo", "Mn", "Mc") for letter in word)
    return "." not in word and (is_caseless or others <= {"Lu", "Ll"})
