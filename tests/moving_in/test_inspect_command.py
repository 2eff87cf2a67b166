"""`mailkeep inspect` as an operator runs it, with a program ssh that reads a tree of files instead of a server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from moving_in_samples import linux_server, write_tree

SSH = """#!/bin/sh
for command; do :; done
PATH={programs}:$PATH exec sh -c "$command"
"""
ROOT = '#!/bin/sh\n[ "$1" = -un ] && echo root || echo 0\n'
UNREACHABLE = "#!/bin/sh\necho 'ssh: connect to host old port 22: Connection refused' >&2; exit 255\n"
BROKEN = """#!/bin/sh
for command; do :; done
[ "$command" = 'sh -s' ] && exit 1
PATH={programs}:$PATH exec sh -c "$command"
"""
# The command with less time for each hash.
MAILKEEP = """
from mailkeep.moving_in import weak_passwords
weak_passwords.try_passwords.__kwdefaults__["seconds_per_hash"] = 0.3
from mailkeep.__main__ import main
main()
"""


class Operator:
    """A directory with `inventories/`, and a program ssh."""

    def __init__(self, root: Path) -> None:
        self.root, self.programs = root, root / "bin"
        (root / "inventories").mkdir()
        self.programs.mkdir()
        self.write_program("id", ROOT)
        self.write_program("ssh", SSH)
        self.tree = write_tree(root / "tree", linux_server())

    def write_program(self, name: str, text: str) -> None:
        path = self.programs / name
        path.write_text(text.replace("{programs}", str(self.programs)))
        path.chmod(0o755)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "HOME": str(self.root),
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "LC_ALL": "C.UTF-8",
            "MAILKEEP_TREE": str(self.tree),
            "TMPDIR": "/tmp",  # noqa: S108 - a short path for ssh's socket
        }
        return subprocess.run(
            [sys.executable, "-c", MAILKEEP, *arguments],
            cwd=self.root,
            env={**environment, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path)


@pytest.mark.slow
def test_the_command_writes_an_inventory_that_check_accepts(operator: Operator) -> None:
    done = operator.run("inspect", "root@old", "--name", "home", "--to", "root@new", "--address", "203.0.113.25")
    assert done.returncode == 0, done.stderr
    assert "2 accounts, with the passwords that they have" in done.stdout
    assert "refuses the draft" not in done.stdout
    checked = operator.run("check", "home")
    assert checked.returncode == 0, checked.stderr
    assert "anna@example.org: the password's hash, sha512-crypt, is weaker" in checked.stderr

    before = {path: path.read_bytes() for path in (operator.root / "inventories").rglob("*") if path.is_file()}
    again = operator.run("inspect", "root@old", "--name", "home")
    assert (again.returncode, "exists already, and nothing is overwritten" in again.stderr) == (1, True)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_json_writes_nothing_and_has_no_secret(operator: Operator) -> None:
    done = operator.run("inspect", "root@old", "--json")
    assert done.returncode == 0, done.stderr
    assert {row["login"] for row in json.loads(done.stdout)["accounts"] if row["becomes_account"]} == {"anna", "bert"}
    assert "$6$" not in done.stdout
    assert "PRIVATE" not in done.stdout
    assert list((operator.root / "inventories").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ssh", "message"),
    [(UNREACHABLE, "old: ssh: connect to host old port 22: Connection refused"), (BROKEN, "the program that reads")],
)
def test_a_server_that_cannot_be_read_ends_in_one_message_and_no_inventory(
    operator: Operator, ssh: str, message: str
) -> None:
    operator.write_program("ssh", ssh)
    done = operator.run("inspect", "root@old", "--name", "home")
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list((operator.root / "inventories").iterdir()) == []


@pytest.mark.slow
def test_a_host_that_ssh_could_take_for_an_option_is_refused(operator: Operator) -> None:
    done = operator.run("inspect", "--", "-oProxyCommand=x")
    assert (done.returncode, "no host for SSH" in done.stderr) == (1, True)
