"""No request, however malformed, ends the guard, changes its counts or lets it grow (see bench/fuzz.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from guard_fuzz import MODES, Fuzzer
from guard_samples import GuardProcess


@pytest.mark.slow
@pytest.mark.parametrize("changes", MODES, ids=["enforce", "learn"])
def test_a_few_thousand_malformed_requests_change_nothing(
    start_guard: Callable[..., GuardProcess], changes: dict[str, Any]
) -> None:
    Fuzzer(start_guard(**changes), seed=1).send_requests(3000)
