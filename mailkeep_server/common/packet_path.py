"""Where a packet ends: it follows nft's rules in their order, through every chain, as the kernel would.

A condition that cannot be judged from the rules alone (a mark, a module of iptables) may hold or not. So a packet can
have several ends. Judged are packets that open a TCP connection to this server. The rules are those of
`nft -j -t list ruleset` (libnftables-json(5)), which leaves out the elements of sets.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from mailkeep_server.common.nft_ruleset import Chain, Rule, Ruleset

OUR_TABLES = {("inet", "mailkeep"), ("inet", "f2b-table")}
INPUT_HOOKS = ("ingress", "prerouting", "input")
ENDS = {
    "accept": "accept",
    "queue": "accept",  # the program that takes packets from it usually accepts them
    "drop": "drop",
    "reject": "drop",
    "return": "return",
    "dnat": "elsewhere",
    "redirect": "elsewhere",
}
"""By verdict, the end of a packet in its chain."""
MAIL_PORTS = (25, 143, 465, 587, 993, 4190)
"""A packet to another port may go on to a container: mail.yml opens that port for some program."""
JUMPS = {"jump", "goto"}
FLAG_TESTS: Mapping[str, Callable[[set[str], set[str]], bool]] = {
    "==": lambda flags, others: flags == others,
    "!=": lambda flags, others: flags != others,
    "in": lambda flags, others: bool(flags & others),
    "!": lambda flags, others: not flags & others,
}
"""By operator, whether a packet's flags match those of a rule (nft(8), BITWISE)."""
DROPPING_TARGETS = ("DROP", "REJECT")
MAX_DEPTH = 16
"""Of jumps; nft itself allows no circle of chains."""
OWNERS = {
    "ufw": "ufw",
    "firewalld": "firewalld",
    "localinput": "csf",
    "denyin": "csf",
    "docker": "docker",
    "crowdsec": "crowdsec",
}
"""By the beginning of a table's or chain's name in lower case, the program that makes it."""

Place = tuple[str, str, str]
"""Family, table and chain."""

UNKNOWN = object()
STRANGER = object()
"""A source address that is in no list, prefix or range."""


@dataclass(frozen=True)
class Packet:
    """`interface` is the one by which it comes (empty: unknown, but not loopback). `source` is an address (empty: a
    stranger's), and `source_sets` are (table, set) pairs: the sets that hold it."""

    destination: str
    port: int
    interface: str = ""
    source: str = ""
    source_sets: frozenset[tuple[str, str]] = frozenset()

    @property
    def version(self) -> int:
        return 6 if ":" in self.destination else 4


@dataclass(frozen=True)
class ForeignChain:
    """A base chain of another firewall. `closed` are the ports at which it drops a stranger's packet, or forwards it
    elsewhere, as to a container; `doubtful` those at which it may, as far as its rules show."""

    family: str
    table: str
    name: str
    owner: str
    closed: tuple[int, ...]
    doubtful: tuple[int, ...]

    def __str__(self) -> str:
        owner = f" of {self.owner}" if self.owner else ""
        return f"the chain {self.name} in the table {self.family} {self.table}{owner}"


def find_foreign_chains(
    ruleset: Ruleset, addresses: Iterable[str], ports: Iterable[int], interface: str = ""
) -> list[ForeignChain]:
    """The base chains of other firewalls that drop, or may drop, a stranger's packets to these addresses and ports."""
    packets = [Packet(address, port, interface) for address in addresses for port in ports]
    ruleset, chains = leave_out_ours(ruleset), []
    rules = _index_rules(ruleset)
    for chain in _list_base_chains(ruleset):
        if chain.get("policy") != "drop" and _place_of(chain) not in rules:
            continue
        ends = [
            (
                packet.port,
                _Walk(rules, packet).end_in(chain) - ({"elsewhere"} if packet.port not in MAIL_PORTS else set()),
            )
            for packet in packets
            if _sees_version(chain, packet.version)
        ]
        closed = {port for port, end in ends if end and "accept" not in end}
        doubtful = {port for port, end in ends if end - {"accept"}} - closed
        if closed or doubtful:
            owner = _find_owner(rules, _place_of(chain))
            chains.append(ForeignChain(*_place_of(chain), owner, tuple(sorted(closed)), tuple(sorted(doubtful))))
    return chains


