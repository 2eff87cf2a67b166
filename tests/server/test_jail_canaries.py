"""Canaries are nobody's addresses and come back too seldom to be taken for offenders; a jail that does not ban is
found out, whatever fail2ban says of it."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from mailkeep_server.common import jail_canaries
from mailkeep_server.common.files import open_lock
from mailkeep_server.common.jail_canaries import NETWORKS, choose_canaries, prove_jails, wait_for_jails

NEVER_BAN = ["198.51.100.74", "203.0.113.0/27"]


# --- which addresses


def test_canaries_are_of_the_documentation_networks_and_none_of_ours() -> None:
    for v4, v6 in choose_canaries(1000, 7, NEVER_BAN):
        assert ip_address(v4) in ip_network("192.0.2.0/24"), "the others are partly ours"
        assert ip_address(v6) in ip_network("2001:db8::/32")


def test_no_canary_comes_back_within_a_day() -> None:
    proofs, jails = 48, 4  # every half hour
    row = [choose_canaries(jails, turn * jails, NEVER_BAN) for turn in range(proofs)]
    assert len({v4 for canaries in row for v4, _ in canaries}) == proofs * jails


def test_no_canary_of_a_proof_is_used_twice() -> None:
    canaries = choose_canaries(400, 123, ["203.0.113.7", "2001:db8::7"])
    assert len({address for pair in canaries for address in pair}) == 800


def test_no_canary_of_the_last_day_comes_again_while_there_are_others() -> None:
    recently_banned = {v4 for v4, _ in choose_canaries(500, 0, ["203.0.113.7"])}
    assert {v4 for v4, _ in choose_canaries(8, 0, ["203.0.113.7"], recently_banned)}.isdisjoint(recently_banned)
    assert len(choose_canaries(9, 0, ["203.0.113.7"], recently_banned)) == 9


def test_canaries_are_never_ours_even_where_all_documentation_networks_are() -> None:
    with pytest.raises(ValueError, match="no documentation address is left"):
        choose_canaries(1, 0, list(NETWORKS))


def test_canaries_of_the_last_day_are_read_from_fail2bans_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    log = "NOTICE  [sshd] Ban 192.0.2.7\nNOTICE  [dovecot] Ban 203.0.113.9\n"
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, log, "")

    monkeypatch.setattr(subprocess, "run", run)
    assert jail_canaries.find_recent_canaries() == {"192.0.2.7", "203.0.113.9"}
    assert {"--unit=fail2ban.service", "--since=-1d"} <= {*commands[0]}


@pytest.mark.parametrize("exists", [True, False])
def test_nobody_else_can_open_a_lock_and_so_hold_it(tmp_path: Path, exists: bool) -> None:
    lock = tmp_path / "lock"
    if exists:
        lock.touch(0o644)
    with open_lock(lock):
        assert lock.stat().st_mode & 0o777 == 0o600


# --- what a ban does


@dataclass
class Server:
    """fail2ban and nft: a ban puts addresses into the jail's sets, and rules drop what is in them."""

    jails: dict[str, list[int] | None]
    banned: dict[str, set[str]] = field(default_factory=dict)
    commands: list[tuple[str, ...]] = field(default_factory=list)
    ignores: set[tuple[str, str]] = field(default_factory=set)
    """Jail and action that fail2ban confirms without any effect."""
    unruled: set[str] = field(default_factory=set)
    """Jails whose rules are missing."""
    unready: int = 0
    """How often fail2ban does not answer yet."""
    job: str = "start"
    """systemd's for fail2ban."""

    def run(self, *command: str, timeout: float) -> str:
        assert timeout == jail_canaries.COMMAND_TIMEOUT
        self.commands.append(command)
        match command:
            case "fail2ban-client", "status":
                return self._status()
            case "fail2ban-client", "set", jail, action, *addresses:
                self._set(jail, action, set(addresses))
                return ""
            case "systemctl", *_:
                return f"ActiveState=inactive\nJob={self.job}\n"
            case "nft", "-j", "list", "sets":
                return json.dumps({"nftables": [{"set": nft_set} for nft_set in self._sets()]})
        assert command == ("nft", "-j", "-t", "list", "ruleset")
        place = {"family": "inet", "table": "f2b-table"}
        items = [{"chain": place | {"name": "f2b-chain", "hook": "input"}}, *({"rule": rule} for rule in self._rules())]
        return json.dumps({"nftables": items})

    def _status(self) -> str:
        if self.unready:
            self.unready -= 1
            raise RuntimeError("fail2ban-client status: exit 255: no socket")
        return f"Status\n|- Number of jail: {len(self.jails)}\n`- Jail list: {', '.join(self.jails)}\n"

    def _set(self, jail: str, action: str, addresses: set[str]) -> None:
        if (jail, action) not in self.ignores:
            before = self.banned.get(jail, set())
            self.banned[jail] = before | addresses if action == "banip" else before - addresses

    def _sets(self) -> Iterator[dict[str, Any]]:
        for jail, addresses in self.banned.items():
            for name, version in (("addr", 4), ("addr6", 6)):
                elements = [address for address in addresses if ip_address(address).version == version]
                ranges = [{"range": ["192.0.2.1", "192.0.2.9"]}]
                yield {"table": "f2b-table", "name": f"{name}-set-{jail}", "elem": [*elements, *ranges]}

    def _rules(self) -> Iterator[dict[str, Any]]:
        for jail, ports in self.jails.items():
            for name in ("addr", "addr6"):
                saddr = {"op": "==", "left": {"payload": {"field": "saddr"}}, "right": f"@{name}-set-{jail}"}
                dport = {"op": "==", "left": {"payload": {"field": "dport"}}, "right": {"set": ports}}
                matches = [{"match": saddr}, *([{"match": dport}] if ports else [])]
                if jail not in self.unruled:
                    place = {"family": "inet", "table": "f2b-table", "chain": "f2b-chain"}
                    yield place | {"expr": [*matches, {"drop": None}]}


