"""Who is banned: as fail2ban says, jail by jail, and as the firewall's sets say. Lifting a ban asks both."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
    summarize_address_range,
)
from typing import Any

from mailkeep_server.common import nft_ruleset
from mailkeep_server.common.commands import run
from mailkeep_server.common.fail2ban_socket import ask_fail2ban, list_jails

Network = IPv4Network | IPv6Network
NFT_TIMEOUT = 30.0  # seconds; a set may have 100,000 addresses
LIFT_TIMEOUT = 15.0  # seconds until the firewall has done what fail2ban was told
RETRY_SECONDS = 0.2
FAIL2BAN_TABLE = "f2b-table"
BLOCKS = ("mailkeep", "blocked")
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
REASONS = {
    "sshd": "failed logins by SSH",
    "dovecot": "wrong passwords by IMAP or submission",
    "managesieve": "wrong passwords by ManageSieve",
    "postfix": "abuse of SMTP: AUTH or VRFY again and again, or commands before the greeting",
    "recidive": "several bans in a day",
}
"""By jail of Mailkeep's. An operator's own jail has its reasons in its own configuration."""


@dataclass(frozen=True)
class Ban:
    """`since` and `until` are seconds since the epoch; `until` is None for a ban without an end."""

    jail: str
    target: str
    """An address, or a network of IPv6."""
    since: float
    until: float | None

    @property
    def is_ours(self) -> bool:
        return self.jail in REASONS

    @property
    def reason(self) -> str:
        return REASONS.get(self.jail, f"the jail {self.jail}, which is not Mailkeep's")


@dataclass(frozen=True)
class SetElement:
    """An entry of a set in the firewall."""

    family: str
    table: str
    set_name: str
    networks: tuple[Network, ...]
    text: str
    """As nft(8) takes it."""


def read_bans(**options: Any) -> list[Ban]:
    """All bans of all jails, those that end first first. Raises as `ask_fail2ban` does."""
    bans = [
        parse_ban(jail, line)
        for jail in list_jails(**options)
        for line in ask_fail2ban("get", jail, "banip", "--with-time", **options)
    ]
    return sorted(bans, key=lambda ban: (ban.until or float("inf"), ban.target))


def parse_ban(jail: str, line: str) -> Ban:
    """A line of fail2ban-client(1), `get JAIL banip --with-time`: `TARGET \\tSTART + SECONDS = END`, in local time."""
    target, _, times = line.partition("\t")
    since, _, rest = times.partition(" + ")
    seconds = int(rest.partition(" = ")[0])
    began = time.mktime(time.strptime(since.strip(), TIME_FORMAT))
    return Ban(jail, target.strip(), began, began + seconds if seconds >= 0 else None)


def read_elements() -> list[SetElement]:
    """The entries of all sets of the firewall. Raises OSError, RuntimeError or subprocess.TimeoutExpired."""
    sets = nft_ruleset.parse_ruleset(run("nft", "-j", "list", "sets", timeout=NFT_TIMEOUT)).sets
    return [element for nft_set in sets for element in _parse_elements(nft_set)]


def _parse_elements(nft_set: Mapping[str, Any]) -> Iterator[SetElement]:
    for entry in nft_set.get("elem", ()):
        value = entry["elem"]["val"] if isinstance(entry, dict) and "elem" in entry else entry
        if parsed := _parse_networks(value):
            networks, text = parsed
            yield SetElement(nft_set["family"], nft_set["table"], nft_set["name"], networks, text)


def _parse_networks(value: Any) -> tuple[tuple[Network, ...], str] | None:
    """None for what is no address, such as a port."""
    try:
        if isinstance(value, dict) and "range" in value:
            first, last = map(ip_address, value["range"])
            return tuple(summarize_address_range(first, last)), f"{first}-{last}"
        text = f"{value['prefix']['addr']}/{value['prefix']['len']}" if isinstance(value, dict) else str(value)
        return (ip_network(text),), text
    except (ValueError, KeyError, TypeError):
        return None


def covers(target: str, address: str) -> bool:
    """Whether a ban of `target` concerns this address or network. Text that is neither concerns its like."""
    try:
        banned, asked = ip_network(target, strict=False), ip_network(address, strict=False)
    except ValueError:
        return target == address
    return banned.version == asked.version and banned.overlaps(asked)


def element_covers(element: SetElement, address: str) -> bool:
    return any(covers(str(network), address) for network in element.networks)


def find_blocks(elements: Iterable[SetElement], address: str) -> list[SetElement]:
    """The entries of `firewall.block` in mail.yml that concern the address."""
    ours = (element for element in elements if (element.table, element.set_name[:-1]) == BLOCKS)
    return [element for element in ours if element_covers(element, address)]


def find_ban_elements(elements: Iterable[SetElement], address: str, jails: Iterable[str]) -> list[SetElement]:
    """The entries of these jails' sets, as fail2ban's action for nft names them, that concern the address."""
    names = {f"{prefix}-set-{jail}" for jail in jails for prefix in ("addr", "addr6")}
    ours = (element for element in elements if element.table == FAIL2BAN_TABLE and element.set_name in names)
    return [element for element in ours if element_covers(element, address)]


def lift_bans(bans: Sequence[Ban], address: str, jails: Sequence[str]) -> list[str]:
    """Has fail2ban forget these bans, and sees that the firewall has no entry left of these jails for the address.
    Returns the entries that fail2ban did not know of, and which are removed too.

    Raises as `ask_fail2ban` and `run` do; and RuntimeError for an entry that stays.
    """
    for ban in bans:
        ask_fail2ban("set", ban.jail, "unbanip", ban.target)
    deadline = time.monotonic() + LIFT_TIMEOUT
    while left := find_ban_elements(read_elements(), address, jails):
        if not bans or time.monotonic() >= deadline:
            break
        time.sleep(RETRY_SECONDS)
    for element in left:
        place = (element.family, element.table, element.set_name)
        run("nft", "delete", "element", *place, "{", element.text, "}", timeout=NFT_TIMEOUT)
    if still := find_ban_elements(read_elements(), address, jails):
        raise RuntimeError(f"Still in the firewall: {', '.join(element.text for element in still)}")
    return [f"{element.text} in {element.set_name}" for element in left]


def parse_address(text: str) -> str:
    """An address or network as fail2ban writes it. Raises ValueError for other text."""
    network = ip_network(text, strict=False)
    is_single = network.prefixlen == network.max_prefixlen
    address: IPv4Address | IPv6Address = network.network_address
    return str(address if is_single else network)
