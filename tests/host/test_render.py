from pathlib import Path

import pytest

from mailkeep.errors import UserError
from mailkeep.host.render import render_host_files
from mailkeep.inventory import secrets
from mailkeep.inventory.create import create_inventory
from mailkeep.parts import mail_server
from mailkeep.parts.model import File
from mailkeep.settings.load import load_settings


@pytest.fixture(scope="module")
def inventory_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("inventories") / "home"
    identity = tmp_path_factory.mktemp("identity")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_CONFIG_HOME", str(identity))
        create_inventory(directory, host="mail.example.org", addresses=["192.0.2.1"], admin=["ann@example.net"])
        yield directory


@pytest.fixture(scope="module")
def host_files(inventory_directory: Path) -> list[File]:
    """All files of the host."""
    declared = load_settings(inventory_directory / "mail.yml")
    return [
        file
        for part in mail_server.build_parts(declared, secrets.load_secrets(declared, inventory_directory))
        for file in part.files
    ]


@pytest.mark.slow
def test_every_file_of_the_host_is_written_with_its_content(
    inventory_directory: Path, host_files: list[File], tmp_path: Path
) -> None:
    written = render_host_files(inventory_directory, tmp_path / "out")
    assert {f"/{path.relative_to(tmp_path / 'out')}": path.read_bytes() for path in written} == {
        file.path: file.content for file in host_files
    }
    assert sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file()) == written


@pytest.mark.slow
def test_only_the_current_user_can_read_secrets(
    inventory_directory: Path, host_files: list[File], tmp_path: Path
) -> None:
    target = tmp_path / "out"
    target.mkdir(mode=0o755)
    render_host_files(inventory_directory, target)
    assert target.stat().st_mode & 0o777 == 0o700
    secret = [file for file in host_files if file.secret]
    assert secret
    assert {(target / file.path[1:]).stat().st_mode & 0o777 for file in secret} == {0o600}


def test_two_renderings_are_the_same(inventory_directory: Path, tmp_path: Path) -> None:
    first, second = (
        [path.read_bytes() for path in render_host_files(inventory_directory, tmp_path / name)]
        for name in ("first", "second")
    )
    assert first == second


def test_nothing_is_overwritten(inventory_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        render_host_files(inventory_directory, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_target_that_is_a_file_is_a_clear_error(inventory_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"file: File exists\. Name a directory"):
        render_host_files(inventory_directory, tmp_path / "file")
