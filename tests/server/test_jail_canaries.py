"""Canaries are nobody's addresses and come back too seldom to be taken for offenders; a jail that does not ban is
found out, whatever fail2ban says of it."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from mailkeep_server.common import ban_proof, jail_canaries, refused_logins
from mailkeep_server.common.ban_proof import JailRules
from mailkeep_server.common.files import open_lock
from mailkeep_server.common.jail_canaries import NETWORKS, choose_canaries, prove_jails, wait_for_jails
from mailkeep_server.common.networks import ban_target

NEVER_BAN = ["198.51.100.74", "2001:db8:100:64::10", "203.0.113.0/27"]


# --- which addresses


def test_canaries_are_of_the_documentation_networks_and_none_of_ours() -> None:
    for v4, v6 in choose_canaries(1000, 7, NEVER_BAN):
        assert ip_address(v4) in ip_network("192.0.2.0/24"), "the others are partly ours"
        assert ip_address(v6) in ip_network("2001:db8::/32")


def test_the_address_by_which_others_look_for_the_way_out_is_no_canary() -> None:
    """With a route to itself, a packet to it would not leave the machine."""
    assert "192.0.2.1" not in {v4 for v4, _ in choose_canaries(1000, 0, [])}


def test_no_canary_comes_back_within_a_day() -> None:
    proofs, jails = 48, 5  # every half hour
    row = [choose_canaries(jails, turn * jails, NEVER_BAN) for turn in range(proofs)]
    assert len({v4 for canaries in row for v4, _ in canaries}) == proofs * jails


def test_no_canary_of_a_proof_is_used_twice() -> None:
    canaries = choose_canaries(400, 123, ["203.0.113.7", "2001:db8::7"])
    assert len({address for pair in canaries for address in pair}) == 800


def test_canaries_that_follow_each_other_have_a_network_each() -> None:
    """By /48, Dovecot remembers refused logins, and lets the next one wait."""
    canaries = [*choose_canaries(200, 500, NEVER_BAN), *choose_canaries(56, 700, NEVER_BAN)]
    assert len({ip_network((v6, 48), strict=False) for _, v6 in canaries}) == 256


def test_no_canary_of_the_last_day_comes_again_while_there_are_others() -> None:
    recently_banned = {v4 for v4, _ in choose_canaries(499, 0, ["203.0.113.7"])}
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


# --- from the refused login to the dropped packet

RULES = {
    "sshd": JailRules([22], 5, 3600, 900, ["127.0.0.0/8", "198.51.100.74"]),
    "recidive": JailRules(None, 3, 86400, 604800, ["127.0.0.0/8", "198.51.100.74"]),
}


@dataclass
class Jail:
    """A jail of fail2ban, and its rules in nft."""

    ports: list[int] | None
    settings: dict[str, Any]
    notices: str | None = "Found"
    """What it logs when the service refuses somebody; None: nothing."""
    has_rules: bool = True
    actions: dict[str, dict[str, str]] = field(default_factory=lambda: {"nftables": {"chain_hook": "input"}})
    """By name, what each has beside its ports."""
    counts_networks: bool = True
    takes_bans: bool = True
    ends_bans: bool = True
    failures: dict[str, int] = field(default_factory=dict)
    banned: set[str] = field(default_factory=set)


class Server:
    """fail2ban, a service and nft: failures lead to a ban, a ban into the jail's sets, and rules drop them."""

    def __init__(self, rules: dict[str, JailRules]) -> None:
        self.jails = {
            name: Jail(
                list(rule.ports) if rule.ports else None,
                {name: getattr(rule, name) for name in ("maxretry", "findtime", "bantime")}
                | {"ignoreip": rule.ignoreip, "ignorecommand": ""},
            )
            for name, rule in rules.items()
        }
        self.log: list[str] = []
        self.first_rules: list[dict[str, Any]] = []
        self.drops = True
        self.unready, self.job = 0, "start"
        self.routed: set[str] = set()
        self.bans: list[tuple[str, str]] = []

    def ask(self, *command: str, timeout: float) -> Any:
        assert timeout == ban_proof.COMMAND_TIMEOUT
        verb, jail, *rest = command
        if verb == "get":
            return self._get(self.jails[jail], *rest)
        action, *addresses = rest
        if action == "attempt":
            self._fail(jail, addresses[0], len(addresses) - 1)
        elif action == "banip":
            for address in addresses:
                self._ban(jail, address)
        elif self.jails[jail].ends_bans:
            self.jails[jail].banned -= set(addresses)
        return None

    def _get(self, jail: Jail, name: str, *rest: str) -> Any:
        lists = {
            "banip": sorted(jail.banned),
            "actions": [*jail.actions],
            "actionproperties": ["port", *(jail.actions[rest[0]] if rest else ())],
        }
        if name in lists:
            return lists[name]
        return jail.actions[rest[0]].get(rest[1], jail.settings.get("port")) if rest else jail.settings[name]

    def refuse(self, jail: str, address: str) -> None:
        assert address in self.routed, "nobody can connect from an address that is not routed"
        self._notice(jail, address)

    def _notice(self, jail: str, address: str) -> None:
        if self.jails[jail].counts_networks:
            address = ban_target(address)
        if notice := self.jails[jail].notices:
            self.log.append(f"INFO    [{jail}] {notice} {address} - 2026-11-28 16:00:00")
            if notice == "Found":
                self._fail(jail, address, 1)

    def _fail(self, jail: str, address: str, times: int) -> None:
        failures = self.jails[jail].failures
        failures[address] = failures.get(address, 0) + times
        if failures[address] >= self.jails[jail].settings["maxretry"]:
            self._ban(jail, address)

    def _ban(self, jail: str, address: str) -> None:
        self.bans.append((jail, address))
        if self.jails[jail].takes_bans:
            self.jails[jail].banned.add(address)
        if jail != "recidive" and "recidive" in self.jails:
            self._notice("recidive", address)

    def run(self, *command: str, **_: Any) -> str:
        match command:
            case "systemctl", *_:
                return f"ActiveState=inactive\nJob={self.job}\n"
            case "nft", *_:
                return json.dumps({"nftables": list(self._list_items())})
            case "ip", _, "route", action, "local", address, "dev", "lo":
                self.routed ^= {address.partition("/")[0]}
                assert (address.partition("/")[0] in self.routed) == (action == "replace")
        return ""

    def list_jails(self, **_: Any) -> list[str]:
        if self.unready:
            self.unready -= 1
            raise RuntimeError("fail2ban-client status: exit 255: no socket")
        return list(self.jails)

    def is_dropped(self, address: str, _destination: str, port: int) -> bool:
        return self.drops and any(
            jail.has_rules
            and {address, ban_target(address)} & jail.banned
            and (jail.ports is None or port in jail.ports)
            for jail in self.jails.values()
        )

    def _list_items(self) -> Iterator[dict[str, Any]]:
        place = {"family": "inet", "table": "f2b-table"}
        yield {"chain": place | {"name": "f2b-chain", "hook": "input"}}
        yield from ({"rule": place | {"chain": "f2b-chain"} | rule} for rule in self.first_rules)
        for name, jail in self.jails.items():
            for family, protocol, version in (("addr", "ip", 4), ("addr6", "ip6", 6)):
                banned = [ip_network(target) for target in jail.banned if ip_network(target).version == version]
                elements = [
                    str(network[0])
                    if network.num_addresses == 1
                    else {"prefix": {"addr": str(network[0]), "len": network.prefixlen}}
                    for network in banned
                ]
                ranges = [{"range": ["192.0.2.1", "192.0.2.9"]}]
                yield {"set": place | {"name": f"{family}-set-{name}", "elem": [*elements, *ranges]}}
                saddr = {"op": "==", "left": {"payload": {"protocol": protocol, "field": "saddr"}}}
                dport = {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}}
                matches = [{"match": dport | {"right": {"set": jail.ports}}}] if jail.ports else []
                matches.append({"match": saddr | {"right": f"@{family}-set-{name}"}})
                if jail.has_rules:
                    yield {"rule": place | {"chain": "f2b-chain", "expr": [*matches, {"drop": None}]}}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    fake = Server(RULES)
    monkeypatch.setattr(jail_canaries, "IN_USE", tmp_path / "canaries.json")
    for module in (jail_canaries, ban_proof, refused_logins):
        monkeypatch.setattr(module, "run", fake.run)
    monkeypatch.setattr(jail_canaries, "list_jails", fake.list_jails)
    monkeypatch.setattr(jail_canaries, "ask_fail2ban", fake.ask)
    monkeypatch.setattr(jail_canaries, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(ban_proof, "ask_fail2ban", fake.ask)
    monkeypatch.setattr(ban_proof, "read_fail2ban_log", lambda *_: fake.log)
    monkeypatch.setattr(ban_proof, "BAN_TIMEOUT", 0.0)
    monkeypatch.setattr(ban_proof, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(refused_logins, "has_ipv6", lambda: True)
    monkeypatch.setattr(refused_logins, "is_dropped", fake.is_dropped)
    monkeypatch.setattr(refused_logins, "can_connect", lambda *door: not fake.is_dropped(*door))
    monkeypatch.setattr(
        refused_logins,
        "REFUSALS",
        {"sshd": lambda address, _, port: fake.refuse("sshd", address) if port == 22 else None},
    )
    return fake


def prove(jails: dict[str, JailRules] = RULES, never_ban: Sequence[str] = NEVER_BAN) -> dict[str, list[str]]:
    return prove_jails(jails, 0, never_ban, start_timeout=0.3)


def test_jails_are_proven_from_the_refused_login_on_and_nothing_is_left_behind(server: Server) -> None:
    assert prove() == {"sshd": [], "recidive": []}
    assert [jail.banned for jail in server.jails.values()] == [set(), set()]
    assert server.routed == set()
    for jail in ("sshd", "recidive"):
        noticed = [line.split(" Found ")[1].split()[0] for line in server.log if f"[{jail}] Found" in line]
        assert {ip_network(address).version for address in noticed} == {4, 6}
    assert all(address.endswith("/64") for _, address in server.bans if ":" in address)


def test_what_a_proof_left_that_ended_with_the_machine_is_unbanned(server: Server) -> None:
    """fail2ban restores bans from its database."""
    leftover, other = "2001:db8:fab9:2d60::/64", "2001:db8:9:9::/64"
    server.jails["sshd"].banned = {leftover, other, "203.0.113.250"}
    jail_canaries.IN_USE.write_text('["192.0.2.77", "192.0.2.78"]')
    server.jails["recidive"].banned = {"192.0.2.78", "192.0.2.79"}
    assert prove() == {"sshd": [], "recidive": []}
    assert [jail.banned for jail in server.jails.values()] == [{other, "203.0.113.250"}, {"192.0.2.79"}]


def test_the_next_proof_knows_the_canaries_of_this_one(server: Server) -> None:
    """Whatever its number: verify takes another than the server's own proof."""
    prove()
    [canary, *_] = json.loads(jail_canaries.IN_USE.read_text())
    server.jails["sshd"].banned.add(canary)
    assert prove_jails(RULES, 50, NEVER_BAN, start_timeout=0.3) == {"sshd": [], "recidive": []}
    assert server.jails["sshd"].banned == set()


@pytest.mark.parametrize("text", [None, "", "not JSON", "{}", "7", '["192.0.2.2"'])
@pytest.mark.usefixtures("server")
def test_a_lost_list_of_canaries_keeps_no_jail_from_being_proven(text: str | None) -> None:
    if text is not None:
        jail_canaries.IN_USE.write_text(text)
    assert prove() == {"sshd": [], "recidive": []}


@pytest.mark.usefixtures("server")
def test_jails_are_proven_where_no_file_can_be_written() -> None:
    jail_canaries.IN_USE.with_name("canaries.json.new").mkdir()
    assert prove() == {"sshd": [], "recidive": []}
    assert not jail_canaries.IN_USE.exists()


def test_a_server_without_a_declared_ipv6_address_refuses_nobody_over_ipv6(server: Server) -> None:
    """Its kernel may have IPv6 on loopback all the same; Dovecot does not listen there."""
    assert prove(never_ban=["198.51.100.74", "2001:db8:5::/64"]) == {"sshd": [], "recidive": []}
    assert not [line for line in server.log if "[sshd] Found 2001:" in line]


@pytest.mark.slow
def test_a_jail_that_does_not_see_its_service_refuse_somebody_is_a_fault(server: Server) -> None:
    """As with inotify used up: jails are active, and every ban by hand reaches the firewall."""
    server.jails["sshd"].notices = None
    first, second = prove()["sshd"]
    assert "jail sshd: it did not notice that the service refused 192.0.2.2, in 0 seconds" in first
    assert "2001:db8:fa" in second
    assert prove()["recidive"] == []


@pytest.mark.slow
def test_a_service_that_cannot_be_reached_is_no_fault_of_its_jail(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ban is proven all the same, of an address that the service could not refuse, too."""

    def refuse(address: str, *_: object) -> None:
        if ":" not in address:
            raise ConnectionRefusedError(111, "Connection refused", "198.51.100.74 port 22")
        server.refuse("sshd", address)

    monkeypatch.setattr(refused_logins, "REFUSALS", {"sshd": refuse})
    assert prove()["sshd"] == [
        "jail sshd: a refused login from 192.0.2.2 could not be tried: 198.51.100.74 port 22: Connection refused"
    ]
    assert ("sshd", "192.0.2.2") in server.bans


@pytest.mark.parametrize(
    ("listener", "door"),
    [("10.8.0.1:22", "10.8.0.1"), ("0.0.0.0:22", "127.0.0.1"), ("127.0.0.1:22", "127.0.0.1"), ("", "127.0.0.1")],
)
def test_a_service_is_tried_where_it_listens(monkeypatch: pytest.MonkeyPatch, listener: str, door: str) -> None:
    """sshd may listen at the address of a VPN only."""
    output = f"LISTEN 0 128 {listener} 0.0.0.0:*\n" if listener else ""
    monkeypatch.setattr(ban_proof, "run", lambda *_, **__: output)
    assert ban_proof.BanProof("sshd", ("192.0.2.2", "2001:db8::2"), {}, 1.0)._find_door("192.0.2.2", 22) == door


def test_a_jail_that_counts_single_addresses_of_ipv6_is_a_fault(server: Server) -> None:
    """As after an upgrade of fail2ban that no longer calls the method which Mailkeep wraps."""
    server.jails["sshd"].counts_networks = False
    [fault] = prove()["sshd"]
    assert fault.startswith("jail sshd: it counts 2001:db8:fa")
    assert fault.endswith("::/64")


def test_no_two_canaries_of_ipv6_are_in_one_network() -> None:
    """The recidive jail would take their network for an offender."""
    canaries = choose_canaries(200, 0, [])
    assert len({ban_target(v6) for _, v6 in canaries}) > 195, "a network may come twice in a day by chance"


def test_a_jail_that_exempts_strangers_is_a_fault(server: Server) -> None:
    server.jails["sshd"].settings["ignoreip"] = ["127.0.0.0/8", "0.0.0.0"]  # noqa: S104 - as fail2ban prints 0.0.0.0/0
    server.jails["sshd"].notices = "Ignore"
    faults = prove()["sshd"]
    assert faults[0] == "jail sshd: it never bans 0.0.0.0/0, which mail.yml does not name"
    assert faults[1] == "jail sshd: it ignores 192.0.2.2, which mail.yml does not exempt"


def test_a_jail_that_would_ban_whom_mail_yml_exempts_is_a_fault(server: Server) -> None:
    """A later file of jail.d may empty `ignoreip`: then the operator can be banned."""
    server.jails["sshd"].settings["ignoreip"] = ["127.0.0.0/8"]
    assert prove()["sshd"] == ["jail sshd: it would ban 198.51.100.74/32, which mail.yml exempts"]


@pytest.mark.parametrize(("name", "value"), [("maxretry", 100_000), ("findtime", 1), ("bantime", 1)])
def test_a_jail_that_runs_with_other_numbers_is_a_fault(server: Server, name: str, value: int) -> None:
    declared = server.jails["sshd"].settings[name]
    server.jails["sshd"].settings[name] = value
    faults = prove()["sshd"]
    assert faults[0] == f"jail sshd: it runs with {name} = {value}, not {declared}"
    assert any("nft has no set" in fault for fault in faults) == (name == "maxretry"), "five failures ban nobody"


def test_a_command_that_decides_who_is_exempt_is_a_fault(server: Server) -> None:
    server.jails["sshd"].settings["ignorecommand"] = "/bin/true"
    assert prove()["sshd"] == ["jail sshd: its ignorecommand decides who is never banned: /bin/true"]


def test_an_accept_before_the_drop_is_a_fault_that_is_named(server: Server) -> None:
    saddr = {"payload": {"protocol": "ip", "field": "saddr"}}
    prefix = {"prefix": {"addr": "192.0.2.0", "len": 24}}
    server.first_rules = [{"expr": [{"match": {"op": "==", "left": saddr, "right": prefix}}, {"accept": None}]}]
    assert prove()["sshd"] == [
        "jail sshd: packets of a banned address pass to port 22, by: ip saddr 192.0.2.0/24 accept"
    ]


def test_a_packet_that_is_answered_although_the_rules_drop_it_is_a_fault(server: Server) -> None:
    server.drops = False
    [fault] = prove()["sshd"]
    assert fault.startswith("jail sshd: a packet of 192.0.2.2 and 2001:db8:fa")
    assert fault.endswith("to port 22 is still answered")


def test_a_ban_that_does_not_reach_the_firewall_is_a_fault(server: Server) -> None:
    server.jails["sshd"].takes_bans = False
    [fault] = prove()["sshd"]
    assert fault.startswith("jail sshd: it bans 192.0.2.2 and 2001:db8:fa")
    assert fault.endswith(", nft has no set")
    assert prove()["recidive"] == []


def test_a_ban_that_does_not_end_is_a_fault(server: Server) -> None:
    server.jails["sshd"].ends_bans = False
    assert prove()["sshd"] == ["jail sshd: unbanned, and still in addr-set-sshd and addr6-set-sshd"]


def test_a_jail_without_rules_or_whose_rules_leave_ports_open_is_a_fault(server: Server) -> None:
    server.jails["recidive"].has_rules = False
    server.jails["sshd"].ports = [2222]
    faults = prove()
    assert faults["sshd"][:2] == [
        f"jail sshd: the rule for {name}-set-sshd leaves open 22" for name in ("addr", "addr6")
    ]
    assert faults["recidive"][:2] == [
        f"jail recidive: nft has no rule that drops what is in {name}-set-recidive" for name in ("addr", "addr6")
    ]


@pytest.mark.slow
def test_a_jail_that_fail2ban_does_not_run_is_a_fault(server: Server) -> None:
    del server.jails["recidive"]
    assert prove() == {"recidive": ["jail recidive: fail2ban does not run it"], "sshd": []}


def test_a_jail_of_the_operators_is_proven_too(server: Server) -> None:
    server.jails["mine"] = Jail([8080], {"port": "8080"})
    server.jails["dead"] = Jail([143], {"port": "imap3,imaps"}, has_rules=False)
    server.jails["empty"] = Jail([8081], {"port": "8081"}, has_rules=False)
    faults = prove()
    assert (faults["mine"], faults["sshd"]) == ([], [])
    assert faults["dead"] == ["jail dead: no service is called imap3, so nft refuses its rule"]
    [fault] = faults["empty"]
    assert fault.endswith("and no rule drops its packets to port 8081")
    assert not any(jail.banned for jail in server.jails.values())


def test_a_jail_of_the_operators_that_only_sends_mail_has_no_fault(server: Server) -> None:
    server.jails["mine"] = Jail([8080], {"port": "8080"}, has_rules=False, actions={"sendmail-whois": {}})
    assert prove()["mine"] == []


@pytest.mark.parametrize(
    ("actions", "reason"),
    [
        ({"nftables": {}, "abuseipdb": {}}, "its action abuseipdb does more than a firewall's"),
        ({"iptables": {"chain": "DOCKER-USER"}}, "its action iptables drops packets in DOCKER-USER"),
        ({"nftables": {"chain": "input", "chain_hook": "forward"}}, "its action nftables drops packets in forward"),
        ({"nftables": {"protocol": "udp"}}, "its action nftables drops udp, not TCP"),
        ({"route": {}}, "its action route stops the answers"),
    ],
)
def test_a_jail_of_the_operators_that_cannot_be_tried_is_called_unproven_and_bans_nobody(
    server: Server, actions: dict[str, dict[str, str]], reason: str
) -> None:
    """A ban starts all actions, as one that reports the address to others, and packets to a container are others."""
    server.jails["mine"] = Jail([8080], {"port": "8080"}, has_rules=False, actions=actions)
    [fault] = prove_jails(RULES, 0, NEVER_BAN, start_timeout=0.3, tell_unproven=True)["mine"]
    assert fault.startswith(f"jail mine: not proven: {reason}")
    assert "mine" not in prove(), "the watch neither warns of it nor calls it sound"
    assert not [line for line in server.bans if line[0] == "mine"]


@pytest.mark.parametrize("chain", ["INPUT", "INPUT_direct", "<known/chain>", "DOCKER-USER"])
def test_one_rule_that_can_be_tried_is_enough(server: Server, chain: str) -> None:
    actions = {"iptables-allports": {"chain": "FORWARD"}, "iptables": {"chain": chain, "protocol": "tcp,udp"}}
    server.jails["mine"] = Jail([8080], {"port": "8080"}, actions=actions)
    assert ("mine" in prove()) == (chain != "DOCKER-USER")


@pytest.mark.parametrize("answers", [True, False])
def test_a_ban_of_all_ports_by_an_ipset_is_tried_at_the_usual_ones(
    server: Server, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """nft does not show who is in an ipset, so the rules alone call the packet passed."""
    server.jails["mine"] = Jail(None, {"port": "0:65535"}, has_rules=False, actions={"iptables-ipset": {}})
    monkeypatch.setattr(
        refused_logins,
        "can_connect",
        lambda source, _, port: answers and port == 25 and source not in server.jails["mine"].banned,
    )
    faults = prove_jails(RULES, 0, NEVER_BAN, start_timeout=0.3, tell_unproven=True)["mine"]
    assert [fault.partition("proven: ")[2].partition(",")[0] for fault in faults] == (
        [] if answers else ["nft does not show what is in an ipset"]
    )


def test_an_error_halfway_unbans_the_canary(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise RuntimeError("nft -j -t: exit 1")

    monkeypatch.setattr(ban_proof.nft_ruleset, "parse_ruleset", fail)
    assert prove()["sshd"] == ["jail sshd: nft -j -t: exit 1"]
    assert server.jails["sshd"].banned == set()
    assert server.routed == set()


def test_a_fail2ban_that_starts_is_waited_for_and_one_that_is_stopped_is_not(server: Server) -> None:
    server.unready = 3
    assert wait_for_jails(RULES, 60) == list(RULES)
    server.unready, server.job = 1, ""
    with pytest.raises(RuntimeError, match="no socket"):
        wait_for_jails(RULES, 60)
    server.unready, server.job = 1, "start"
    assert wait_for_jails(RULES, 0) == []