def leave_out_ours(ruleset: Ruleset) -> Ruleset:
    """The chains and rules of other firewalls."""
    return Ruleset(
        [rule for rule in ruleset.rules if (rule["family"], rule["table"]) not in OUR_TABLES],
        [chain for chain in ruleset.chains if (chain["family"], chain["table"]) not in OUR_TABLES],
        [],
    )


def find_interface(routes: Path = Path("/proc/net/route")) -> str:
    """The interface of the default route, by which strangers' packets come; empty if there is none."""
    try:
        lines = [line.split() for line in routes.read_text().splitlines()]
    except OSError:
        return ""
    return next((line[0] for line in lines if line[1:2] == ["00000000"]), "")


def can_pass(ruleset: Ruleset, packet: Packet) -> bool:
    """Whether some packet of this kind gets past all chains."""
    walk = _Walk(_index_rules(ruleset), packet)
    chains = [chain for chain in _list_base_chains(ruleset) if _sees_version(chain, packet.version)]
    return all(walk.end_in(chain) != {"drop"} for chain in chains)


def _place_of(chain: Chain) -> Place:
    return (chain["family"], chain["table"], chain["name"])


def _index_rules(ruleset: Ruleset) -> dict[Place, list[Rule]]:
    rules: dict[Place, list[Rule]] = {}
    for rule in ruleset.rules:
        rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule)
    return rules


def _list_base_chains(ruleset: Ruleset) -> Iterator[Chain]:
    return (chain for chain in ruleset.chains if chain.get("hook") in INPUT_HOOKS)


def _sees_version(chain: Chain, version: int) -> bool:
    return chain["family"] in ("inet", "netdev", "ip" if version == 4 else "ip6")


def find_owners(ruleset: Ruleset) -> set[str]:
    """The programs that made chains, by the names of tables and chains."""
    names = {name.lower() for chain in ruleset.chains for name in (chain["table"], chain["name"])}
    return {owner for name in names for start, owner in OWNERS.items() if name.startswith(start)}


def _find_owner(rules: Mapping[Place, list[Rule]], base: Place) -> str:
    """The program that made the chain, by the names of its table and of the chains to which it jumps; empty if none is
    known. Several programs may share a table of iptables."""
    family, table, _ = base
    names, places = [table], [base]
    for place in places:  # which grows meanwhile
        targets = [
            part[kind]["target"] for rule in rules.get(place, ()) for part in rule["expr"] for kind in JUMPS & set(part)
        ]
        names += [name for name in targets if name not in names]
        places += [new for name in targets if (new := (family, table, name)) not in places]
    owners = [owner for name in names for start, owner in OWNERS.items() if name.lower().startswith(start)]
    return owners[0] if owners else ""


