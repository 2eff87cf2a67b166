"""Commands that ask the hosts of an inventory try every host, and name those that failed."""

import json
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from cli_samples import MAILKEEP, SSH, SUDO, Run, Terminal, environment, write_program

from mailkeep.inventory.passwords import hash_password

pytestmark = pytest.mark.slow

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
        "gone: ssh: connect to host gone port 22: Connection refused. Does sshd run there, at this port? "
        "`ssh gone` must log in without asking anything.\n"
    )


def test_a_password_set_on_a_server_is_taken_into_mail_yml(home: Path, mailkeep: Run, mailkeepctl: Path) -> None:
    new = hash_password("correct horse battery staple")
    one, other = f"[ $MACHINE = first ] && echo '{new}'", f"echo '{new[:-4]}'$MACHINE"
    declare_hosts(home, "first", "second")
    for answer, code in (("exit 1", 1), ("exit 0", 1), (other, 1), (f"{one}; true", 0)):
        write_program(mailkeepctl / "mailkeepctl", f"#!/bin/sh\n{answer}\n")
        result = mailkeep("account", "passwd", "home", "anna@example.org", "--from-host")
        assert result.code == code, result.err
        assert (new in (home / "mail.yml").read_text()) == (code == 0)
    assert result.out == "mail.yml has the password of anna@example.org that was set on first. Deploys go on.\n"


def test_a_password_set_on_a_second_server_is_taken_after_that_of_the_first(
    home: Path, mailkeep: Run, mailkeepctl: Path
) -> None:
    """Each remembers that it has changed the password; the first one's is in mail.yml already."""
    first, second = (hash_password(f"{word} horse battery staple") for word in ("correct", "wrong"))
    declare_hosts(home, "gone", "first", "second")
    passwd = ("account", "passwd", "home", "anna@example.org", "--from-host")
    write_program(mailkeepctl / "mailkeepctl", f"#!/bin/sh\n[ $MACHINE = second ] || echo '{first}'\n")
    assert mailkeep(*passwd).code == 0
    result = mailkeep(*passwd)
    assert (result.code, first in (home / "mail.yml").read_text()) == (1, True)
    assert "gone: ssh: connect to host gone port 22" in result.err
    assert "mail.yml already has the password of anna@example.org that first has." in result.err

    echo = f"[ $MACHINE = second ] && echo '{second}' || echo '{first}'"
    write_program(mailkeepctl / "mailkeepctl", f"#!/bin/sh\n{echo}\n")
    result = mailkeep(*passwd)
    assert (result.code, second in (home / "mail.yml").read_text()) == (0, True), result.err
    assert "that was set on second. Deploys go on." in result.out
    assert "Not asked, so a newer one may be there:\ngone: ssh: connect to host gone port 22" in result.err


def test_a_server_that_fails_is_not_taken_for_a_password_that_was_not_changed(
    home: Path, mailkeep: Run, mailkeepctl: Path
) -> None:
    declare_hosts(home, "first")
    write_program(mailkeepctl / "mailkeepctl", "#!/bin/sh\necho broken >&2; exit 1\n")
    result = mailkeep("account", "passwd", "home", "anna@example.org", "--from-host")
    assert result.code == 1
    assert "first: " in result.err


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


# --- many hosts


