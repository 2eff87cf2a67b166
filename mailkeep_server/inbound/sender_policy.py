"""SPF (RFC 7208) for the envelope sender, by pyspf. It asks the DNS by the message's own lookups."""

import contextvars
from dataclasses import dataclass
from ipaddress import ip_address

from mailkeep_server.common.dns_query import split_strings
from mailkeep_server.inbound.libraries import spf
from mailkeep_server.inbound.lookups import LookupFailedError, Lookups

_lookups: contextvars.ContextVar[Lookups] = contextvars.ContextVar("lookups")


@dataclass(frozen=True)
class SpfResult:
    """`identity` is `mailfrom`, or `helo` where the sender is empty (section 2.4)."""

    result: str
    domain: str
    identity: str


def _look_up(
    name: str, record_type: str, _is_strict: object = True, _timeout: float = 0
) -> list[tuple[object, object]]:
    """In the form of pyspf's own drivers. A type that nobody publishes any more (SPF) has no records."""
    if record_type not in ("A", "AAAA", "MX", "PTR", "TXT"):
        return []
    try:
        data = _lookups.get().look_up(str(name), record_type)
    except LookupFailedError as error:
        raise spf.TempError(f"DNS {error}") from None
    return [((name, record_type), _decode_data(item, record_type)) for item in data]


def _decode_data(data: bytes, record_type: str) -> object:
    if record_type in ("A", "AAAA"):
        return str(ip_address(data))
    if record_type == "MX":
        return int.from_bytes(data[:2]), data[2:].decode("ascii", "replace")
    if record_type == "PTR":
        return data.decode("ascii", "replace")
    return tuple(split_strings(data))


spf.DNSLookup = _look_up


def check_sender(client: str, sender: str, helo: str, lookups: Lookups) -> SpfResult:
    """`client` is an IP address, `sender` the envelope sender, which may be empty."""
    domain = sender.rpartition("@")[2] if sender else helo
    domain = domain.lower().removesuffix(".")
    identity = "mailfrom" if sender else "helo"
    _lookups.set(lookups)
    try:
        query = spf.query(i=client, s=sender, h=helo)
        query.set_default_explanation("")
        result = query.check()[0]
    except Exception:  # what pyspf raises for malformed names and records is not declared
        result = "permerror"
    return SpfResult(result, domain, identity)
