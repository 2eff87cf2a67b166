"""The records as others want them: a zone file, a registrar's web form, octoDNS."""

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import yaml

from mailkeep.dns.records import Record
from mailkeep.dns.zones import registered

TTL = 3600  # seconds


def format_zone_file(listed: Iterable[Record]) -> str:
    """Lines of a zone file (RFC 1035 §5)."""
    return "".join(f"{record.name}. {TTL} IN {record.type} {presented(record)}\n" for record in listed)


def presented(record: Record) -> str:
    """The value as zone files have it: TXT is cut into strings of at most 255 octets (RFC 1035 §3.3)."""
    if record.type == "PTR":
        return f"{record.value}."
    if record.type != "TXT":
        return record.value
    pieces = (record.value[start : start + 255] for start in range(0, len(record.value), 255))
    return " ".join(f'"{piece}"' for piece in pieces)


def format_web_form(listed: Iterable[Record]) -> str:
    """A line a record, for web forms: the name within its zone, the type, and the value as one types it."""
    lines = []
    for domain, records in _by_zone(listed):
        lines.append(f"{domain}\n")
        lines += [
            f"  {_within(record.name, domain) or '@'}  {record.type}  {record.value.removesuffix('.')}\n"
            for record in records
        ]
    return "".join(lines)


def format_octodns(listed: Iterable[Record]) -> dict[str, str]:
    """By file name (ZONE.yaml), the records for octoDNS's YamlProvider."""
    return {f"{domain}.yaml": _octodns_zone(domain, records) for domain, records in _by_zone(listed)}


def _octodns_zone(domain: str, records: list[Record]) -> str:
    names: dict[str, list[dict[str, Any]]] = {}
    for (name, kind), same in groupby(sorted(records, key=_rrset), key=_rrset):
        values = [_octodns_value(record) for record in same]
        names.setdefault(_within(name, domain), []).append({"ttl": TTL, "type": kind, "values": values})
    ordered = {name: names[name] for name in sorted(names, key=_natural)}
    return str(yaml.safe_dump(ordered, sort_keys=False, width=float("inf")))


def _natural(name: str) -> list[str | int]:
    """octoDNS insists on this order of keys: www2 before www10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name)]


def _rrset(record: Record) -> tuple[str, str]:
    return record.name, record.type


def _octodns_value(record: Record) -> object:
    if record.type == "TXT":
        return record.value.replace(";", "\\;")
    if fields := _OCTODNS_FIELDS.get(record.type):
        return dict(sorted(zip(fields, map(_plain, record.value.split()), strict=True)))
    return record.value


_OCTODNS_FIELDS = {
    "MX": ("preference", "exchange"),
    "SRV": ("priority", "weight", "port", "target"),
    "CAA": ("flags", "tag", "value"),
    "TLSA": ("certificate_usage", "selector", "matching_type", "certificate_association_data"),
}


def _plain(word: str) -> int | str:
    return int(word) if re.fullmatch(r"[0-9]{1,5}", word) else word.strip('"')


def _by_zone(listed: Iterable[Record]) -> Iterator[tuple[str, list[Record]]]:
    """The records of each registered domain, in their order."""
    zones: dict[str, list[Record]] = {}
    for record in listed:
        zones.setdefault(registered(record.name), []).append(record)
    yield from zones.items()


def _within(name: str, domain: str) -> str:
    """`_dmarc` for `_dmarc.example.org` in `example.org`; empty for the domain itself."""
    return name.removesuffix(domain).removesuffix(".")
