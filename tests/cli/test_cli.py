"""The `mailkeep` command keeps its word: exit codes, messages, and what it never shows."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import dns.rdatatype
import dns.zonefile
import jsonschema
import pytest
import typer
import yaml
from cli_samples import INIT, MAILKEEP, Run, Terminal, environment

from mailkeep.cli.app import app
from mailkeep.dns import client
from mailkeep.inventory import passwords, vault
from mailkeep.inventory.vault import open_vault
from mailkeep.settings.load import load_settings

PASSWORD = "violet-kettle-9-orbit-lamp"  # noqa: S105
ROOT = Path(__file__).resolve().parents[2]
PASSPHRASE = re.compile(r"\b[a-z2-9]{4}(?:-[a-z2-9]{4}){3}\b")


def every_command() -> Iterator[tuple[tuple[str, ...], typer.core.TyperCommand]]:
    tree = typer.main.get_command(app)
    for name, command in tree.commands.items():  # type: ignore[attr-defined]
        for below, inner in getattr(command, "commands", {}).items():
            yield (name, below), inner
        if not hasattr(command, "commands") and not command.hidden:
            yield (name,), command


COMMANDS = dict(every_command())
OF_AN_INVENTORY = [path for path in COMMANDS if path not in (("init",), ("schema",), ("drill",))]
# An account is frozen in a hurry: whatever else is wrong can wait.
URGENT = [("account", "freeze"), ("account", "thaw")]
ASKING_HOSTS = [("check",), ("plan",), ("deploy",), ("verify",), ("alert-test",), *URGENT]


def arguments(path: tuple[str, ...], name: str) -> list[str]:
    """The command with what it needs beside the inventory's name."""
    more = {
        ("render",): ["new"],
        ("tls", "import"): ["--certificate", "chain.pem", "--key", "key.pem"],
        **{("account", verb): ["anna@example.org"] for verb in ("add", "passwd", "remove", "freeze", "thaw")},
    }
    return [*path, name, *more.get(path, [])]


# --- help


@pytest.mark.parametrize("path", [(), ("account",), *COMMANDS], ids=" ".join)
def test_help_says_what_a_command_does_and_gives_an_example(path: tuple[str, ...], mailkeep: Run) -> None:
    said = mailkeep(*path, "--help")
    assert said.code == 0
    assert f"mailkeep {' '.join(path)}".rstrip() in re.sub(r"\s+", " ", said.out.partition("─ ")[2])
    if path in COMMANDS:
        assert str(COMMANDS[path].help).replace("`", "").split(".")[0][:40] in re.sub(r"\s+", " ", said.out)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_is_explained(path: tuple[str, ...]) -> None:
    unexplained = [p.name for p in COMMANDS[path].params if not getattr(p, "help", None) and p.name != "help"]
    assert not unexplained


def test_the_version_is_the_projects(mailkeep: Run) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert mailkeep("--version").out == f"mailkeep {declared}\n"


def test_the_command_starts_without_the_libraries_that_only_some_commands_need() -> None:
    code = "import sys, mailkeep.cli.app; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pydantic", "cryptography", "pyinfra", "dns", "matplotlib", "testinfra", "zxcvbn"} & {*modules}


