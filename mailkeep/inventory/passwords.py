"""Passwords: judged before they are hashed, hashed for a small machine, or made."""

from __future__ import annotations

import hashlib
import http.client
import secrets
import urllib.request
from collections.abc import Iterable

from argon2 import PasswordHasher
from zxcvbn import zxcvbn
from zxcvbn.frequency_lists import FREQUENCY_LISTS

from mailkeep.errors import UserError

SHORTEST = 12
LONGEST = 256
STRONG_ENOUGH = 3  # of zxcvbn's 0 to 4: 10^8 guesses or more
ESTIMATED = 72  # zxcvbn's own limit: its time grows faster than its input

# What OWASP's Password Storage Cheat Sheet recommends first: 19 MiB and 2 passes.
HASHER = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1, hash_len=32, salt_len=16)

# Neither 0 and o nor 1, l and i; all lower case, so a phone's keyboard needs no shift.
ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
GROUPS = 4

RANGE_API = "https://api.pwnedpasswords.com/range/"
RANGE_TIMEOUT = 10  # seconds
RANGE_LARGEST = 2**20  # bytes; an answer has some 40 kB

_COMMON = frozenset(FREQUENCY_LISTS["passwords"])


def check_password(password: str, *, address: str, domains: Iterable[str]) -> None:
    """Raises UserError, which says why, unless `password` will do for `address`.

    `domains` are all names that an attacker would try first: the mail domains and the host's own.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise UserError(f"The password must have from {SHORTEST} to {LONGEST} characters; this has {len(password)}.")
    if not password.isprintable() or password != password.strip():
        raise UserError("The password must have printable characters only, and no space at its beginning or end.")
    lowered = password.lower()
    if lowered in _COMMON or _folded(password) in _COMMON:
        raise UserError("The password is one of the most common ones, which are the first that are tried.")
    names = _names(address, domains)
    if found := next((name for name in names if name in lowered), None):
        raise UserError(f"The password contains {found!r}, which is part of the address or of the server's names.")
    estimate = zxcvbn(password[:ESTIMATED], user_inputs=names)
    if estimate["score"] < STRONG_ENOUGH:
        feedback = estimate["feedback"]
        advice = " ".join(part for part in (feedback["warning"], *feedback["suggestions"]) if part)
        raise UserError(f"The password is too easy to guess. {advice}".rstrip())


def _folded(password: str) -> str:
    """Without the digits and signs that people put around a common password to please a rule."""
    return password.lower().strip("0123456789!@#$%^&*()-_=+.,:;?/ ")


def _names(address: str, domains: Iterable[str]) -> list[str]:
    """What must not be part of the password, longest first; what is shorter would refuse by chance."""
    local_part, _, domain = address.lower().rpartition("@")
    names = {address.lower(), local_part}
    for name in (domain, *(each.lower() for each in domains)):
        names |= {
            name,
            name.removeprefix("mail."),
            *(label for label in name.split(".")[-2:-1] if len(label) > 3),
        }
    return sorted((name for name in names if len(name) > 2), key=lambda name: (-len(name), name))


def hash_password(password: str) -> str:
    """The `{ARGON2ID}` PHC string (RFC 9106) that `mail.yml` and Dovecot's passwd-file take."""
    return "{ARGON2ID}" + HASHER.hash(password)


def generate_password() -> str:
    """A password of 79 bits in four groups (`k7fh-x2qe-…`), to be copied by eye and typed on a phone."""
    return "-".join("".join(secrets.choice(ALPHABET) for _ in range(4)) for _ in range(GROUPS))


def count_breaches(password: str, *, url: str = RANGE_API) -> int:
    """How often `password` was seen in breaches, by the k-anonymity range API of Have I Been Pwned at `url`.

    Only the first 5 hex digits of its SHA-1 leave this machine; the answer is padded, so that its size
    says nothing either. Raises UserError when there is no answer: an unasked question is not a clean bill.
    """
    digest = hashlib.sha1(password.encode(), usedforsecurity=False).hexdigest().upper()
    if not url.startswith(("https://", "http://127.0.0.1:", "http://[::1]:")):
        raise UserError(f"The breach check wants an https:// address, not {url}")
    headers = {"Add-Padding": "true", "User-Agent": "mailkeep"}
    prefix = url.rstrip("/") + "/" + digest[:5]
    request = urllib.request.Request(prefix, headers=headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=RANGE_TIMEOUT) as answer:  # noqa: S310 - checked
            lines = answer.read(RANGE_LARGEST).decode("ascii").splitlines()
        counts = dict(line.strip().split(":", 1) for line in lines if line.strip())
        return int(counts.get(digest[5:], 0))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UserError(f"The breach check got no usable answer from {url}: {error}") from None
