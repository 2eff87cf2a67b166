"""The server's open ports, and its connections to other servers."""

from typing import Any

from mailkeep.parts import firewall
from mailkeep.settings.models import Settings
from mailkeep.verify import ruleset
from mailkeep.verify.outcome import CheckFailedError, CheckSkippedError, fail_if_any, warn_if_any
from mailkeep.verify.target import ProbeResult

DHCP_CLIENT_PORTS = (68, 546)


def _may_listen(settings: Settings, listener: dict[str, Any]) -> bool:
    """On port 80 only lego may listen, unless mail.yml opens it: it answers the certificate authority.

    A UDP socket without a process is the kernel's own, as WireGuard's, which also has one where it only dials out.
    """
    port, protocol = listener["port"], listener["protocol"]
    is_declared = (protocol, port) in {(protocol, port) for protocol, port, _ in firewall.list_doors(settings)}
    if protocol != "tcp":
        return is_declared or port in DHCP_CLIENT_PORTS or not listener["process"]
    only_lego = port == firewall.HTTP and settings.tls.answers_on_port_80
    return is_declared and (listener["process"] == "lego" or not only_lego)


def test_nothing_else_listens(observed: ProbeResult, settings: Settings) -> None:
    """Nothing listens but SSH, mail and what mail.yml serves or opens."""
    public = [listener for listener in observed["listeners"] if not listener["address"].startswith(("127.", "::1"))]
    fail_if_any(
        sorted(
            {
                f"{listener['protocol'].upper()} port {listener['port']} ({listener['process'] or 'unknown process'})"
                for listener in public
                if not _may_listen(settings, listener)
            }
        ),
        expected=f"{firewall.describe_doors(firewall.list_doors(settings))}, and no other",
        remedy="Stop it, or let it listen on 127.0.0.1. A port may be named under `firewall.open` in mail.yml.",
    )


def test_mail_is_served_on_every_declared_address(observed: ProbeResult, settings: Settings, deploy: str) -> None:
    """SSH and every mail service listen on all declared addresses."""
    tcp_listeners = [listener for listener in observed["listeners"] if listener["protocol"] == "tcp"]
    listening = {(listener["address"], listener["port"]) for listener in tcp_listeners}
    wildcards = {4: ("0.0.0.0", "*"), 6: ("::", "*")}  # noqa: S104
    fail_if_any(
        (
            f"{address} port {port}: nothing listens"
            for address in settings.host.addresses
            for port in (settings.ssh.port, *firewall.published_ports(settings), *firewall.forwarded_ports(settings))
            if not any((local, port) in listening for local in (str(address), *wildcards[address.version]))
        ),
        expected="a service on each port of each address",
        remedy=f"`systemctl status postfix dovecot ssh` says why not; {deploy} starts them.",
    )


def test_the_server_has_the_declared_addresses(observed: ProbeResult, settings: Settings, deploy: str) -> None:
    """Mail leaves from the declared addresses, which SPF names.

    Postfix binds to the first one of each family. The kernel chooses another one if the machine does not have it. With
    a relay host, SPF names that one, and the kernel chooses the way to it.
    """
    fail_if_any(
        (
            f"{address}: this machine does not have it; "
            + ("nobody reaches it there" if settings.relay else f"mail leaves from {source or 'nowhere'}")
            for address, source in observed["addresses"].items()
        ),
        expected="every address of `host.addresses` on the machine, or NAT",
        remedy=f"Give the machine the address (`ip address` shows those it has), or correct mail.yml and {deploy}.",
    )


def test_the_firewall_lets_in_the_declared_ports_only(observed: ProbeResult, settings: Settings, deploy: str) -> None:
    """The firewall lets in SSH, mail and what mail.yml opens, nothing else."""
    loaded = observed["firewall"]
    chains = [chain for chain in loaded["chains"] if (chain["table"], chain["name"]) == ("mailkeep", "input")]
    if not any(chain.get("hook") == "input" and chain.get("policy") == "drop" for chain in chains):
        raise CheckFailedError(
            "a chain `input` of the table `mailkeep` whose policy is drop",
            f"{chains or 'no such chain'}",
            f"Every listening port can be reached from outside! {deploy} restores the firewall.",
        )
    rules = [rule for rule in loaded["rules"] if (rule["table"], rule["chain"]) == ("mailkeep", "input")]
    openings = [opening for rule in rules if (opening := ruleset.find_opening(rule)) is not None]
    doors = {door for opening in openings if not isinstance(opening, str) for door in opening}
    declared = firewall.list_doors(settings)
    fail_if_any(
        [
            *(opening for opening in openings if isinstance(opening, str)),
            *(f"open, but not declared: {firewall.describe_doors([door])}" for door in sorted(doors - declared)),
            *(f"declared, but not open: {firewall.describe_doors([door])}" for door in sorted(declared - doors)),
        ],
        expected=f"{firewall.describe_doors(declared)}, and no other",
        remedy=f"{deploy} restores the firewall. To open a port, name it under `firewall.open` in mail.yml.",
    )


