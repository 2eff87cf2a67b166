"""The addresses that readers see a message come from: the From: and Sender: lines (RFC 5322 section 3.6.2).

Postfix checks the envelope sender, which readers never see. Here the same rule holds for the visible lines. Every
address in them belongs to the login, however a mail program reads them. A name may be anything else.

A redirected message (RFC 5322 section 3.6.6) keeps the lines of its author, and names the login in Resent-From:.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from mailkeep_server.guard.encoded_words import list_readings
from mailkeep_server.guard.shown_addresses import find_shown_addresses

AUTHOR_HEADERS = frozenset({"from", "sender", "resent-from", "resent-sender"})
MAX_LENGTH = 1000
"""Characters of all these lines together, names included."""

_CONTROL = re.compile(r"[\0-\x08\x0a-\x1f\x7f-\x9f]")
"""Characters at which mail programs end a line, or that they leave out."""
_PIECE = re.compile(r'"(?:\\.|[^"\\])*"|<[^<>]*>|\\.|[^\\"<>(),;:]+|.', re.DOTALL)
_COMMENT_PIECE = re.compile(r"\\.|[()]|[^\\()]+|\\", re.DOTALL)
_ADDRESS = re.compile(r'("?)([^\s"@\\<>()\[\],;:]+)\1@([^\s"@\\<>()\[\],;:]+)')
_OPTIONAL = ("sender", "resent-sender")


class UnreadableError(Exception):
    """The message completes the sentence "the From: line …"."""


@dataclass(frozen=True, slots=True)
class Authors:
    """The verdict about the author lines of a message."""

    fault: str = ""
    """Why it is refused; empty if all is well."""
    names_other: bool = False
    """Whether a line names an address of somebody else, beyond doubt. It completes "ACCOUNT does not own …"."""
    is_redirect: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """What a header line says."""

    addresses: tuple[str, ...] = ()
    """Those that it declares."""
    shown: tuple[str, ...] = ()
    """Those that its text shows in the usual reading, written as addresses are; the declared ones are among them."""
    doubtful: tuple[str, ...] = ()
    """What reads like an address in another reading, or with unusual signs."""
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose address it may be, for one login."""

    owns: Callable[[str], bool]
    domains: Collection[str] = ()
    """Those of this server. A redirected message must not come from there."""
    completed_domain: str = ""
    """Postfix adds it to a word without a domain, if no account has an address there."""

    def owns_shown(self, address: str) -> bool:
        return self.owns(address) or self.owns(_write_domain_in_ascii(address))

    def is_completed(self, address: str) -> bool:
        return bool(self.completed_domain) and address.lower().endswith(f"@{self.completed_domain}")

    def is_of_this_server(self, address: str) -> bool:
        text = _write_domain_in_ascii(address).lower()
        return any(domain in text for domain in self.domains)


def judge_authors(headers: Iterable[tuple[str, str]], owner: Owner) -> Authors:
    """`headers` are names and values, the first of a message first."""
    lines = [(name.lower(), value) for name, value in headers if name.lower() in AUTHOR_HEADERS]
    parsed = [(name, parse_line(name, value)) for name, value in _within_bounds(lines)]
    first_resent = next((line for name, line in parsed if name == "resent-from"), None)
    if first_resent and first_resent.addresses and not _find_unowned("resent-from", first_resent, owner):
        return _judge_redirect(lines, parsed, owner)
    unowned = [fault for name, line in parsed if (fault := _find_unowned(name, line, owner))]
    if others := [fault for fault in unowned if fault.names_other]:
        return others[0]
    return _find_structural_fault(lines) or (unowned[0] if unowned else Authors())


def total_length(headers: Iterable[tuple[str, str]]) -> int:
    return sum(len(name) + len(value) for name, value in headers)


