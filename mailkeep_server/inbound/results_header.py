"""The header Authentication-Results (RFC 8601): ours is written, and what a stranger has written as ours recognised."""

import re
from collections.abc import Iterator, Sequence

from mailkeep_server.common.domain_names import is_within
from mailkeep_server.guard.encoded_words import list_readings
from mailkeep_server.inbound.authors import write_in_ascii
from mailkeep_server.inbound.dmarc import NONE

NAME = b"Authentication-Results"
MAX_CLAIM = 2000
"""Characters before the first result that are read. A longer identity than any host's has nothing to say."""

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~@/-]+")  # RFC 2045 section 5.1, and what addresses have
_UNSAFE = re.compile(r"[^ -~]")
_QUOTES = re.compile(r'["\\]')


def claims_identity(value: str, host: str) -> bool:
    """Whether a reader may take it for a result of this host, however the name is written (sections 2.2 and 5): in any
    case, quoted, between comments, folded, with a version, in Unicode, or as an encoded word."""
    text = re.sub(r"[\r\n]", "", value[: 2 * MAX_CLAIM])
    return any(_names_host(reading, host) for reading in list_readings(text[:MAX_CLAIM]))


def _names_host(text: str, host: str) -> bool:
    """By two readings: as the grammar says, and without regard to comments, which a simple reader does not know."""
    plain = _QUOTES.sub("", _remove_comments(text)).partition(";")[0]
    simple = re.sub(r'["\\()]', " ", text).partition(";")[0]
    words = {*plain.split(), *simple.split(), re.sub(r"\s", "", plain)}
    names = {write_in_ascii(word) for word in words} | {write_in_ascii(word.partition("/")[0]) for word in words}
    return host in names or any(name.startswith(host) and name[len(host) :].isdigit() for name in names)


def _remove_comments(text: str) -> str:
    """Comments nest, and a quoted string has none (RFC 5322 section 3.2.2)."""
    kept, depth, is_quoted, skip = [], 0, False, False
    for letter in text:
        if skip:
            skip = False
        elif letter == "\\":
            skip = True
        elif letter == '"' and not depth:
            is_quoted = not is_quoted
        elif letter == "(" and not is_quoted:
            depth += 1
            kept.append(" ")
        elif letter == ")" and depth:
            depth -= 1
            continue
        if not depth:
            kept.append(letter)
    return "".join(kept)


def format_results(host: str, results: Sequence[str]) -> bytes:
    """The value of our header, folded. `results` are those of `format_result`."""
    return ";\n\t".join([f" {host}", *(results or ["none"])]).encode("ascii", "replace")


def format_result(method: str, result: str, **properties: str) -> str:
    """`spf=pass smtp.mailfrom=a@example.org`. Properties without a value are left out, and `__` stands for a dot."""
    return " ".join([f"{method}={result}", *_format_properties(properties)])


def _format_properties(properties: dict[str, str]) -> Iterator[str]:
    for name, value in properties.items():
        if text := _UNSAFE.sub("?", value[:200]):
            shown = text if _TOKEN.fullmatch(text) else '"' + _QUOTES.sub(r"\\\g<0>", text) + '"'
            yield f"{name.replace('__', '.')}={shown}"


def find_claimed_pass(claims: str, author: str) -> bool:
    """Whether results that somebody else has written say that a message of this author's domain was genuine."""
    for result in _remove_comments(claims.lower()).split(";"):
        words = result.split()
        domains = [re.split(r"[=@]", word)[-1].strip('"') for word in words[1:] if "=" in word]
        is_related = any(_is_related(domain, author) for domain in domains)
        if words and words[0] in ("dmarc=pass", "dkim=pass", "spf=pass") and is_related:
            return True
    return False


def _is_related(domain: str, author: str) -> bool:
    return domain != NONE and is_within(author, domain) and "." in domain
