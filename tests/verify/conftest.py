"""A server that was declared and does not exist: what a probe would have seen there is up to the test."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailkeep.lab.demo_inventory import create_demo_inventory
from mailkeep.lab.site import DEMO
from mailkeep.verify.outcome import Outcome
from mailkeep.verify.session import judge_results
from mailkeep.verify.target import ProbeResult, Target

START = 1_800_000_000.0  # when the probe was sent, seconds since the epoch


@pytest.fixture(scope="session")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("lab") / "demo"
    create_demo_inventory(DEMO, target)
    return target


@pytest.fixture
def target(inventory: Path) -> Target:
    return Target.load("mail", {"mailkeep": str(inventory / "mail.yml")})


@pytest.fixture
def verdict(target: Target) -> Callable[..., Outcome]:
    """What a check makes of what was seen, by area (spaces as underscores)."""

    def judge(check: str, **seen: Any) -> Outcome:
        areas = {area.replace("_", " "): {"result": saw} for area, saw in seen.items()}
        return next(one for one in judge_results([(target, ProbeResult(areas, START))]) if one.check == check)

    return judge
