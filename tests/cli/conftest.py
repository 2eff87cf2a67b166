"""The command as a user runs it, in a directory with one inventory, `home`."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_samples import INIT, MAILKEEP, SSH, Run, Said, environment, program

from mailkeep.cli import app


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A directory with an inventory, and what `init` printed."""
    root = tmp_path_factory.mktemp("first")
    (root / "inventories").mkdir()
    done = subprocess.run(
        [MAILKEEP, *INIT], cwd=root, env=environment(root), capture_output=True, text=True, check=True
    )
    return root, done.stdout


@pytest.fixture
def home(first: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the inventory to be changed; the working directory is where `inventories/` is."""
    shutil.copytree(first[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for name in ("MAILKEEP_HOME", "MAILKEEP_IDENTITY", "XDG_CONFIG_HOME", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    return tmp_path / "inventories" / "home"


@pytest.fixture
def mailkeep(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command with these arguments; `stdin` is what is piped into it."""

    def run(*arguments: str, stdin: str = "") -> Said:
        monkeypatch.setattr(sys, "argv", ["mailkeep", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            app.main()
        said = capfd.readouterr()
        assert "Traceback" not in said.out + said.err
        return Said(ended.value.code or 0, said.out, said.err)  # type: ignore[arg-type]

    return run


@pytest.fixture
def programs(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of programs that stand in for others, with an ssh that gets anywhere but to the host `gone`."""
    directory = home.parent.parent / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    program(directory / "ssh", SSH)
    return directory
