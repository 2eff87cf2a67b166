"""fail2ban, with one thing changed: Mailkeep's jails count and ban the /64 that an IPv6 address belongs to.

A customer gets at least a /64 (RFC 6177). So a guesser has another address for each password. fail2ban has no setting
for networks: it counts what a filter finds in a line. So this program wraps `Filter.findFailure`, and then runs
fail2ban's main function. It imports fail2ban, which is what it runs in. `mailkeep-jails.service` proves every half hour
that the jails count networks. If an upgrade of fail2ban undoes this, it alerts.

Jails of the operator's count as fail2ban does: their actions may not know networks.
"""

import sys
from collections.abc import Callable, Iterable
from ipaddress import IPv6Network, ip_network
from typing import Any

from mailkeep_server.common.networks import BAN_PREFIX, ban_target

JAILS = frozenset({"sshd", "postfix", "dovecot", "recidive"})


def main(arguments: list[str]) -> int:
    """Runs fail2ban-server with these arguments, in the foreground; it exits by itself."""
    from fail2ban.client import fail2banserver  # type: ignore[import-not-found]
    from fail2ban.server.filter import Filter  # type: ignore[import-not-found]
    from fail2ban.server.ipdns import DNSUtils, IPAddr  # type: ignore[import-not-found]

    def list_exempt(jail_filter: Any) -> list[str]:
        own_addresses = DNSUtils.getSelfIPs() if jail_filter.ignoreSelf else ()
        return [str(address) for address in (*jail_filter.getIgnoreIP(), *own_addresses)]

    if find_failure := getattr(Filter, "findFailure", None):
        Filter.findFailure = count_networks(find_failure, list_exempt, IPAddr)
    else:  # bans of single addresses are better than none; the proof tells
        print("This fail2ban has no Filter.findFailure: its jails count single addresses of IPv6", file=sys.stderr)
    sys.argv = ["/usr/bin/fail2ban-server", *arguments]
    fail2banserver.exec_command_line(sys.argv)
    return 0


def count_networks(
    find_failure: Callable[..., list[list[Any]]],
    list_exempt: Callable[[Any], Iterable[str]],
    parse_address: Callable[[str], Any],
) -> Callable[..., list[list[Any]]]:
    """A method in place of `find_failure`. Its failures are lists: number of the pattern, address, time, data."""

    def find_failure_of_network(jail_filter: Any, *arguments: Any, **options: Any) -> list[list[Any]]:
        failures = find_failure(jail_filter, *arguments, **options)
        if jail_filter.jailName in JAILS:
            for failure in failures:
                address = str(failure[1])
                target = find_target(address, list_exempt(jail_filter)) if ":" in address else address
                if target != address:
                    failure[1] = parse_address(target)
        return failures

    return find_failure_of_network


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
