"""The proof that fail2ban's jails ban, from the service's log to the dropped packet.

A jail can look healthy, list its bans and have no firewall rule: in one incident, one had been so for a year. Another
looks healthy and no longer reads the log. So a canary, an address that nobody has, is refused by the jail's service.
The jail must notice it, ban it after as many failures as declared, and have its packets dropped.

`mailkeep-jails.service` proves the jails every half hour, and `mailkeep verify` sends this package with its probe.

Canaries are addresses of the documentation networks (RFC 5737, RFC 3849), which no client has. None may come back
within a day. The recidive jail counts the bans of all other jails, and takes an address for an offender after three.
"""

import fcntl
import ipaddress
import json
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mailkeep_server.common import ban_proof, paths
from mailkeep_server.common.ban_proof import COMMAND_TIMEOUT, ERRORS, BanProof, Canary, JailRules, read_fail2ban_log
from mailkeep_server.common.commands import run
from mailkeep_server.common.fail2ban_socket import ask_fail2ban, list_jails
from mailkeep_server.common.files import atomic_write, open_lock
from mailkeep_server.common.networks import is_in_networks
from mailkeep_server.common.own_addresses import is_local_address

LOCK = Path(paths.JAIL_PROOF_LOCK)
IN_USE = Path(paths.JAIL_CANARIES)
"""The IPv4 canaries of the last proof, a list in JSON: it may have ended before it unbanned them."""
NETWORKS = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")
USED_ELSEWHERE = ("192.0.2.1",)
"""The probe and the watch ask by which way a packet to this address would leave; a canary's packets stay here."""
NETWORK6 = ipaddress.IPv6Network("2001:db8:fa00::/40")
"""Dovecot lets a /48 with refused logins wait, up to 15 s (PENALTY_IPV6_MASK_BITS in its sources). So canaries that
follow each other have a /48 each."""
RETRY_SECONDS = 0.5
NOTICE_TIMEOUT = 15.0  # seconds in which a jail must notice a refusal; fail2ban reads the journal as it is written

RulesByJail = Mapping[str, JailRules]


@contextmanager
def lock_canaries() -> Iterator[None]:
    """Waits for its turn: one proof at a time has canaries banned."""
    with open_lock(LOCK) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def prove_jails(
    jails: RulesByJail,
    first: int,
    never_ban: Sequence[str],
    recently_banned: Collection[str] = (),
    *,
    start_timeout: float,
    tell_unproven: bool = False,
) -> dict[str, list[str]]:
    """By jail, what is wrong with it. Jails that fail2ban runs and `jails` does not name are proven too, from the ban
    on. Those that cannot be are left out; with `tell_unproven`, the reason is their fault. A jail has `start_timeout`
    seconds to start, and as many, at most NOTICE_TIMEOUT, to notice a refusal.

    Raises one of ERRORS if fail2ban is stopped, and ValueError if there is no address for a canary.
    """
    running = wait_for_jails(jails, start_timeout)
    _unban_leftovers(running)
    names = [*jails, *(jail for jail in running if jail not in jails)]
    canaries = choose_canaries(len(names), first, never_ban, recently_banned)
    with suppress(OSError):  # jails are proven on a full disk too; what bans are left then end by themselves
        atomic_write(IN_USE, json.dumps([v4 for v4, _ in canaries]), 0o600, durable=False)
    notice_timeout = min(start_timeout, NOTICE_TIMEOUT)

    def prove(jail: str, canary: Canary) -> list[str] | None:
        if jail not in running:
            return [f"jail {jail}: fail2ban does not run it"]
        proof = BanProof(jail, canary, _find_destinations(never_ban), notice_timeout)
        try:
            return list(proof.find_faults(jails[jail]) if jail in jails else proof.find_foreign_faults())
        except ban_proof.UnprovenError as error:
            return [f"jail {jail}: not proven: {error}"] if tell_unproven else None

    from concurrent.futures import ThreadPoolExecutor  # the watch needs none: it takes 1 MB

    with ThreadPoolExecutor(len(names)) as pool:
        proofs = zip(names, pool.map(prove, names, canaries), strict=True)
        return {jail: faults for jail, faults in proofs if faults is not None}


