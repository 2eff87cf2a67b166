"""Nothing that comes in, however malformed, ends the guard, changes its counts or lets it grow (see bench/fuzz.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from guard_fuzz import MODES, Fuzz
from guard_samples import Daemon


@pytest.mark.parametrize("settings", MODES, ids=["enforce", "learn"])
def test_a_few_thousand_malformed_requests_change_nothing(
    daemon: Callable[..., Daemon], settings: dict[str, Any]
) -> None:
    Fuzz(daemon(**settings), seed=1).send(3000)
