"""The aliases of a foreign server: /etc/aliases, virtual maps, tables; and where each leads in the new inventory."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pydantic_core import PydanticCustomError

from mailkeep.moving_in.observed import Observed, Rows, read_sqlite
from mailkeep.moving_in.postfix_config import join_lines, read_map_rows, split_list
from mailkeep.moving_in.server_names import ServerNames
from mailkeep.settings.fields import parse_mailbox, parse_own_mailbox

ROLES = ("postmaster", "abuse")
# Of the packages' /etc/aliases: they lead to root, whose mail the administrators get.
_SYSTEM = """
mailer-daemon nobody hostmaster usenet news webmaster www ftp noc security root uucp daemon bin sys adm lp games list
irc gnats man proxy backup sync dumper decode manager operator toor amanda clamav logcheck
"""
_SYSTEM_NAMES = frozenset(_SYSTEM.split())


@dataclass(frozen=True, slots=True)
class Alias:
    """As the old server has it. `name` is an address, `@DOMAIN`, or of /etc/aliases a name without a domain."""

    name: str
    targets: tuple[str, ...]
    source: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A line of the old server that has no counterpart, and why."""

    line: str
    reason: str


@dataclass(frozen=True)
class NewAliases:
    """What goes into mail.yml, by address or domain. `root` are the addresses that get the host's own mail."""

    aliases: Mapping[str, tuple[str, ...]]
    catch_all: Mapping[str, str]
    left_out: tuple[LeftOut, ...]
    root: tuple[str, ...]


def read_aliases(observed: Observed, parameters: Mapping[str, str]) -> list[Alias]:
    """From all sources, each once; the later of two of the same name adds its targets."""
    rows = [
        *_read_local_aliases(observed, parameters),
        *_read_virtual_maps(observed, parameters),
        *_read_docker_mailserver(observed),
        *_read_tables(observed),
    ]
    merged: dict[str, Alias] = {}
    for alias in rows:
        former = merged.get(alias.name.lower())
        targets = tuple(dict.fromkeys((*(former.targets if former else ()), *alias.targets)))
        merged[alias.name.lower()] = Alias(alias.name, targets, former.source if former else alias.source)
    return list(merged.values())


def list_alias_domains(aliases: Iterable[Alias]) -> list[str]:
    return list(dict.fromkeys(alias.name.lower().rpartition("@")[2] for alias in aliases if "@" in alias.name))


def _read_local_aliases(observed: Observed, parameters: Mapping[str, str]) -> Iterator[Alias]:
    """aliases(5): `name: target, target`. A command is quoted, with commas perhaps."""
    configured = re.findall(r"(?:hash|btree|texthash|lmdb|cdb|dbm):(\S+?),?(?:\s|$)", parameters.get("alias_maps", ""))
    for path in dict.fromkeys(("/etc/aliases", *configured)):
        for line in join_lines(observed.read_text(path)):
            name, colon, rest = line.partition(":")
            targets = [target.strip().strip('"') for target in re.findall(r'(?:"[^"]*"|[^,"])+', rest)]
            if colon and any(targets):
                yield Alias(name.strip().strip('"'), tuple(target for target in targets if target), path)


def _read_virtual_maps(observed: Observed, parameters: Mapping[str, str]) -> Iterator[Alias]:
    for row in read_map_rows(observed, parameters.get("virtual_alias_maps", "")):
        if "@" in row.key:
            yield Alias(row.key, tuple(split_list(row.value)), row.file)


def _read_docker_mailserver(observed: Observed) -> Iterator[Alias]:
    for path in observed.files:
        if path.endswith(("/postfix-virtual.cf", "/postfix-aliases.cf")):
            separator = ":" if path.endswith("aliases.cf") else " "
            for line in join_lines(observed.read_text(path)):
                name, _, rest = line.partition(separator)
                if rest.strip():
                    yield Alias(name.strip(), tuple(split_list(rest)), path)


