"""`mailkeepctl bans` says who is banned by fail2ban and by the firewall, and what it lifts is gone from both."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from mailkeep.parts import fail2ban
from mailkeep_server import ctl
from mailkeep_server.operator import ban_list, bans_command

BANNED, NETWORK, OTHER = "198.51.100.7", "2001:db8:1:2::/64", "203.0.113.9"


class Firewall:
    """fail2ban and nft, by the answers that they give. fail2ban's ban puts an element into a set of nft's."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.jails: dict[str, dict[str, tuple[float, int]]] = {"sshd": {}, "dovecot": {}, "web": {}}
        self.sets: dict[tuple[str, str], list[Any]] = {
            ("mailkeep", "blocked4"): [{"prefix": {"addr": "192.0.2.0", "len": 24}}]
        }
        self.is_forgetful, self.directory = False, directory
        monkeypatch.setattr(ban_list, "ask_fail2ban", self.ask)
        monkeypatch.setattr(ban_list, "list_jails", lambda **_: [*self.jails])
        monkeypatch.setattr(bans_command, "list_jails", lambda: [*self.jails])
        monkeypatch.setattr(ban_list, "run", self.run_nft)
        monkeypatch.setattr(ban_list, "LIFT_TIMEOUT", 0.3)

    def ban(self, jail: str, target: str, seconds: int = 900) -> None:
        self.jails[jail][target] = (time.time() - 60, seconds)
        network, _, length = target.partition("/")
        element = {"prefix": {"addr": network, "len": int(length)}} if length else target
        self.sets.setdefault(("f2b-table", f"addr{'6' if ':' in target else ''}-set-{jail}"), []).append(element)

    def ask(self, *command: str, **_: object) -> Any:
        if command[0] == "get":
            return [self.format_ban(target, *times) for target, times in self.jails[command[1]].items()]
        _set, jail, unban, target = command
        assert unban == "unbanip"
        self.jails[jail].pop(target)
        if not self.is_forgetful:
            for name, elements in self.sets.items():
                if name[1].endswith(f"-{jail}"):
                    elements.clear()
        return 1

    def format_ban(self, target: str, since: float, seconds: int) -> str:
        begin, end = (time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) for at in (since, since + seconds))
        return f"{target} \t{begin} + {seconds} = {end}"

    def run_nft(self, *command: str, timeout: float) -> str:
        assert timeout > 0
        if command[1] == "-j":
            sets = [
                {"set": {"family": "inet", "table": table, "name": name, "elem": elements}}
                for (table, name), elements in self.sets.items()
            ]
            return json.dumps({"nftables": sets})
        _nft, _delete, _element, family, table, name, _, text, _ = command
        assert family == "inet"
        elements = self.sets[table, name]
        elements[:] = [element for element in elements if ban_list._parse_networks(element)[1] != text]  # type: ignore[index]
        return ""


@pytest.fixture
def firewall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Firewall:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return Firewall(tmp_path, monkeypatch)


def run_bans(*arguments: str) -> int:
    return ctl.main(["bans", *arguments])


def test_every_jail_of_mailkeep_s_has_a_reason() -> None:
    assert {*ban_list.REASONS} == {*fail2ban.JAILS}


def test_bans_are_listed_with_reason_and_end(firewall: Firewall, capsys: pytest.CaptureFixture[str]) -> None:
    firewall.ban("sshd", BANNED)
    firewall.ban("dovecot", NETWORK, 3600)
    firewall.ban("web", OTHER, -1)
    assert run_bans() == 0
    sshd, dovecot, web, total = capsys.readouterr().out.splitlines()
    assert sshd.startswith(f"{BANNED:24} until ")
    assert "sshd: failed logins by SSH, since " in sshd
    assert f"{NETWORK:24} until " in dovecot
    assert "for ever" in web
    assert "the jail web, which is not Mailkeep's" in web
    assert total.startswith("3 bans. ")
    assert run_bans("2001:db8:1:2::99", "--json") == 0
    [ban] = json.loads(capsys.readouterr().out)
    assert (ban["target"], ban["jail"], ban["in_firewall"], ban["until"] - ban["since"]) == (
        *(NETWORK, "dovecot", True),
        3600,
    )


def test_a_ban_that_the_firewall_lacks_is_said(firewall: Firewall, capsys: pytest.CaptureFixture[str]) -> None:
    firewall.ban("sshd", BANNED)
    firewall.sets[("f2b-table", "addr-set-sshd")].clear()
    assert run_bans(BANNED) == 0
    assert "NOT in the firewall" in capsys.readouterr().out


def test_a_lifted_ban_is_gone_and_others_stay(firewall: Firewall, capsys: pytest.CaptureFixture[str]) -> None:
    for jail in ("sshd", "web"):
        firewall.ban(jail, BANNED)
    firewall.ban("dovecot", OTHER)
    assert run_bans(BANNED, "--lift") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"Lifted: {BANNED}, banned by sshd.",
        f"Not lifted: {BANNED}, banned by your own jail web. `--jail web` lifts it.",
    ]
    assert firewall.jails["web"]
    assert firewall.jails["dovecot"]
    assert run_bans(BANNED, "--lift", "--jail", "web") == 0
    assert not firewall.jails["web"]


@pytest.mark.slow
def test_what_fail2ban_leaves_in_the_firewall_is_removed(
    firewall: Firewall, capsys: pytest.CaptureFixture[str]
) -> None:
    firewall.ban("dovecot", NETWORK)
    firewall.is_forgetful = True
    assert run_bans("2001:db8:1:2::5", "--lift") == 0
    assert f"Lifted: {NETWORK} in addr6-set-dovecot of the firewall" in capsys.readouterr().out
    assert firewall.sets["f2b-table", "addr6-set-dovecot"] == []
    firewall.sets["f2b-table", "addr-set-sshd"] = [BANNED]
    assert run_bans(BANNED) == 0
    assert "fail2ban knows nothing of it" in capsys.readouterr().out
    assert run_bans(BANNED, "--lift") == 0
    assert firewall.sets["f2b-table", "addr-set-sshd"] == []


def test_a_block_of_mail_yml_is_named_and_stays(firewall: Firewall, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_bans("192.0.2.66", "--lift") == 0
    output = capsys.readouterr().out
    assert "No ban of Mailkeep's closes the server to 192.0.2.66." in output
    assert "192.0.2.0/24 is in firewall.block of mail.yml" in output
    assert firewall.sets["mailkeep", "blocked4"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("nonsense",), "is no address and no network"),
        (("--lift",), "Say which address"),
        ((BANNED, "--lift", "--jail", "nowhere"), "fail2ban has no jail nowhere. It has: sshd, dovecot, web."),
    ],
)
@pytest.mark.usefixtures("firewall")
def test_a_wrong_word_is_an_error(arguments: tuple[str, ...], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_bans(*arguments) == 1
    assert error in capsys.readouterr().err


@pytest.mark.usefixtures("firewall")
def test_without_fail2ban_nobody_is_said_to_be_banned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**_: object) -> list[str]:
        raise ConnectionRefusedError(111, "Connection refused", "/run/fail2ban/fail2ban.sock")

    monkeypatch.setattr(ban_list, "list_jails", refuse)
    assert run_bans() == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "fail2ban does not answer (/run/fail2ban/fail2ban.sock: Connection refused)" in printed.err
