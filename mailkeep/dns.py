"""What the world should see: the DNS records of a server, each with the reason for it.

One list serves printing, publishing and checking. It needs the settings and the public halves of the DKIM keys, and no
host: the records can be published before the server exists.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from mailkeep.secrets import DkimKey, Secrets
from mailkeep.settings import Settings

Need = Literal["required", "recommended"]


@dataclass(frozen=True, slots=True)
class Record:
    """`name` is absolute, without the trailing dot. `value` is what the record says, TXT unquoted and in one piece."""

    need: Need
    name: str
    type: str
    value: str
    why: str

    def asdict(self) -> dict[str, str]:
        return asdict(self)


def records(settings: Settings, secrets: Secrets) -> list[Record]:
    """All records, the required ones first."""
    listed = [
        *_host(settings),
        *(record for domain in settings.domains for record in _domain(domain, settings)),
        *(_dkim(key) for key in secrets.dkim),
    ]
    return sorted(listed, key=lambda record: record.need != "required")


def reverse(settings: Settings) -> list[Record]:
    """PTR records, which only the hoster of the addresses can set (a field in its panel, mostly)."""
    why = "Large providers refuse mail from an address that does not name its host (RFC 1912 §2.1)."
    return [
        Record("required", address.reverse_pointer, "PTR", settings.host.name, why)
        for address in settings.host.addresses
    ]


def _host(settings: Settings) -> Iterator[Record]:
    name = settings.host.name
    for address in settings.host.addresses:
        yield Record("required", name, _type(address), str(address), "Where the server is (RFC 5321 §5.1).")
    yield Record(
        "required",
        name,
        "TXT",
        _spf(settings),
        "SPF for the HELO name, which is the sender of bounces (RFC 7208 §2.3).",
    )
    yield Record(
        "recommended", f"_dmarc.{name}", "TXT", "v=DMARC1; p=reject", "Nobody else writes as the host (RFC 7489 §6.3)."
    )


def _domain(domain: str, settings: Settings) -> Iterator[Record]:
    yield Record("required", domain, "MX", f"10 {settings.host.name}.", "Where mail to you goes (RFC 5321 §5.1).")
    yield Record("required", domain, "TXT", _spf(settings), "SPF: only this server sends for you (RFC 7208).")
    report = f"mailto:postmaster@{settings.host.name}"
    authorise = f"{domain}._report._dmarc.{settings.host.name}"
    yield Record(
        "required",
        f"_dmarc.{domain}",
        "TXT",
        f"v=DMARC1; p=reject; rua={report}",
        "DMARC: what is neither from here nor signed is refused, subdomains included (RFC 7489 §6.3).",
    )
    yield Record(
        "recommended", authorise, "TXT", "v=DMARC1", "Reports about the domain may go to the host (RFC 7489 §7.1)."
    )


def _dkim(key: DkimKey) -> Record:
    return Record(
        "required",
        f"{key.selector}._domainkey.{key.domain}",
        "TXT",
        f"v=DKIM1; h=sha256; k=rsa; s=email; p={key.public}",
        "DKIM: the key that your mail is signed with (RFC 6376 §3.6.1).",
    )


def _spf(settings: Settings) -> str:
    """A relay host sends in our place, so its own SPF counts too."""
    relay = f" include:{settings.relay.host}" if settings.relay else ""
    own = " ".join(f"ip{address.version}:{address}" for address in settings.host.addresses)
    return f"v=spf1 {own}{relay} -all"


def _type(address: IPv4Address | IPv6Address) -> str:
    return "A" if address.version == 4 else "AAAA"


def zone(listed: Iterable[Record]) -> str:
    """Lines of a zone file (RFC 1035 §5). TXT is cut into strings of at most 255 octets (§3.3)."""
    return "".join(f"{record.name}. 3600 IN {record.type} {_presented(record)}\n" for record in listed)


def _presented(record: Record) -> str:
    if record.type == "PTR":
        return f"{record.value}."
    if record.type != "TXT":
        return record.value
    pieces = (record.value[start : start + 255] for start in range(0, len(record.value), 255))
    return " ".join(f'"{piece}"' for piece in pieces)
