import shutil
from pathlib import Path

import pytest
from inventory_samples import TODAY, settings

from mailkeep.inventory import secrets, vault
from mailkeep.inventory.vault import open_vault


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Identities lie below a directory of the test's own."""
    monkeypatch.delenv("MAILKEEP_IDENTITY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config"


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """An inventory with an empty vault."""
    directory = tmp_path / "inventories" / "first"
    directory.mkdir(parents=True)
    vault.create_vault(directory / "secrets", vault.identity_path(directory))
    return directory


@pytest.fixture
def safe(inventory: Path) -> vault.Vault:
    return open_vault(inventory)


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All keys for `settings()`; not to be changed."""
    directory = tmp_path_factory.mktemp("generated")
    vault.create_vault(directory / "secrets", directory / vault.IDENTITY)
    secrets.create_missing_keys(settings(), directory, TODAY)
    return directory


@pytest.fixture
def furnished(generated: Path, tmp_path: Path) -> Path:
    """An inventory with all keys for `settings()`."""
    return shutil.copytree(generated, tmp_path / "furnished")
