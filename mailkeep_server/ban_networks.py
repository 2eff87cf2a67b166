"""fail2ban, with one thing changed: Mailkeep's jails count and ban the /64 that an IPv6 address belongs to.

A customer gets at least a /64 (RFC 6177). So a guesser has another address for each password. fail2ban has no setting
for networks: it counts what a filter finds in a line. So this program wraps three of its methods, and then runs its
main function. It imports fail2ban, which is what it runs in. `mailkeep-jails.service` proves every half hour that the
jails count networks. If an upgrade of fail2ban undoes this, it alerts.

Bans that the database remembers, and bans by hand, close the network too. Version 0.1.0 banned addresses, and nft
refuses a network while one of its addresses is in the set.

Jails of the operator's count as fail2ban does: their actions may not know networks.
"""

import sys
from collections.abc import Callable, Iterable
from ipaddress import IPv6Network, ip_network
from typing import Any

from mailkeep_server.common.networks import BAN_PREFIX, ban_target

JAILS = frozenset({"sshd", "postfix", "dovecot", "managesieve", "recidive"})


def main(arguments: list[str]) -> int:
    """Runs fail2ban-server with these arguments, in the foreground; it exits by itself."""
    from fail2ban.client import fail2banserver  # type: ignore[import-not-found]
    from fail2ban.server.actions import Actions  # type: ignore[import-not-found]
    from fail2ban.server.filter import Filter  # type: ignore[import-not-found]
    from fail2ban.server.ipdns import DNSUtils, IPAddr  # type: ignore[import-not-found]
    from fail2ban.server.jail import Jail  # type: ignore[import-not-found]

    def list_exempt(jail_filter: Any) -> list[str]:
        own_addresses = DNSUtils.getSelfIPs() if jail_filter.ignoreSelf else ()
        return [str(address) for address in (*jail_filter.getIgnoreIP(), *own_addresses)]

    find_jail_target = target_finder(list_exempt, IPAddr)
    for owner, name, wrap in (
        (Filter, "findFailure", count_networks),
        (Jail, "putFailTicket", remember_networks),
        (Actions, "addBannedIP", ban_networks),
    ):
        if method := getattr(owner, name, None):
            setattr(owner, name, wrap(method, find_jail_target))
        else:  # bans of single addresses are better than none; the proof tells
            print(f"This fail2ban has no {owner.__name__}.{name}: its jails take single addresses", file=sys.stderr)
    sys.argv = ["/usr/bin/fail2ban-server", *arguments]
    fail2banserver.exec_command_line(sys.argv)
    return 0


FindTarget = Callable[[Any, Any], Any]
"""Gives what to ban, for a jail's filter and an address."""


def target_finder(list_exempt: Callable[[Any], Iterable[str]], parse_address: Callable[[str], Any]) -> FindTarget:
    """Finds the network for Mailkeep's jails; for others, the address itself."""

    def find_jail_target(jail_filter: Any, address: Any) -> Any:
        text = str(address)
        if jail_filter.jailName not in JAILS or ":" not in text:
            return address
        target = find_target(text, list_exempt(jail_filter))
        return address if target == text else parse_address(target)

    return find_jail_target


def count_networks(find_failure: Callable[..., list[list[Any]]], find_jail_target: FindTarget) -> Callable[..., Any]:
    """A method in place of `find_failure`. Its failures are lists: number of the pattern, address, time, data."""

    def find_failure_of_network(jail_filter: Any, *arguments: Any, **options: Any) -> list[list[Any]]:
        failures = find_failure(jail_filter, *arguments, **options)
        for failure in failures:
            failure[1] = find_jail_target(jail_filter, failure[1])
        return failures

    return find_failure_of_network


def remember_networks(put_ticket: Callable[..., Any], find_jail_target: FindTarget) -> Callable[..., Any]:
    """A method in place of `put_ticket`."""

    def put_ticket_of_network(jail: Any, ticket: Any) -> Any:
        ticket.setID(find_jail_target(jail.filter, ticket.getID()))
        return put_ticket(jail, ticket)

    return put_ticket_of_network


def ban_networks(add_banned: Callable[..., Any], find_jail_target: FindTarget) -> Callable[..., Any]:
    """A method in place of `add_banned`, which takes one address or a list."""

    def add_banned_networks(actions: Any, addresses: Any) -> Any:
        if not isinstance(addresses, list):
            addresses = [addresses]
        return add_banned(actions, [find_jail_target(actions._jail.filter, address) for address in addresses])

    return add_banned_networks


def find_target(address: str, exempt: Iterable[str]) -> str:
    """The network to ban for this IPv6 address: its /64, or the widest part of it without an exempt address. The
    server's own and an administrator's must not be banned with a neighbour. Such parts never overlap, as nft needs."""
    target = ban_target(address)
    if target == address:  # a network as well, which recidive reads in fail2ban's log
        return address
    inside = [network for network in _parse_networks(exempt) if IPv6Network(target).supernet_of(network)]
    for length in range(BAN_PREFIX, 128):
        part = IPv6Network((address, length), strict=False)
        if not any(part.supernet_of(network) for network in inside):
            return str(part)
    return address


def _parse_networks(texts: Iterable[str]) -> Iterable[IPv6Network]:
    for text in texts:
        try:
            network = ip_network(text.partition("%")[0], strict=False)
        except ValueError:  # a name
            continue
        if isinstance(network, IPv6Network):
            yield network