def _read_tables(observed: Observed) -> Iterator[Alias]:
    for name, rows in observed.tables.items():
        yield from _read_table(name.rpartition("/")[2], rows, name)
    for path in observed.files:
        for table, rows in read_sqlite(observed, path).items():
            yield from _read_table(table, rows, path)


def _read_table(table: str, rows: Rows, source: str) -> Iterator[Alias]:
    """As Mail-in-a-Box, mailcow, iRedMail, PostfixAdmin and guides have it. A mailbox's own address is no alias."""
    for row in rows:
        if row.get("active", "1") in ("0", "f") or row.get("enabled", "1") == "0":
            continue
        if table in ("alias", "aliases", "virtual_aliases"):
            name = row.get("source") or row.get("address") or ""
            targets = split_list(row.get("destination") or row.get("goto") or "")
        elif table == "forwardings":
            name = row.get("address") or row.get("source") or ""
            targets = split_list(row.get("forwarding") or row.get("destination") or "")
        elif table == "alias_domain":
            name, targets = f"@{row.get('alias_domain', '')}", [f"@{row.get('target_domain', '')}"]
        else:
            return
        if "@" in name and targets and targets != [name]:
            yield Alias(name, tuple(targets), source)


def translate_aliases(
    old: Iterable[Alias], names: ServerNames, accounts: frozenset[str], system_users: frozenset[str]
) -> NewAliases:
    """`accounts` are the addresses that become accounts, `system_users` the Linux accounts that are no people."""
    old = list(old)
    translation = _Translation(names, accounts, system_users)
    for alias in old:
        translation.add(alias)
    aliases, left_out = _drop_dead_targets(translation, accounts, names)
    root = next((alias.targets for alias in old if alias.name.lower() == "root"), ())
    root_targets = [translation.resolve(target) for target in root]
    known = accounts | aliases.keys()
    living = [
        target
        for target in root_targets
        if target and (target in known or target.rpartition("@")[2] not in (*names.domains, names.host))
    ]
    return NewAliases(aliases, translation.catch_all, tuple(left_out), tuple(living))


class _Translation:
    """Gathers the rows of mail.yml."""

    def __init__(self, names: ServerNames, accounts: frozenset[str], system_users: frozenset[str]) -> None:
        self.names, self.accounts, self.system_users = names, accounts, system_users
        self.aliases: dict[str, tuple[str, ...]] = {}
        self.catch_all: dict[str, str] = {}
        self.left_out: list[LeftOut] = []

    def add(self, alias: Alias) -> None:
        line = f"{alias.name}: {', '.join(alias.targets)}"
        local_part, _, domain = (
            alias.name.lower().rpartition("@") if "@" in alias.name else (alias.name.lower(), "", "")
        )
        if not domain and self._is_the_hosts_own(local_part, alias):
            return
        if domain and domain not in self.names.domains:
            if domain not in (self.names.host, "localhost"):
                self.left_out.append(LeftOut(line, f"{domain} is no mail domain of the old server"))
            return
        targets = [target for target in map(self.resolve, alias.targets) if target]
        if unusable := [target for target in alias.targets if not self.resolve(target)]:
            reason = _explain_unusable(unusable[0])
            self.left_out.append(LeftOut(line, reason))
        if domain and not local_part:
            self._add_whole_domain(domain, targets, line)
        elif targets:
            self._add_address(f"{local_part}@{domain or self.names.primary}", targets, line)

    def resolve(self, target: str) -> str:
        """The address, or `@DOMAIN`; "" if it is a command, a file or a list."""
        if target.startswith(("|", "/", ":", '"')) or not target.isascii():
            return ""
        local_part, at, domain = target.lstrip("\\").rpartition("@") if "@" in target else (target.lstrip("\\"), "", "")
        domain = domain.lower()
        if not at or domain in ("localhost", self.names.host):
            domain = self.names.primary
        if domain in self.names.domains:
            local_part = local_part.lower()
        address = f"{local_part}@{domain}"
        return address if not local_part or _is_address(address) else ""

    def _is_the_hosts_own(self, name: str, alias: Alias) -> bool:
        """Mail to the packages' users is the host's own: on the new server, the administrators get it."""
        leads_to_root = all(target.lower() in _SYSTEM_NAMES | {"root", "postmaster"} for target in alias.targets)
        return name == "root" or (name in _SYSTEM_NAMES | self.system_users and name not in ROLES) or leads_to_root

    def _add_whole_domain(self, domain: str, targets: list[str], line: str) -> None:
        if len(targets) == 1 and targets[0].startswith("@"):
            other = targets[0][1:]
            for address in [*self.accounts, *self.aliases]:
                if address.endswith(f"@{other}"):
                    self._add_address(f"{address.rpartition('@')[0]}@{domain}", [address], line)
        elif len(targets) == 1 and domain not in self.catch_all:
            self.catch_all[domain] = targets[0]
        else:
            self.left_out.append(LeftOut(line, "a catch-all leads to exactly one address"))

    def _add_address(self, address: str, targets: list[str], line: str) -> None:
        targets = [target for target in dict.fromkeys(targets) if not target.startswith("@")]
        if address in self.accounts:
            if others := [target for target in targets if target != address]:
                reason = f"{address} is an account: its owner forwards to {', '.join(others)} with a Sieve script"
                self.left_out.append(LeftOut(line, reason))
            return
        try:
            self.aliases[parse_own_mailbox(address)] = tuple(targets)
        except PydanticCustomError as error:
            self.left_out.append(LeftOut(line, f"expected {(error.context or {}).get('expected')}"))


