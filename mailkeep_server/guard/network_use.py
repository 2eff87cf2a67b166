"""From which networks an account sends: how many in an hour, which are new, and the first ever."""

from collections.abc import Callable

from mailkeep_server.common.networks import network_of
from mailkeep_server.common.wording import count_noun
from mailkeep_server.guard.account import Account
from mailkeep_server.guard.config import GuardConfig
from mailkeep_server.guard.database import NEW_NETWORK, Database
from mailkeep_server.guard.limits import WINDOW_NAMES
from mailkeep_server.guard.policy import PolicyRequest
from mailkeep_server.guard.sliding_window import DAY, HOUR

FIRST_USE, FIRST_USE_EXPECTED = "first-use", "first-use-expected"
"""Kinds of events."""
NEWS_AFTER = 7 * DAY
"""From the beginning of the database on."""


class NetworkJudge:
    """`read_config` returns the configuration that holds now. `refuse_over_limit` counts a violation, and returns the
    refusal: of time, name, account, instance, reason, and when it ends. All methods raise sqlite3.Error."""

    def __init__(
        self,
        read_config: Callable[[], GuardConfig],
        database: Database,
        refuse_over_limit: Callable[[int, str, Account, str, str, int], str],
    ) -> None:
        self._read_config, self._database, self._refuse_over_limit = read_config, database, refuse_over_limit

    def check_network(self, now: int, request: PolicyRequest, account: Account) -> str | None:
        """Refuses one network too many. The same network may insist: it is one violation an hour."""
        network = network_of(request.client)
        last_try = account.networks.get(network, 0)
        if last_try > now - HOUR:
            account.networks[network] = now
            return None
        used = account.used_networks(now)
        maximum = self._read_config().limits_of(request.account).networks_per_hour
        if len(used) < maximum:
            self._add_network(now, request, account, network)
            return None
        if last_try >= 0 or -last_try <= now - HOUR:
            self._database.add_violation(now, request.account, NEW_NETWORK, network)
        account.networks[network] = -now
        free_at = min(used.values()) + HOUR
        reason = f"may send from {maximum} networks in {WINDOW_NAMES[HOUR]}"
        return self._refuse_over_limit(now, request.account, account, request.instance, reason, free_at)

    def _add_network(self, now: int, request: PolicyRequest, account: Account, network: str) -> None:
        """For a network that the account has not used for an hour."""
        name = request.account
        known = self._database.networks_of(name)
        account.is_first_use = not known
        if known and network not in known and account.should_notify(f"network {network}", now, DAY):
            detail = f"sends from {network}, for the first time, last from {request.client}"
            self._database.add_event(now, "network", name, detail)
        if known:
            self._database.remember_network(now, name, network)
        account.networks[network] = now

    def note_first_use(self, now: int, request: PolicyRequest, account: Account, recipients: int) -> None:
        """A password that nobody uses is the one whose theft nobody notices. While the database is new, so is each
        account to it: that is no news, and `mailkeepctl events` has it."""
        name, network = request.account, network_of(request.client)
        account.is_first_use = False
        self._database.remember_network(now, name, network)
        is_news = now - self._database.began_at > NEWS_AFTER
        detail = (
            f"sends for the first time, from {request.client} ({network}), to {count_noun(recipients, 'recipient')}. "
            f"If that is not its owner: `mailkeepctl freeze {name}`"
        )
        self._database.add_event(now, FIRST_USE if is_news else FIRST_USE_EXPECTED, name, detail)
