"""The proof of one jail: a canary is refused by the jail's service, noticed, banned, and its packets are dropped."""

import ipaddress
import re
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from mailkeep_server.common import nft_ruleset, packet_path, refused_logins
from mailkeep_server.common.commands import run
from mailkeep_server.common.fail2ban_socket import ask_fail2ban
from mailkeep_server.common.iptables_rules import explain_modules
from mailkeep_server.common.networks import ban_target
from mailkeep_server.common.nft_ruleset import Ruleset
from mailkeep_server.common.packet_path import Packet
from mailkeep_server.common.wording import describe_error

COMMAND_TIMEOUT = 30.0  # seconds; fail2ban may be reading a flood of log lines before it answers
BAN_TIMEOUT = 10.0  # seconds until a ban, or its end, must have reached nft
RETRY_SECONDS = 0.5
RECIDIVE = "recidive"
"""The jail that reads the log of fail2ban itself."""
UNTRIED = "could not be tried"
"""In the fault of a jail whose service cannot be reached: the jail itself may be sound."""
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
FIREWALL_ACTIONS = r"nftables|iptables|ip6tables|ipset|firewallcmd|ufw|shorewall|apf"
"""fail2ban's actions that make a firewall drop packets, by the beginning of their names."""
ROUTE_ACTION = "route"
"""It has no answer to the address leave this machine (route.conf). A canary's own route hides that."""
INPUT_CHAIN = re.compile(r"(?i)input|ingress|prerouting")
"""Chains by which a packet to this machine passes, as csf's or firewalld's `INPUT_direct`."""
USUAL_PORTS = (22, 25, 993)
"""A ban of all ports is tried at those that answer."""

Network = IPv4Network | IPv6Network | str
"""Text is a name."""
Canary = tuple[str, str]
"""An IPv4 and an IPv6 address."""

ERRORS = (OSError, RuntimeError, subprocess.TimeoutExpired)


class UnprovenError(Exception):
    """Why nothing is known of a jail that is not Mailkeep's: neither that it bans, nor that it does not."""


@dataclass(frozen=True)
class JailRules:
    """What `mail.yml` declares of a jail: the `ports` that it closes to a banned address (None: all), after how many
    failures (`maxretry`) in how many seconds (`findtime`), for how many seconds at first (`bantime`), and the
    addresses and networks that it never bans (`ignoreip`)."""

    ports: Sequence[int] | None
    maxretry: int
    findtime: int
    bantime: int
    ignoreip: Sequence[str] = ()


def read_fail2ban_log(since: str, pattern: str) -> list[str]:
    """fail2ban's lines that match. journalctl ends with exit code 1 if there is none."""
    journal = ["journalctl", "--unit=fail2ban.service", "--output=cat", f"--since={since}", f"--grep={pattern}"]
    return subprocess.run(journal, capture_output=True, text=True, check=False, timeout=60).stdout.splitlines()


def find_setting_faults(jail: str, rules: JailRules) -> Iterator[str]:
    """Settings with which the jail runs, and that are not as declared. Raises as `ask_fail2ban` does."""
    for name in ("maxretry", "findtime", "bantime"):
        declared, value = getattr(rules, name), ask_fail2ban("get", jail, name, timeout=COMMAND_TIMEOUT)
        if int(value) != declared:
            yield f"jail {jail}: it runs with {name} = {value}, not {declared}"
    ignored = {_parse_network(text) for text in ask_fail2ban("get", jail, "ignoreip", timeout=COMMAND_TIMEOUT)}
    exempt = {_parse_network(text) for text in rules.ignoreip}
    if extra := ignored - exempt:
        yield f"jail {jail}: it never bans {', '.join(sorted(map(str, extra)))}, which mail.yml does not name"
    if missing := {network for network in exempt if not any(_is_within(network, other) for other in ignored)}:
        yield f"jail {jail}: it would ban {', '.join(sorted(map(str, missing)))}, which mail.yml exempts"
    if command := ask_fail2ban("get", jail, "ignorecommand", timeout=COMMAND_TIMEOUT):
        yield f"jail {jail}: its ignorecommand decides who is never banned: {command}"


def _is_within(network: Network, other: Network) -> bool:
    if isinstance(network, IPv4Network) and isinstance(other, IPv4Network):
        return network.subnet_of(other)
    if isinstance(network, IPv6Network) and isinstance(other, IPv6Network):
        return network.subnet_of(other)
    return network == other


def _parse_network(text: str) -> Network:
    """A name, which fail2ban looks up, stays text. fail2ban prints a network of all addresses without its length, 0."""
    try:
        return ipaddress.ip_network(f"{text}/0" if text in ("0.0.0.0", "::") else text, strict=False)  # noqa: S104
    except ValueError:
        return text


