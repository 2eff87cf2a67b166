"""Whom mail to an address reaches: aliases, aliases of aliases and catch-alls, followed as Postfix does (virtual(5)).

Both sides use it: the guard counts who is reached, and `mailkeep` knows the lists that a server has.
"""

from collections.abc import Container, Iterable, Mapping, Sequence

from mailkeep_server.common.addresses import owner_address
from mailkeep_server.common.alias_patterns import AliasPatterns


class AliasReach:
    """All addresses are lower case, and aliases may be patterns. `catch_all` is by domain. `domains` are those of this
    server: mail to any other leaves it."""

    def __init__(
        self,
        aliases: Mapping[str, Sequence[str]],
        catch_all: Mapping[str, str],
        accounts: Container[str],
        domains: Container[str],
    ) -> None:
        self.aliases, self.catch_all = aliases, catch_all
        self._accounts, self._domains = accounts, domains
        self._patterns = AliasPatterns(aliases)
        self._members: dict[str, tuple[str, ...]] = {}
        """By alias or catch-all, once it was asked for."""

    def find_list(self, address: str) -> str:
        """The alias that mail to this address goes through, or the catch-all, as `@DOMAIN`; "" if neither."""
        address = address.lower()
        if address in self.aliases:
            return address
        plain = owner_address(address) if "@" in address else address
        if plain in self.aliases:
            return plain
        if plain in self._accounts:
            return ""
        domain = plain.rpartition("@")[2]
        return self._patterns.find(plain) or (f"@{domain}" if domain in self.catch_all else "")

    def expand(self, address: str) -> tuple[str, ...]:
        """The addresses that mail to this one reaches in the end, each once; the address itself if it is no alias."""
        name = self.find_list(address)
        return self.members_of(name) if name else (address.lower(),)

    def expand_all(self, addresses: Iterable[str]) -> set[str]:
        """Everybody whom one message to all of these reaches."""
        return {member for address in addresses for member in self.expand(address)}

    def members_of(self, name: str) -> tuple[str, ...]:
        """`name` is as `find_list` returns it."""
        if (members := self._members.get(name)) is None:
            members = self._members[name] = self._collect_members(name)
        return members

    def _collect_members(self, name: str) -> tuple[str, ...]:
        """Each list on the way is followed once, so a loop ends."""
        members: dict[str, None] = {}
        followed, waiting = {name}, [name]
        while waiting:
            for target in self._targets_of(waiting.pop()):
                following = self.find_list(target)
                if not following:
                    members[target.lower()] = None
                elif following not in followed:
                    followed.add(following)
                    waiting.append(following)
        return tuple(members)

    def _targets_of(self, name: str) -> Sequence[str]:
        return (self.catch_all[name[1:]],) if name.startswith("@") else self.aliases[name]

    def is_elsewhere(self, address: str) -> bool:
        """Whether mail to this address leaves the server."""
        domain = address.rpartition("@")[2]
        return "@" in address and domain not in self._domains

    def count_elsewhere(self, name: str) -> int:
        """The members of a list to whom mail leaves the server."""
        return sum(map(self.is_elsewhere, self.members_of(name)))
