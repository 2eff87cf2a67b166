from pathlib import Path

import pytest

from mailkeep.errors import UserError
from mailkeep.host.render import render
from mailkeep.inventory import secrets
from mailkeep.inventory.create import create_inventory
from mailkeep.parts import mail_server
from mailkeep.parts.model import File
from mailkeep.settings.load import load_settings


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("inventories") / "home"
    identity = tmp_path_factory.mktemp("identity")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_CONFIG_HOME", str(identity))
        create_inventory(made, host="mail.example.org", addresses=["192.0.2.1"], admin=["ann@example.net"])
        yield made


@pytest.fixture(scope="module")
def files(inventory: Path) -> list[File]:
    """What the host gets."""
    declared = load_settings(inventory / "mail.yml")
    return [
        file
        for part in mail_server.build_parts(declared, secrets.load_secrets(declared, inventory))
        for file in part.files
    ]


def test_every_file_of_the_host_is_written_as_it_would_be_there(
    inventory: Path, files: list[File], tmp_path: Path
) -> None:
    written = render(inventory, tmp_path / "out")
    assert {f"/{path.relative_to(tmp_path / 'out')}": path.read_bytes() for path in written} == {
        file.path: file.content for file in files
    }
    assert sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file()) == written


def test_secrets_are_for_who_renders_alone(inventory: Path, files: list[File], tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir(mode=0o755)
    render(inventory, target)
    assert target.stat().st_mode & 0o777 == 0o700
    secret = [file for file in files if file.secret]
    assert secret
    assert {(target / file.path[1:]).stat().st_mode & 0o777 for file in secret} == {0o600}


def test_two_renderings_are_the_same(inventory: Path, tmp_path: Path) -> None:
    one, two = ([path.read_bytes() for path in render(inventory, tmp_path / name)] for name in ("one", "two"))
    assert one == two


def test_nothing_is_overwritten(inventory: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        render(inventory, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_target_that_is_a_file_is_a_clear_error(inventory: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"file: File exists\. Name a directory"):
        render(inventory, tmp_path / "file")
