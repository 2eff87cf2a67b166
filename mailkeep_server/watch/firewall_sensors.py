"""The firewall and fail2ban's jails, as the watch sees them."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from mailkeep_server.common import nft_generation, nft_ruleset, packet_path, paths
from mailkeep_server.common.ban_proof import UNTRIED
from mailkeep_server.common.commands import run
from mailkeep_server.common.iptables_rules import explain_modules
from mailkeep_server.common.nft_ruleset import Ruleset, compare_table
from mailkeep_server.common.own_addresses import find_packet_destinations
from mailkeep_server.common.packet_path import ForeignChain, find_interface
from mailkeep_server.common.wording import describe_error
from mailkeep_server.watch.alert_queue import Troubles
from mailkeep_server.watch.sensor import Sensor, SensorEvent


class FirewallSensor(Sensor):
    """Whether nft's ruleset drops what nothing accepts, has the sets and rules of each jail, is as it was loaded, and
    whether another firewall drops what ours lets in. It is judged again only after a change."""

    name, interval, samples = "firewall", 1.5, 5  # a restart of fail2ban may take six seconds
    RELIST_SECONDS = 60.0
    FOREIGN_SECONDS = 15.0  # between two looks at foreign rules, which foreign jails may change with each ban
    DOUBT_SECONDS = 15.0  # between two looks at rules that were changed by hand

    def __init__(
        self,
        jails: Mapping[str, list[int] | None],
        addresses: Sequence[str] = (),
        open_ports: Sequence[int] = (),
        loaded: Path = Path(paths.LOADED_FIREWALL),
    ) -> None:
        self.jails, self.addresses, self.open_ports, self.loaded = jails, addresses, open_ports, loaded
        self.generation: int | None = None
        self.listed = 0.0
        self.troubles: Troubles = {}
        self.loaded_at: int | None = None
        self.foreign: Ruleset | None = None
        self.foreign_judged, self.has_unjudged = float("-inf"), False
        self.foreign_troubles: dict[str, tuple[str, str]] = {}
        self.doubtful: set[str] | None = None
        self.new_foreign: list[ForeignChain] = []

    def find_troubles(self) -> Troubles:
        generation, now = nft_generation.read_generation(), time.monotonic()
        # A reload of nftables writes down its rules a moment after nft has them.
        loaded_at = self._read_loaded_time() if "rules" in self.troubles else self.loaded_at
        seconds = self.DOUBT_SECONDS if "rules" in self.troubles else self.RELIST_SECONDS
        is_known = generation is not None and (generation, loaded_at) == (self.generation, self.loaded_at)
        if not is_known or now - self.listed >= seconds or self._awaits_foreign(now):
            self.generation = None  # if the list cannot be read, it is read again
            self.loaded_at = self._read_loaded_time()
            self.troubles = self._judge(nft_ruleset.parse_ruleset(run(*LIST_RULESET)), now)
            self.generation, self.listed = generation, now
        return self.troubles

    def _read_loaded_time(self) -> int | None:
        try:
            return self.loaded.stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def _awaits_foreign(self, now: float) -> bool:
        """Whether foreign rules were left for later, and are due."""
        return self.has_unjudged and now - self.foreign_judged >= self.FOREIGN_SECONDS

    def take_events(self) -> Iterator[SensorEvent]:
        new, self.new_foreign = self.new_foreign, []
        for chain in new:
            text = (
                f"A firewall that is not Mailkeep's has come: {chain}. It may drop packets to the ports "
                f"{join_numbers(chain.doubtful)}: `mailkeep verify` tries them from outside"
            )
            yield f"firewall:{chain.family} {chain.table} {chain.name}", text, False

    def _judge(self, ruleset: Ruleset, now: float) -> dict[str, tuple[str, str]]:
        troubles = {}
        if not nft_ruleset.drops_by_default(ruleset.chains):
            text = "The firewall is not loaded: every port that listens is open. `systemctl restart nftables` loads it"
            troubles["input"] = text, "The firewall is loaded again"
        for jail, ports in self.jails.items():
            if faults := list(nft_ruleset.find_jail_faults(jail, ports, ruleset)):
                text = f"The jail {jail} cannot ban: {_join_faults(faults)}. `systemctl restart fail2ban` may help"
                troubles[f"jail {jail}"] = text, f"The jail {jail} can ban again"
        if rules := nft_ruleset.list_passing_rules(ruleset):
            text = (
                f"Rules in fail2ban's table let packets pass before they are dropped: {'; '.join(rules)}. `systemctl "
                "restart fail2ban` removes them"
            )
            troubles["order"] = text, "Nothing stands before the drops of the jails again"
        return troubles | self._judge_own_table() | self._judge_foreign(ruleset, now)

    def _judge_own_table(self) -> dict[str, tuple[str, str]]:
        """Compares with what nftables.service has loaded. Right after a reload, that file is the former one; that is
        one sample."""
        try:
            differences = compare_table(self.loaded.read_text(), run(*LIST_OWN_TABLE))
        except (FileNotFoundError, RuntimeError):  # not loaded, which is another trouble
            return {}
        if not differences:
            return {}
        text = (
            f"The firewall's rules were changed by hand: {'; '.join(differences[:5])}. `systemctl reload nftables` "
            "restores them"
        )
        return {"rules": (text, "The firewall's rules are as they were loaded again")}

    def _judge_foreign(self, ruleset: Ruleset, now: float) -> dict[str, tuple[str, str]]:
        """Each ban changes the ruleset, but not these rules, which may be thousands. They cannot blind the others."""
        try:
            foreign = packet_path.leave_out_ours(ruleset)
            self.has_unjudged = foreign != self.foreign
            if self.has_unjudged and now - self.foreign_judged >= self.FOREIGN_SECONDS:
                self.foreign_judged = now
                self.foreign_troubles = self._find_foreign_troubles(foreign)
                self.foreign, self.has_unjudged = foreign, False
        except Exception as error:
            text = f"The watch cannot check the rules of another firewall: {describe_error(error)}"
            self.foreign, self.foreign_judged, self.has_unjudged = None, now, True
            fault = text, "The watch can check the rules of another firewall again"
            self.foreign_troubles = self.foreign_troubles | {"foreign": fault}
        return self.foreign_troubles

    def _find_foreign_troubles(self, ruleset: Ruleset) -> dict[str, tuple[str, str]]:
        ruleset = explain_modules(ruleset)
        addresses = find_packet_destinations(self.addresses)
        chains = packet_path.find_foreign_chains(ruleset, addresses, self.open_ports, find_interface())
        doubtful = {str(chain): chain for chain in chains if not chain.closed}
        if self.doubtful is not None:
            self.new_foreign += [chain for name, chain in doubtful.items() if name not in self.doubtful]
        self.doubtful = set(doubtful)
        return {
            f"foreign {chain.family} {chain.table} {chain.name}": (
                f"Another firewall drops what Mailkeep's lets in: {chain}, at the ports {join_numbers(chain.closed)}. "
                "Nobody outside reaches them: open them there, or remove that firewall",
                f"{str(chain).capitalize()} no longer drops what Mailkeep's firewall lets in",
            )
            for chain in chains
            if chain.closed
        }


LIST_RULESET = ("nft", "-j", "-s", "-t", "list", "ruleset")
"""Without counters, which change all the time, and elements of sets, which may be many."""
LIST_OWN_TABLE = ("nft", "-s", "-t", "list", "table", "inet", "mailkeep")


def join_numbers(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _join_faults(faults: list[str]) -> str:
    """Without the jail's name, with which each begins."""
    return "; ".join(fault.partition(": ")[2] for fault in faults)


