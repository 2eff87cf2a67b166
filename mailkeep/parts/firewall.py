"""nftables: only SSH and the mail ports are open, and only Postfix connects to other mail servers."""

from collections.abc import Iterable
from ipaddress import collapse_addresses

from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit
from mailkeep.settings.fields import Network
from mailkeep.settings.models import Settings
from mailkeep.settings.numbers import MAIL_SERVICES, PROXY_PORTS, SERVICES
from mailkeep.templating import render_template
from mailkeep_server.common import paths

RULES = "/etc/nftables.conf"
DROP_IN = f"{SYSTEMD}/nftables.service.d"
HTTP = SERVICES["http"]
MAIL_PORTS = tuple(SERVICES[name] for name in MAIL_SERVICES)
HTTPS = SERVICES["https"]

Door = tuple[str, int, str]
"""Protocol, port, and the network that may come in; empty: everyone."""


def published_ports(settings: Settings) -> tuple[int, ...]:
    """The ports of Mailkeep's services: mail, and HTTPS if it serves any page."""
    return (*MAIL_PORTS, *((HTTPS,) if settings.https_names else ()))


def forwarded_ports(settings: Settings) -> tuple[int, ...]:
    """The ports for the machine that this server has moved from, while that forwards."""
    return tuple(sorted(PROXY_PORTS.values())) if settings.host.forwarded_from else ()


def owned_ports(settings: Settings) -> tuple[int, ...]:
    """The ports that no other program may use: those open to all, and those for forwarded connections."""
    return (*_public_ports(settings), *forwarded_ports(settings))


def _public_ports(settings: Settings) -> tuple[int, ...]:
    """The published ones, and port 80 if the ACME authority asks there."""
    return (*published_ports(settings), *((HTTP,) if settings.tls.answers_on_port_80 else ()))


def build_rules(settings: Settings) -> bytes:
    """The rules, for nft(8)."""
    sets = {"blocked": settings.firewall.block, "may_send": settings.firewall.may_send}
    return render_template(
        "nftables/nftables.conf",
        ports=sorted(open_ports(settings)),
        openings=_list_opening_rules(settings),
        forwarded_ports=forwarded_ports(settings),
        forwarding=_match_sources(settings.forwarding_networks),
        relay_is_tried_by_root=may_root_send(settings),
        max_connections=settings.max_leaving_connections,
        burst=settings.max_leaving_connections // 4 + 1,
        sets={
            f"{name}{version}": [network for network in networks if network.version == version]
            for name, networks in sets.items()
            for version in (4, 6)
        },
    )


def may_root_send(settings: Settings) -> bool:
    """Whether programs of root may connect to port 25 elsewhere, too: those that try the relay host there."""
    return settings.relay is not None and settings.relay.port == SERVICES["smtp"]


def _list_opening_rules(settings: Settings) -> list[str]:
    """Matches of nft for UDP ports, and for ports that are open to certain networks."""
    udp = sorted(port for protocol, port, network in list_doors(settings) if protocol == "udp" and not network)
    rules = [f"udp dport {{ {_join(udp)} }}"] if udp else []
    for opening in settings.firewall.open:
        rules += [f"{match} {opening.protocol} dport {opening.port}" for match in _match_sources(opening.networks)]
    return list(dict.fromkeys(rules))


def _match_sources(networks: Iterable[Network]) -> list[str]:
    """Matches of nft for packets from these networks, one for each family."""
    collapsed = _collapse(networks)
    families = {"ip": 4, "ip6": 6}
    sources = {name: [network for network in collapsed if network.version == families[name]] for name in families}
    return [f"{name} saddr {{ {_join(members)} }}" for name, members in sources.items() if members]


def _join(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))


def _collapse(networks: Iterable[Network]) -> list[Network]:
    """In their shortest form: nft refuses sets whose elements overlap."""
    networks = list(networks)
    return [
        *collapse_addresses(network for network in networks if network.version == 4),
        *collapse_addresses(network for network in networks if network.version == 6),
    ]


def build_part(settings: Settings) -> Part:
    return Part(
        name="firewall",
        packages=("nftables",),
        directories=(Directory(DROP_IN),),
        files=(
            File(RULES, build_rules(settings), mode=0o755),
            File(
                f"{DROP_IN}/mailkeep.conf",
                render_template("nftables/service.d/mailkeep.conf", loaded=paths.LOADED_FIREWALL),
            ),
        ),
        # Reload, never restart: a reload is one transaction, so there is no moment without rules.
        units=(Unit("nftables.service", reload_on=(RULES, DROP_IN)),),
        checks=(
            Check(f"nft --check --file {RULES}", reads=(RULES,)),
            Check(_ssh_port_check(settings.ssh.port), reads=(RULES,)),
        ),
    )


def open_ports(settings: Settings) -> set[int]:
    """The TCP ports that are open to everyone."""
    return {port for protocol, port, network in list_doors(settings) if protocol == "tcp" and not network}


def list_doors(settings: Settings) -> set[Door]:
    """All that the firewall lets in: new connections of TCP, and packets of UDP."""
    doors = {("tcp", port, "") for port in (settings.ssh.port, *_public_ports(settings))}
    forwarding = _collapse(settings.forwarding_networks)
    doors |= {("tcp", port, str(network)) for port in forwarded_ports(settings) for network in forwarding}
    for opening in settings.firewall.open:
        networks = _collapse(opening.networks) if opening.networks else ("",)
        doors |= {(opening.protocol, opening.port, str(network)) for network in networks}
    return doors


def describe_doors(doors: Iterable[Door]) -> str:
    """For people: `TCP 22, 25; UDP 51820; TCP 9100 from 203.0.113.77/32`."""
    ports: dict[tuple[str, str], list[int]] = {}
    for protocol, port, network in sorted(doors):
        ports.setdefault((network, protocol), []).append(port)
    return "; ".join(
        f"{protocol.upper()} {_join(numbers)}{f' from {network}' if network else ''}"
        for (network, protocol), numbers in sorted(ports.items())
    )


def _ssh_port_check(port: int) -> str:
    """A command that fails if sshd does not listen on `ssh.port`: the rules would lock its users out."""
    return (
        f"ports=$(sshd -T | sed -n 's/^port //p'); echo \"$ports\" | grep -qx {port} || "
        f'{{ echo "sshd listens on port $ports, but mail.yml says ssh.port: {port}. '
        f'The firewall would lock you out. Set ssh.port to the port of sshd." >&2; exit 1; }}'
    )
