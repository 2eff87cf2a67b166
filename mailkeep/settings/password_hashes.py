"""The hashes that `password` in mail.yml takes: Argon2, as Mailkeep makes them, and those that a user brings along.

Dovecot verifies each of them: Argon2 by libsodium, all others by crypt(3) of libxcrypt (crypt(5)). A hash says how much
work each guess at it costs. Too little lets a thief find the password; too much lets logins keep the machine busy.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from mailkeep.settings.field_errors import invalid

# Memory in KiB and passes of Argon2id. The floor is the weakest choice of OWASP's Password Storage Cheat Sheet. The
# ceiling, libsodium's "interactive" 64 MiB, is what a 1 GB machine bears several times at once.
MIN_ARGON2_MEMORY, MAX_ARGON2_MEMORY = 7168, 65536
MIN_ARGON2_WORK = 5 * 7168  # memory times passes
MAX_ARGON2_PASSES = 10
MAX_ARGON2_LANES = 4
# Half a second each, as Argon2 at its ceiling: Dovecot verifies one password after the other.
MAX_SHA_ROUNDS = 700_000  # passlib's default is 656,000
MIN_BCRYPT_COST, MAX_BCRYPT_COST = 4, 13
MAX_YESCRYPT_MEMORY = MAX_ARGON2_MEMORY
DEFAULT_YESCRYPT_MEMORY = 16 * 1024  # KiB, of `$y$j9T$`: Debian's default

_ARGON2 = (
    r"\$v=19\$m=([0-9]{1,9}),t=([0-9]{1,9}),p=([0-9]{1,9})"
    r"\$(?:[A-Za-z0-9+/]{4}){2,21}[A-Za-z0-9+/]{2,3}\$[A-Za-z0-9+/]{43}"  # a salt from 8 bytes on, a tag of 32
)
ARGON2ID = re.compile(rf"\{{ARGON2ID\}}\$argon2id{_ARGON2}")
_ITOA64 = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SHA = r"\$(?:rounds=([0-9]{1,9})\$)?[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]"


@dataclass(frozen=True, slots=True)
class HashKind:
    """`scheme` is Dovecot's name for the kind, `aliases` are others that its passwd-file may have.

    `pattern` matches the hash without a scheme. `find_flaw` takes the match, and returns what mail.yml would take and
    what this hash is, or None.
    """

    name: str
    scheme: str
    pattern: re.Pattern[str]
    find_flaw: Callable[[re.Match[str]], tuple[str, str] | None]
    is_weaker: Callable[[re.Match[str]], bool]
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ParsedHash:
    """`text` has Dovecot's scheme in front, `plain` has none."""

    kind: HashKind
    plain: str

    @property
    def text(self) -> str:
        return f"{{{self.kind.scheme}}}{self.plain}"

    @property
    def is_weaker_than_ours(self) -> bool:
        """Whether a thief of mail.yml tries more passwords in a second than with Mailkeep's own hashes."""
        match = self.kind.pattern.fullmatch(self.plain)
        return bool(match and self.kind.is_weaker(match))


def _find_argon2_flaw(match: re.Match[str]) -> tuple[str, str] | None:
    memory, passes, lanes = (int(number) for number in match.group(1, 2, 3))
    if memory < MIN_ARGON2_MEMORY or memory * passes < MIN_ARGON2_WORK:
        return f"at least m={MIN_ARGON2_MEMORY},t=5 or m=19456,t=2", "a hash that is too weak"
    if memory > MAX_ARGON2_MEMORY or passes > MAX_ARGON2_PASSES or not 1 <= lanes <= MAX_ARGON2_LANES:
        highest = f"m={MAX_ARGON2_MEMORY},t={MAX_ARGON2_PASSES},p={MAX_ARGON2_LANES}"
        return _refuse_expensive(highest)
    return None


def _find_sha_flaw(match: re.Match[str]) -> tuple[str, str] | None:
    rounds = int(match[1] or 5000)
    if rounds < 1000:  # crypt(5): fewer are read as 1000, so nobody can have made it
        return "at least 1000 rounds", "a hash that is too weak"
    return _refuse_expensive(f"rounds={MAX_SHA_ROUNDS}") if rounds > MAX_SHA_ROUNDS else None


