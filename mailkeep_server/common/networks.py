"""What counts as one network: who has one address of it may easily have the others."""

from functools import lru_cache
from ipaddress import ip_address


@lru_cache(4096)
def network_of(client: str) -> str:
    """A /24, or the /48 that a site gets (RFC 6177). What is no address is a network of its own."""
    try:
        address = ip_address(client)
    except ValueError:
        return client[:64]
    length = 24 if address.version == 4 else 48
    kept = int(address) >> (address.max_prefixlen - length) << (address.max_prefixlen - length)
    return f"{type(address)(kept)}/{length}"