def _explain_unusable(target: str) -> str:
    kinds = {"|": "a command", "/": "a file", ":": "a list of its own"}
    return f"{kinds.get(target[:1], 'no address')} ({target}) cannot get mail here"


def _is_address(address: str) -> bool:
    try:
        parse_mailbox(address)
    except PydanticCustomError:
        return False
    return True


def _drop_dead_targets(
    translation: _Translation, accounts: frozenset[str], names: ServerNames
) -> tuple[dict[str, tuple[str, ...]], list[LeftOut]]:
    """Aliases that lead to nobody, or only to themselves, would be refused. What leads to them goes too."""
    aliases, left_out = dict(translation.aliases), list(translation.left_out)
    while True:
        living = accounts | _find_living(aliases, accounts, translation.catch_all, names)
        dead = {name: targets for name, targets in aliases.items() if name not in living}
        partly = {
            name: tuple(target for target in targets if not _is_alive(target, living, translation.catch_all, names))
            for name, targets in aliases.items()
            if name in living
        }
        for name, targets in dead.items():
            left_out.append(LeftOut(f"{name}: {', '.join(targets)}", "it leads to no account of this file"))
            del aliases[name]
        for name, lost in partly.items():
            if lost:
                left_out.append(LeftOut(f"{name}: {', '.join(lost)}", f"of {name}, this target leads to no account"))
                aliases[name] = tuple(target for target in aliases[name] if target not in lost)
        if not dead and not any(partly.values()):
            break
    for domain, target in list(translation.catch_all.items()):
        if target.rpartition("@")[2] in names.domains and target not in accounts | aliases.keys():
            left_out.append(LeftOut(f"@{domain}: {target}", "the catch-all leads to no account of this file"))
            del translation.catch_all[domain]
    return aliases, left_out


def _find_living(
    aliases: Mapping[str, tuple[str, ...]], accounts: frozenset[str], catch_all: Mapping[str, str], names: ServerNames
) -> set[str]:
    """Aliases of which a target is an account, elsewhere, or such an alias; so no loop is among them."""
    living = set(accounts)
    while True:
        more = {
            name
            for name, targets in aliases.items()
            if name not in living and any(_is_alive(target, living, catch_all, names) for target in targets)
        }
        if not more:
            return living
        living |= more


def _is_alive(target: str, living: Iterable[str], catch_all: Mapping[str, str], names: ServerNames) -> bool:
    domain = target.rpartition("@")[2]
    return target in living or domain in catch_all or domain not in (*names.domains, names.host)
