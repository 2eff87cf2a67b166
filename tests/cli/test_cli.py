"""The `mailkeep` command: its exit codes, its messages, and the secrets that it never shows."""

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


def list_commands() -> Iterator[tuple[tuple[str, ...], typer.core.TyperCommand]]:
    tree = typer.main.get_command(app)
    for name, command in tree.commands.items():  # type: ignore[attr-defined]
        for below, inner in getattr(command, "commands", {}).items():
            yield (name, below), inner
        if not hasattr(command, "commands") and not command.hidden:
            yield (name,), command


COMMANDS = dict(list_commands())
OF_AN_INVENTORY = [path for path in COMMANDS if path not in (("init",), ("inspect",), ("schema",), ("drill",))]
# An account is frozen in a hurry, and a night has little time: these commands work in spite of other errors.
URGENT = [
    *(("account", "freeze"), ("account", "thaw")),
    *((name,) for name in ("status", "queue", "bans", "logins", "report", "trace")),
]
ASKING_HOSTS = [("check",), ("plan",), ("deploy",), ("verify",), ("alert-test",), *URGENT]


def command_line(path: tuple[str, ...], name: str) -> list[str]:
    """The command's arguments, with the inventory's name and all that it requires."""
    required = {
        ("render",): ["new"],
        ("tls", "import"): ["--certificate", "chain.pem", "--key", "key.pem"],
        ("restore",): ["anna@example.org"],
        ("trace",): ["anna@example.org"],
        ("account", "rename"): ["anna@example.org", "anne@example.org"],
        ("import",): ["anna@example.org", "--from", "ssh://old.example.org/var/mail/anna"],
        **{("account", verb): ["anna@example.org"] for verb in ("add", "passwd", "remove", "freeze", "thaw")},
    }
    return [*path, name, *required.get(path, [])]


# --- help


@pytest.mark.parametrize("path", [(), ("account",), *COMMANDS], ids=" ".join)
def test_help_says_what_a_command_does_and_gives_an_example(path: tuple[str, ...], mailkeep: Run) -> None:
    result = mailkeep(*path, "--help")
    assert result.code == 0
    assert f"mailkeep {' '.join(path)}".rstrip() in re.sub(r"\s+", " ", result.out.partition("─ ")[2])
    if path in COMMANDS:
        assert str(COMMANDS[path].help).replace("`", "").split(".")[0][:40] in re.sub(r"\s+", " ", result.out)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_is_explained(path: tuple[str, ...]) -> None:
    unexplained = [
        parameter.name
        for parameter in COMMANDS[path].params
        if not getattr(parameter, "help", None) and parameter.name != "help"
    ]
    assert not unexplained


def test_the_version_is_the_projects(mailkeep: Run) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert mailkeep("--version").out == f"mailkeep {version}\n"


@pytest.mark.slow
def test_the_command_starts_without_the_libraries_that_only_some_commands_need() -> None:
    code = "import sys, mailkeep.cli.app; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pydantic", "cryptography", "pyinfra", "dns", "matplotlib", "testinfra", "zxcvbn"} & {*modules}