@dataclass(frozen=True)
class _Walk:
    """A packet on its way through the rules of each chain."""

    rules: Mapping[Place, list[Rule]]
    packet: Packet

    def end_in(self, base: Chain) -> set[str]:
        """`accept`, `drop`, `elsewhere`, or several of them."""
        ends = self._walk_chain(_place_of(base), 0)
        policy = ENDS[base.get("policy", "accept")]
        return {policy if end == "return" else end for end in ends}

    def _walk_chain(self, place: Place, depth: int) -> set[str]:
        ends: set[str] = set()
        for rule in self.rules.get(place, ()):
            for applies, verdict in self._list_verdicts(rule):
                rule_ends, goes_on = self._follow_verdict(verdict, place, depth)
                ends |= rule_ends
                if applies and not goes_on:
                    return ends
        return ends | {"return"}

    def _follow_verdict(self, verdict: Mapping[str, Any], place: Place, depth: int) -> tuple[set[str], bool]:
        """The ends of a packet to which the verdict applies, and whether the next rule may see it."""
        for kind in JUMPS:
            if kind in verdict:
                if depth > MAX_DEPTH:
                    return {"accept", "drop"}, True
                target = (place[0], place[1], verdict[kind]["target"])
                ends = self._walk_chain(target, depth + 1)
                return (ends - {"return"}, "return" in ends) if kind == "jump" else (ends, False)
        return {ENDS[kind] for kind in verdict if kind in ENDS}, False

    def _list_verdicts(self, rule: Rule) -> Iterator[tuple[bool, Mapping[str, Any]]]:
        """Whether each verdict of the rule applies for certain; those that do not apply are left out."""
        is_certain, is_for_listed = True, False
        for part in rule["expr"]:
            if "vmap" in part:
                yield from self._look_up_verdicts(part["vmap"], is_certain)
            elif verdict := _read_verdict(part):
                # Whom a rule drops by a named set are offenders, and a stranger is none.
                if not (is_for_listed and {ENDS.get(kind) for kind in verdict} == {"drop"}):
                    yield is_certain, verdict
            elif (holds := self._holds(part)) is False:
                return
            elif holds is None:
                is_certain, is_for_listed = False, is_for_listed or self._asks_for_listed(part)

    def _look_up_verdicts(self, vmap: Mapping[str, Any], is_certain: bool) -> Iterator[tuple[bool, Mapping[str, Any]]]:
        value = self._read_field(vmap["key"])
        data = vmap["data"]
        if not isinstance(data, dict) and value is not None:  # a named map, whose elements nft leaves out
            yield from ((False, verdict) for verdict in ({"accept": None}, {"drop": None}))
        for key, verdict in data.get("set", ()) if isinstance(data, dict) else ():
            holds = self._compare(value, key)
            if holds is not False and verdict:
                yield is_certain and holds is True, verdict

    def _holds(self, part: Mapping[str, Any]) -> bool | None:
        """Whether a condition holds; None: it may. Statements that are no conditions hold."""
        if "quota" in part:  # of all clients together
            return None
        if bounds := _list_bounds(part):
            return not any(bound.get("inv", False) for bound in bounds)
        if "xt" in part:  # a module of iptables that nft does not know
            return None if (part["xt"] or {}).get("type") != "target" else True
        if "match" not in part:
            return True
        match = part["match"]
        value = self._read_field(match["left"])
        if value is None:
            return False
        if isinstance(value, set) and match["op"] in FLAG_TESTS:
            return FLAG_TESTS[match["op"]](value, _read_flags(match["right"]))
        if match["op"] not in ("==", "in", "!="):
            return None
        holds = self._compare(value, match["right"])
        return holds if holds is None or match["op"] != "!=" else not holds

    def _asks_for_listed(self, part: Mapping[str, Any]) -> bool:
        """Whether the condition holds for the addresses in a named set, and a stranger's packet is judged."""
        match = part.get("match", {"op": "", "left": None, "right": None})
        is_named = any(isinstance(element, str) and element[:1] == "@" for element in _list_elements(match["right"]))
        return is_named and match["op"] in ("==", "in") and self._read_field(match["left"]) is STRANGER

    def _read_field(self, left: Any) -> Any:
        """The value of a header field or meta key; None: the packet has no such header; or UNKNOWN."""
        if not isinstance(left, dict):
            return UNKNOWN
        [(kind, detail)] = left.items()
        if kind == "payload" and "protocol" in detail:
            return self._read_header(detail["protocol"], detail["field"])
        if kind == "meta":
            return self._read_meta(detail["key"])
        if kind == "ct":
            return {"state": "new", "direction": "original", "status": "none"}.get(detail["key"], UNKNOWN)
        if kind == "fib":
            is_type = detail["result"] == "type"
            return True if not is_type else "local" if "daddr" in detail["flags"] else "unicast"
        if kind == "&" and self._read_field(detail[0]) == {"syn"}:
            mask = _list_elements(detail[1])  # a list, or since nft 1.1 {"|": […]}
            return {"syn"}.intersection(mask) if all(isinstance(flag, str) for flag in mask) else UNKNOWN
        return UNKNOWN

    def _read_header(self, protocol: str, name: str) -> Any:
        if protocol in ("ip", "ip6"):
            if (protocol == "ip6") != (self.packet.version == 6):
                return None
            address = {"saddr": self.packet.source or STRANGER, "daddr": self.packet.destination}
            return address.get(name, "tcp" if name in ("protocol", "nexthdr") else UNKNOWN)
        if protocol in ("tcp", "th"):
            return {"dport": self.packet.port, "flags": {"syn"}}.get(name, UNKNOWN)
        return UNKNOWN if protocol == "ether" else None

    def _read_meta(self, key: str) -> Any:
        version = self.packet.version
        values = {
            "l4proto": "tcp",
            "nfproto": f"ipv{version}",
            "protocol": "ip" if version == 4 else "ip6",
            "pkttype": "host",
            "iif": _Interface(self.packet.interface),
            "iifname": _Interface(self.packet.interface),
        }
        return values.get(key, UNKNOWN)

    def _compare(self, value: Any, right: Any) -> bool | None:
        """Whether the value is, or is among, the right side of a condition; None: it may be."""
        if value is UNKNOWN or value is None:
            return None
        elements = _list_elements(right)
        answers = [self._equals(value, element) for element in elements]
        return True if True in answers else None if None in answers else False

    def _equals(self, value: Any, element: Any) -> bool | None:
        if isinstance(element, str) and element.startswith("@"):
            is_source = self.packet.source and value == self.packet.source
            return any(name == element[1:] for _, name in self.packet.source_sets) if is_source else None
        if isinstance(value, _Interface):
            return value.is_called(element)
        if value is STRANGER:
            return isinstance(element, dict) and element.get("prefix", {}).get("len") == 0
        if isinstance(value, int) and not isinstance(value, bool):
            return _is_port_in(value, element)
        if isinstance(element, dict):
            return _is_address_in(value, element)
        return bool(value == element)


