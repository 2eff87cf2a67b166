import shutil
from pathlib import Path

import pytest
from inventory_samples import TODAY, make_settings

from mailkeep.inventory.secrets import create_missing_keys
from mailkeep.inventory.vault import IDENTITY, Vault, create_vault, identity_path, open_vault


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
    create_vault(directory / "secrets", identity_path(directory))
    return directory


@pytest.fixture
def vault(inventory: Path) -> Vault:
    return open_vault(inventory)


@pytest.fixture(scope="session")
def keys_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All keys for `make_settings()`; not to be changed."""
    directory = tmp_path_factory.mktemp("keys")
    create_vault(directory / "secrets", directory / IDENTITY)
    create_missing_keys(make_settings(), directory, TODAY)
    return directory


@pytest.fixture
def complete_inventory(keys_directory: Path, tmp_path: Path) -> Path:
    """An inventory with all keys for `make_settings()`."""
    return shutil.copytree(keys_directory, tmp_path / "complete")
