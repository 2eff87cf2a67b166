from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis
from settings_samples import COMPLETE, Inventory

# The same examples every time: a check that fails only sometimes is no check.
hypothesis.register_profile(
    "settings", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
hypothesis.load_profile("settings")


@pytest.fixture
def mail_yml(tmp_path: Path) -> Inventory:
    return Inventory(tmp_path / "mail.yml").write(COMPLETE)
