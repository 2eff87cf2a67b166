"""A packet is followed through nft's rules as the kernel would. The samples are as `nft -j -t list ruleset` prints
them."""

import json
from typing import Any

import pytest

from mailkeep_server.common.iptables_rules import merge_iptables, parse_iptables
from mailkeep_server.common.nft_ruleset import Ruleset, compare_table, describe_rule, list_passing_rules
from mailkeep_server.common.packet_path import Packet, can_pass, find_foreign_chains, find_interface

ADDRESSES = ["192.0.2.1", "2001:db8::1"]
PORTS = [22, 25, 465]
ACCEPT, DROP = {"accept": None}, {"drop": None}


def match_on(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def header(protocol: str, field: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": field}}


def meta(key: str) -> dict[str, Any]:
    return {"meta": {"key": key}}


LOOPBACK = [match_on(meta("iifname"), "lo"), ACCEPT]
ESTABLISHED = [match_on({"ct": {"key": "state"}}, ["established", "related"], "in"), ACCEPT]


def build_ruleset(
    *rules: list[dict[str, Any]],
    policy: str = "accept",
    hook: str = "input",
    others: dict[str, list[list[dict[str, Any]]]] | None = None,
    family: str = "inet",
    table: str = "filter",
) -> Ruleset:
    place = {"family": family, "table": table}
    base = place | {"name": "input", "hook": hook, "type": "filter", "prio": 0, "policy": policy}
    chains = {"input": list(rules)} | (others or {})
    return Ruleset(
        [place | {"chain": name, "expr": expr} for name, listed_rules in chains.items() for expr in listed_rules],
        [base, *(place | {"name": name} for name in others or {})],
        [],
    )


SET = {"op": "add", "elem": {"payload": {"protocol": "ip", "field": "saddr"}}, "set": "@greedy"}


def find_ports(ruleset: Ruleset, interface: str = "eth0") -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The closed and the doubtful ports of the only foreign chain; empty without one."""
    chains = find_foreign_chains(ruleset, ADDRESSES, PORTS, interface)
    return (chains[0].closed, chains[0].doubtful) if chains else ((), ())


def test_an_input_chain_that_drops_by_default_closes_what_it_does_not_accept() -> None:
    ssh_only = build_ruleset(LOOPBACK, ESTABLISHED, [match_on(header("tcp", "dport"), 22), ACCEPT], policy="drop")
    assert find_ports(ssh_only) == ((25, 465), ())


def test_a_rule_that_drops_a_single_port_closes_it() -> None:
    assert find_ports(build_ruleset([match_on(header("tcp", "dport"), 465), {"reject": None}])) == ((465,), ())
    in_prerouting = build_ruleset([match_on(header("tcp", "dport"), {"range": [400, 500]}), DROP], hook="prerouting")
    assert find_ports(in_prerouting) == ((465,), ())


def test_jumps_and_verdict_maps_are_followed() -> None:
    states = {"set": [["established", ACCEPT], ["invalid", DROP]]}
    by_state = {"vmap": {"key": {"ct": {"key": "state"}}, "data": states}}
    allow = [match_on(header("tcp", "dport"), {"set": [22, 25]}), {"return": None}]
    ruleset = build_ruleset([by_state], [{"jump": {"target": "mail"}}], others={"mail": [allow, [DROP]]})
    assert find_ports(ruleset) == ((465,), ())
    by_port = {"vmap": {"key": header("tcp", "dport"), "data": {"set": [[465, DROP], [25, {"goto": {"target": "x"}}]]}}}
    assert find_ports(build_ruleset([by_port], others={"x": [[DROP]]})) == ((25, 465), ())


@pytest.mark.parametrize(
    "rules",
    [
        [[match_on(header("ip", "saddr"), {"prefix": {"addr": "203.0.113.0", "len": 24}}), DROP]],
        [[match_on(header("ip", "saddr"), "@blocklist"), DROP]],
        [[match_on(header("ip", "daddr"), {"prefix": {"addr": "172.17.0.0", "len": 16}}), DROP]],
        [[match_on(header("ip", "daddr"), "172.17.0.2"), match_on(meta("iifname"), "docker0", "!="), DROP]],
        [[match_on(meta("iifname"), "virbr*"), DROP]],
        [[match_on(header("udp", "dport"), 53), DROP], [match_on(header("icmp", "type"), "echo-request"), DROP]],
        [[match_on({"ct": {"key": "state"}}, "invalid"), DROP]],
        [[match_on(header("tcp", "flags"), "syn", "!="), match_on({"ct": {"key": "state"}}, "new"), DROP]],
        [[match_on({"&": [header("tcp", "flags"), {"|": ["fin", "syn"]}]}, {"|": ["fin", "syn"]}), DROP]],
        [[match_on({"&": [header("tcp", "flags"), ["fin", "syn", "ack"]]}, "syn", "!="), DROP]],
        [[match_on(header("tcp", "flags"), ["fin", "ack"], "in"), DROP]],
        [[match_on(header("tcp", "flags"), "syn", "!"), DROP]],
        [[match_on(header("tcp", "flags"), 0), DROP]],
        [[match_on({"fib": {"result": "type", "flags": ["daddr"]}}, "local", "!="), DROP]],
        [[match_on({"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, False), DROP]],
        [[match_on(header("tcp", "dport"), 22), {"limit": {"rate": 9, "per": "minute", "inv": True}}, DROP]],
        [[{"ct count": {"val": 200, "inv": True}}, DROP]],
        [[{"set": SET | {"stmt": [{"limit": {"rate": 3, "per": "minute", "inv": True}}]}}, DROP]],
        [[{"set": SET | {"stmt": [{"ct count": {"val": 20, "inv": True}}]}}, {"reject": None}]],
        [[{"meter": SET | {"name": "imap", "stmt": {"limit": {"rate": 3, "per": "second", "inv": True}}}}, DROP]],
        [],
    ],
    ids=str,
)
def test_rules_that_do_not_concern_a_stranger_at_our_ports_close_nothing(rules: list[list[dict[str, Any]]]) -> None:
    """As docker, libvirt, blocklists, bogon filters and rate limits have them."""
    assert find_ports(build_ruleset(*rules)) == ((), ())


def test_bounds_that_all_clients_share_are_doubtful_and_a_set_without_bounds_matches() -> None:
    assert find_ports(build_ruleset([{"quota": {"val": 9, "val_unit": "mbytes", "inv": True}}, DROP]))[1] == (
        22,
        25,
        465,
    )
    assert find_ports(build_ruleset([{"set": SET}, DROP])) == ((22, 25, 465), ())
    below = [{"set": SET | {"stmt": [{"limit": {"rate": 3, "per": "minute"}}]}}, ACCEPT]
    assert find_ports(build_ruleset(below, policy="drop")) == ((), ())


def test_rules_for_the_first_packet_of_a_connection_close_ports() -> None:
    for condition in (
        match_on({"&": [header("tcp", "flags"), {"|": ["fin", "syn"]}]}, "syn"),
        match_on(header("tcp", "flags"), ["syn", "ack"], "in"),
        match_on(header("tcp", "flags"), "ack", "!"),
    ):
        assert find_ports(build_ruleset([condition, DROP])) == ((22, 25, 465), ())


def test_a_port_that_is_forwarded_elsewhere_is_closed() -> None:
    to_container = {"dnat": {"addr": "172.17.0.2", "port": 80}}
    published = [match_on(header("tcp", "dport"), 465), to_container]
    assert find_ports(build_ruleset(published, hook="prerouting", table="nat")) == ((465,), ())
    other = [match_on(header("tcp", "dport"), 8080), to_container]
    assert find_ports(build_ruleset(other, hook="prerouting", table="nat")) == ((), ())
    all_ports = build_ruleset([to_container], hook="prerouting", table="nat")
    assert find_ports(all_ports) == ((25, 465), ()), "port 22 stands for those that mail.yml opens for other programs"


def test_what_rules_alone_do_not_show_is_doubtful() -> None:
    by_mark = build_ruleset([match_on(meta("mark"), 7), DROP])
    assert find_ports(by_mark) == ((), (22, 25, 465))
    named_set = build_ruleset([match_on(header("tcp", "dport"), "@mail_ports"), ACCEPT], policy="drop")
    assert find_ports(named_set) == ((), (22, 25, 465))
    named_map = {"vmap": {"key": header("tcp", "dport"), "data": "@services"}}
    assert find_ports(build_ruleset([named_map], policy="drop")) == ((), (22, 25, 465))
    only_allowed = build_ruleset([match_on(header("ip", "saddr"), "@allowed", "!="), DROP])
    assert find_ports(only_allowed) == ((), (22, 25, 465))
    allowed = build_ruleset([match_on(header("ip", "saddr"), "@allowed"), ACCEPT], policy="drop", family="ip")
    assert find_ports(allowed) == ((), (22, 25, 465))
    assert find_ports(build_ruleset([match_on(meta("iifname"), "eth0"), DROP]), interface="")[1] == (22, 25, 465)


def test_mailkeeps_and_fail2bans_tables_are_not_foreign() -> None:
    for table in ("mailkeep", "f2b-table"):
        assert find_ports(build_ruleset(policy="drop", table=table)) == ((), ())


def test_a_chain_of_one_family_closes_the_ports_of_its_addresses() -> None:
    assert find_ports(build_ruleset(policy="drop", family="ip6")) == ((22, 25, 465), ())
    ruleset = build_ruleset(policy="drop", family="ip6")
    assert find_foreign_chains(ruleset, ["192.0.2.1"], PORTS) == []


def test_rules_of_firewalld_close_what_its_zone_does_not_allow() -> None:
    dnat = [match_on({"ct": {"key": "status"}}, "dnat", "in"), ACCEPT]
    zones = [[{"goto": {"target": "public"}}]]
    public = [[{"jump": {"target": "allow"}}], [match_on(meta("l4proto"), {"set": ["icmp", "ipv6-icmp"]}), ACCEPT]]
    state = match_on({"ct": {"key": "state"}}, {"set": ["new", "untracked"]})
    allow = [[match_on(header("tcp", "dport"), 22), state, ACCEPT]]
    end = [{"reject": {"type": "icmpx", "expr": "admin-prohibited"}}]
    others = {"zones": zones, "public": public, "allow": allow}
    jump = [{"jump": {"target": "zones"}}]
    ruleset = build_ruleset(ESTABLISHED, dnat, LOOPBACK, jump, end, table="firewalld", others=others)
    assert find_ports(ruleset) == ((25, 465), ())


def test_the_maker_of_a_chain_is_named() -> None:
    [chain] = find_foreign_chains(build_ruleset(policy="drop", table="firewalld"), ADDRESSES, PORTS)
    assert str(chain) == "the chain input in the table inet firewalld of firewalld"
    jump, chains = (
        [{"jump": {"target": "before"}}],
        {"before": [[{"jump": {"target": "ufw-user-input"}}]], "ufw-user-input": []},
    )
    [chain] = find_foreign_chains(build_ruleset(jump, policy="drop", others=chains), ADDRESSES, PORTS)
    assert chain.owner == "ufw"
    # Docker has chains in the same table, to which no packet for this server comes.
    [chain] = find_foreign_chains(build_ruleset(jump, policy="drop", others={"DOCKER": [], **chains}), ADDRESSES, PORTS)
    assert chain.owner == "ufw"
    [chain] = find_foreign_chains(build_ruleset(policy="drop", others={"DOCKER": []}), ADDRESSES, PORTS)
    assert chain.owner == ""


# --- bans


def banned(address: str = "192.0.2.77") -> Packet:
    return Packet(ADDRESSES[0], 465, "eth0", address, frozenset({("f2b-table", "addr-set-dovecot")}))


BAN = [
    match_on(header("ip", "saddr"), "@addr-set-dovecot"),
    match_on(header("tcp", "dport"), {"set": [465, 993]}),
    DROP,
]


def test_who_is_in_a_set_that_is_dropped_does_not_pass() -> None:
    assert not can_pass(build_ruleset(BAN, table="f2b-table"), banned())
    assert can_pass(build_ruleset(BAN, table="f2b-table"), Packet(ADDRESSES[0], 465))
    assert can_pass(build_ruleset(table="f2b-table"), banned())


def test_an_accept_before_the_drop_lets_pass_and_one_after_it_does_not() -> None:
    accept = [match_on(header("ip", "saddr"), {"prefix": {"addr": "192.0.2.0", "len": 24}}), ACCEPT]
    assert can_pass(build_ruleset(accept, BAN, table="f2b-table"), banned())
    assert not can_pass(build_ruleset(BAN, accept, table="f2b-table"), banned())
    assert can_pass(build_ruleset([ACCEPT], BAN, table="f2b-table"), banned())
    by_mark = build_ruleset([match_on(meta("mark"), 7), ACCEPT], BAN, table="f2b-table")
    assert can_pass(by_mark, banned()), "it may"


def test_the_rules_that_let_pass_are_named() -> None:
    accept = [match_on(header("ip", "saddr"), {"prefix": {"addr": "192.0.2.0", "len": 24}}), {"counter": {}}, ACCEPT]
    ruleset = build_ruleset(accept, BAN, table="f2b-table")
    assert list_passing_rules(ruleset) == ["ip saddr 192.0.2.0/24 accept"]
    rule = {"expr": [match_on(header("tcp", "dport"), {"set": [25, {"range": [80, 81]}]}, "!="), DROP]}
    assert describe_rule(rule) == "tcp dport != 25, 80-81 drop"


def test_a_line_more_or_less_in_our_table_is_told() -> None:
    loaded = "table inet mailkeep {\n\tchain output {\n\t\ttcp dport 25 reject\n\t}\n}\n"
    live = loaded.replace("\t\ttcp", "\t\tmeta skuid 1000 accept\n\t\ttcp")
    assert compare_table(loaded, loaded) == []
    assert compare_table(loaded, live) == ["`meta skuid 1000 accept`"]
    assert compare_table(live, loaded) == ["no `meta skuid 1000 accept`"]


def test_the_interface_of_the_default_route(tmp_path: Any) -> None:
    routes = tmp_path / "route"
    routes.write_text("Iface\tDestination\tGateway\nens3\t0000FEA9\t00000000\nens4\t00000000\t0100A8C0\n")
    assert find_interface(routes) == "ens4"
    assert find_interface(tmp_path / "none") == ""


# --- iptables

UFW = """\
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:ufw-before-input - [0:0]
:ufw-not-local - [0:0]
:ufw-user-input - [0:0]
:ufw-logging-deny - [0:0]
-A INPUT -j ufw-before-input
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A ufw-before-input -p udp -m udp --sport 67 --dport 68 -j ACCEPT
-A ufw-before-input -j ufw-not-local
-A ufw-before-input -d 239.255.255.250/32 -p udp -m udp --dport 1900 -j ACCEPT
-A ufw-before-input -j ufw-user-input
-A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
-A ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN
-A ufw-not-local -m limit --limit 3/min --limit-burst 10 -j ufw-logging-deny
-A ufw-not-local -j DROP
-A ufw-logging-deny -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix "[UFW BLOCK] "
-A ufw-user-input -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
"""


def test_rules_of_ufw_are_read_with_the_modules_that_nft_does_not_explain() -> None:
    ruleset = parse_iptables(UFW, "ip")
    [chain] = find_foreign_chains(ruleset, ADDRESSES, PORTS, "eth0")
    assert (chain.owner, chain.closed, chain.doubtful) == ("ufw", (25, 465), ())
    allowed = UFW.replace("COMMIT", "-A ufw-user-input -p tcp -m multiport --dports 25,465 -j ACCEPT\nCOMMIT")
    assert find_foreign_chains(parse_iptables(allowed, "ip"), ADDRESSES, PORTS, "eth0") == []


@pytest.mark.parametrize(
    ("rule", "closed"),
    [
        ("-p tcp -m tcp --dport 465 -j DROP", (465,)),
        ("-p tcp -m tcp --dport 400:500 -j REJECT --reject-with tcp-reset", (465,)),
        ("-p tcp -m tcp ! --dport 22 -j DROP", (25, 465)),
        ("! -i eth0 -p tcp -j DROP", ()),
        ("-s 203.0.113.0/24 -j DROP", ()),
        ("! -s 203.0.113.0/24 -p tcp -m tcp --dport 25 -j DROP", (25,)),
        ("-m set --match-set blocklist src -j DROP", ()),
        ("-m connlimit --connlimit-above 20 --connlimit-mask 32 --connlimit-saddr -j REJECT", ()),
        ("-p tcp -m hashlimit --hashlimit-above 9/min --hashlimit-mode srcip --hashlimit-name x -j DROP", ()),
        ("-m recent --update --seconds 60 --hitcount 8 --name SSH --mask 255.255.255.255 --rsource -j DROP", ()),
        ("-p tcp -m tcp --dport 25 -j DNAT --to-destination 172.17.0.2:25", (25,)),
        ("-p tcp -m tcp --dport 465 -j REDIRECT --to-ports 10465", (465,)),
        ("-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m state --state NEW -j DROP", ()),
        ("-p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE -j DROP", ()),
        ('-p tcp -m tcp --dport 22 -m comment --comment "a -j DROP" -j DROP', (22,)),
    ],
)
def test_options_of_iptables(rule: str, closed: tuple[int, ...]) -> None:
    text = f"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT {rule}\nCOMMIT\n"
    chains = find_foreign_chains(parse_iptables(text, "ip"), ADDRESSES, PORTS, "eth0")
    assert (chains[0].closed if chains else ()) == closed


def test_a_module_that_nobody_knows_is_doubtful() -> None:
    text = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m recent --rcheck --name bad --rsource -j DROP\nCOMMIT\n"
    [chain] = find_foreign_chains(parse_iptables(text, "ip"), ADDRESSES, PORTS, "eth0")
    assert (chain.closed, chain.doubtful) == ((), (22, 25, 465))


def test_the_words_of_iptables_replace_those_of_nft() -> None:
    xt = {"xt": {"type": "match", "name": "conntrack"}}
    nft = build_ruleset([xt, DROP], family="ip")
    saved = parse_iptables("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m conntrack --ctstate INVALID -j DROP\n", "ip")
    assert find_ports(nft) == ((), (22, 25, 465))
    assert find_ports(merge_iptables(nft, [saved])) == ((), ())
    assert json.dumps(saved.rules)
