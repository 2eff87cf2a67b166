"""What counts as one network: a client with one of its addresses may easily have the others."""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address


@lru_cache(4096)
def network_of(client: str) -> str:
    """An IPv4 address's /24, or the /48 that a site gets (RFC 6177). Text that is no address is its own network."""
    return _cut_address(client, 24, 48)


@lru_cache(1024)
def wide_network_of(client: str) -> str:
    """What often belongs to one provider: an IPv4 address's /16, or an IPv6 address's /32."""
    return _cut_address(client, 16, 32)


def _cut_address(client: str, length4: int, length6: int) -> str:
    try:
        address = ip_address(client)
    except ValueError:
        return client[:64]
    length = length4 if address.version == 4 else length6
    host_bits = address.max_prefixlen - length
    return f"{type(address)(int(address) >> host_bits << host_bits)}/{length}"


def is_in_networks(client: str, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    """Text that is no address is in none."""
    try:
        address = ip_address(client)
    except ValueError:
        return False
    return any(address in network for network in networks)


BAN_PREFIX = 64
"""A customer has at least a /64 of IPv6 (RFC 6177), so a ban of less stops nobody. Postfix counts by it, too."""
SHARED = tuple(map(IPv6Network, ("64:ff9b::/32", "2001::/32", "fe80::/10", "::/64")))
"""Whose /64 belongs to many: IPv4 behind NAT64 (RFC 6052, RFC 8215), Teredo (RFC 4380), the link, the special ones."""


@lru_cache(4096)
def ban_target(address: str) -> str:
    """What a ban of this address must close: an IPv4 address, or the /64 of an IPv6 one. Text that is no address stays
    as it is, and so does a network."""
    try:
        client = IPv6Address(address)
    except ValueError:
        return address
    if any(client in network for network in SHARED):
        return address
    return str(IPv6Network((client, BAN_PREFIX), strict=False))