def test_the_firewall_is_exactly_as_declared(observed: ProbeResult, deploy: str) -> None:
    """The loaded firewall has the declared rules, in their order, and no other."""
    fail_if_any(
        observed["firewall"]["changes"],
        expected="the rules that mail.yml declares, as nft lists them",
        remedy=f"Somebody or something has changed the table `inet mailkeep`. {deploy} restores its file, and "
        "`systemctl reload nftables` its rules.",
    )


def test_nothing_passes_before_the_jails_drop_it(observed: ProbeResult) -> None:
    """No rule accepts packets before fail2ban's rules drop them."""
    fail_if_any(
        observed["firewall"]["passing"],
        expected="only rules that drop in the table inet f2b-table",
        remedy="`systemctl restart fail2ban` makes the table anew. Never to ban a network, add it to `admin.networks`.",
    )


def test_no_other_firewall_closes_our_ports(observed: ProbeResult) -> None:
    """No other firewall drops what Mailkeep's lets in."""
    fail_if_any(
        (
            f"{chain['name']} drops packets to port {', '.join(map(str, chain['closed']))}"
            for chain in observed["firewall"]["foreign"]
            if chain["closed"]
        ),
        expected="no other chain that drops a stranger's packets to the declared ports",
        remedy="Open these ports in that firewall too, or remove it (`ufw disable`, `systemctl disable --now "
        "firewalld`): Mailkeep's own is enough.",
    )


def test_strangers_reach_every_service(observed: ProbeResult) -> None:
    """Every mail service answers at every declared address, tried from here."""
    knocks = observed["knocks"]
    fail_if_any(
        (f"{knock.address} port {knock.port}: {knock.error}" for knock in knocks if knock.error),
        expected="each service greets this machine at the public addresses",
        remedy="Something between here and the service drops it: another firewall on the server (`nft list ruleset`), "
        "the provider's firewall or security group, NAT, or a wrong address in mail.yml. A firewall of this machine's "
        "network may do so, too: try from elsewhere.",
    )
    untried = [f"{knock.address} port {knock.port}: {knock.untried}" for knock in knocks if knock.untried]
    if len(untried) == len(knocks):
        raise CheckSkippedError("; ".join(sorted({knock.untried for knock in knocks})))


def test_what_cannot_be_tried_from_here_is_said(observed: ProbeResult) -> None:
    """Every declared address and port can be tried from this machine."""
    if untried := [
        f"{knock.address} port {knock.port}: {knock.untried}" for knock in observed["knocks"] if knock.untried
    ]:
        raise CheckSkippedError("; ".join(untried))


def test_blocked_networks_are_blocked(observed: ProbeResult, settings: Settings, deploy: str) -> None:
    """The firewall blocks the networks that mail.yml names, and no others."""
    declared = ruleset.parse_networks(str(network) for network in settings.firewall.block)
    blocked = ruleset.parse_networks(observed["firewall"]["blocked"])
    fail_if_any(
        [
            *(f"declared, but not blocked: {network}" for network in declared - blocked),
            *(f"blocked, but not declared: {network}" for network in blocked - declared),
        ],
        expected=", ".join(map(str, settings.firewall.block)) or "no blocked network",
        remedy=f"{deploy} restores the firewall.",
    )


def test_the_resolver_validates_and_is_private(observed: ProbeResult, settings: Settings, deploy: str) -> None:
    """The resolver validates DNSSEC and answers nobody else."""
    if settings.resolver != "local":
        raise CheckSkippedError("mail.yml says `resolver: system`")
    resolver = observed["resolver"]
    fail_if_any(
        [
            *(f"resolver in use: {server}" for server in resolver["servers"] if not server.startswith("127.")),
            *((resolver["fault"],) if resolver["fault"] else ()),
            *(() if resolver["trusted"] else ("/etc/resolv.conf has no `options trust-ad`: Postfix does no DANE",)),
            *(f"it answers on {address}" for address in resolver["open"]),
        ],
        expected="127.0.0.1 only, with validated (AD) answers",
        remedy=f"{deploy} restores unbound and /etc/resolv.conf; DNSSEC also needs the right time. If it comes back, "
        "find the program that writes /etc/resolv.conf (DHCP client, resolvconf, cloud-init), and turn that off.",
    )


def test_mail_gets_out(observed: ProbeResult, settings: Settings) -> None:
    """The server reaches mail servers elsewhere, and its relay host lets it log in."""
    outbound = observed["outbound"]
    if not outbound["target"]:
        raise CheckSkippedError("mail.yml names no address elsewhere to try")
    faults = [outbound["fault"]] if outbound["fault"] else []
    if settings.relay:
        fail_if_any(
            faults,
            expected=f"an encrypted connection and a login at the relay host {outbound['target']}",
            remedy="No mail leaves meanwhile. See `relay` in mail.yml; `mailkeep relay` asks for the password.",
        )
    warn_if_any(
        faults,
        expected=f"a connection to the mail server of {outbound['target']}",
        remedy="Many providers block outbound port 25 until asked. Ask yours, or set `relay` in mail.yml.",
    )
