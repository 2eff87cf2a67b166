"""Passwords: checked before they are hashed, hashed for a small machine, generated, looked up in breaches."""

from __future__ import annotations

import hashlib
import http.client
import secrets
import urllib.request
from collections.abc import Iterable
from functools import cache

from argon2 import PasswordHasher

from mailkeep.errors import UserError

MIN_LENGTH = 12
MAX_LENGTH = 256
MIN_SCORE = 3  # of zxcvbn's 0 to 4: at least 10^8 guesses
MAX_ESTIMATED_LENGTH = 72  # zxcvbn's own limit: its time grows faster than its input

# What OWASP's Password Storage Cheat Sheet recommends first: 19 MiB and 2 passes.
HASHER = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1, hash_len=32, salt_len=16)

# Neither 0 and o nor 1, l and i; all lower case, so a phone's keyboard needs no shift.
ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
GROUPS = 4

RANGE_API = "https://api.pwnedpasswords.com/range/"
RANGE_TIMEOUT = 10  # seconds
MAX_RANGE_BYTES = 2**20  # an answer has some 40 kB


def check_password(password: str, *, address: str, domains: Iterable[str]) -> None:
    """UserError, with the reason, unless `password` will do for `address`.

    `domains` are the names that an attacker tries first: the mail domains and the host's name.
    """
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise UserError(
            f"The password must have from {MIN_LENGTH} to {MAX_LENGTH} characters; this one has {len(password)}."
        )
    if not password.isprintable() or password != password.strip():
        raise UserError("The password must have printable characters only, and no space at its beginning or end.")
    from zxcvbn import zxcvbn  # its word lists take a tenth of the start of every command, and few commands need them

    lowered = password.lower()
    if lowered in _common_passwords() or _strip_decoration(password) in _common_passwords():
        raise UserError("The password is one of the most common ones, which attackers try first.")
    names = _forbidden_names(address, domains)
    if name := next((name for name in names if name in lowered), None):
        raise UserError(f"The password contains {name!r}, which is part of the address or of the server's names.")
    estimate = zxcvbn(password[:MAX_ESTIMATED_LENGTH], user_inputs=names)
    if estimate["score"] < MIN_SCORE:
        feedback = estimate["feedback"]
        advice = " ".join(text for text in (feedback["warning"], *feedback["suggestions"]) if text)
        raise UserError(f"The password is too easy to guess. {advice}".rstrip())


@cache
def _common_passwords() -> frozenset[str]:
    from zxcvbn.frequency_lists import FREQUENCY_LISTS

    return frozenset(FREQUENCY_LISTS["passwords"])


def list_common_passwords() -> list[str]:
    """The most common first."""
    from zxcvbn.frequency_lists import FREQUENCY_LISTS

    return list(FREQUENCY_LISTS["passwords"])


def _strip_decoration(password: str) -> str:
    """Without the digits and signs that people put around a common password to satisfy a rule."""
    return password.lower().strip("0123456789!@#$%^&*()-_=+.,:;?/ ")


def _forbidden_names(address: str, domains: Iterable[str]) -> list[str]:
    """The names that the password must not contain, longest first. Shorter ones would match by chance."""
    local_part, _, domain = address.lower().rpartition("@")
    names = {address.lower(), local_part}
    for name in (domain, *(domain.lower() for domain in domains)):
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
    """How often breaches contain `password`, by the k-anonymity range API of Have I Been Pwned at `url`.

    Only the first 5 hex digits of its SHA-1 leave this machine. The answer is padded, so that its size tells nothing
    either. UserError without an answer: an unasked question is not a clean bill.
    """
    digest = hashlib.sha1(password.encode(), usedforsecurity=False).hexdigest().upper()
    if not url.startswith(("https://", "http://127.0.0.1:", "http://[::1]:")):
        raise UserError(f"The breach check wants an https:// address, not {url}")
    headers = {"Add-Padding": "true", "User-Agent": "mailkeep"}
    range_url = url.rstrip("/") + "/" + digest[:5]
    request = urllib.request.Request(range_url, headers=headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=RANGE_TIMEOUT) as answer:  # noqa: S310 - checked
            lines = answer.read(MAX_RANGE_BYTES).decode("ascii").splitlines()
        counts = dict(line.strip().split(":", 1) for line in lines if line.strip())
        return int(counts.get(digest[5:], 0))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UserError(f"The breach check got no usable answer from {url}: {error}") from None