class JailProofSensor(Sensor):
    """Whether the last proof of the jails (`mailkeep-jails.timer`) found them banning, and is recent."""

    name = "proof"
    MAX_AGE = 3 * 1800.0  # seconds: three intervals of the timer

    def __init__(self, file: Path) -> None:
        self.file, self.start = file, time.time()

    def find_troubles(self) -> Troubles:
        try:
            proven, content = self.file.stat().st_mtime, self.file.read_text()
        except FileNotFoundError:
            proven, content = self.start, "{}"
        troubles = {}
        if time.time() - max(proven, self.start) > self.MAX_AGE:
            text = "No jail has been proven to ban for 90 minutes: `systemctl status mailkeep-jails.timer` says why"
            troubles["silent"] = text, "The jails are proven again"
        proof = json.loads(content)
        for jail, faults in proof.get("faults", {}).items():
            name = f"{jail}, which is not Mailkeep's," if jail in proof.get("foreign", ()) else jail
            text = f"The jail {name} does not ban: {_join_faults(faults)}. `systemctl restart fail2ban` may help"
            if all(UNTRIED in fault for fault in faults):
                text = f"The jail {name} is proven in part only: {_join_faults(faults)}. Look at its service"
            troubles[jail] = text, f"The jail {jail} bans again"
        return troubles
