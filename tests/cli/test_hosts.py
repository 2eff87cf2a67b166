"""Commands that ask the hosts of an inventory: every one is tried, and what went wrong on any is told at last."""

import json
import subprocess
from pathlib import Path

import pytest
from cli_samples import MAILKEEP, SUDO, Run, Terminal, program

FREEZE = ("account", "freeze", "home", "anna@example.org")
CTL = """\
#!/bin/sh
echo "$MACHINE${AS_ROOT:+ as root}: $*"
"""
NOT_ROOT = '#!/bin/sh\n[ -n "$AS_ROOT" ] && echo 0 || echo 1000\n'


def name(home: Path, *hosts: str, **data: str) -> None:
    listed = [(host, {"mailkeep": str(home / "mail.yml"), **data}) for host in hosts]
    (home / "inventory.py").write_text(f"hosts = {listed!r}\n")


@pytest.fixture
def ctl(programs: Path) -> Path:
    program(programs / "id", "#!/bin/sh\necho 0\n")
    program(programs / "mailkeepctl", CTL)
    return programs


@pytest.mark.usefixtures("ctl")
@pytest.mark.parametrize("verb", ["freeze", "thaw"])
def test_an_account_is_frozen_on_all_hosts_that_can_be_reached(verb: str, home: Path, mailkeep: Run) -> None:
    name(home, "gone", "first", "second")
    said = mailkeep("account", verb, "home", "anna@example.org")
    assert said.code == 1
    assert [line for line in said.out.splitlines() if line.endswith(":")] == ["first:", "second:"]
    assert said.err == (
        "gone: ssh: connect to host gone port 22: Connection refused. `ssh gone` must log in without asking anything.\n"
    )


@pytest.mark.usefixtures("ctl")
def test_a_reason_may_begin_like_an_option(home: Path, mailkeep: Run) -> None:
    name(home, "first")
    said = mailkeep("account", "freeze", "home", "anna@example.org", "--why=-spam")
    assert (said.code, said.out) == (0, "first:\nfirst: freeze --why=-spam -- anna@example.org\n")


@pytest.mark.usefixtures("ctl")
def test_what_gets_there_is_told_as_the_inventory_has_it(home: Path, mailkeep: Run) -> None:
    name(home, "gone", ssh_config_file="/some/config", ssh_user="ann")
    for command in (FREEZE, ("alert-test", "home"), ("verify", "home")):
        said = mailkeep(*command)
        assert said.code == 1
        assert "`ssh -F /some/config -l ann gone` must log in" in said.out + said.err


@pytest.mark.usefixtures("ctl")
def test_alerts_are_tested_on_all_hosts_that_can_be_reached(home: Path, mailkeep: Run) -> None:
    name(home, "gone", "first")
    arrival = {"channel": "mail", "recipient": "you@example.net", "arrived": True, "answer": "250 ok"}
    program(home.parent.parent / "bin" / "python3", f"#!/bin/sh\necho '{json.dumps([arrival])}'\n")
    said = mailkeep("alert-test", "home")
    assert (said.code, said.out) == (1, "first: mail to you@example.net: arrived: 250 ok\n")
    assert "gone: ssh: connect" in said.err
    said = mailkeep("alert-test", "home", "--json")
    assert (said.code, json.loads(said.out)) == (1, [{"host": "first", **arrival}])


@pytest.mark.usefixtures("ctl")
@pytest.mark.parametrize("command", [FREEZE, ("verify", "home")])
def test_a_host_that_was_never_deployed_to_is_told_as_that(command: tuple[str, ...], home: Path, mailkeep: Run) -> None:
    for absent in ("mailkeepctl", "python3"):
        program(home.parent.parent / "bin" / absent, "#!/bin/sh\nexit 127\n")
    name(home, "first")
    said = mailkeep(*command)
    assert said.code == 1
    assert "Mailkeep is not installed on this host yet" in said.out + said.err
    assert "`mailkeep deploy home` installs it." in said.out + said.err


@pytest.fixture
def sudo(ctl: Path) -> Path:
    """Where one is not root, and sudo wants a password."""
    program(ctl / "id", NOT_ROOT)
    program(ctl / "sudo", SUDO)
    return ctl


@pytest.mark.usefixtures("sudo")
@pytest.mark.parametrize("command", [FREEZE, ("alert-test", "home"), ("verify", "home")], ids=" ".join)
def test_without_a_terminal_a_sudo_that_wants_a_password_is_told(
    command: tuple[str, ...], home: Path, mailkeep: Run
) -> None:
    name(home, "first")
    said = mailkeep(*command)
    assert said.code == 1
    assert "sudo says: sudo: a password is required" in said.out + said.err
    assert "NOPASSWD" in said.out + said.err


@pytest.mark.usefixtures("sudo")
@pytest.mark.parametrize(("typed", "code"), [("open sesame", 0), ("open barley", 1)])
def test_at_a_terminal_sudos_password_is_asked_for_and_shown_nowhere(typed: str, code: int, home: Path) -> None:
    name(home, "first")
    terminal = Terminal(home.parent.parent, *FREEZE)
    terminal.until("[first] sudo password: ")
    terminal.type(f"{typed}\n")
    assert terminal.end() == code
    assert typed not in terminal.seen
    assert ("first as root: freeze" in terminal.seen) == (code == 0)
    assert ("first: sudo: 1 incorrect password attempt. " in terminal.seen) == (code == 1)


@pytest.mark.parametrize("command", ["account add home bert@example.org", "relay home", "plan home"])
def test_a_standard_input_that_is_closed_is_an_empty_one(command: str, home: Path) -> None:
    done = shell(home, f"exec {MAILKEEP} {command} <&-")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def shell(home: Path, command: str) -> "subprocess.CompletedProcess[str]":
    """In a session of its own, which has no terminal."""
    return subprocess.run(
        ["sh", "-c", command], cwd=home.parent.parent, start_new_session=True, capture_output=True, text=True
    )