def _unban_leftovers(jails: Iterable[str]) -> None:
    """A proof that ends with the machine, or with fail2ban, leaves bans, and fail2ban restores them. Raises one of
    ERRORS."""
    in_use = _read_canaries_in_use()
    for jail in jails:
        targets = ask_fail2ban("get", jail, "banip", timeout=COMMAND_TIMEOUT)
        leftovers = [
            target for target in targets if target in in_use or is_in_networks(target.partition("/")[0], [NETWORK6])
        ]
        if leftovers:
            ask_fail2ban("set", jail, "unbanip", *leftovers, timeout=COMMAND_TIMEOUT)


def _read_canaries_in_use() -> set[str]:
    """Where the list is lost, the bans of that proof end by themselves."""
    try:
        return set(json.loads(IN_USE.read_text()))
    except (OSError, ValueError, TypeError):
        return set()


def choose_canaries(
    number: int, first: int, never_ban: Iterable[str], recently_banned: Collection[str] = ()
) -> list[Canary]:
    """The canaries number `first` and following of an endless row, which repeats after some hundred IPv4 addresses.

    None is in a documentation network that overlaps with `never_ban` (addresses and networks; in a lab, the server's
    own are documentation addresses too): fail2ban bans by hand any address that a command names. `recently_banned` ones
    are skipped as long as there are others. Raises ValueError if no address is left.
    """
    excluded = [ipaddress.ip_network(network) for network in never_ban]
    networks = [ipaddress.IPv4Network(network) for network in NETWORKS]
    free = [network for network in networks if not any(network.overlaps(other) for other in excluded)]
    hosts = [str(address) for network in free for address in network.hosts()]
    addresses = [address for address in hosts if address not in USED_ELSEWHERE]
    if not addresses:
        raise ValueError("no documentation address is left for a canary")
    row = [addresses[(first + n) % len(addresses)] for n in range(len(addresses))]
    fresh = [address for address in row if address not in recently_banned]
    chosen = fresh if len(fresh) >= number else row
    return [(chosen[n % len(chosen)], _choose_address6(first + n)) for n in range(number)]


def _choose_address6(number: int) -> str:
    """An address of the /48 with this number in NETWORK6; the last is followed by the first."""
    return str(NETWORK6[(number % 256) << 80 | int.from_bytes(os.urandom(10))])


def find_recent_canaries() -> set[str]:
    """The IPv4 canaries banned within a day, by fail2ban's journal; so far back the recidive jail counts."""
    prefixes = "|".join(network.rpartition(".")[0].replace(".", r"\.") for network in NETWORKS)
    lines = read_fail2ban_log("-1d", f" Ban ({prefixes})\\.")
    return {line.rpartition(" Ban ")[2].strip() for line in lines}


def wait_for_jails(jails: Iterable[str], timeout: float) -> list[str]:
    """The jails that fail2ban runs, once these are among them, or after `timeout` seconds.

    systemd calls fail2ban started before its jails run, and before it answers. Raises one of ERRORS, without waiting,
    if fail2ban is stopped.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            running = list_jails(timeout=COMMAND_TIMEOUT)
        except ERRORS:
            if _is_stopped():
                raise
            running = []
        if set(jails) <= set(running) or time.monotonic() >= deadline:
            return running
        time.sleep(RETRY_SECONDS)


def _is_stopped() -> bool:
    """Whether fail2ban does not run, and systemd has no job to start it: a restart stops it first."""
    show = ("systemctl", "show", "--property=ActiveState,Job", "fail2ban")
    return set(run(*show, timeout=COMMAND_TIMEOUT).split()) in (
        {"ActiveState=inactive", "Job="},
        {"ActiveState=failed", "Job="},
    )


def _find_destinations(never_ban: Iterable[str]) -> dict[int, str]:
    """By IP version, an address of this machine: a public one, if it has that itself, or loopback.

    No version that mail.yml declares no address of: Dovecot does not listen there.
    """
    declared = [
        address for address in never_ban if "/" not in address and not ipaddress.ip_address(address).is_loopback
    ]
    local = {
        ipaddress.ip_address(address).version: address for address in reversed(declared) if is_local_address(address)
    }
    versions = {ipaddress.ip_address(address).version for address in declared} or {4}
    return {version: local.get(version, ban_proof.LOOPBACK[version]) for version in versions}
