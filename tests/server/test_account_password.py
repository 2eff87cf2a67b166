"""A password that is set on the server: it holds at once, and the replaced one never comes back by a deploy."""

import os
import stat
from pathlib import Path

import pytest

from mailkeep.inventory.passwords import hash_password
from mailkeep_server import account_commands, account_password, ctl
from mailkeep_server.common.password_digest import digest_hash
from mailkeep_server.freezes import freeze_list

ANNA, BERT = "anna@example.org", "bert@example.org"
OLD = hash_password("correct horse battery staple")
NEW = hash_password("another horse battery staple")
DOVEADM = """#!/bin/sh
echo doveadm "$@" >>"$0.calls"
case $1 in
pw) read -r first; read -r second; [ "$first" = "$second" ] && echo "$first" >"$0.password" && echo '{new}' ;;
*) printf 'count\\n2\\n' ;; esac
"""


@pytest.fixture(autouse=True)
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    users = tmp_path / "users"
    users.write_text(f"{ANNA}:{OLD}::::::userdb_quota_storage_size=1B\n{BERT}:{OLD[:-1]}x::::::\n")
    users.chmod(0o640)
    monkeypatch.setattr(account_password, "USERS", users)
    monkeypatch.setattr(account_password.replace_password, "__defaults__", (users, tmp_path / "replaced"))
    monkeypatch.setattr(account_password.read_hash, "__defaults__", (users,))
    monkeypatch.setattr(account_password.was_set_here, "__defaults__", (tmp_path / "replaced",))
    return users


@pytest.fixture
def doveadm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin" / "doveadm"
    program.parent.mkdir()
    program.write_text(DOVEADM.replace("{new}", NEW))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(freeze_list, "read_freezes", dict)
    monkeypatch.setattr(account_commands, "find_addresses", lambda account: frozenset({account}))
    return program


def test_only_the_hash_of_the_account_changes_and_the_file_keeps_its_access(users: Path, tmp_path: Path) -> None:
    account_password.replace_password(ANNA, NEW)
    assert users.read_text() == f"{ANNA}:{NEW}::::::userdb_quota_storage_size=1B\n{BERT}:{OLD[:-1]}x::::::\n"
    assert stat.S_IMODE(users.stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "replaced").stat().st_mode) == 0o600
    digest, _, account = (tmp_path / "replaced").read_text().split()
    assert (digest, account) == (digest_hash(OLD), ANNA)
    assert OLD not in (tmp_path / "replaced").read_text()
    assert (account_password.was_set_here(ANNA), account_password.was_set_here(BERT)) == (True, False)


@pytest.mark.parametrize(
    ("account", "new"), [("carl@example.org", NEW), (ANNA, ""), (ANNA, "{PLAIN}x"), (ANNA, f"{NEW}:")]
)
def test_what_is_no_account_or_no_hash_changes_nothing(users: Path, account: str, new: str) -> None:
    before = users.read_text()
    with pytest.raises(ValueError, match=r"no line|no hash"):
        account_password.replace_password(account, new)
    assert users.read_text() == before


def test_every_replaced_hash_is_remembered_once(tmp_path: Path) -> None:
    for password_hash in (NEW, OLD, NEW):
        account_password.replace_password(ANNA, password_hash)
    lines = (tmp_path / "replaced").read_text().splitlines()
    assert [line.split()[0] for line in lines] == [digest_hash(text) for text in (NEW, OLD)]


def test_the_passphrase_is_shown_once_and_sessions_are_cut(doveadm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["passwd", ANNA]) == 0
    printed = capsys.readouterr().out
    password = doveadm.with_name("doveadm.password").read_text().strip()
    assert printed.count(password) == 1
    assert "2 sessions cut." in printed
    assert "--from-host" in printed
    assert password not in doveadm.with_name("doveadm.calls").read_text(), "other users see arguments of programs"
    assert account_password.read_hash(ANNA) == NEW
    assert ctl.main(["password-hash", ANNA]) == 0
    assert capsys.readouterr().out == f"{NEW}\n"
    assert ctl.main(["password-hash", BERT]) == 0
    assert not capsys.readouterr().out, "never changed on this server"


def test_a_generated_password_is_as_long_as_those_of_the_inventory() -> None:
    passwords = {account_password.generate_password() for _ in range(100)}
    assert len(passwords) == 100
    assert {len(password) for password in passwords} == {19}
