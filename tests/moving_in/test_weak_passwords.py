"""Common passwords and own names are found in every kind of hash that comes along, and within a bounded time."""

import time

import argon2
import pytest
from moving_in_samples import GOOD_PASSWORD, make_hash

from mailkeep.moving_in import weak_passwords
from mailkeep.moving_in.weak_passwords import Trial, try_passwords

NAMES = ("bert", "bert@example.org", "example.org", "example")
KINDS = {
    "sha512-crypt": lambda password: make_hash(password, "$6$rounds=1000$saltsalt"),
    "sha256-crypt": lambda password: "{SHA256-CRYPT}" + make_hash(password, "$5$rounds=1000$saltsalt"),
    "bcrypt": lambda password: "{BLF-CRYPT}" + make_hash(password, "$2y$04$abcdefghijklmnopqrstuu"),
    "yescrypt": lambda password: "{CRYPT}" + make_hash(password, "$y$j75$saltsalt"),
    "md5-crypt": lambda password: make_hash(password, "$1$saltsalt"),
    "argon2id": lambda password: argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(password),
    "argon2i": lambda password: (
        "{ARGON2I}"
        + argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1, type=argon2.Type.I).hash(password)
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "password",
    ["bert", "Bert", "bert123", "treb", "bertbert", "BERT", "example", "123456", "letmein", "qwertyuiop"],
)
def test_a_password_that_attackers_try_first_is_guessed(kind: str, password: str) -> None:
    [result] = try_passwords({"bert": Trial(KINDS[kind](password), NAMES)}).values()
    assert result.guessed
    assert result.tries < 400


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_good_password_is_not(kind: str) -> None:
    [result] = try_passwords({"bert": Trial(KINDS[kind](GOOD_PASSWORD), NAMES)}, seconds_per_hash=0.2).values()
    assert (result.guessed, result.untried) == ("", "")
    assert result.tries >= weak_passwords.MIN_TRIES


@pytest.mark.parametrize("name", ["test", "steam", "alarm"])
def test_the_incidents_accounts_are_guessed_at_the_first_try(name: str) -> None:
    for kind in KINDS.values():
        [result] = try_passwords({name: Trial(kind(name), (name, f"{name}@example.org"))}).values()
        assert (result.guessed, result.tries) == ("its password is its own name, or nearly so", 1)


@pytest.mark.slow
def test_the_time_is_bounded_however_many_and_slow_the_hashes_are() -> None:
    slow = {str(number): Trial(make_hash(GOOD_PASSWORD, "$2y$07$abcdefghijklmnopqrstuu"), NAMES) for number in range(6)}
    start = time.monotonic()
    results = try_passwords(slow, seconds_per_hash=10, max_seconds=0.5)
    assert time.monotonic() - start < 5
    assert all(result.tries >= weak_passwords.MIN_TRIES for result in results.values())


@pytest.mark.parametrize("password_hash", ["{SSHA512}" + "A" * 88, "{PLAIN}hunter2", "$9$abc$def", "$argon2id$v=19$x"])
def test_a_hash_that_cannot_be_tried_is_not_called_good(password_hash: str) -> None:
    [result] = try_passwords({"bert": Trial(password_hash, NAMES)}).values()
    assert result.untried
    assert "needs a new password" in result.untried


def test_without_libxcrypt_no_such_hash_comes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(KINDS["yescrypt"](GOOD_PASSWORD), NAMES)
    monkeypatch.setattr(weak_passwords, "_load_libxcrypt", lambda: None)
    [result] = try_passwords({"bert": trial}).values()
    assert "this machine has no libxcrypt" in result.untried
