"""An inventory is found by the name or path that the user types."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mailkeep.errors import UserError
from mailkeep.inventory import hosts
from mailkeep.locations import HOME_VARIABLE, state_directory

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("first", "second"):
        directory = tmp_path / "inventories" / name
        directory.mkdir(parents=True)
        (directory / "mail.yml").touch()
    (tmp_path / "inventories" / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(HOME_VARIABLE, raising=False)
    return tmp_path


@pytest.mark.parametrize("typed", ["first", "inventories/first", "inventories/first/", "inventories/first/mail.yml"])
def test_an_inventory_is_found_by_name_directory_or_file(root: Path, typed: str) -> None:
    assert hosts.find_inventory(typed) == root / "inventories" / "first"
    assert hosts.find_inventory(str(root / "inventories" / "first")) == root / "inventories" / "first"


@pytest.mark.parametrize("typed", ["third", "empty", "", "inventories", "/nowhere", "inventories/first/x/mail.yml"])
def test_an_unknown_one_lists_those_that_exist(root: Path, typed: str) -> None:
    with pytest.raises(UserError, match=r"There are: first, second\.") as error:
        hosts.find_inventory(typed, root)
    assert "mailkeep init" in str(error.value)


def test_an_unknown_one_says_where_was_looked_and_how_to_look_elsewhere(root: Path) -> None:
    with pytest.raises(UserError) as error:
        hosts.find_inventory("third")
    message = str(error.value)
    assert f"Looked for mail.yml in {root}/inventories/third/ and in {root}/third/." in message
    assert "`--in DIR`, or MAILKEEP_HOME" in message


def test_inventories_may_be_elsewhere(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        assert hosts.find_inventory("first", root) == root / "inventories" / "first"
        assert hosts.inventory_label(root / "inventories" / "first") == str(root / "inventories" / "first")
        patch.setenv(HOME_VARIABLE, str(root))
        assert hosts.find_inventory("first") == root / "inventories" / "first"
        assert hosts.inventory_label(root / "inventories" / "first") == "first"
        patch.setenv("HOME", str(root.parent))
        patch.setenv(HOME_VARIABLE, f"~/{root.name}")
        assert hosts.find_inventory("second") == root / "inventories" / "second"


def test_a_clone_keeps_the_state_of_labs_in_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert state_directory() == ROOT / ".lab"
    monkeypatch.setattr("mailkeep.locations.__file__", str(tmp_path / "site-packages" / "mailkeep" / "locations.py"))
    monkeypatch.setenv("HOME", "/home/anna")
    for configured, expected in {
        "/var/state": "/var/state/mailkeep",
        "": "/home/anna/.local/state/mailkeep",
        "relative": "/home/anna/.local/state/mailkeep",
    }.items():
        monkeypatch.setenv("XDG_STATE_HOME", configured)
        assert state_directory() == Path(expected)


def test_no_inventory_at_all_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There are none below"):
        hosts.find_inventory("first", tmp_path)


def test_the_label_is_what_the_user_would_type(root: Path) -> None:
    assert hosts.inventory_label(root / "inventories" / "first") == "first"
    assert hosts.inventory_label(Path("inventories/first")) == "first"
    assert hosts.inventory_label(Path("/elsewhere/first")) == "/elsewhere/first"


GROUPS = """
from pathlib import Path
_hidden = ["192.0.2.9"]
NUMBER = 5
settings = {"mailkeep": str(Path(__file__).parent / "mail.yml")}
plain = [("192.0.2.1", settings), ("192.0.2.2", {**settings, "a": 1})]
shared = (["192.0.2.3", ("192.0.2.2", {"b": 2})], {**settings, "a": 3, "c": 4})
"""


@pytest.mark.slow
def test_hosts_and_their_data_are_those_that_pyinfra_finds(root: Path) -> None:
    file = root / "inventories" / "first" / "inventory.py"
    file.write_text(GROUPS)
    pyinfra = Path(sys.executable).parent / "pyinfra"
    shown = subprocess.run([pyinfra, file, "debug-inventory"], capture_output=True, text=True, check=True)
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.stdout + shown.stderr)
    theirs = {host: json.loads(data) for host, data in re.findall(r"(?ms)^ *\[(.*?)\].*?(^ *\{.*?\}$)", text)}
    assert len(theirs) == 3
    assert hosts.read_hosts(file.parent) == theirs


def test_hosts_says_which_file_is_missing_or_cannot_be_read(root: Path) -> None:
    directory = root / "inventories" / "first"
    with pytest.raises(UserError, match=r"inventory\.py: this file is missing"):
        hosts.read_hosts(directory)
    (directory / "inventory.py").write_text("hosts = [")
    with pytest.raises(UserError, match=r"inventory\.py: this program fails"):
        hosts.read_hosts(directory)
    (directory / "inventory.py").write_text("hosts = [undefined]")
    with pytest.raises(UserError, match=r"inventory\.py: this program fails"):
        hosts.read_hosts(directory)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("hosts = []", "it names no host"),
        ('hosts = "mail.example.org"', "it names no host"),
        ('hosts = ["mail.example.org"]', "host mail.example.org: its data do not name its mail.yml"),
        ('hosts = [("mail.example.org", {"mailkeep": 5})]', "do not name its mail.yml"),
        ('hosts = [("mail.example.org", {"mailkeep": "mail.yml"}), 3]', "3 is no name of a host"),
        ("import sys; sys.exit(3)", "this program fails: SystemExit: 3"),
    ],
)
def test_unusable_hosts_are_reported_with_the_reason(root: Path, written: str, message: str) -> None:
    directory = root / "inventories" / "first"
    (directory / "inventory.py").write_text(f"{written}\n")
    with pytest.raises(UserError, match=re.escape(message)) as error:
        hosts.read_hosts(directory)
    assert "inventory.py" in str(error.value)


@pytest.mark.slow
def test_pyinfra_alone_reports_a_missing_mail_yml_too(root: Path) -> None:
    file = root / "inventories" / "first" / "inventory.py"
    file.write_text('hosts = ["@local"]\n')
    pyinfra = Path(sys.executable).parent / "pyinfra"
    done = subprocess.run([pyinfra, file, ROOT / "deploy.py", "-y"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "host @local: its data do not name its mail.yml" in done.stderr
    assert "Traceback" not in done.stderr