@pytest.fixture
def refusing_hosts(home: Path) -> Path:
    """An inventory with three hosts whose SSH port is closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    data = {"mailkeep": str(home / "mail.yml"), "ssh_hostname": "127.0.0.1", "ssh_port": port}
    (home / "inventory.py").write_text(f"hosts = {[(name, data) for name in ('mail1', 'mail2', 'mail3')]!r}\n")
    return home


@pytest.mark.usefixtures("refusing_hosts")
@pytest.mark.parametrize("command", ["plan", "deploy", "verify"])
def test_a_host_that_is_not_reached_is_one_line_with_its_reason_and_what_to_do(command: str, mailkeep: Run) -> None:
    result = mailkeep(command, "home")
    assert result.code == 1
    lines = (result.out + result.err).splitlines()
    for name in ("mail1", "mail2", "mail3"):
        [line] = [line for line in lines if re.match(rf"(✗ )?{name}: ", line)]
        assert "not reached: " in line
        assert "Connection refused" in line
        assert "Does sshd run there, at this port? `ssh -p" in line
    assert "3 not reached (mail1, mail2, mail3)" in result.out.splitlines()[-1]
    assert len(lines) == 4


@pytest.mark.usefixtures("refusing_hosts")
def test_full_prints_each_host_as_a_single_one(mailkeep: Run) -> None:
    result = mailkeep("verify", "home", "--full")
    assert result.code == 1
    assert [line for line in result.out.splitlines() if line.startswith("mail")] == ["mail1", "mail2", "mail3"]
    assert result.out.count("✗ The server can be reached") == 3
    assert "3 failed" in result.out.splitlines()[-1]


@pytest.mark.usefixtures("refusing_hosts")
def test_json_of_many_hosts_has_them_all(mailkeep: Run) -> None:
    verified = mailkeep("verify", "home", "--json")
    assert verified.code == 1
    outcomes = json.loads(verified.out)["outcomes"]
    assert [(outcome["host"], outcome["check"]) for outcome in outcomes] == [
        (name, "reachable") for name in ("mail1", "mail2", "mail3")
    ]
    deployed = mailkeep("deploy", "home", "--json")
    assert deployed.code == 1
    report = json.loads(deployed.out)
    assert report["results"]["failed_hosts"] == ["mail1", "mail2", "mail3"]
    assert all("Connection refused" in host["error"] for host in report["hosts"].values())


@pytest.mark.usefixtures("mailkeepctl")
def test_many_hosts_are_verified_by_a_line_each_and_what_is_broken_once(home: Path, mailkeep: Run) -> None:
    write_program(home.parent.parent / "bin" / "python3", '#!/bin/sh\necho "{}"\n')  # a probe that saw nothing
    declare_hosts(home, "gone", "first", "second")
    result = mailkeep("verify", "home")
    lines = result.out.splitlines()
    assert result.code == 1
    for name in ("first", "second"):
        [line] = [line for line in lines if line.startswith(f"✗ {name}: ")]
        assert " failed" in line
    assert len([line for line in lines if "gone" in line]) == 2  # its line and the summary
    assert "2 with failed checks (first, second), 1 not reached (gone)" in lines[-1]
    broken = [line for line in lines if line.startswith("  ✗ first")]
    assert broken
    assert all(line.startswith("  ✗ first, second: ") for line in broken)


@pytest.mark.usefixtures("mailkeepctl")
def test_a_host_that_does_not_answer_does_not_delay_a_freeze_on_the_others(home: Path, mailkeep: Run) -> None:
    slow = '[ "$1" != deaf ] || sleep 4\necho "$1" >>order\nMACHINE=$1'
    write_program(home.parent.parent / "bin" / "ssh", SSH.replace("MACHINE=$1", slow))
    declare_hosts(home, "deaf", "first", "second")
    assert mailkeep(*FREEZE).code == 0
    order = Path("order").read_text().split()  # on each host the connection, a look who we are there, then the freeze
    assert (sorted(order[:6]), order[6:]) == (["first"] * 3 + ["second"] * 3, ["deaf"] * 3)


@pytest.mark.usefixtures("password_sudo")
def test_at_a_terminal_one_host_after_the_other_asks_for_its_password(home: Path) -> None:
    write_program(home.parent.parent / "bin" / "python3", '#!/bin/sh\necho "{}"\n')
    declare_hosts(home, "first", "second")
    terminal = Terminal(home.parent.parent, "verify", "home")
    for number in (1, 2):
        while terminal.output.count(" sudo password: ") < number:
            assert terminal.read_more()
        terminal.type_text("open sesame\n")
    assert terminal.wait_for_end() == 1
    assert "2 with failed checks (first, second)" in terminal.output
    assert "sesame" not in terminal.output
    assert "Traceback" not in terminal.output


@pytest.mark.parametrize("command", ["plan", "deploy", "verify"])
def test_an_interrupt_ends_all_hosts_with_130(command: str, home: Path) -> None:
    root = home.parent.parent
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        data = {"mailkeep": str(home / "mail.yml"), "ssh_hostname": "127.0.0.1", "ssh_port": port}
        (home / "inventory.py").write_text(f"hosts = {[(name, data) for name in ('mail1', 'mail2')]!r}\n")
        process = subprocess.Popen(
            [MAILKEEP, command, "home"],
            cwd=root,
            env=environment(root),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        deaf.settimeout(30)
        connections = [deaf.accept()[0] for _ in range(2)]  # both hosts wait for the SSH banner
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=30)
        for connection in connections:
            connection.close()
    assert process.returncode == 130, output
    assert "Traceback" not in output