JAILS: dict[str, list[int] | None] = {"sshd": [22], "recidive": None}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    fake = Server(dict(JAILS))
    monkeypatch.setattr(jail_canaries, "run", fake.run)
    monkeypatch.setattr(jail_canaries, "BAN_TIMEOUT", 0.0)
    monkeypatch.setattr(jail_canaries, "RETRY_SECONDS", 0.0)
    return fake


def prove(jails: dict[str, list[int] | None] = JAILS, timeout: float = 0.0) -> dict[str, list[str]]:
    return prove_jails(jails, 0, NEVER_BAN, start_timeout=timeout)


def test_jails_that_ban_in_the_firewall_are_proven_and_no_canary_stays_banned(server: Server) -> None:
    assert prove() == {"sshd": [], "recidive": []}
    assert server.banned == {"sshd": set(), "recidive": set()}
    bans = [command[4:] for command in server.commands if command[3:4] == ("banip",)]
    assert [tuple(ip_address(address).version for address in canary) for canary in bans] == [(4, 6), (4, 6)]
    assert isinstance(ip_address(bans[0][0]), IPv4Address)


def test_a_ban_that_does_not_reach_the_firewall_is_a_fault(server: Server) -> None:
    server.ignores.add(("sshd", "banip"))
    [fault] = prove()["sshd"]
    assert fault.startswith("jail sshd: it bans 192.0.2.1 and 2001:db8:fa11:")
    assert fault.endswith(", nft has no set")
    assert prove()["recidive"] == []


def test_a_ban_that_does_not_end_is_a_fault(server: Server) -> None:
    server.ignores.add(("sshd", "unbanip"))
    assert prove()["sshd"] == ["jail sshd: unbanned, and still in addr-set-sshd and addr6-set-sshd"]


def test_a_jail_without_rules_or_whose_rules_leave_ports_open_is_a_fault(server: Server) -> None:
    server.unruled.add("recidive")
    server.jails["sshd"] = [2222]
    assert prove() == {
        "sshd": [f"jail sshd: the rule for {name}-set-sshd leaves open 22" for name in ("addr", "addr6")],
        "recidive": [
            f"jail recidive: nft has no rule that drops what is in {name}-set-recidive" for name in ("addr", "addr6")
        ],
    }


def test_a_jail_that_fail2ban_does_not_run_is_a_fault(server: Server) -> None:
    del server.jails["sshd"]
    assert prove() == {"sshd": ["jail sshd: fail2ban does not run it"], "recidive": []}


def test_an_error_halfway_unbans_the_canary(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise RuntimeError("nft -j -t: exit 1")

    monkeypatch.setattr(jail_canaries.nft_ruleset, "parse_ruleset", fail)
    assert prove()["sshd"] == ["jail sshd: nft -j -t: exit 1"]
    assert server.banned["sshd"] == set()


def test_a_fail2ban_that_starts_is_waited_for_and_one_that_is_stopped_is_not(server: Server) -> None:
    server.unready = 3
    assert wait_for_jails(JAILS, 60) == list(JAILS)
    server.unready, server.job = 1, ""
    with pytest.raises(RuntimeError, match="no socket"):
        wait_for_jails(JAILS, 60)
    server.unready, server.job = 1, "start"
    assert wait_for_jails(JAILS, 0) == []