def test_the_shell_completes_commands_and_inventories(home: Path) -> None:
    root = home.parent.parent
    for words, completed in {
        "mailkeep dep": "deploy",
        "mailkeep check h": "home",
        "mailkeep dkim rotate ho": "home",
    }.items():
        done = subprocess.run(
            [MAILKEEP],
            cwd=root,
            env=environment(root)
            | {"_MAILKEEP_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))},
            capture_output=True,
            text=True,
        )
        assert done.stdout.split() == [completed], done.stderr


@pytest.mark.usefixtures("home")
def test_former_names_of_commands_still_work_with_a_note(mailkeep: Run) -> None:
    said = mailkeep("tls-roll", "home")
    assert (said.code, "tls.mode is self-signed" in said.err) == (1, True)
    assert "note: `mailkeep tls-roll` is now called `mailkeep tls rotate`." in said.err
    assert "tls-roll" not in mailkeep("--help").out
    for former in (
        ("home", "--certificate", "a.pem", "--key", "b.pem"),
        ("--certificate", "a.pem", "--key", "b.pem", "home"),
    ):
        said = mailkeep("tls", *former)
        assert (said.code, "a.pem: cannot be read" in said.err) == (1, True)
        assert "note: `mailkeep tls NAME` is now called `mailkeep tls import NAME`." in said.err


# --- exit codes, as the README has them


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("path", OF_AN_INVENTORY, ids=" ".join)
def test_an_inventory_that_is_not_there_is_named_with_those_that_are(path: tuple[str, ...], mailkeep: Run) -> None:
    said = mailkeep(*arguments(path, "hoem"), stdin=f"{PASSWORD}\n")
    assert (said.code, said.out) == (1, "")
    assert "hoem" in said.err
    assert "There are: home." in said.err


@pytest.mark.parametrize("path", [*OF_AN_INVENTORY, ("init",), ("drill",)], ids=" ".join)
def test_every_command_of_an_inventory_finds_it_the_same_way(path: tuple[str, ...]) -> None:
    [option] = [parameter for parameter in COMMANDS[path].params if "--in" in parameter.opts]
    assert option.envvar == "MAILKEEP_HOME"


def test_inventories_are_made_and_used_where_in_says(
    home: Path, mailkeep: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = home.parent.parent / "elsewhere"
    elsewhere.mkdir()
    made = mailkeep(*[word.replace("home", "new") for word in INIT], "--in", "elsewhere")
    assert (made.code, made.err) == (0, "")
    inventory = elsewhere / "inventories" / "new"
    assert f"`mailkeep plan {inventory}`" in made.out
    assert mailkeep("check", "new").code == 1
    assert mailkeep("check", "new", "--in", "elsewhere").code == 0
    assert mailkeep("check", str(inventory)).code == 0
    monkeypatch.setenv("MAILKEEP_HOME", str(elsewhere))
    monkeypatch.chdir("/")
    assert mailkeep("check", "new").code == 0
    assert "There are: new." in mailkeep("check", "home").err


def test_a_name_that_no_file_can_have_is_told_in_a_line(mailkeep: Run) -> None:
    said = mailkeep("check", "x" * 300)
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert "File name too long" in said.err


@pytest.mark.usefixtures("home")
def test_a_home_that_nobody_knows_is_told(mailkeep: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    said = mailkeep("check", "~nobody-at-all/home")
    assert (said.code, said.out) == (1, "")
    assert "Set HOME" in said.err
    monkeypatch.setenv("MAILKEEP_IDENTITY", "~nobody-at-all/identity")
    said = mailkeep("check", "home")
    assert (said.code, said.out) == (1, "")
    assert "~nobody-at-all/identity" in said.err


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("command", ["plan", "deploy"])
def test_a_user_without_a_name_is_told_before_anything_connects(
    command: str, mailkeep: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    said = mailkeep(command, "home")
    assert (said.code, said.out) == (1, "")
    assert "54321" in said.err


def test_output_that_has_no_letter_for_something_goes_on(home: Path) -> None:
    at(home, 1)
    root = home.parent.parent
    for encoding in ("latin-1", "ascii"):
        command, environ = [MAILKEEP, "verify", "home"], {**environment(root), "PYTHONIOENCODING": encoding}
        done = subprocess.run(command, cwd=root, env=environ, capture_output=True, timeout=60)
        assert done.returncode == 1
        assert b"? The server can be reached" in done.stdout
        assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("path", [path for path in OF_AN_INVENTORY if path not in URGENT], ids=" ".join)
def test_a_mail_yml_that_will_not_do_stops_every_command_and_changes_nothing(
    path: tuple[str, ...], home: Path, mailkeep: Run
) -> None:
    file = home / "mail.yml"
    file.write_text(file.read_text().replace("tls:", "tsl:"))
    before = everything(home.parent.parent)
    line = file.read_text().splitlines().index("tsl:") + 1
    said = mailkeep(*arguments(path, "home"), stdin=f"{PASSWORD}\n")
    assert (said.code, said.out) == (1, "")
    assert f'{file}:{line}: tsl\n  found  the unknown setting "tsl"' in said.err
    assert everything(home.parent.parent) == before


@pytest.mark.parametrize("written", ["hosts = []", "import sys; sys.exit(3)", None])
@pytest.mark.parametrize("path", ASKING_HOSTS, ids=" ".join)
def test_an_inventory_py_without_hosts_stops_every_command_that_asks_them(
    path: tuple[str, ...], written: str | None, home: Path, mailkeep: Run
) -> None:
    file = home / "inventory.py"
    file.unlink() if written is None else file.write_text(written)
    said = mailkeep(*arguments(path, "home"))
    assert (said.code, said.out) == (1, "")
    assert str(file) in said.err


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "wrong",
    [
        ["chekc", "home"],
        ["check"],
        ["check", "home", "away"],
        ["check", "home", "--fast"],
        ["init", "new", "--host", "mail.example.org"],
    ],
    ids=" ".join,
)
def test_arguments_that_make_no_sense_end_with_2_and_point_to_help(wrong: list[str], mailkeep: Run) -> None:
    said = mailkeep(*wrong)
    assert (said.code, said.out) == (2, "")
    assert "--help" in said.err


def test_no_arguments_show_the_help(mailkeep: Run) -> None:
    assert "Servers" in mailkeep().out


@pytest.fixture
def silent(home: Path) -> Iterator[socket.socket]:
    """A listener that never says anything, as the inventory's host."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        at(home, listener.getsockname()[1])
        yield listener


def at(home: Path, port: int) -> None:
    data = {"mailkeep": str(home / "mail.yml"), "ssh_hostname": "127.0.0.1", "ssh_port": port}
    (home / "inventory.py").write_text(f"hosts = [('mail.example.org', {data!r})]\n")


@pytest.mark.parametrize("command", ["deploy", "verify"])
def test_a_host_that_does_not_answer_ends_with_1_and_its_name(command: str, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    at(home, port)  # closed again: the connection is refused
    root = home.parent.parent
    done = subprocess.run(
        [MAILKEEP, command, "home"], cwd=root, env=environment(root), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "mail.example.org" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("json_option", [(), ("--json",)], ids=["", "--json"])
def test_a_deploy_that_gets_nowhere_says_what_must_get_there(home: Path, json_option: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    at(home, port)
    root = home.parent.parent
    command = [MAILKEEP, "deploy", "home", *json_option]
    done = subprocess.run(command, cwd=root, env=environment(root), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    said = json.loads(done.stdout)["hosts"]["mail.example.org"]["error"] if json_option else done.stderr
    assert f"`ssh -p {port} 127.0.0.1` must log in without asking anything." in said


def test_an_interrupt_ends_with_130(home: Path, silent: socket.socket) -> None:
    root = home.parent.parent
    process = subprocess.Popen(
        [MAILKEEP, "plan", "home"],
        cwd=root,
        env=environment(root),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    silent.settimeout(30)
    connection, _ = silent.accept()  # it waits for an answer now
    with connection:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "mailkeep/cli.py" not in said  # no traceback of ours; paramiko may log one of its own


def test_an_interrupt_before_it_has_begun_ends_with_130_too(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt\n")  # while it is imported
    environ = environment(tmp_path) | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([MAILKEEP, "--version"], env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


# --- accounts


def test_an_account_comes_changes_and_goes(home: Path, mailkeep: Run) -> None:
    added = mailkeep(
        *("account", "add", "home", "bert@example.org", "--name", "Bert Example", "--quota", "2G"),
        stdin=f"{PASSWORD}\n",
    )
    assert (added.code, added.err) == (0, "")
    assert "mailkeep deploy home" in added.out
    [bert] = [one for one in listed(mailkeep) if one["address"] == "bert@example.org"]
    assert (bert["name"], bert["quota"]) == ("Bert Example", "2G")
    assert opens(home, "bert@example.org", PASSWORD)

    assert mailkeep("account", "passwd", "home", "bert@example.org", stdin=f"{PASSWORD}-too\n").code == 0
    assert opens(home, "bert@example.org", f"{PASSWORD}-too")
    assert not opens(home, "bert@example.org", PASSWORD)

    assert mailkeep("account", "remove", "home", "bert@example.org").code == 0
    assert [one["address"] for one in listed(mailkeep)] == ["anna@example.org"]


def listed(mailkeep: Run) -> list[dict[str, str]]:
    return json.loads(mailkeep("account", "list", "home", "--json").out)  # type: ignore[no-any-return]


def opens(home: Path, address: str, password: str) -> bool:
    [account] = [one for one in load_settings(home / "mail.yml").accounts if one.address == address]
    try:
        return passwords.HASHER.verify(account.password.removeprefix("{ARGON2ID}"), password)
    except Exception as refused:
        if type(refused).__name__ != "VerifyMismatchError":
            raise
        return False


def everything(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("verb", ["add", "passwd"])
def test_a_password_that_is_given_is_shown_and_written_nowhere(verb: str, home: Path, mailkeep: Run) -> None:
    address = {"add": "bert@example.org", "passwd": "anna@example.org"}[verb]
    said = mailkeep("account", verb, "home", address, stdin=f"{PASSWORD}\n")
    assert said.code == 0
    assert PASSWORD not in said.out + said.err
    assert opens(home, address, PASSWORD)
    assert not [path for path, content in everything(home.parent.parent).items() if PASSWORD.encode() in content]


@pytest.mark.parametrize("verb", ["add", "passwd"])
def test_a_password_that_is_made_is_shown_once_and_written_nowhere(verb: str, home: Path, mailkeep: Run) -> None:
    address = {"add": "bert@example.org", "passwd": "anna@example.org"}[verb]
    said = mailkeep("account", verb, "home", address, "--generate")
    [shown] = PASSPHRASE.findall(said.out + said.err)
    assert opens(home, address, shown)
    assert not [path for path, content in everything(home.parent.parent).items() if shown.encode() in content]


@pytest.mark.parametrize(
    ("command", "name", "stdout"),
    [
        ("account add home bert@example.org --generate", "home", ">/dev/full"),
        ("account passwd home anna@example.org --generate", "home", ">&-"),
        (" ".join(INIT).replace("home", "new"), "new", "| true"),
    ],
)
def test_a_passphrase_that_nobody_saw_is_told_as_that(command: str, name: str, stdout: str, home: Path) -> None:
    root = home.parent.parent
    done = subprocess.run(
        ["sh", "-c", f"{MAILKEEP} {command} {stdout}"],
        cwd=root,
        env=environment(root),
        capture_output=True,
        text=True,
    )
    assert re.search(
        f"`mailkeep account passwd {name} (anna|bert)@example.org --generate` to create another", done.stderr
    )
    assert not PASSPHRASE.search(done.stdout + done.stderr)


def test_init_shows_the_first_passphrase_once(first: tuple[Path, str]) -> None:
    root, said = first
    [shown] = PASSPHRASE.findall(said)
    assert opens(root / "inventories" / "home", "anna@example.org", shown)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("verb", "address"), [("add", "anna@example.org"), ("add", "no address"), ("passwd", "bert@example.org")]
)
def test_no_passphrase_is_shown_that_opens_nothing(verb: str, address: str, mailkeep: Run) -> None:
    said = mailkeep("account", verb, "home", address, "--generate")
    assert said.code == 1
    assert address in said.err
    assert not PASSPHRASE.search(said.out + said.err)


@pytest.mark.parametrize(("typed", "reason"), [("", "standard input is empty"), ("hunter2\n", "12 to 256")])
def test_a_password_that_will_not_do_changes_nothing_and_is_not_repeated(
    typed: str, reason: str, home: Path, mailkeep: Run
) -> None:
    before = everything(home)
    said = mailkeep("account", "passwd", "home", "anna@example.org", stdin=typed)
    assert (said.code, said.out) == (1, "")
    assert reason in said.err
    assert "hunter2" not in said.err
    assert everything(home) == before


# --- at a terminal


def test_a_terminal_asks_twice_and_shows_nothing_of_what_is_typed(home: Path) -> None:
    terminal = Terminal(home.parent.parent, "account", "passwd", "home", "anna@example.org")
    terminal.until("Password for anna@example.org: ")
    terminal.type(f"{PASSWORD}\n")
    terminal.until("Repeat for confirmation: ")
    terminal.type(f"{PASSWORD}\n")
    assert terminal.end() == 0
    assert PASSWORD not in terminal.seen
    assert opens(home, "anna@example.org", PASSWORD)


def test_an_interrupt_at_the_question_ends_with_130_and_changes_nothing(home: Path) -> None:
    before = everything(home)
    terminal = Terminal(home.parent.parent, "account", "passwd", "home", "anna@example.org")
    terminal.until("Password for anna@example.org: ")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 130
    assert everything(home) == before


def test_colour_is_for_terminals_only(home: Path, mailkeep: Run) -> None:
    terminal = Terminal(home.parent.parent, "dns", "home")
    assert terminal.end() == 0
    assert "\x1b[" in terminal.seen
    for arguments in (["dns", "home"], ["check", "home"], ["account", "list", "home"], ["check"], ["--help"]):
        said = mailkeep(*arguments)
        assert "\x1b" not in said.out + said.err, arguments


# --- what each command prints


def test_check_says_that_all_is_well(home: Path, mailkeep: Run) -> None:
    said = mailkeep("check", "home")
    assert (said.code, said.err) == (0, "")
    assert said.out == f"{home / 'mail.yml'}: valid. 1 account, 1 domain, for mail.example.org.\n"


def test_check_says_what_is_missing_and_which_command_makes_it(home: Path, mailkeep: Run) -> None:
    open_vault(home).delete("tls/self-signed")
    said = mailkeep("check", "home")
    assert said.code == 1
    assert "`mailkeep keys home`" in said.err
    assert mailkeep("keys", "home").code == 0
    assert mailkeep("check", "home").code == 0
    assert mailkeep("keys", "home").out == "No key is missing.\n"


def test_reencrypt_lets_a_colleague_in(home: Path, mailkeep: Run) -> None:
    colleague = vault.create_vault(home.parent.parent / "other", home.parent.parent / "other-identity")
    recipients = home / "secrets" / vault.RECIPIENTS
    recipients.write_text(recipients.read_text() + (colleague.directory / vault.RECIPIENTS).read_text())
    assert mailkeep("keys", "home", "--reencrypt").code == 0
    theirs = vault.Vault(home / "secrets", colleague.identity)
    assert theirs.names()
    assert all(theirs.read(name) for name in theirs.names())


def test_the_schema_accepts_the_mail_yml_and_refuses_a_misspelt_setting(home: Path, mailkeep: Run) -> None:
    schema = json.loads(mailkeep("schema").out)
    jsonschema.Draft202012Validator.check_schema(schema)
    declared = yaml.safe_load((home / "mail.yml").read_text())
    jsonschema.validate(declared, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(declared | {"domain": ["example.org"]}, schema)


@pytest.mark.usefixtures("home")
def test_the_formats_of_dns_records_say_the_same(mailkeep: Run) -> None:
    listed = json.loads(mailkeep("dns", "home", "--json").out)
    zone = dns.zonefile.read_rrsets(mailkeep("dns", "home", "--zone").out, rdclass=None)
    by_zone = {
        (rrset.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(rrset.rdtype), value(rdata))
        for rrset in zone
        for rdata in rrset
    }
    by_json = {(one["name"], one["type"], one["value"]) for one in listed if one["type"] != "PTR"}
    assert by_zone == by_json
    shown = mailkeep("dns", "home").out
    for one in listed:
        assert one["name"] in shown
        assert one["reason"] in shown
        assert re.search(rf"^ *(?:\S+  PTR  )?{re.escape(one['value'])}(?:  .*)?$", shown, re.M), one
    assert [one["type"] for one in listed].count("PTR") == 2


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "options",
    [
        ("--zone", "--form"),
        ("--zone", "--json"),
        ("--check", "--zone"),
        ("--check", "--octodns", "octodns"),
        ("--octodns", ""),
    ],
    ids=" ".join,
)
def test_dns_does_one_thing_at_a_time(
    options: tuple[str, ...], mailkeep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    said = mailkeep("dns", "home", *options)
    assert (said.code, said.out) == (2, "")
    assert options[0] in said.err
    assert not list(here.iterdir())


def test_a_record_in_somebody_elses_zone_is_told_apart(home: Path, mailkeep: Run) -> None:
    name = "example.org._report._dmarc.example.net"
    file = home / "mail.yml"
    file.write_text(f"{file.read_text()}\ndns:\n  reports: reports@example.net\n")
    ours, theirs = mailkeep("dns", "home").out.split("In zones of others")
    assert (name in ours, name in theirs) == (False, True)
    for as_others_want in ("--zone", "--form"):
        assert name not in mailkeep("dns", "home", as_others_want).out


@pytest.mark.usefixtures("home")
def test_octodns_gets_a_file_for_each_zone(mailkeep: Run, tmp_path: Path) -> None:
    said = mailkeep("dns", "home", "--octodns", str(tmp_path / "octodns"))
    assert (said.code, said.out) == (0, f"{tmp_path}/octodns/example.org.yaml\n")
    said = mailkeep("dns", "home", "--octodns", "/proc/none")
    assert said.code == 1
    assert "Name a directory" in said.err


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "command", [("dns", "home", "--check"), ("blocklists", "home"), ("deploy", "home")], ids=" ".join
)
def test_a_resolver_that_is_none_is_told(command: tuple[str, ...], mailkeep: Run) -> None:
    for none in ("quad9", "127.0.0.1@99999", "127.0.0.1@0", "127.0.0.1@-5", "127.0.0.1@", "127.0.0.1@dns"):
        said = mailkeep(*command, "--resolver", none)
        assert (said.code, said.out) == (1, "")
        assert repr(none) in said.err


@pytest.mark.usefixtures("home")
def test_blocklists_that_cannot_be_asked_clear_nobody(mailkeep: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT", 0.2)
    said = mailkeep("blocklists", "home", "--resolver", "127.0.0.1@1")  # nothing answers there
    assert said.code == 1
    assert "clear" not in said.out
    assert "unknown" in said.out
    assert "No blocklist answered" in said.err
    entries = json.loads(mailkeep("blocklists", "home", "--json", "--resolver", "127.0.0.1@1").out)
    assert {entry["state"] for entry in entries} == {"unknown"}


@pytest.mark.usefixtures("home")
def test_new_keys_are_not_rotated_without_need(mailkeep: Run) -> None:
    said = mailkeep("dkim", "rotate", "home")
    assert said.code == 0
    assert "Nothing to do" in said.out


def value(rdata: object) -> str:
    strings = getattr(rdata, "strings", None)
    return b"".join(strings).decode() if strings else str(rdata)


def test_the_relay_hosts_password_goes_into_the_vault_and_nowhere_else(home: Path, mailkeep: Run) -> None:
    said = mailkeep("relay", "home", stdin="open sesame\n")
    assert (said.code, said.err) == (0, "")
    assert "sesame" not in said.out
    assert not [path for path, content in everything(home.parent.parent).items() if b"sesame" in content]
    assert open_vault(home).read("relay") == b"open sesame"


def test_the_webhooks_url_and_token_go_into_the_vault_and_nowhere_else(home: Path, mailkeep: Run) -> None:
    said = mailkeep("webhook", "home", "--token", stdin="https://ntfy.example.net/very-secret\nvery-secret-token\n")
    assert (said.code, said.err) == (0, "")
    assert "very-secret" not in said.out
    assert not [path for path, content in everything(home.parent.parent).items() if b"very-secret" in content]
    assert open_vault(home).read("webhook") == b"https://ntfy.example.net/very-secret\nvery-secret-token"


def test_a_webhook_whose_url_is_not_in_the_vault_is_told(home: Path, mailkeep: Run) -> None:
    with (home / "mail.yml").open("a") as file:
        file.write("\nalerts: {webhook: {format: ntfy}}\n")
    said = mailkeep("check", "home")
    assert said.code == 1
    assert "No URL for the webhook: run `mailkeep webhook home`." in said.err
    mailkeep("webhook", "home", stdin="https://ntfy.example.net/topic\n")
    assert mailkeep("check", "home").code == 0


@pytest.mark.parametrize(
    "url",
    [
        "very-secret",
        "ftp://very-secret/",
        "https://",
        "https://a b/very-secret",
        "https://u:very-secret@host/",
        "https://host:99999/very-secret",
        "https://[2001:db8::1/very-secret",
    ],
)
def test_what_is_no_url_is_refused_and_not_repeated(home: Path, mailkeep: Run, url: str) -> None:
    said = mailkeep("webhook", "home", stdin=f"{url}\n")
    assert said.code == 1
    assert "very-secret" not in said.out + said.err
    assert "webhook" not in open_vault(home).names()


@pytest.mark.usefixtures("home")
def test_render_writes_what_a_host_would_get_and_overwrites_nothing(mailkeep: Run, tmp_path: Path) -> None:
    target = tmp_path / "rendered"
    said = mailkeep("render", "home", str(target))
    assert said.code == 0
    written = [path for path in target.rglob("*") if path.is_file()]
    assert said.out.startswith(f"Wrote {len(written)} files below ")
    assert "myhostname = mail.example.org" in (target / "etc/postfix/main.cf").read_text()
    assert target.stat().st_mode & 0o077 == 0
    again = mailkeep("render", "home", str(target))
    assert again.code == 1
    assert str(target) in again.err


def test_init_overwrites_nothing(home: Path, mailkeep: Run) -> None:
    before = everything(home.parent.parent)
    said = mailkeep(*INIT)
    assert said.code == 1
    assert not PASSPHRASE.search(said.out + said.err)
    assert everything(home.parent.parent) == before
