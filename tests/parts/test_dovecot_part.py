"""Mailboxes have quotas, and Dovecot applies them to every alias of one account."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mailkeep.inventory import passwords
from mailkeep.parts import dovecot
from mailkeep.settings.models import Settings

ANNA, BEN = "anna@example.org", "ben@example.org"
HASH = passwords.hash_password("violet-kettle-9-orbit-lamp")


@pytest.fixture
def account_lines(declared: dict[str, object]) -> dict[str, dict[str, str]]:
    """The lines of the accounts' and aliases' files, by file and address."""
    accounts = [{"address": ANNA, "password": HASH, "quota": "8M"}, {"address": BEN, "password": HASH}]
    aliases = {
        "info@example.org": ANNA,
        "help@example.org": "info+help@example.org",
        "list@example.org": "anna+list@example.org",
        "team@example.org": [ANNA, BEN],
        "gone@example.org": "ann@example.net",
        "postmaster@example.org": ANNA,
        "abuse@example.org": ANNA,
    }
    settings = Settings.model_validate(declared | {"accounts": accounts, "aliases": aliases})
    files = {file.path: file.content.decode() for file in dovecot.build_part(settings).files}
    return {
        path: dict(line.split(":", 1) for line in files[path].splitlines()) for path in (dovecot.USERS, dovecot.ALIASES)
    }


def test_a_quota_bounds_bytes_and_messages(account_lines: dict[str, dict[str, str]]) -> None:
    assert account_lines[dovecot.USERS][ANNA].endswith(
        "::::::userdb_quota_storage_size=8388608B userdb_quota_message_count=1024"
    )
    assert account_lines[dovecot.USERS][BEN] == f"{HASH}::::::"


def test_an_alias_of_one_account_has_its_quota_and_no_password(account_lines: dict[str, dict[str, str]]) -> None:
    quota = "userdb_quota_storage_size=8388608B userdb_quota_message_count=1024"
    aliases = account_lines[dovecot.ALIASES]
    assert {aliases[f"{name}@example.org"] for name in ("info", "help", "list")} == {
        f"::::::userdb_user={ANNA} {quota}"
    }


def test_an_alias_of_several_accounts_or_outside_is_not_looked_up(
    account_lines: dict[str, dict[str, str]],
) -> None:
    assert not {"team@example.org", "gone@example.org", "root@mail.example.org"} & {*account_lines[dovecot.ALIASES]}


@pytest.mark.parametrize(("addresses", "listen"), [(["192.0.2.1"], "*"), (["192.0.2.1", "2001:db8::1"], "*, ::")])
def test_dovecot_listens_on_ipv6_where_it_is_declared(
    declared: dict[str, object], addresses: list[str], listen: str
) -> None:
    """Where the kernel has no IPv6, Dovecot does not start with `::`."""
    settings = Settings.model_validate(declared | {"host": {"name": "mail.example.org", "addresses": addresses}})
    conf = next(file.content for file in dovecot.build_part(settings).files if file.path == dovecot.CONF)
    assert f"\nlisten = {listen}\n" in conf.decode()


def test_dovecot_believes_the_old_machine_alone(declared: dict[str, object]) -> None:
    conf = read_files(Settings.model_validate(declared))[dovecot.CONF]
    assert "haproxy" not in conf
    host = {"name": "mail.example.org", "addresses": ["192.0.2.1"], "forwarded_from": ["192.0.2.8", "2001:db8::8"]}
    conf = read_files(Settings.model_validate(declared | {"host": host}))[dovecot.CONF]
    assert "\nhaproxy_trusted_networks = 192.0.2.8 2001:db8::8\n" in conf
    assert "    port = 10143\n    haproxy = yes\n" in conf
    assert "    port = 10993\n    ssl = yes\n    haproxy = yes\n" in conf


def read_files(settings: Settings) -> dict[str, str]:
    return {file.path: file.content.decode() for file in dovecot.build_part(settings).files}


def test_one_stolen_password_leaves_sessions_to_others(settings: Settings) -> None:
    conf = read_files(settings)[dovecot.CONF]
    limits = [int(limit) for limit in re.findall(r"^  process_limit = (\d+)$", conf, re.MULTILINE)]
    sieve_limits, imap_limits = limits[2:], limits[:2]
    assert len(sieve_limits) == 2, "ManageSieve's are few, and take none of IMAP's"
    assert min(imap_limits) >= 3 * dovecot.MAX_SESSIONS
    assert f"script-login {dovecot.LIMIT_SESSIONS}\n" in conf
    assert "executable = managesieve imap-postlogin\n" in conf


@pytest.mark.parametrize(("sessions", "begins"), [(0, True), (39, True), (40, False), (99, False), (None, True)])
def test_a_session_begins_unless_the_account_has_too_many(
    settings: Settings, tmp_path: Path, sessions: int | None, begins: bool
) -> None:
    """Dovecot starts the session if the script runs the command that it was given. None: doveadm fails."""
    script, doveadm = tmp_path / "script", tmp_path / "doveadm"
    script.write_text(read_files(settings)[dovecot.LIMIT_SESSIONS])
    lists = 'test "$*" = "-f flow who -1 anna@example.org" && seq ' + str(sessions)
    doveadm.write_text(f"#!/bin/sh\n{'exit 75' if sessions is None else lists}\n")
    doveadm.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "USER": "anna@example.org"}
    done = subprocess.run(
        ["sh", str(script), "echo", "begins"], env=environment, capture_output=True, text=True, check=True
    )
    assert (done.stdout == "begins\n") == begins


def test_wrong_passwords_are_known_again_in_the_auth_process_alone(settings: Settings) -> None:
    """Its workers have a memory each. The program writes no password, and opens nothing but the source of its key."""
    files = read_files(settings)
    conf, program = files[dovecot.CONF], files[dovecot.REPEATS]
    assert f"passdb lua {{\n  lua_file = {dovecot.REPEATS}\n  use_worker = no\n}}\n" in conf
    passdbs = re.findall(r"^passdb (\S+)", conf, re.MULTILINE)
    assert passdbs[-1] == "lua", "asked when all others have refused"
    code = re.sub(r"--.*", "", program)
    assert re.findall(r"io\.\w+\(.*?\)", code) == ['io.open("/dev/urandom", "rb")']
    assert {*re.findall(r"log_\w+\((.*?)\)", code)} == {
        '"another wrong password"',
        '"another wrong password, for sieve"',
        '"the same wrong password again"',
    }
    assert "PASSDB_RESULT_OK" not in code


LUA = shutil.which("lua5.4") or shutil.which("lua5.3")
LOGINS = """
dovecot = {auth = {PASSDB_RESULT_PASSWORD_MISMATCH = 0}}
dofile(arg[1])
local request = {log_info = function(_, text) print(text) end}
for _ = 1, 401 do
  request.user = "anna@example.org"
  auth_password_verify(request, "old")
end
request.user = "ben@example.org"
auth_password_verify(request, "old")
"""


@pytest.mark.skipif(not LUA, reason="Lua is not installed")
def test_the_same_wrong_password_counts_again_at_every_hundredth_try(settings: Settings, tmp_path: Path) -> None:
    """An old device tries a few times a minute. Somebody who tries a thousand times a minute has the server hash."""
    program, logins = tmp_path / "program.lua", tmp_path / "logins.lua"
    program.write_text(read_files(settings)[dovecot.REPEATS])
    logins.write_text(LOGINS)
    done = subprocess.run([str(LUA), logins, program], capture_output=True, text=True, check=True)
    *annas, bens = done.stdout.splitlines()
    counted = [number for number, line in enumerate(annas) if line == "another wrong password"]
    assert counted == [0, 100, 200, 300, 400]
    assert set(annas) == {"another wrong password", "the same wrong password again"}
    assert bens == "another wrong password"
