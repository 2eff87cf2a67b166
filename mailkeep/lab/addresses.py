"""The networks of labs, all for documentation (RFC 5737, RFC 3849), and the resolvers that containers can reach."""

from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from pathlib import Path

DEMO_NETWORK = IPv4Network("198.51.100.0/26")  # fixed: the demonstration has the same addresses on every machine
NETWORKS = [
    network
    for block in ("198.51.100.0/24", "203.0.113.0/24", "192.0.2.0/24")
    for network in IPv4Network(block).subnets(new_prefix=27)
    if not network.overlaps(DEMO_NETWORK)
]
# Host numbers within a lab's network. 1 is this machine, the network's gateway.
INTERNET_HOST, ATTACKER_HOST, COPY_HOST, FIRST_SERVER_HOST, FIRST_SOURCE_HOST = 2, 3, 9, 10, 16
NOBODY_HOST = 8
"""No machine of a lab has it. From FIRST_SOURCE_HOST on, all may be the attacker's."""

RESOLV_CONFS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
MAX_NAMESERVERS = 3  # of resolv.conf(5)


def ipv6_network(network: IPv4Network) -> IPv6Network:
    """The IPv6 network of a lab with this IPv4 network: 198.51.100.64/27 goes with 2001:db8:100:64::/64."""
    third, fourth = str(network.network_address).split(".")[2:]
    return IPv6Network(f"2001:db8:{third}:{fourth}::/64")


def find_nameservers(gateway: IPv4Address) -> list[str]:
    """The resolvers of this machine that a container can reach.

    A resolver on loopback is replaced by its upstreams, which systemd-resolved writes to a file of its own. Where no
    resolver remains, podman's forwarder on the lab's gateway serves.
    """
    for path in RESOLV_CONFS:
        words = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        servers = [fields[1] for fields in words if len(fields) > 1 and fields[0] == "nameserver"]
        reachable = [server for server in servers if not ip_address(server.split("%")[0]).is_loopback]
        if reachable:
            return reachable[:MAX_NAMESERVERS]
    return [str(gateway)]
