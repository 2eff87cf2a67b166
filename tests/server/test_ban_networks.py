"""fail2ban counts networks of IPv6, and never one that has an exempt address in it."""

from types import SimpleNamespace
from typing import Any

import pytest

from mailkeep_server.ban_networks import ban_networks, count_networks, find_target, remember_networks, target_finder

OWN = ["127.0.0.0/8", "::1", "198.51.100.74", "2001:db8:100:64::10", "2001:db8:5::/48", "mail.example.org"]
FINDER = target_finder(lambda _: OWN, str)


def count(jail: str, *addresses: str) -> list[str]:
    def find_failure(_: Any, line: str, date: float) -> list[list[Any]]:
        assert (line, date) == ("line", 1.0)
        return [[0, address, date, {}] for address in addresses]

    wrapped = count_networks(find_failure, FINDER)
    return [failure[1] for failure in wrapped(SimpleNamespace(jailName=jail), "line", date=1.0)]


def put_ticket(jail: str, address: str) -> str:
    put: list[str] = []
    ticket = SimpleNamespace(getID=lambda: address, setID=put.append)
    wrapped = remember_networks(lambda _, argument: put.append("put" if argument is ticket else "another"), FINDER)
    wrapped(SimpleNamespace(filter=SimpleNamespace(jailName=jail)), ticket)
    assert put.pop() == "put"
    return put.pop()


def ban_by_hand(jail: str, addresses: str | list[str]) -> list[str]:
    actions = SimpleNamespace(_jail=SimpleNamespace(filter=SimpleNamespace(jailName=jail)))
    return list(ban_networks(lambda owner, banned: banned if owner is actions else [], FINDER)(actions, addresses))


@pytest.mark.parametrize("jail", ["sshd", "postfix", "dovecot", "managesieve", "recidive"])
def test_our_jails_count_the_network_of_an_address(jail: str) -> None:
    addresses = ("2001:db8:7:7::1", "2001:db8:7:7:a:b:c:d", "192.0.2.1")
    assert count(jail, *addresses) == ["2001:db8:7:7::/64", "2001:db8:7:7::/64", "192.0.2.1"]


def test_recidive_counts_the_networks_that_others_have_banned() -> None:
    targets = ("2001:db8:7:7::/64", "2001:db8:100:64::/124", "192.0.2.1", "64:ff9b::c000:201")
    assert count("recidive", *targets) == [*targets]


def test_jails_of_the_operators_count_as_they_did() -> None:
    assert count("mine", "2001:db8:7:7::1") == ["2001:db8:7:7::1"]
    assert put_ticket("mine", "2001:db8:7:7::1") == "2001:db8:7:7::1"
    assert ban_by_hand("mine", "2001:db8:7:7::1") == ["2001:db8:7:7::1"]


def test_remembered_bans_and_bans_by_hand_are_networks_too() -> None:
    """nft refuses a network while an address of it is in the set: its guessers would go on."""
    assert put_ticket("sshd", "2001:db8:7:7::1") == "2001:db8:7:7::/64"
    assert ban_by_hand("sshd", "2001:db8:7:7::1") == ["2001:db8:7:7::/64"]
    assert ban_by_hand("sshd", ["2001:db8:7:7::1", "192.0.2.1"]) == ["2001:db8:7:7::/64", "192.0.2.1"]


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("2001:db8:100:64::5", "2001:db8:100:64::/124"),
        ("2001:db8:100:64::11", "2001:db8:100:64::11"),
        ("2001:db8:100:64:8000::1", "2001:db8:100:64:8000::/65"),
        ("2001:db8:5:1::1", "2001:db8:5:1::/64"),  # exempt as a whole, which fail2ban sees
    ],
)
def test_a_neighbour_of_an_exempt_address_is_banned_without_it(address: str, target: str) -> None:
    """Some providers put many customers into one /64. A ban must not hit the server itself, which reaches itself."""
    assert find_target(address, OWN) == target


@pytest.mark.slow
def test_a_network_around_exempt_addresses_has_few_parts() -> None:
    """So a guesser in the server's own network gets at most some sixty times the tries."""
    parts = {
        find_target(f"2001:db8:100:64:{part:x}::{host:x}", OWN) for part in (0, 1, 9, 77, 0xFFFF) for host in range(99)
    }
    assert len(parts) < 20