@dataclass(frozen=True)
class BanProof:
    """One jail and its canary. `destinations` are addresses of the server, by the IP versions that its services serve;
    `notice_timeout` is the seconds that the jail has to notice a failure."""

    jail: str
    canary: Canary
    destinations: Mapping[int, str]
    notice_timeout: float

    @property
    def reachable(self) -> list[str]:
        """The canary's addresses that a service can refuse: the server and its kernel have the IP version."""
        versions = {version for version in self.destinations if version == 4 or refused_logins.has_ipv6()}
        return [address for address in self.canary if _version_of(address) in versions]

    @property
    def targets(self) -> Canary:
        """What the jail must ban for the canary: one address of IPv4, and a network of IPv6."""
        v4, v6 = map(ban_target, self.canary)
        return v4, v6

    def find_faults(self, rules: JailRules) -> Iterator[str]:
        """What goes wrong on the way from a refused login to the dropped packet, and back."""
        try:
            yield from find_setting_faults(self.jail, rules)
            with self._route():
                noticed, untried = self._fail_once(rules)
                yield from self._describe_unnoticed(noticed, untried)
                counted = {address for address, line in noticed.items() if f"] Found {ban_target(address)} " in line}
                try:
                    for address in self.canary:
                        failures = rules.maxretry - (1 if address in counted else 0)
                        self._ask("attempt", ban_target(address), *["mailkeep"] * failures)
                    yield from self._find_ban_faults(rules)
                except BaseException:  # a signal may come before the ban, which would then follow the unban
                    _wait_for_sets(self.targets, banned=True)
                    raise
                finally:
                    self._ask("unbanip", *self.targets)
                if sets := _wait_for_sets(self.targets, banned=False):
                    yield f"jail {self.jail}: unbanned, and still in {' and '.join(sets)}"
        except ERRORS as error:
            yield f"jail {self.jail}: {describe_error(error)}"

    def _fail_once(self, rules: JailRules) -> tuple[dict[str, str], dict[str, str]]:
        """Has the service refuse the canary. By address: what fail2ban's log says, and why a refusal failed."""
        start = time.time()
        if self.jail == RECIDIVE:
            # The ban of another jail is what recidive reads.
            banned = [ban_target(address) for address in self.reachable]
            ask_fail2ban("set", "sshd", "banip", *banned, timeout=COMMAND_TIMEOUT)
            try:
                return self._wait_for_notice(start), {}
            finally:
                ask_fail2ban("set", "sshd", "unbanip", *banned, timeout=COMMAND_TIMEOUT)
        refuse = refused_logins.REFUSALS[self.jail]
        port = refused_logins.PORTS.get(self.jail) or (rules.ports or [22])[0]
        from concurrent.futures import ThreadPoolExecutor  # the watch needs none: it takes 1 MB

        with ThreadPoolExecutor(len(self.canary)) as pool:
            refusals = {
                address: pool.submit(refuse, address, self._find_door(address, port), port)
                for address in self.reachable
            }
            noticed = self._wait_for_notice(start)
        failures = {address: refusal.exception() for address, refusal in refusals.items() if address not in noticed}
        return noticed, {address: describe_error(error) for address, error in failures.items() if error}

    def _find_door(self, address: str, port: int) -> str:
        """The address at which the service listens: the usual one, unless it listens on others only, as of a VPN."""
        usual, family = self._destination_of(address), f"-{_version_of(address)}"
        lines = run("ss", "-Hlnt", family, "sport", "=", f":{port}", check=False, timeout=COMMAND_TIMEOUT).splitlines()
        doors = [line.split()[3].rpartition(":")[0].strip("[]") for line in lines]
        return doors[0] if doors and not {usual, "*", "0.0.0.0", "::"} & {*doors} else usual  # noqa: S104

    def _wait_for_notice(self, since: float) -> dict[str, str]:
        deadline = time.monotonic() + self.notice_timeout
        pattern = rf"\[{re.escape(self.jail)}\] (Found|Ignore) "
        while True:
            lines = read_fail2ban_log(f"@{since:.3f}", pattern)
            noticed = {
                address: line
                for line in reversed(lines)
                for address in self.reachable
                if re.search(rf"\] (?:Found|Ignore) (?:{'|'.join(map(re.escape, _list_names(address)))}) ", line)
            }
            if len(noticed) == len(self.reachable) or time.monotonic() >= deadline:
                return noticed
            time.sleep(RETRY_SECONDS)

    def _describe_unnoticed(self, noticed: Mapping[str, str], untried: Mapping[str, str]) -> Iterator[str]:
        for address in self.reachable:
            if address in untried:
                yield f"jail {self.jail}: a refused login from {address} {UNTRIED}: {untried[address]}"
            elif address not in noticed:
                yield (
                    f"jail {self.jail}: it did not notice that the service refused {address}, in "
                    f"{self.notice_timeout:.0f} seconds"
                )
            elif "] Ignore " in noticed[address]:
                yield f"jail {self.jail}: it ignores {address}, which mail.yml does not exempt"
            elif f" {ban_target(address)} " not in noticed[address]:
                yield f"jail {self.jail}: it counts {address} alone, not its network {ban_target(address)}"

    def _find_ban_faults(self, rules: JailRules) -> Iterator[str]:
        sets = _wait_for_sets(self.targets, banned=True)
        if len(sets) < len(self.canary):
            yield f"jail {self.jail}: it bans {' and '.join(self.targets)}, nft has {' and '.join(sets) or 'no set'}"
        ruleset = _read_ruleset()
        yield from nft_ruleset.find_rule_faults(self.jail, sets, rules.ports, ruleset.rules, ruleset.chains)
        if not sets:
            return
        places = frozenset(("f2b-table", name) for name in sets)
        ports = rules.ports or (refused_logins.SMTP, refused_logins.IMAPS)
        passing = {port for address in self.canary for port in ports if self._passes(ruleset, address, port, places)}
        if passing:
            rules_before = "; ".join(nft_ruleset.list_passing_rules(ruleset)) or "a rule before the drop"
            yield f"jail {self.jail}: packets of a banned address pass to {_join_ports(passing)}, by: {rules_before}"
        elif answered := [address for address in self.reachable if not self._is_dropped(address, ports[-1])]:
            yield f"jail {self.jail}: a packet of {' and '.join(answered)} to port {ports[-1]} is still answered"

    def find_foreign_faults(self) -> Iterator[str]:
        """What goes wrong with a ban by a jail that Mailkeep has not made; only its operator knows what it reads.

        A jail whose actions only send mail, say, has nothing to do with a firewall, and no fault. Raises
        UnprovenError."""
        try:
            actions = self._list_tried_actions()
            if not actions:
                return
            ports, unknown = self._read_ports(actions)
            yield from (f"jail {self.jail}: no service is called {name}, so nft refuses its rule" for name in unknown)
            with self._route():
                open_ports = [port for port in (ports or USUAL_PORTS)[:5] if self._can_connect(self.canary[0], port)]
                if not open_ports and any("ipset" in action for action in actions):
                    raise UnprovenError("nft does not show what is in an ipset, and nothing answers at its ports")
                try:
                    self._ask("banip", self.canary[0])
                    if not unknown:
                        yield from self._find_foreign_ban_faults(ports, open_ports)
                finally:
                    self._ask("unbanip", self.canary[0])
        except ERRORS as error:
            yield f"jail {self.jail}: {describe_error(error)}"

    def _find_foreign_ban_faults(self, ports: Sequence[int], open_ports: Sequence[int]) -> Iterator[str]:
        address = self.canary[0]
        deadline = time.monotonic() + BAN_TIMEOUT
        while True:
            ruleset = explain_modules(_read_ruleset(terse=False))
            places = frozenset(
                (nft_set["table"], nft_set["name"]) for nft_set in ruleset.sets if address in _list_elements(nft_set)
            )
            passing = {port for port in ports or [0] if self._passes(ruleset, address, port, places)}
            # Another firewall than nft may drop it: then no connection comes about where one did before.
            if not passing or (open_ports and not any(self._can_connect(address, port) for port in open_ports)):
                return
            if time.monotonic() >= deadline:
                break
            time.sleep(RETRY_SECONDS)
        where = _join_ports(passing - {0}) if ports else "any port"
        yield f"jail {self.jail}: it bans {address}, and no rule drops its packets to {where}"

    def _list_tried_actions(self) -> list[str]:
        """The actions whose rules must drop the canary's packets, which arrive over loopback by TCP.

        A ban starts all actions of the jail. So nobody is banned who would be reported to others every half hour."""
        actions = ask_fail2ban("get", self.jail, "actions", timeout=COMMAND_TIMEOUT)
        firewalls = [action for action in actions if re.match(FIREWALL_ACTIONS, action)]
        if not firewalls and ROUTE_ACTION not in actions:
            return []
        if ROUTE_ACTION in actions:
            raise UnprovenError("its action route stops the answers, and the route to a test address hides that")
        if others := [action for action in actions if action not in firewalls]:
            raise UnprovenError(f"its action {', '.join(others)} does more than a firewall's, so no address is banned")
        reasons = {action: self._describe_other_packets(action) for action in firewalls}
        tried = [action for action, reason in reasons.items() if not reason]
        if not tried:
            raise UnprovenError("; ".join(f"its action {action} {reason}" for action, reason in reasons.items()))
        return tried

    def _describe_other_packets(self, action: str) -> str:
        """Which other packets than the canary's the action drops; empty if it drops those."""
        names = ask_fail2ban("get", self.jail, "actionproperties", action, timeout=COMMAND_TIMEOUT)
        values = {
            name: str(ask_fail2ban("get", self.jail, "action", action, name, timeout=COMMAND_TIMEOUT))
            for name in ("chain", "chain_hook", "protocol")
            if name in names
        }
        # A tag, as jail.conf's <known/chain>, stands for the action's default.
        properties = {name: value for name, value in values.items() if "<" not in value}
        # fail2ban's own chain of nft may have any name: its hook says where it stands.
        chain = properties.get("chain_hook") or properties.get("chain") or "input"
        if not INPUT_CHAIN.match(chain):
            return f"drops packets in {chain}, where none to this machine pass"
        protocol = properties.get("protocol") or "tcp"
        return "" if {"tcp", "all"} & {*re.split(r"[,\s]+", protocol)} else f"drops {protocol}, not TCP"

    def _read_ports(self, actions: Iterable[str]) -> tuple[list[int], list[str]]:
        """The ports of the jail's actions, and the names among them that no service has."""
        ports, unknown = set(), []
        for action in actions:
            properties = ask_fail2ban("get", self.jail, "actionproperties", action, timeout=COMMAND_TIMEOUT)
            if "port" not in properties or "allports" in action:
                continue
            text = str(ask_fail2ban("get", self.jail, "action", action, "port", timeout=COMMAND_TIMEOUT))
            for name in filter(None, re.split(r"[,\s]+", text)):
                try:
                    ports.add(_parse_port(name))
                except OSError:
                    unknown.append(name)
        return sorted(ports - {0}), unknown  # 0:65535, fail2ban's default, means all

    def _passes(self, ruleset: Ruleset, address: str, port: int, sets: frozenset[tuple[str, str]]) -> bool:
        packet = Packet(self._destination_of(address), port, source=address, source_sets=sets)
        return packet_path.can_pass(ruleset, packet)

    def _is_dropped(self, address: str, port: int) -> bool:
        return refused_logins.is_dropped(address, self._destination_of(address), port)

    def _can_connect(self, address: str, port: int) -> bool:
        return refused_logins.can_connect(address, self._destination_of(address), port)

    def _destination_of(self, address: str) -> str:
        version = _version_of(address)
        return self.destinations.get(version, LOOPBACK[version])

    @contextmanager
    def _route(self) -> Iterator[None]:
        with ExitStack() as stack:
            for address in self.reachable:
                stack.enter_context(refused_logins.route_address(address))
            yield

    def _ask(self, action: str, *arguments: str) -> None:
        ask_fail2ban("set", self.jail, action, *arguments, timeout=COMMAND_TIMEOUT)


