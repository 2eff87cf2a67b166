"""The addresses that this machine has, and those from which its packets leave."""

import socket
from collections.abc import Iterable
from ipaddress import ip_address, ip_network

DESTINATIONS = {4: "192.0.2.1", 6: "2001:db8:ffff::1"}
"""Documentation addresses: they take the route to the Internet, and no packet is sent."""
PRIVATE_NETWORKS = tuple(
    map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"))
)
"""Behind NAT (RFC 1918, RFC 6598, RFC 4193), the machine does not have its public address."""


def is_local_address(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family) as candidate:  # a kernel may have no IPv6 at all
            candidate.bind((address, 0))
    except OSError:
        return False
    return True


def find_source_address(version: int) -> str | None:
    """The address from which packets to the Internet leave; None without a route, or with link-local addresses alone:
    nothing comes back to them."""
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as udp:
            udp.connect((DESTINATIONS[version], 9))
            address = str(udp.getsockname()[0])
            return None if ip_address(address).is_link_local else address
    except OSError:
        return None


def find_packet_destinations(declared: Iterable[str]) -> list[str]:
    """The addresses at which this machine sees packets to the declared ones arrive: these themselves, or behind NAT
    those of the same IP version from which it sends."""
    versions = {address: ip_address(address).version for address in declared}
    destinations = [
        address if is_local_address(address) else find_source_address(version) or address
        for address, version in versions.items()
    ]
    return list(dict.fromkeys(destinations))


def is_private(address: str) -> bool:
    return any(ip_address(address) in network for network in PRIVATE_NETWORKS)


def find_missing_addresses(declared: Iterable[str]) -> dict[str, str]:
    """The declared addresses that this machine does not have; each with the one from which mail leaves instead, empty
    without a route. Behind NAT none can be judged from here."""
    missing = {}
    for address in declared:
        if is_local_address(address):
            continue
        source = find_source_address(ip_address(address).version) or ""
        if not source or not is_private(source):
            missing[address] = source
    return missing