def _within_bounds(lines: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return lines if total_length(lines) <= MAX_LENGTH else []


def _find_structural_fault(lines: list[tuple[str, str]]) -> Authors | None:
    if total_length(lines) > MAX_LENGTH:
        return Authors(f"The From: and Sender: lines have more than {MAX_LENGTH} characters")
    count = sum(name == "from" for name, _ in lines)
    return None if count == 1 else Authors(f"There are {count} From: lines, and there must be one")


def _judge_redirect(lines: list[tuple[str, str]], parsed: list[tuple[str, Line]], owner: Owner) -> Authors:
    """Mail programs show From:, so a redirect may not be from this server, whose mail gets its signature (DKIM)."""
    if fault := _find_structural_fault(lines):
        return fault
    unowned = [fault for name, line in parsed if (fault := _find_unowned(name, line, owner))]
    if not unowned:
        return Authors()
    for name, line in parsed:
        others = (address for address in (*line.shown, *line.doubtful) if not owner.owns_shown(address))
        if address := next((address for address in others if owner.is_of_this_server(address)), None):
            text = f"{address} in the {name.capitalize()}: line is of this server, whose mail cannot be redirected"
            return Authors(f"{text}. Forward it")
        if line.fault:
            return Authors(f"The {name.capitalize()}: line {line.fault}")
    return Authors(is_redirect=True)


def _find_unowned(name: str, line: Line, owner: Owner) -> Authors | None:
    where = f"the {name.capitalize()}: line"
    shown = [address for address in line.shown if not owner.owns_shown(address)]
    if other := next((address for address in shown if not owner.is_completed(address)), None):
        return Authors(f"{other} in {where}", names_other=True)
    if line.fault:
        return Authors(f"T{where[1:]} {line.fault}")
    if shown:
        return Authors(f"T{where[1:]} has a name without an address, {shown[0]}. A name with a comma needs quotes")
    if doubtful := next((address for address in line.doubtful if not owner.owns_shown(address)), None):
        return Authors(f"T{where[1:]} has a name that reads as an address, {doubtful}")
    return None


@lru_cache(1024)  # most people have one such line
def parse_line(name: str, value: str) -> Line:
    text = re.sub(r"\r?\n(?=[ \t])", "", value).replace("\t", " ").strip()
    if name in _OPTIONAL and text in ("", "<>"):
        return Line()
    readings = [list(find_shown_addresses(reading)) for reading in list_readings(text)]
    usual = [address for address, is_plain in readings[0] if is_plain]
    doubtful = dict.fromkeys(address for reading in readings for address, _ in reading if address not in usual)
    try:
        if _CONTROL.search(text):
            raise UnreadableError("has control characters")
        addresses = tuple(_parse_mailboxes(text))
        if not addresses:
            raise UnreadableError("has no address")
    except UnreadableError as error:
        return Line((), tuple(usual), tuple(doubtful), str(error))
    return Line(addresses, tuple(dict.fromkeys((*addresses, *usual))), tuple(doubtful))


def _parse_mailboxes(text: str) -> Iterator[str]:
    """The declared addresses, as forgiving as mail programs are with names. Raises UnreadableError."""
    words, angles = "", list[str]()
    for piece in _split_pieces(text):
        if piece in ",;":
            yield from _parse_mailbox(words, angles)
            words, angles = "", []
        elif piece == ":" and not angles and "@" not in words:
            words = ""  # the name of a group, or a part of a name
        elif piece[0] == "<":
            angles.append(piece)
        elif piece in ('"', "<", "("):
            raise UnreadableError(f"has a {piece} that does not end")
        elif angles and piece.strip():
            raise UnreadableError("has words after an address")
        else:
            words += piece
    yield from _parse_mailbox(words, angles)


def _split_pieces(text: str) -> Iterator[str]:
    """Quoted strings, `<…>`, separators and words. Comments are left out; one without an end is a `(`."""
    at = 0
    while at < len(text):
        if text[at] == "(":
            if (end := _find_comment_end(text, at)) < 0:
                yield "("
                return
            at = end
            yield " "
        elif match := _PIECE.match(text, at):
            at = match.end()
            yield match[0] if match[0] != ">" else " "


def _find_comment_end(text: str, start: int) -> int:
    depth = 0
    for match in _COMMENT_PIECE.finditer(text, start):
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        if not depth:
            return match.end()
    return -1


def _parse_mailbox(words: str, angles: list[str]) -> Iterator[str]:
    name = words.strip()
    if len(angles) > 1:
        raise UnreadableError("has several addresses and no comma between them")
    if not angles and not name:
        return  # as after a last comma
    text = angles[0][1:-1].strip() if angles else name
    if match := _ADDRESS.fullmatch(text):
        yield f"{match[2]}@{match[3]}"
    elif not text:
        raise UnreadableError("has no address")
    elif "@" in text:
        raise UnreadableError("has an address that mail programs read differently")
    else:
        raise UnreadableError(f"has a name without an address, {text}. A name with a comma needs quotes")


def _write_domain_in_ascii(address: str) -> str:
    """Mail programs show the letters of `xn--…` (RFC 5891). A domain that IDNA 2003 changes is another one."""
    local_part, at_sign, domain = address.rpartition("@")
    if domain.isascii():
        return address
    try:
        ascii_domain = domain.encode("idna")
        return f"{local_part}{at_sign}{ascii_domain.decode()}" if ascii_domain.decode("idna") == domain else address
    except ValueError:
        return address
