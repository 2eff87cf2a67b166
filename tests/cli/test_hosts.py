"""Commands that ask the hosts of an inventory try every host, and name those that failed."""

import json
import subprocess
from pathlib import Path

import pytest
from cli_samples import MAILKEEP, SUDO, Run, Terminal, write_program

FREEZE = ("account", "freeze", "home", "anna@example.org")
CTL = """\
#!/bin/sh
echo "$MACHINE${AS_ROOT:+ as root}: $*"
"""
NOT_ROOT = '#!/bin/sh\n[ -n "$AS_ROOT" ] && echo 0 || echo 1000\n'


def declare_hosts(home: Path, *hosts: str, **data: str) -> None:
    entries = [(host, {"mailkeep": str(home / "mail.yml"), **data}) for host in hosts]
    (home / "inventory.py").write_text(f"hosts = {entries!r}\n")


@pytest.fixture
def mailkeepctl(programs: Path) -> Path:
    write_program(programs / "id", "#!/bin/sh\necho 0\n")
    write_program(programs / "mailkeepctl", CTL)
    return programs


@pytest.mark.usefixtures("mailkeepctl")
@pytest.mark.parametrize("verb", ["freeze", "thaw"])
def test_an_account_is_frozen_on_all_hosts_that_can_be_reached(verb: str, home: Path, mailkeep: Run) -> None:
    declare_hosts(home, "gone", "first", "second")
    result = mailkeep("account", verb, "home", "anna@example.org")
    assert result.code == 1
    assert [line for line in result.out.splitlines() if line.endswith(":")] == ["first:", "second:"]
    assert result.err == (
        "gone: ssh: connect to host gone port 22: Connection refused. `ssh gone` must log in without asking anything.\n"
    )


@pytest.mark.usefixtures("mailkeepctl")
def test_a_reason_may_begin_like_an_option(home: Path, mailkeep: Run) -> None:
    declare_hosts(home, "first")
    result = mailkeep("account", "freeze", "home", "anna@example.org", "--why=-spam")
    assert (result.code, result.out) == (0, "first:\nfirst: freeze --why=-spam -- anna@example.org\n")


@pytest.mark.usefixtures("mailkeepctl")
def test_the_ssh_command_in_an_error_is_that_of_the_inventory(home: Path, mailkeep: Run) -> None:
    declare_hosts(home, "gone", ssh_config_file="/some/config", ssh_user="ann")
    for command in (FREEZE, ("alert-test", "home"), ("verify", "home")):
        result = mailkeep(*command)
        assert result.code == 1
        assert "`ssh -F /some/config -l ann gone` must log in" in result.out + result.err


@pytest.mark.usefixtures("mailkeepctl")
def test_alerts_are_tested_on_all_hosts_that_can_be_reached(home: Path, mailkeep: Run) -> None:
    declare_hosts(home, "gone", "first")
    arrival = {"channel": "mail", "recipient": "you@example.net", "arrived": True, "answer": "250 ok"}
    write_program(home.parent.parent / "bin" / "python3", f"#!/bin/sh\necho '{json.dumps([arrival])}'\n")
    result = mailkeep("alert-test", "home")
    assert (result.code, result.out) == (1, "first: mail to you@example.net: arrived: 250 ok\n")
    assert "gone: ssh: connect" in result.err
    result = mailkeep("alert-test", "home", "--json")
    assert (result.code, json.loads(result.out)) == (1, [{"host": "first", **arrival}])


@pytest.mark.usefixtures("mailkeepctl")
@pytest.mark.parametrize("command", [FREEZE, ("verify", "home")])
def test_a_host_without_mailkeep_is_reported_as_such(command: tuple[str, ...], home: Path, mailkeep: Run) -> None:
    for absent in ("mailkeepctl", "python3"):
        write_program(home.parent.parent / "bin" / absent, "#!/bin/sh\nexit 127\n")
    declare_hosts(home, "first")
    result = mailkeep(*command)
    assert result.code == 1
    assert "Mailkeep is not installed on this host yet" in result.out + result.err
    assert "`mailkeep deploy home` installs it." in result.out + result.err


@pytest.fixture
def password_sudo(mailkeepctl: Path) -> Path:
    """Hosts where the login is not root, and sudo asks for a password."""
    write_program(mailkeepctl / "id", NOT_ROOT)
    write_program(mailkeepctl / "sudo", SUDO)
    return mailkeepctl


@pytest.mark.usefixtures("password_sudo")
@pytest.mark.parametrize("command", [FREEZE, ("alert-test", "home"), ("verify", "home")], ids=" ".join)
def test_without_a_terminal_a_sudo_that_asks_for_a_password_is_an_error(
    command: tuple[str, ...], home: Path, mailkeep: Run
) -> None:
    declare_hosts(home, "first")
    result = mailkeep(*command)
    assert result.code == 1
    assert "sudo says: sudo: a password is required" in result.out + result.err
    assert "NOPASSWD" in result.out + result.err


@pytest.mark.slow
@pytest.mark.usefixtures("password_sudo")
@pytest.mark.parametrize(("typed", "code"), [("open sesame", 0), ("open barley", 1)])
def test_at_a_terminal_sudos_password_is_asked_for_and_shown_nowhere(typed: str, code: int, home: Path) -> None:
    declare_hosts(home, "first")
    terminal = Terminal(home.parent.parent, *FREEZE)
    terminal.wait_for("[first] sudo password: ")
    terminal.type_text(f"{typed}\n")
    assert terminal.wait_for_end() == code
    assert typed not in terminal.output
    assert ("first as root: freeze" in terminal.output) == (code == 0)
    assert ("first: sudo: 1 incorrect password attempt. " in terminal.output) == (code == 1)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["account add home bert@example.org", "relay home", "plan home"])
def test_a_closed_standard_input_counts_as_empty(command: str, home: Path) -> None:
    process = run_without_terminal(home, f"exec {MAILKEEP} {command} <&-")
    assert process.returncode == 1
    assert "Traceback" not in process.stderr


def run_without_terminal(home: Path, command: str) -> "subprocess.CompletedProcess[str]":
    """Run a shell command in a new session, which has no terminal."""
    return subprocess.run(
        ["sh", "-c", command], cwd=home.parent.parent, start_new_session=True, capture_output=True, text=True
    )
