"""Postfix of a foreign server: its parameters, its maps, and the domains for which it takes mail."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mailkeep.moving_in.observed import Observed
from mailkeep.settings.fields import DOMAIN

LOCAL = re.compile(r"localhost(\..*)?|.*\.(local|localdomain|lan|internal|home)")
_TEXT_MAP = re.compile(r"(?:hash|btree|texthash|lmdb|cdb|dbm):(\S+)")
_OTHER_MAP = re.compile(r"(pcre|regexp|ldap|pgsql|tcp|memcache|socketmap):(\S+)")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|\((\w+)\)|(\w+))")


@dataclass(frozen=True, slots=True)
class MapRow:
    """A line of a map: a key, and the rest of the line."""

    file: str
    key: str
    value: str


def read_parameters(observed: Observed) -> dict[str, str]:
    """As `postconf -n` prints them, or else as main.cf has them; with variables replaced."""
    text = observed.outputs.get("postconf") or observed.read_text("/etc/postfix/main.cf")
    raw: dict[str, str] = {}
    for line in join_lines(text):
        name, equals, value = line.partition("=")
        if equals:
            raw[name.strip()] = " ".join(value.split())
    host = observed.outputs.get("hostname", "").strip() or observed.read_text("/etc/hostname").strip()
    raw.setdefault("myhostname", host)
    raw.setdefault("mydomain", raw["myhostname"].partition(".")[2])
    raw.setdefault("myorigin", "$myhostname")
    if raw["myorigin"].startswith("/"):
        raw["myorigin"] = observed.read_text(raw["myorigin"]).strip() or raw["myhostname"]
    if text:  # Postfix is there, and this is its default
        raw.setdefault("mydestination", "$myhostname, localhost.$mydomain, localhost")
    return {name: _expand(value, raw) for name, value in raw.items()}


def _expand(value: str, parameters: Mapping[str, str], depth: int = 0) -> str:
    def replace(match: re.Match[str]) -> str:
        name = match[1] or match[2] or match[3]
        return _expand(parameters.get(name, ""), parameters, depth + 1)

    return _VARIABLE.sub(replace, value) if depth < 8 else value


def join_lines(text: str) -> Iterator[str]:
    """Logical lines: one that begins with space continues the one before (postconf(5))."""
    line = ""
    for physical in text.splitlines():
        if not physical.strip() or physical.lstrip().startswith("#"):
            continue
        if physical[0] in " \t":
            line += " " + physical.strip()
            continue
        if line:
            yield line
        line = physical
    if line:
        yield line


def split_list(value: str) -> list[str]:
    return [item for item in re.split(r"[,\s]+", value) if item]


def read_map_rows(observed: Observed, value: str) -> Iterator[MapRow]:
    """The lines of all text maps that a parameter's value names."""
    for file in _TEXT_MAP.findall(value.replace(",", " ")):
        for line in join_lines(observed.read_text(file)):
            words = line.split(None, 1)
            if len(words) == 2:
                yield MapRow(file, words[0], words[1].strip())


def list_unreadable_maps(observed: Observed, parameters: Mapping[str, str]) -> list[str]:
    """Maps of addresses that are patterns, or in a database that was not read; and files that were too large."""
    names = ("virtual_alias_maps", "virtual_mailbox_maps", "alias_maps", "virtual_mailbox_domains", "mydestination")
    maps = [f"{name}: {kind}:{path}" for name in names for kind, path in _OTHER_MAP.findall(parameters.get(name, ""))]
    return maps + [f"{path}: too large" for path in observed.large]


def list_domains(observed: Observed, parameters: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The domains whose addresses are those of Linux accounts, and the virtual ones. Not the host's own name."""
    local = [name for name in _read_domain_list(observed, parameters.get("mydestination", "")) if is_domain(name)]
    virtual = [
        name
        for parameter in ("virtual_alias_domains", "virtual_mailbox_domains")
        for name in _read_domain_list(observed, parameters.get(parameter, ""))
        if is_domain(name)
    ]
    for row in read_map_rows(observed, parameters.get("virtual_alias_maps", "")):
        if "@" not in row.key and is_domain(row.key.lower()):
            virtual.append(row.key.lower())  # `example.org anything` (virtual(5))
    return list(dict.fromkeys(local)), list(dict.fromkeys(virtual))


def _read_domain_list(observed: Observed, value: str) -> Iterator[str]:
    for item in split_list(value):
        if match := _TEXT_MAP.fullmatch(item):
            yield from (row.key.lower() for row in read_map_rows(observed, match[0]))
        elif item.startswith("/"):
            yield from (name.lower() for name in split_list(observed.read_text(item)))
        elif ":" not in item:
            yield item.lower()


def is_domain(name: str) -> bool:
    return bool(re.fullmatch(DOMAIN, name)) and not LOCAL.fullmatch(name)
