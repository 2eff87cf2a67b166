"""Tries common passwords, and an account's own name, against hashes that come along from another server.

It runs on the operator's machine: the old server carries mail, and may be small. libxcrypt tries sha-crypt, bcrypt and
yescrypt, as Dovecot does. No package on PyPI knows yescrypt, Debian's default; ctypes reaches the library, which every
Debian has. argon2-cffi tries Argon2. A hash that cannot be tried does not come along.
"""

import ctypes
import os
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import islice

from argon2 import exceptions, low_level

from mailkeep.inventory.passwords import list_common_passwords

SECONDS_PER_HASH = 10.0
MAX_SECONDS = 300.0  # for all hashes together
MIN_TRIES = 8  # however slow the hash is
MAX_TRIES = 20_000
_LIBRARIES = ("libcrypt.so.1", "libcrypt.so.2")
_CRYPT_DATA_BYTES = 32768  # of libxcrypt's struct crypt_data (crypt.h)
_CRYPT_SCHEME = re.compile(r"^\{(?:CRYPT|SHA256-CRYPT|SHA512-CRYPT|BLF-CRYPT|MD5-CRYPT|DES-CRYPT|ARGON2ID?)\}", re.I)
_CRYPT_FORM = re.compile(r"\$[0-9a-z]+\$|[./0-9A-Za-z]{13}$")  # of crypt(5), DES at last
_ARGON2 = {"$argon2id": low_level.Type.ID, "$argon2i$": low_level.Type.I}
# Before the list: the beginning of each list that guessers use.
_FIRST = ("123456", "password", "12345678", "123456789", "12345", "qwerty", "admin", "letmein", "changeme", "secret")


@dataclass(frozen=True, slots=True)
class Trial:
    """A hash, with Dovecot's scheme or without, and the names that its owner may have taken for a password."""

    password_hash: str = field(repr=False)
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TrialResult:
    """`guessed`: how the password was guessed, or "". `untried`: why nothing could be tried, or ""."""

    guessed: str = ""
    untried: str = ""
    tries: int = 0


class UntriableError(Exception):
    """This machine cannot verify a hash of this kind."""


def try_passwords(
    trials: Mapping[str, Trial], *, seconds_per_hash: float = SECONDS_PER_HASH, max_seconds: float = MAX_SECONDS
) -> dict[str, TrialResult]:
    """The result of each trial, by its name. All processors work, and each hash gets the same time at most."""
    if not trials:
        return {}
    workers = min(len(trials), os.cpu_count() or 1)
    seconds = min(seconds_per_hash, max_seconds * workers / len(trials))
    with ThreadPoolExecutor(workers) as pool:  # libxcrypt and Argon2 work without Python's lock
        results = pool.map(lambda trial: _try_hash(trial, seconds), trials.values())
        return dict(zip(trials, results, strict=True))


def _try_hash(trial: Trial, seconds: float) -> TrialResult:
    end, tries = time.monotonic() + seconds, 0
    plain = _CRYPT_SCHEME.sub("", trial.password_hash)
    if not _CRYPT_FORM.match(plain):
        return TrialResult(untried="its hash is of a kind that cannot be tried: it needs a new password")
    for password, how in islice(list_guesses(trial.names), MAX_TRIES):
        try:
            if verify_password(plain, password):
                return TrialResult(guessed=how, tries=tries + 1)
        except UntriableError as error:
            return TrialResult(untried=str(error))
        tries += 1
        if tries >= MIN_TRIES and time.monotonic() > end:
            break
    return TrialResult(tries=tries)


def list_guesses(names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Passwords, and how each was guessed: the login first, then the most common ones, then variants of all names."""
    own_name = "its password is its own name, or nearly so"
    common = "its password is one of the most common ones, which attackers try first"
    login = names[0].partition("@")[0] if names else ""
    common_list = list_common_passwords()
    candidates = [(password, own_name) for password in _vary(login)[:4]]
    candidates += [(password, common) for password in _FIRST]
    candidates += [(password, own_name) for password in _vary(login)]
    candidates += [(password, common) for password in common_list[:100]]
    candidates += [(password, own_name) for name in names for password in _vary(name.partition("@")[0])]
    candidates += [(name, "its password is a name that everybody knows") for name in names]
    candidates += [("", "its password is empty")]
    candidates += [(password, common) for password in common_list]
    yield from _drop_repeated(candidates)


def _drop_repeated(candidates: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    passed = set[str]()
    for password, how in candidates:
        if password not in passed:
            passed.add(password)
            yield password, how


def _vary(name: str) -> list[str]:
    """The likeliest first."""
    if not name:
        return []
    suffixes = ("123", "1", "1234", "12345", "123456", "12", "01", "!", "123!", "2024", "2025", "2026", "pass")
    capital = name.capitalize()
    variants = [name, f"{name}123", f"{name}1", f"{name}{name}", name[::-1], capital, name.upper()]
    variants += [f"{base}{suffix}" for base in (name, capital) for suffix in suffixes]
    return list(dict.fromkeys(variants))


def verify_password(password_hash: str, password: str) -> bool:
    """Whether the hash, without a scheme, is the password's. Raises UntriableError."""
    kind = next((kind for prefix, kind in _ARGON2.items() if password_hash.startswith(prefix)), None)
    if kind:
        try:
            return low_level.verify_secret(password_hash.encode(), password.encode(), kind)
        except exceptions.VerifyMismatchError:
            return False
        except exceptions.Argon2Error:
            raise UntriableError("its hash is damaged: it needs a new password") from None
    return hash_like(password, password_hash) == password_hash


def hash_like(password: str, setting: str) -> str:
    """crypt_rn(3) of libxcrypt, whose result goes into our own memory, so threads do not meet. `setting` is a hash, or
    its beginning: kind, costs and salt. Raises UntriableError."""
    library = _load_libxcrypt()
    if not library:
        raise UntriableError(
            "this machine has no libxcrypt, so its password could not be tried: inspect from a Debian, or give it a "
            "new password"
        )
    memory = ctypes.create_string_buffer(_CRYPT_DATA_BYTES)
    result: bytes | None = library.crypt_rn(password.encode(), setting.encode(), memory, _CRYPT_DATA_BYTES)
    if not result or result.startswith(b"*"):
        raise UntriableError("libxcrypt does not know its hash: it needs a new password")
    return result.decode()


@cache
def _load_libxcrypt() -> ctypes.CDLL | None:
    """None where it is missing. crypt_rn is libxcrypt's own: glibc's former library has none, and knows no yescrypt."""
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
            library.crypt_rn.restype = ctypes.c_char_p
            library.crypt_rn.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int)
        except (OSError, AttributeError):
            continue
        return library
    return None
