"""The proof that fail2ban's jails ban: a canary is banned, looked for in nft's rules, and unbanned again.

A jail can look healthy, list its bans and have no firewall rule: in one incident, one had been so for a year.
`mailkeep-jails.service` proves the jails every half hour, and `mailkeep verify` sends this package with its probe.

Canaries are addresses of the documentation networks (RFC 5737, RFC 3849), which no client has. None may come back
within a day. The recidive jail counts the bans of all other jails, and takes an address for an offender after three.
"""

import fcntl
import ipaddress
import os
import subprocess
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from mailkeep_server.common import nft_ruleset, paths
from mailkeep_server.common.commands import run
from mailkeep_server.common.files import open_lock

LOCK = Path(paths.JAIL_PROOF_LOCK)
NETWORKS = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")
NETWORK6 = ipaddress.IPv6Network("2001:db8:fa11::/64")
COMMAND_TIMEOUT = 30.0  # seconds; fail2ban may be reading a flood of log lines before it answers
BAN_TIMEOUT = 10.0  # seconds until a ban, or its end, must have reached nft
RETRY_SECONDS = 0.5

Canary = tuple[str, str]
"""An IPv4 and an IPv6 address."""

PortsByJail = Mapping[str, Sequence[int] | None]
"""The ports that each jail closes to a banned address; None: all."""

ERRORS = (OSError, RuntimeError, subprocess.TimeoutExpired)


@contextmanager
def lock_canaries() -> Iterator[None]:
    """Waits for its turn: one proof at a time has canaries banned."""
    with open_lock(LOCK) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def prove_jails(
    jails: PortsByJail,
    first: int,
    never_ban: Iterable[str],
    recently_banned: Collection[str] = (),
    *,
    start_timeout: float,
) -> dict[str, list[str]]:
    """By jail, what is wrong with it. The other parameters are those of `choose_canaries` and `wait_for_jails`.

    Raises one of ERRORS if fail2ban is stopped, and ValueError if there is no address for a canary.
    """
    running = wait_for_jails(jails, start_timeout)
    canaries = choose_canaries(len(jails), first, never_ban, recently_banned)
    faults = {}
    for (jail, ports), canary in zip(jails.items(), canaries, strict=True):
        if jail in running:
            faults[jail] = list(find_ban_faults(jail, ports, canary))
        else:
            faults[jail] = [f"jail {jail}: fail2ban does not run it"]
    return faults


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
    addresses = [str(address) for network in free for address in network.hosts()]
    if not addresses:
        raise ValueError("no documentation address is left for a canary")
    row = [addresses[(first + n) % len(addresses)] for n in range(len(addresses))]
    fresh = [address for address in row if address not in recently_banned]
    chosen = fresh if len(fresh) >= number else row
    return [(chosen[n % len(chosen)], str(NETWORK6[int.from_bytes(os.urandom(8))])) for n in range(number)]


def find_recent_canaries() -> set[str]:
    """The IPv4 canaries banned within a day, by fail2ban's journal; so far back the recidive jail counts."""
    prefixes = "|".join(network.rpartition(".")[0].replace(".", r"\.") for network in NETWORKS)
    journal = ["journalctl", "--unit=fail2ban.service", "--output=cat", "--since=-1d", f"--grep= Ban ({prefixes})\\."]
    # journalctl ends with exit code 1 if no line matches.
    lines = subprocess.run(journal, capture_output=True, text=True, check=False, timeout=60).stdout.splitlines()
    return {line.rpartition(" Ban ")[2].strip() for line in lines}


def wait_for_jails(jails: Iterable[str], timeout: float) -> list[str]:
    """The jails that fail2ban runs, once these are among them, or after `timeout` seconds.

    systemd calls fail2ban started before its jails run, and before it answers. Raises one of ERRORS, without waiting,
    if fail2ban is stopped.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            status = run("fail2ban-client", "status", timeout=COMMAND_TIMEOUT)
            running = status.partition("Jail list:")[2].replace(",", " ").split()
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


def find_ban_faults(jail: str, ports: Sequence[int] | None, canary: Canary) -> Iterator[str]:
    """What goes wrong when this jail bans the canary, and unbans it."""
    try:
        _run_client(jail, "banip", canary)
        try:
            sets = _wait_for_sets(canary, banned=True)
            if len(sets) < len(canary):
                yield f"jail {jail}: it bans {' and '.join(canary)}, nft has {' and '.join(sets) or 'no set'}"
            ruleset = nft_ruleset.parse_ruleset(run("nft", "-j", "-t", "list", "ruleset", timeout=COMMAND_TIMEOUT))
            yield from nft_ruleset.find_rule_faults(jail, sets, ports, ruleset.rules, ruleset.chains)
        finally:
            _run_client(jail, "unbanip", canary)
        if sets := _wait_for_sets(canary, banned=False):
            yield f"jail {jail}: unbanned, and still in {' and '.join(sets)}"
    except ERRORS as error:
        yield f"jail {jail}: {error}"


def _run_client(jail: str, action: str, canary: Canary) -> None:
    run("fail2ban-client", "set", jail, action, *canary, timeout=COMMAND_TIMEOUT)


def _wait_for_sets(canary: Canary, *, banned: bool) -> list[str]:
    """Names of the nft sets that hold addresses of the canary, once there is one for each (`banned`) or none."""
    deadline = time.monotonic() + BAN_TIMEOUT
    while True:
        listed_sets = nft_ruleset.parse_ruleset(run("nft", "-j", "list", "sets", timeout=COMMAND_TIMEOUT)).sets
        names = [str(nft_set["name"]) for nft_set in listed_sets if set(canary) & _plain_elements(nft_set)]
        if (len(names) >= len(canary) if banned else not names) or time.monotonic() >= deadline:
            return names
        time.sleep(0.1)


def _plain_elements(nft_set: Mapping[str, object]) -> set[str]:
    """The single addresses in a set; others of its elements may be ranges and prefixes, which are objects."""
    elements = nft_set.get("elem", ())
    assert isinstance(elements, Iterable)
    return {element for element in elements if isinstance(element, str)}