@pytest.mark.slow
def test_the_shell_completes_commands_and_inventories(home: Path) -> None:
    root = home.parent.parent
    for words, completed in {
        "mailkeep dep": "deploy",
        "mailkeep check h": "home",
        "mailkeep dkim rotate ho": "home",
    }.items():
        process = subprocess.run(
            [MAILKEEP],
            cwd=root,
            env=environment(root)
            | {"_MAILKEEP_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))},
            capture_output=True,
            text=True,
        )
        assert process.stdout.split() == [completed], process.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_former_names_of_commands_still_work_with_a_note(mailkeep: Run) -> None:
    result = mailkeep("tls-roll", "home")
    assert (result.code, "tls.mode is self-signed" in result.err) == (1, True)
    assert "note: `mailkeep tls-roll` is now called `mailkeep tls rotate`." in result.err
    assert "tls-roll" not in mailkeep("--help").out
    for former in (
        ("home", "--certificate", "a.pem", "--key", "b.pem"),
        ("--certificate", "a.pem", "--key", "b.pem", "home"),
    ):
        result = mailkeep("tls", *former)
        assert (result.code, "a.pem: cannot be read" in result.err) == (1, True)
        assert "note: `mailkeep tls NAME` is now called `mailkeep tls import NAME`." in result.err


# --- exit codes, as the README has them


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("path", OF_AN_INVENTORY, ids=" ".join)
def test_a_missing_inventory_is_named_with_those_that_exist(path: tuple[str, ...], mailkeep: Run) -> None:
    result = mailkeep(*command_line(path, "hoem"), stdin=f"{PASSWORD}\n")
    assert (result.code, result.out) == (1, "")
    assert "hoem" in result.err
    assert "There are: home." in result.err


@pytest.mark.parametrize("path", [*OF_AN_INVENTORY, ("init",), ("inspect",), ("drill",)], ids=" ".join)
def test_every_command_of_an_inventory_finds_it_the_same_way(path: tuple[str, ...]) -> None:
    [option] = [parameter for parameter in COMMANDS[path].params if "--in" in parameter.opts]
    assert option.envvar == "MAILKEEP_HOME"


@pytest.mark.slow
def test_inventories_are_created_and_used_where_in_says(
    home: Path, mailkeep: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = home.parent.parent / "elsewhere"
    elsewhere.mkdir()
    created = mailkeep(*[word.replace("home", "new") for word in INIT], "--in", "elsewhere")
    assert (created.code, created.err) == (0, "")
    inventory = elsewhere / "inventories" / "new"
    assert f"`mailkeep plan {inventory}`" in created.out
    assert mailkeep("check", "new").code == 1
    assert mailkeep("check", "new", "--in", "elsewhere").code == 0
    assert mailkeep("check", str(inventory)).code == 0
    monkeypatch.setenv("MAILKEEP_HOME", str(elsewhere))
    monkeypatch.chdir("/")
    assert mailkeep("check", "new").code == 0
    assert "There are: new." in mailkeep("check", "home").err


def test_a_name_that_no_file_can_have_is_an_error_of_one_line(mailkeep: Run) -> None:
    result = mailkeep("check", "x" * 300)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "File name too long" in result.err


@pytest.mark.usefixtures("home")
def test_an_unknown_home_directory_is_an_error(mailkeep: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    result = mailkeep("check", "~nobody-at-all/home")
    assert (result.code, result.out) == (1, "")
    assert "Set HOME" in result.err
    monkeypatch.setenv("MAILKEEP_IDENTITY", "~nobody-at-all/identity")
    result = mailkeep("check", "home")
    assert (result.code, result.out) == (1, "")
    assert "~nobody-at-all/identity" in result.err


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("command", ["plan", "deploy"])
def test_a_user_without_a_name_is_an_error_before_anything_connects(
    command: str, mailkeep: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    result = mailkeep(command, "home")
    assert (result.code, result.out) == (1, "")
    assert "54321" in result.err


@pytest.mark.slow
def test_an_output_encoding_without_a_character_stops_nothing(home: Path) -> None:
    point_host_at(home, 1)
    root = home.parent.parent
    for encoding in ("latin-1", "ascii"):
        command, environ = [MAILKEEP, "verify", "home"], {**environment(root), "PYTHONIOENCODING": encoding}
        process = subprocess.run(command, cwd=root, env=environ, capture_output=True, timeout=60)
        assert process.returncode == 1
        assert b"? The server can be reached" in process.stdout
        assert b"Traceback" not in process.stderr


@pytest.mark.parametrize("path", [path for path in OF_AN_INVENTORY if path not in URGENT], ids=" ".join)
def test_an_invalid_mail_yml_stops_every_command_and_changes_nothing(
    path: tuple[str, ...], home: Path, mailkeep: Run
) -> None:
    file = home / "mail.yml"
    file.write_text(file.read_text().replace("tls:", "tsl:"))
    before = read_all_files(home.parent.parent)
    line = file.read_text().splitlines().index("tsl:") + 1
    result = mailkeep(*command_line(path, "home"), stdin=f"{PASSWORD}\n")
    assert (result.code, result.out) == (1, "")
    assert f'{file}:{line}: tsl\n  found  the unknown setting "tsl"' in result.err
    assert read_all_files(home.parent.parent) == before


@pytest.mark.parametrize("content", ["hosts = []", "import sys; sys.exit(3)", None])
@pytest.mark.parametrize("path", ASKING_HOSTS, ids=" ".join)
def test_an_inventory_py_without_hosts_stops_every_command_that_asks_them(
    path: tuple[str, ...], content: str | None, home: Path, mailkeep: Run
) -> None:
    file = home / "inventory.py"
    file.unlink() if content is None else file.write_text(content)
    result = mailkeep(*command_line(path, "home"))
    assert (result.code, result.out) == (1, "")
    assert str(file) in result.err


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
    result = mailkeep(*wrong)
    assert (result.code, result.out) == (2, "")
    assert "--help" in result.err


def test_no_arguments_show_the_help(mailkeep: Run) -> None:
    assert "Servers" in mailkeep().out


@pytest.fixture
def silent_host(home: Path) -> Iterator[socket.socket]:
    """The inventory's host: a listener that accepts connections and stays silent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        point_host_at(home, listener.getsockname()[1])
        yield listener


def point_host_at(home: Path, port: int) -> None:
    data = {"mailkeep": str(home / "mail.yml"), "ssh_hostname": "127.0.0.1", "ssh_port": port}
    (home / "inventory.py").write_text(f"hosts = [('mail.example.org', {data!r})]\n")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["deploy", "verify"])
def test_a_host_that_does_not_answer_ends_with_1_and_its_name(command: str, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    point_host_at(home, port)  # the port is closed again, so connections are refused
    root = home.parent.parent
    process = subprocess.run(
        [MAILKEEP, command, "home"], cwd=root, env=environment(root), capture_output=True, text=True, timeout=60
    )
    assert process.returncode == 1
    assert "mail.example.org" in process.stdout + process.stderr
    assert "Traceback" not in process.stdout + process.stderr


@pytest.mark.slow
@pytest.mark.parametrize("json_option", [(), ("--json",)], ids=["", "--json"])
def test_a_deploy_that_cannot_connect_gives_the_ssh_command_that_must_work(
    home: Path, json_option: tuple[str, ...]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    point_host_at(home, port)
    root = home.parent.parent
    command = [MAILKEEP, "deploy", "home", *json_option]
    process = subprocess.run(command, cwd=root, env=environment(root), capture_output=True, text=True, timeout=60)
    assert process.returncode == 1
    error = json.loads(process.stdout)["hosts"]["mail.example.org"]["error"] if json_option else process.stderr
    assert f"`ssh -p {port} 127.0.0.1` must log in without asking anything." in error


@pytest.mark.slow
def test_an_interrupt_ends_with_130(home: Path, silent_host: socket.socket) -> None:
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
    silent_host.settimeout(30)
    connection, _ = silent_host.accept()  # the command now waits for the SSH banner
    with connection:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert "mailkeep/cli/" not in output  # no traceback of Mailkeep; paramiko may log its own


def test_an_interrupt_during_the_imports_ends_with_130_too(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt\n")  # while it is imported
    environ = environment(tmp_path) | {"PYTHONPATH": str(tmp_path)}
    process = subprocess.run([MAILKEEP, "--version"], env=environ, capture_output=True, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (130, "", "")


# --- accounts


@pytest.mark.slow
def test_an_account_is_added_changed_and_removed(home: Path, mailkeep: Run) -> None:
    added = mailkeep(
        *("account", "add", "home", "bert@example.org", "--name", "Bert Example", "--quota", "2G"),
        stdin=f"{PASSWORD}\n",
    )
    assert (added.code, added.err) == (0, "")
    assert "mailkeep deploy home" in added.out
    [bert] = [account for account in list_accounts(mailkeep) if account["address"] == "bert@example.org"]
    assert (bert["name"], bert["quota"]) == ("Bert Example", "2G")
    assert can_log_in(home, "bert@example.org", PASSWORD)

    assert mailkeep("account", "passwd", "home", "bert@example.org", stdin=f"{PASSWORD}-too\n").code == 0
    assert can_log_in(home, "bert@example.org", f"{PASSWORD}-too")
    assert not can_log_in(home, "bert@example.org", PASSWORD)

    assert mailkeep("account", "remove", "home", "bert@example.org").code == 0
    assert [account["address"] for account in list_accounts(mailkeep)] == ["anna@example.org"]


def list_accounts(mailkeep: Run) -> list[dict[str, str]]:
    return json.loads(mailkeep("account", "list", "home", "--json").out)  # type: ignore[no-any-return]


def can_log_in(home: Path, address: str, password: str) -> bool:
    [account] = [entry for entry in load_settings(home / "mail.yml").accounts if entry.address == address]
    try:
        return passwords.HASHER.verify(account.password.removeprefix("{ARGON2ID}"), password)
    except Exception as refused:
        if type(refused).__name__ != "VerifyMismatchError":
            raise
        return False


def read_all_files(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("verb", ["add", "passwd"])
def test_a_password_from_standard_input_is_shown_and_written_nowhere(verb: str, home: Path, mailkeep: Run) -> None:
    address = {"add": "bert@example.org", "passwd": "anna@example.org"}[verb]
    result = mailkeep("account", verb, "home", address, stdin=f"{PASSWORD}\n")
    assert result.code == 0
    assert PASSWORD not in result.out + result.err
    assert can_log_in(home, address, PASSWORD)
    assert not [path for path, content in read_all_files(home.parent.parent).items() if PASSWORD.encode() in content]


@pytest.mark.parametrize("verb", ["add", "passwd"])
def test_a_generated_password_is_shown_once_and_written_nowhere(verb: str, home: Path, mailkeep: Run) -> None:
    address = {"add": "bert@example.org", "passwd": "anna@example.org"}[verb]
    result = mailkeep("account", verb, "home", address, "--generate")
    [shown] = PASSPHRASE.findall(result.out + result.err)
    assert can_log_in(home, address, shown)
    assert not [path for path, content in read_all_files(home.parent.parent).items() if shown.encode() in content]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "inventory", "stdout"),
    [
        ("account add home bert@example.org --generate", "home", ">/dev/full"),
        ("account passwd home anna@example.org --generate", "home", ">&-"),
        (" ".join(INIT).replace("home", "new"), "new", "| true"),
    ],
)
def test_a_passphrase_that_could_not_be_shown_is_reported_with_a_remedy(
    command: str, inventory: str, stdout: str, home: Path
) -> None:
    root = home.parent.parent
    process = subprocess.run(
        ["sh", "-c", f"{MAILKEEP} {command} {stdout}"],
        cwd=root,
        env=environment(root),
        capture_output=True,
        text=True,
    )
    assert re.search(
        f"`mailkeep account passwd {inventory} (anna|bert)@example.org --generate` to create another", process.stderr
    )
    assert not PASSPHRASE.search(process.stdout + process.stderr)


def test_init_shows_the_first_passphrase_once(first_inventory: tuple[Path, str]) -> None:
    root, output = first_inventory
    [shown] = PASSPHRASE.findall(output)
    assert can_log_in(root / "inventories" / "home", "anna@example.org", shown)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("verb", "address"), [("add", "anna@example.org"), ("add", "no address"), ("passwd", "bert@example.org")]
)
def test_a_failed_command_shows_no_passphrase(verb: str, address: str, mailkeep: Run) -> None:
    result = mailkeep("account", verb, "home", address, "--generate")
    assert result.code == 1
    assert address in result.err
    assert not PASSPHRASE.search(result.out + result.err)


@pytest.mark.parametrize(("typed", "reason"), [("", "standard input is empty"), ("hunter2\n", "12 to 256")])
def test_an_unacceptable_password_changes_nothing_and_is_not_repeated(
    typed: str, reason: str, home: Path, mailkeep: Run
) -> None:
    before = read_all_files(home)
    result = mailkeep("account", "passwd", "home", "anna@example.org", stdin=typed)
    assert (result.code, result.out) == (1, "")
    assert reason in result.err
    assert "hunter2" not in result.err
    assert read_all_files(home) == before


# --- at a terminal


@pytest.mark.slow
def test_a_terminal_asks_twice_and_shows_nothing_of_what_is_typed(home: Path) -> None:
    terminal = Terminal(home.parent.parent, "account", "passwd", "home", "anna@example.org")
    terminal.wait_for("Password for anna@example.org: ")
    terminal.type_text(f"{PASSWORD}\n")
    terminal.wait_for("Repeat for confirmation: ")
    terminal.type_text(f"{PASSWORD}\n")
    assert terminal.wait_for_end() == 0
    assert PASSWORD not in terminal.output
    assert can_log_in(home, "anna@example.org", PASSWORD)


@pytest.mark.slow
def test_an_interrupt_at_the_question_ends_with_130_and_changes_nothing(home: Path) -> None:
    before = read_all_files(home)
    terminal = Terminal(home.parent.parent, "account", "passwd", "home", "anna@example.org")
    terminal.wait_for("Password for anna@example.org: ")
    terminal.interrupt()
    assert terminal.wait_for_end() == 130
    assert read_all_files(home) == before


@pytest.mark.slow
def test_colour_is_for_terminals_only(home: Path, mailkeep: Run) -> None:
    terminal = Terminal(home.parent.parent, "dns", "home")
    assert terminal.wait_for_end() == 0
    assert "\x1b[" in terminal.output
    for command_line in (["dns", "home"], ["check", "home"], ["account", "list", "home"], ["check"], ["--help"]):
        result = mailkeep(*command_line)
        assert "\x1b" not in result.out + result.err, command_line


# --- output of each command


@pytest.mark.usefixtures("home")
def test_the_list_of_accounts_cuts_no_address_in_a_pipe(mailkeep: Run) -> None:
    address = f"{'long' * 15}@example.org"
    assert mailkeep("account", "add", "home", address, "--name", "Somebody With A Name", "--generate").code == 0
    lines = mailkeep("account", "list", "home").out.splitlines()
    assert len(lines) == 3
    assert lines[0].split() == ["ADDRESS", "NAME", "QUOTA", "SENDS", "AS", "ALIASES"]
    assert f"{address}  Somebody With A Name" in lines[2]
    assert [row["address"] for row in list_accounts(mailkeep)] == ["anna@example.org", address]


def test_check_says_that_all_is_well(home: Path, mailkeep: Run) -> None:
    result = mailkeep("check", "home")
    assert (result.code, result.err) == (0, "")
    assert result.out == f"{home / 'mail.yml'}: valid. 1 account, 1 domain, for mail.example.org.\n"


def test_check_says_what_is_missing_and_which_command_creates_it(home: Path, mailkeep: Run) -> None:
    open_vault(home).delete("tls/self-signed")
    result = mailkeep("check", "home")
    assert result.code == 1
    assert "`mailkeep keys home`" in result.err
    assert mailkeep("keys", "home").code == 0
    assert mailkeep("check", "home").code == 0
    assert mailkeep("keys", "home").out == "No key is missing.\n"


def test_reencrypt_gives_a_colleague_access_to_the_vault(home: Path, mailkeep: Run) -> None:
    colleague = vault.create_vault(home.parent.parent / "other", home.parent.parent / "other-identity")
    recipients = home / "secrets" / vault.RECIPIENTS
    recipients.write_text(recipients.read_text() + (colleague.directory / vault.RECIPIENTS).read_text())
    assert mailkeep("keys", "home", "--reencrypt").code == 0
    theirs = vault.Vault(home / "secrets", colleague.identity)
    assert theirs.names()
    assert all(theirs.read(name) for name in theirs.names())


@pytest.mark.slow
def test_the_schema_accepts_the_mail_yml_and_refuses_a_misspelt_setting(home: Path, mailkeep: Run) -> None:
    schema = json.loads(mailkeep("schema").out)
    jsonschema.Draft202012Validator.check_schema(schema)
    settings = yaml.safe_load((home / "mail.yml").read_text())
    jsonschema.validate(settings, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(settings | {"domain": ["example.org"]}, schema)


@pytest.mark.usefixtures("home")
def test_all_formats_of_dns_have_the_same_records(mailkeep: Run) -> None:
    records = json.loads(mailkeep("dns", "home", "--json").out)
    zone = dns.zonefile.read_rrsets(mailkeep("dns", "home", "--zone").out, rdclass=None)
    by_zone = {
        (rrset.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(rrset.rdtype), text_of(rdata))
        for rrset in zone
        for rdata in rrset
    }
    by_json = {(record["name"], record["type"], record["value"]) for record in records if record["type"] != "PTR"}
    assert by_zone == by_json
    shown = mailkeep("dns", "home").out
    for record in records:
        assert record["name"] in shown
        assert record["reason"] in shown
        assert re.search(rf"^ *(?:\S+  PTR  )?{re.escape(record['value'])}(?:  .*)?$", shown, re.M), record
    assert [record["type"] for record in records].count("PTR") == 2


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
def test_options_of_dns_that_exclude_each_other_are_refused(
    options: tuple[str, ...], mailkeep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    result = mailkeep("dns", "home", *options)
    assert (result.code, result.out) == (2, "")
    assert options[0] in result.err
    assert not list(directory.iterdir())


def test_a_record_in_a_third_partys_zone_is_listed_apart(home: Path, mailkeep: Run) -> None:
    name = "example.org._report._dmarc.example.net"
    file = home / "mail.yml"
    file.write_text(f"{file.read_text()}\ndns:\n  reports: reports@example.net\n")
    ours, theirs = mailkeep("dns", "home").out.split("In zones of others")
    assert (name in ours, name in theirs) == (False, True)
    for as_others_want in ("--zone", "--form"):
        assert name not in mailkeep("dns", "home", as_others_want).out


@pytest.mark.usefixtures("home")
def test_octodns_gets_a_file_for_each_zone(mailkeep: Run, tmp_path: Path) -> None:
    result = mailkeep("dns", "home", "--octodns", str(tmp_path / "octodns"))
    assert (result.code, result.out) == (0, f"{tmp_path}/octodns/example.org.yaml\n")
    result = mailkeep("dns", "home", "--octodns", "/proc/none")
    assert result.code == 1
    assert "Name a directory" in result.err


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "command", [("dns", "home", "--check"), ("blocklists", "home"), ("deploy", "home")], ids=" ".join
)
def test_an_invalid_resolver_is_an_error(command: tuple[str, ...], mailkeep: Run) -> None:
    for resolver in ("quad9", "127.0.0.1@99999", "127.0.0.1@0", "127.0.0.1@-5", "127.0.0.1@", "127.0.0.1@dns"):
        result = mailkeep(*command, "--resolver", resolver)
        assert (result.code, result.out) == (1, "")
        assert repr(resolver) in result.err


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_blocklists_that_do_not_answer_are_not_reported_as_clear(
    mailkeep: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TIMEOUT", 0.2)
    result = mailkeep("blocklists", "home", "--resolver", "127.0.0.1@1")  # nothing answers there
    assert result.code == 1
    assert "clear" not in result.out
    assert "unknown" in result.out
    assert "No blocklist answered" in result.err
    entries = json.loads(mailkeep("blocklists", "home", "--json", "--resolver", "127.0.0.1@1").out)
    assert {entry["state"] for entry in entries} == {"unknown"}


@pytest.mark.usefixtures("home")
def test_new_dkim_keys_are_not_rotated(mailkeep: Run) -> None:
    result = mailkeep("dkim", "rotate", "home")
    assert result.code == 0
    assert "Nothing to do" in result.out


def text_of(rdata: object) -> str:
    strings = getattr(rdata, "strings", None)
    return b"".join(strings).decode() if strings else str(rdata)


def test_the_relay_hosts_password_goes_into_the_vault_and_nowhere_else(home: Path, mailkeep: Run) -> None:
    result = mailkeep("relay", "home", stdin="open sesame\n")
    assert (result.code, result.err) == (0, "")
    assert "sesame" not in result.out
    assert not [path for path, content in read_all_files(home.parent.parent).items() if b"sesame" in content]
    assert open_vault(home).read("relay") == b"open sesame"


def test_the_webhooks_url_and_token_go_into_the_vault_and_nowhere_else(home: Path, mailkeep: Run) -> None:
    result = mailkeep("webhook", "home", "--token", stdin="https://ntfy.example.net/very-secret\nvery-secret-token\n")
    assert (result.code, result.err) == (0, "")
    assert "very-secret" not in result.out
    assert not [path for path, content in read_all_files(home.parent.parent).items() if b"very-secret" in content]
    assert open_vault(home).read("webhook") == b"https://ntfy.example.net/very-secret\nvery-secret-token"


def test_a_webhook_whose_url_is_not_in_the_vault_is_an_error(home: Path, mailkeep: Run) -> None:
    with (home / "mail.yml").open("a") as file:
        file.write("\nalerts: {webhook: {format: ntfy}}\n")
    result = mailkeep("check", "home")
    assert result.code == 1
    assert "No URL for the webhook: run `mailkeep webhook home`." in result.err
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
def test_an_invalid_url_is_refused_and_not_repeated(home: Path, mailkeep: Run, url: str) -> None:
    result = mailkeep("webhook", "home", stdin=f"{url}\n")
    assert result.code == 1
    assert "very-secret" not in result.out + result.err
    assert "webhook" not in open_vault(home).names()


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_render_writes_what_a_host_would_get_and_overwrites_nothing(mailkeep: Run, tmp_path: Path) -> None:
    target = tmp_path / "rendered"
    result = mailkeep("render", "home", str(target))
    assert result.code == 0
    written = [path for path in target.rglob("*") if path.is_file()]
    assert result.out.startswith(f"Wrote {len(written)} files below ")
    assert "myhostname = mail.example.org" in (target / "etc/postfix/main.cf").read_text()
    assert target.stat().st_mode & 0o077 == 0
    rerun = mailkeep("render", "home", str(target))
    assert rerun.code == 1
    assert str(target) in rerun.err


def test_init_overwrites_nothing(home: Path, mailkeep: Run) -> None:
    before = read_all_files(home.parent.parent)
    result = mailkeep(*INIT)
    assert result.code == 1
    assert not PASSPHRASE.search(result.out + result.err)
    assert read_all_files(home.parent.parent) == before
