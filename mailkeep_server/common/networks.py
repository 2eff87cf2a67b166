"""What counts as one network: a client with one of its addresses may easily have the others."""

from functools import lru_cache
from ipaddress import ip_address


@lru_cache(4096)
def network_of(client: str) -> str:
    """An IPv4 address's /24, or the /48 that a site gets (RFC 6177). Text that is no address is its own network."""
    try:
        address = ip_address(client)
    except ValueError:
        return client[:64]
    length = 24 if address.version == 4 else 48
    host_bits = address.max_prefixlen - length
    return f"{type(address)(int(address) >> host_bits << host_bits)}/{length}"
