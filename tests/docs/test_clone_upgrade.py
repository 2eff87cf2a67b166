"""An upgrade of a clone, by the documented commands: inventories in it are no obstacle."""

import shutil
import subprocess
from pathlib import Path

import pytest
from documents import ROOT, Command, read_steps

from mailkeep import locations
from mailkeep.inventory import create

[PULL] = [step.text for step in read_steps("day-two.md") if isinstance(step, Command) and step.text.startswith("git ")]


def git(directory: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    command = ["git", *identity, "-C", str(directory), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone whose upstream has gone on, with an inventory in it."""
    upstream, clone = tmp_path / "upstream", tmp_path / "clone"
    shutil.copytree(ROOT / "inventories", upstream / "inventories", ignore=lambda *_: ["demo"])
    git(tmp_path, "init", "-q", "-b", "main", str(upstream))
    git(upstream, "add", "-A")
    git(upstream, "commit", "-qm", "before")
    git(tmp_path, "clone", "-q", str(upstream), str(clone))
    (upstream / "CHANGELOG.md").write_text("new")
    git(upstream, "add", "-A")
    git(upstream, "commit", "-qm", "after")
    (clone / "inventories/home").mkdir()
    (clone / "inventories/home/mail.yml").write_text("mine")
    return clone


def pull(clone: Path) -> None:
    git(clone, *PULL.split()[1:])
    assert (clone / "CHANGELOG.md").read_text() == "new"
    assert (clone / "inventories/home/mail.yml").read_text() == "mine"


@pytest.mark.slow
def test_a_clone_ignores_inventories_and_each_may_be_a_repository(clone: Path) -> None:
    git(clone / "inventories/home", "init", "-q")
    git(clone / "inventories/home", "add", "-A")
    git(clone / "inventories/home", "commit", "-qm", "mine")
    git(clone, "add", "-A")
    assert git(clone, "status", "--porcelain") == ""
    pull(clone)


@pytest.mark.slow
def test_an_inventory_that_was_committed_to_the_clone_is_no_obstacle(clone: Path) -> None:
    git(clone, "add", "-f", "inventories/home")
    git(clone, "commit", "-qm", "mine")
    pull(clone)


def test_init_says_how_to_keep_an_inventory_where_it_is(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = Path("/srv/inventories/home")
    assert create._advise_on_git(elsewhere) == f"Commit {elsewhere}: it holds no secret in clear text."
    monkeypatch.setattr(locations, "__file__", str(clone / "mailkeep" / "locations.py"))
    (clone / "pyproject.toml").touch()
    assert f"`git init {clone / 'inventories/home'}`" in create._advise_on_git(clone / "inventories/home")