@dataclass(frozen=True)
class _Interface:
    name: str

    def is_called(self, element: Any) -> bool | None:
        if not isinstance(element, str) or element == "lo":
            return False
        if not self.name:
            return None
        return self.name.startswith(element[:-1]) if element.endswith("*") else self.name == element


def _read_verdict(part: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if set(part) & {*ENDS, *JUMPS}:
        return part
    target = (part.get("xt") or {}) if "xt" in part else {}
    if target.get("type") == "target" and target.get("name") in DROPPING_TARGETS:
        return {"drop": None}
    return None


def _list_bounds(part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Rates and numbers of connections: of all packets, or of each address by a set or meter. A packet of an ordinary
    client is below all of them; `inv` matches those above."""
    statements = part.get("set", part.get("meter", {})).get("stmt", ())
    statements = statements if isinstance(statements, list | tuple) else [statements]
    return [statement[kind] for statement in (part, *statements) for kind in ("limit", "ct count") if kind in statement]


def _list_elements(right: Any) -> list[Any]:
    if isinstance(right, dict) and "set" in right:
        elements = right["set"] if isinstance(right["set"], list) else [right["set"]]
        return [_strip_element(element) for element in elements]
    if isinstance(right, dict) and "|" in right:
        return list(right["|"])
    return list(right) if isinstance(right, list) else [right]


def _strip_element(element: Any) -> Any:
    """An element with a comment or a timeout is an object of its own."""
    return element["elem"]["val"] if isinstance(element, dict) and "elem" in element else element


def _read_flags(right: Any) -> set[str]:
    return {flag for flag in _list_elements(right) if isinstance(flag, str)}


def _is_port_in(port: int, element: Any) -> bool | None:
    if isinstance(element, dict):
        first, last = element.get("range", (1, 0))
        return bool(int(first) <= port <= int(last))
    return bool(int(element) == port) if str(element).isdecimal() else None


def _is_address_in(address: str, element: Mapping[str, Any]) -> bool | None:
    if "prefix" in element:
        network = ip_network(f"{element['prefix']['addr']}/{element['prefix']['len']}", strict=False)
        return ip_address(address) in network
    if "range" in element:
        first, last = map(ip_address, element["range"])
        return first.version == ip_address(address).version and int(first) <= int(ip_address(address)) <= int(last)
    return None
