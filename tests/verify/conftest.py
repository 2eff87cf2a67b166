"""A declared server without a machine: each test supplies the probe's observations."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailkeep.lab.demo_inventory import create_demo_inventory
from mailkeep.lab.site import DEMO
from mailkeep.verify.outcome import Outcome
from mailkeep.verify.session import judge_results
from mailkeep.verify.target import ProbeResult, Target

START = 1_800_000_000.0  # of the probe, in seconds since the epoch


@pytest.fixture(scope="session")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("lab") / "demo"
    create_demo_inventory(DEMO, target)
    return target


@pytest.fixture
def target(inventory: Path) -> Target:
    return Target.load("mail", {"mailkeep": str(inventory / "mail.yml")})


@pytest.fixture
def run_check(target: Target) -> Callable[..., Outcome]:
    """Run one check on these observations, by area (with underscores for spaces)."""

    def run_check_on(check: str, **observations: Any) -> Outcome:
        areas = {area.replace("_", " "): {"result": result} for area, result in observations.items()}
        outcomes = judge_results([(target, ProbeResult(areas, START))])
        return next(outcome for outcome in outcomes if outcome.check == check)

    return run_check_on
