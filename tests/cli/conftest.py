"""The command as a user runs it, in a directory with one inventory, `home`."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer.main
from cli_samples import INIT, MAILKEEP, SSH, CommandResult, Run, environment, write_program

from mailkeep.cli import app


@pytest.fixture(scope="session", autouse=True)
def parser_built_once() -> Iterator[None]:
    """typer builds the parser of all commands anew for each run, which takes longer than most runs do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.main.get_command", cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session")
def first_inventory(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A directory with an inventory, and the output of the `init` that created it."""
    root = tmp_path_factory.mktemp("first")
    (root / "inventories").mkdir()
    process = subprocess.run(
        [MAILKEEP, *INIT], cwd=root, env=environment(root), capture_output=True, text=True, check=True
    )
    return root, process.stdout


@pytest.fixture
def home(first_inventory: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the inventory for one test; the working directory is the one that holds `inventories/`."""
    shutil.copytree(first_inventory[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for name in ("MAILKEEP_HOME", "MAILKEEP_IDENTITY", "XDG_CONFIG_HOME", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    return tmp_path / "inventories" / "home"


@pytest.fixture
def mailkeep(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command with these arguments and this standard input."""

    def run_command(*arguments: str, stdin: str = "") -> CommandResult:
        monkeypatch.setattr(sys, "argv", ["mailkeep", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capfd.readouterr()
        with pytest.raises(SystemExit) as raised:
            app.main()
        captured = capfd.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return CommandResult(raised.value.code or 0, captured.out, captured.err)  # type: ignore[arg-type]

    return run_command


@pytest.fixture
def programs(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of fake programs in PATH, with an ssh that reaches every host but `gone`."""
    directory = home.parent.parent / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    write_program(directory / "ssh", SSH)
    return directory
