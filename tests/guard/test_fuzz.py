"""Nothing that comes in, however malformed, ends the guard, changes its counts or lets it grow (see bench/fuzz.py)."""

from __future__ import annotations

from collections.abc import Callable

from guard_fuzz import Fuzz
from guard_samples import NO_LIMITS, Daemon


def test_a_few_thousand_malformed_requests_change_nothing(daemon: Callable[..., Daemon]) -> None:
    running = daemon(limits=NO_LIMITS)
    Fuzz(running, seed=1).send(3000)
