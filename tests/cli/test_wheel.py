"""The wheel works where there is no clone: its commands find templates, the deploy and the server's package in it."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from cli_samples import INIT, environment
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("mailkeep", "mailkeep_server")
# What is neither the project's nor fit to be copied.
IGNORED = shutil.ignore_patterns(".git", ".venv", ".lab", "build", "dist", "*.egg-info", "__pycache__", ".*_cache")

pytestmark = pytest.mark.wheel


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, with a module that is no more and that an earlier build has left."""
    source = Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("source") / "mailkeep", symlinks=True, ignore=IGNORED))
    stale = source / "build" / "lib" / "mailkeep_server" / "stale.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    return source


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(source, tmp_path_factory.mktemp("dist"))


def build_wheel(source: Path, target: Path) -> Path:
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", target, source)
    [wheel] = target.glob("*.whl")
    return wheel


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | {"PIP_NO_INDEX": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin/ of a fresh virtual environment with the wheel, installed by pip, and with those packages that it
    requires. These come from this environment, by links: there is no network."""
    root = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / "venv"], check=True)
    pip("--python", root / "venv", "install", "--no-deps", wheel)
    [site_packages] = (root / "venv" / "lib").glob("python*/site-packages")
    libraries = root / "libraries"
    libraries.mkdir()
    for required in required_distributions("mailkeep"):
        for name in {file.parts[0] for file in required.files or ()} - {"..", "__pycache__"}:
            if not (libraries / name).exists():
                (libraries / name).symlink_to(str(required.locate_file(name)))
    (site_packages / "libraries.pth").write_text(f"{libraries}\n")
    return root / "venv" / "bin"


def required_distributions(name: str, known: set[str] | None = None) -> Iterator[Distribution]:
    """What this distribution requires without extras, and what that requires."""
    known = known if known is not None else set()
    for requirement in map(Requirement, distribution(name).requires or ()):
        needed = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in requirement.extras or {""}
        )
        if needed and requirement.name.lower() not in known:
            known.add(requirement.name.lower())
            yield distribution(requirement.name)
            yield from required_distributions(requirement.name, known)


@pytest.fixture(scope="module")
def home(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an inventory that the installed command made."""
    directory = tmp_path_factory.mktemp("elsewhere")
    done = run(installed, directory, *INIT)
    assert done.returncode == 0, done.stderr
    return directory


def run(installed: Path, directory: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [installed / "mailkeep", *arguments],
        cwd=directory,
        env=environment(directory) | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )


def files_of(archive: Path) -> set[str]:
    with zipfile.ZipFile(archive) as content:
        return {name for name in content.namelist() if not name.endswith("/")}


def test_the_wheel_has_all_of_the_packages_and_nothing_below_other_names(source: Path, wheel: Path) -> None:
    names = files_of(wheel)
    in_source = {
        str(Path(directory, file).relative_to(source))
        for package in PACKAGES
        for directory, _, files in os.walk(source / package, followlinks=True)
        for file in files
    }
    assert {name for name in names if name.split("/")[0] in PACKAGES} == in_source
    assert "mailkeep/templates/postfix/main.cf.j2" in names
    assert {"mailkeep/deploy.py", "mailkeep/py.typed", "mailkeep_server/py.typed"} < names
    [metadata] = [name.partition("/")[0] for name in names if name.endswith("/METADATA")]
    others = {name for name in names if name.split("/")[0] not in (*PACKAGES, metadata)}
    assert {
        name for name in others if not re.fullmatch(r"mailkeep-[\d.]+\.data/data/share/man/man\d/.*", name)
    } == set()


def test_a_wheel_by_way_of_an_sdist_is_the_same(source: Path, wheel: Path, tmp_path: Path) -> None:
    build = "from setuptools import build_meta; build_meta.build_sdist('../sdist')"
    (source.parent / "sdist").mkdir()
    subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, check=True)
    [archive] = (source.parent / "sdist").glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path / "unpacked", filter="data")
    [unpacked] = (tmp_path / "unpacked").iterdir()
    assert files_of(build_wheel(unpacked, tmp_path)) == files_of(wheel)


def test_its_metadata_gives_the_version(installed: Path, home: Path) -> None:
    code = "import mailkeep; print(mailkeep.__version__, mailkeep.__file__)"
    done = subprocess.run([installed / "python", "-c", code], cwd=home, capture_output=True, text=True, check=True)
    version, file = done.stdout.split()
    assert run(installed, home, "--version").stdout == f"mailkeep {version}\n"
    assert Path(file).is_relative_to(installed.parent)


def test_an_inventory_is_checked_rendered_and_published(installed: Path, home: Path, tmp_path: Path) -> None:
    done = run(installed, home, "check", "home")
    assert (done.returncode, done.stderr) == (0, "")
    done = run(installed, home, "render", "home", str(tmp_path / "rendered"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "myhostname = mail.example.org" in (tmp_path / "rendered/etc/postfix/main.cf").read_text()
    assert (tmp_path / "rendered/usr/lib/mailkeep/mailkeep_server/guard/daemon.py").is_file()
    records = json.loads(run(installed, home, "dns", "home", "--json").stdout)
    assert "MX" in {record["type"] for record in records}
    assert run(installed, home, "account", "add", "home", "bert@example.org", "--generate").returncode == 0


@pytest.mark.parametrize("command", ["plan", "deploy", "verify"])
def test_a_host_that_cannot_be_reached_is_named(command: str, installed: Path, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    data = {"mailkeep": str(home / "inventories/home/mail.yml"), "ssh_hostname": "127.0.0.1", "ssh_port": port}
    (home / "inventories/home/inventory.py").write_text(f"hosts = [('mail.example.org', {data!r})]\n")
    done = run(installed, home, command, "home")
    assert done.returncode == 1
    assert "mail.example.org" in done.stdout + done.stderr
    assert "must" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_drill_in_the_lab_says_that_it_needs_podman(installed: Path, home: Path, tmp_path: Path) -> None:
    done = run(installed, home, "drill", "A", PATH=str(tmp_path))
    assert (done.returncode, "podman is not installed" in done.stderr) == (1, True), done.stderr
    assert "Traceback" not in done.stderr


def test_a_picture_without_matplotlib_says_how_to_get_it(installed: Path, home: Path, tmp_path: Path) -> None:
    done = run(installed, home, "drill", "A", "--picture", str(tmp_path / "picture"))
    assert (done.returncode, "mailkeep[drills]" in done.stderr) == (1, True), done.stderr