def _find_bcrypt_flaw(match: re.Match[str]) -> tuple[str, str] | None:
    if int(match[1]) < MIN_BCRYPT_COST:
        return f"a cost from {MIN_BCRYPT_COST} to {MAX_BCRYPT_COST}", "no bcrypt hash"
    return _refuse_expensive(f"a cost of {MAX_BCRYPT_COST}") if int(match[1]) > MAX_BCRYPT_COST else None


def _find_yescrypt_flaw(match: re.Match[str]) -> tuple[str, str] | None:
    memory = _yescrypt_memory(match)
    return _refuse_expensive("64 MiB of memory ($y$jBT$)") if memory > MAX_YESCRYPT_MEMORY else None


def _refuse_expensive(highest: str) -> tuple[str, str]:
    return f"at most {highest}, which a 1 GB machine bears", "a hash that is too expensive"


def _yescrypt_memory(match: re.Match[str]) -> int:
    """In KiB: 128 * N * r bytes. The hash has log2(N) - 1 and r - 1, each as one digit (libxcrypt, alg-yescrypt)."""
    log_n, r = (_ITOA64.index(character) + 1 for character in match.group(1, 2))
    return int(128 * 2**log_n * r // 1024)


def _is_true(_: re.Match[str]) -> bool:
    return True


def _is_false(_: re.Match[str]) -> bool:
    return False


KINDS = (
    HashKind("Argon2id", "ARGON2ID", re.compile(rf"\$argon2id{_ARGON2}"), _find_argon2_flaw, _is_false),
    HashKind(
        "Argon2i",
        "ARGON2I",
        re.compile(rf"\$argon2i{_ARGON2}"),
        _find_argon2_flaw,
        lambda match: int(match[1]) < 19456 or int(match[2]) < 3,
    ),
    HashKind(
        "yescrypt",
        "CRYPT",
        re.compile(r"\$y\$j([./0-9A-J])([./0-9A-Za-z])\$[./0-9A-Za-z]{1,86}\$[./0-9A-Za-z]{43}"),
        _find_yescrypt_flaw,
        lambda match: _yescrypt_memory(match) < DEFAULT_YESCRYPT_MEMORY,
    ),
    HashKind(
        "sha512-crypt", "SHA512-CRYPT", re.compile(rf"\$6{_SHA}{{86}}"), _find_sha_flaw, _is_true, aliases=("CRYPT",)
    ),
    HashKind(
        "sha256-crypt", "SHA256-CRYPT", re.compile(rf"\$5{_SHA}{{43}}"), _find_sha_flaw, _is_true, aliases=("CRYPT",)
    ),
    HashKind(
        "bcrypt",
        "BLF-CRYPT",
        re.compile(r"\$2[aby]\$([0-9]{2})\$[./0-9A-Za-z]{53}"),
        _find_bcrypt_flaw,
        _is_true,
        aliases=("CRYPT",),
    ),
)
PATTERN = "|".join(
    rf"(?:\{{(?:{'|'.join((kind.scheme, *kind.aliases))})\}})?(?:{kind.pattern.pattern})" for kind in KINDS
)
"""For the JSON Schema."""


def find_hash_kind(text: str) -> ParsedHash | None:
    """The hash with or without Dovecot's `{SCHEME}`; None if it is of no kind that mail.yml takes."""
    scheme, plain = "", text
    if text.startswith("{"):
        scheme, _, plain = text[1:].partition("}")
    for kind in KINDS:
        if kind.pattern.fullmatch(plain) and (not text.startswith("{") or scheme in (kind.scheme, *kind.aliases)):
            return ParsedHash(kind, plain)
    return None


def parse_password_hash(value: object, address: str) -> str:
    """The hash, with its scheme. It is neither too weak nor too expensive. No message shows it."""
    remedy = f"Set it with: mailkeep account passwd NAME {address}"
    parsed = find_hash_kind(value) if isinstance(value, str) else None
    if not parsed:
        raise invalid(f"a hash {{ARGON2ID}}$argon2id$…, never clear text. {remedy}", _describe_other_hash(value))
    match = parsed.kind.pattern.fullmatch(parsed.plain)
    if match and (flaw := parsed.kind.find_flaw(match)):
        expected, actual = flaw
        raise invalid(f"{expected}. {remedy}", actual)
    return parsed.text


def _describe_other_hash(value: object) -> str:
    if isinstance(value, str) and value.startswith("{") and "}" in value:
        return "another kind of hash, or a damaged one (not shown)"
    return "no hash (not shown)"
