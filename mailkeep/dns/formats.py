"""The records as a zone file, for a registrar's web form, and for octoDNS."""

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import yaml

from mailkeep.dns.records import Record
from mailkeep.dns.zones import registered_domain

TTL = 3600  # seconds
MAX_STRING = 255  # octets of one string in a TXT record (RFC 1035 §3.3)


def format_zone_file(records: Iterable[Record]) -> str:
    """Lines of a zone file (RFC 1035 §5)."""
    return "".join(f"{record.name}. {TTL} IN {record.type} {_zone_file_value(record)}\n" for record in records)


def _zone_file_value(record: Record) -> str:
    if record.type == "PTR":
        return f"{record.value}."
    if record.type != "TXT":
        return record.value
    strings = (record.value[start : start + MAX_STRING] for start in range(0, len(record.value), MAX_STRING))
    return " ".join(f'"{string}"' for string in strings)


def format_web_form(records: Iterable[Record]) -> str:
    """One line for each record, as web forms want it: the name within its zone, the type, and the value as typed."""
    lines = []
    for domain, zone_records in _group_by_zone(records):
        lines.append(f"{domain}\n")
        lines += [
            f"  {_name_within(record.name, domain) or '@'}  {record.type}  {record.value.removesuffix('.')}\n"
            for record in zone_records
        ]
    return "".join(lines)


def format_octodns(records: Iterable[Record]) -> dict[str, str]:
    """The records for octoDNS's YamlProvider, by file name (ZONE.yaml)."""
    return {f"{domain}.yaml": _octodns_zone(domain, zone_records) for domain, zone_records in _group_by_zone(records)}


def _octodns_zone(domain: str, records: list[Record]) -> str:
    rrsets: dict[str, list[dict[str, Any]]] = {}
    for (name, record_type), group in groupby(sorted(records, key=_rrset_key), key=_rrset_key):
        values = [_octodns_value(record) for record in group]
        rrset = {"ttl": TTL, "type": record_type, "values": values}
        rrsets.setdefault(_name_within(name, domain), []).append(rrset)
    ordered = {name: rrsets[name] for name in sorted(rrsets, key=_natural_key)}
    return str(yaml.safe_dump(ordered, sort_keys=False, width=float("inf")))


def _natural_key(name: str) -> list[str | int]:
    """octoDNS insists on this order of keys: www2 before www10."""
    return [int(piece) if piece.isdigit() else piece for piece in re.split(r"([0-9]+)", name)]


def _rrset_key(record: Record) -> tuple[str, str]:
    return record.name, record.type


def _octodns_value(record: Record) -> object:
    if record.type == "TXT":
        return record.value.replace(";", "\\;")
    if fields := _OCTODNS_FIELDS.get(record.type):
        return dict(sorted(zip(fields, map(_octodns_field, record.value.split()), strict=True)))
    return record.value


_OCTODNS_FIELDS = {
    "MX": ("preference", "exchange"),
    "SRV": ("priority", "weight", "port", "target"),
    "CAA": ("flags", "tag", "value"),
    "TLSA": ("certificate_usage", "selector", "matching_type", "certificate_association_data"),
}


def _octodns_field(word: str) -> int | str:
    return int(word) if re.fullmatch(r"[0-9]{1,5}", word) else word.strip('"')


def _group_by_zone(records: Iterable[Record]) -> Iterator[tuple[str, list[Record]]]:
    """Each registered domain with its records, in their order."""
    zones: dict[str, list[Record]] = {}
    for record in records:
        zones.setdefault(registered_domain(record.name), []).append(record)
    yield from zones.items()


def _name_within(name: str, domain: str) -> str:
    """`_dmarc` for `_dmarc.example.org` in `example.org`; empty for the domain itself."""
    return name.removesuffix(domain).removesuffix(".")