def _list_names(address: str) -> tuple[str, str]:
    """How a jail may log an address: alone, or by its network."""
    return address, ban_target(address)


def _version_of(address: str) -> int:
    return ipaddress.ip_address(address).version


def _parse_port(name: str) -> int:
    """The first port of a range stands for all. Raises OSError for a name that no service has."""
    first = re.split("[:-]", name)[0] if name[:1].isdecimal() else name
    return int(first) if first.isdecimal() else socket.getservbyname(first)


def _join_ports(ports: Iterable[int]) -> str:
    return "port " + ", ".join(map(str, sorted(ports)))


def _read_ruleset(*, terse: bool = True) -> Ruleset:
    options = ("-t",) if terse else ()
    return nft_ruleset.parse_ruleset(run("nft", "-j", *options, "list", "ruleset", timeout=COMMAND_TIMEOUT))


def _wait_for_sets(targets: Canary, *, banned: bool) -> list[str]:
    """Names of the nft sets that hold these addresses and networks, once there is one for each (`banned`) or none."""
    deadline = time.monotonic() + BAN_TIMEOUT
    while True:
        listed_sets = nft_ruleset.parse_ruleset(run("nft", "-j", "list", "sets", timeout=COMMAND_TIMEOUT)).sets
        names = [str(nft_set["name"]) for nft_set in listed_sets if set(targets) & _list_elements(nft_set)]
        if (len(names) >= len(targets) if banned else not names) or time.monotonic() >= deadline:
            return names
        time.sleep(0.1)


def _list_elements(nft_set: Mapping[str, object]) -> set[str]:
    """The single addresses and the networks in a set. Others of its elements may be ranges."""
    elements = nft_set.get("elem", ())
    assert isinstance(elements, Iterable)
    prefixes = [element["prefix"] for element in elements if isinstance(element, dict) and "prefix" in element]
    return {
        *(element for element in elements if isinstance(element, str)),
        *(f"{prefix['addr']}/{prefix['len']}" for prefix in prefixes),
    }
