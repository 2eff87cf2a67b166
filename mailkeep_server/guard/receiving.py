"""Decides about mail that comes in on port 25: how much an account receives, and what a mail bomb is.

Too much is refused for the time being: the sending servers keep it. People whom an account knows have a count of their
own, so that no stranger can use theirs up.

A mail bomb is what web forms send when somebody enters the same address into thousands of them. Each message is honest,
and from another domain that never wrote to the account. It is accepted, and a header has Dovecot file it (BULK_HEADER).
"""

from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from mailkeep_server.common.addresses import hash_text, owner_address
from mailkeep_server.common.networks import network_of
from mailkeep_server.guard.config import GuardConfig
from mailkeep_server.guard.correspondents import Correspondents, IncomingMessage, Rank
from mailkeep_server.guard.database import Database
from mailkeep_server.guard.sliding_window import DAY, HOUR, MAX_CLOCK_STEP

BOMB, BOMB_END, FLOOD, FLOOD_END = "bomb", "bomb-end", "flood", "flood-end"
"""Kinds of events. The last of each account says, after a restart, what is going on."""
FIRST_DAYS_FACTOR = 5
"""In the first days of an account (FIRST_DAYS) all senders are new: so many more of them are no bomb."""
TRUST_AFTER_UNDO = DAY
_TRY_LATER = "450 4.7.1"


class HourCount:
    """The messages of the last hour with their networks, in 16 bytes each."""

    __slots__ = ("_networks", "_times")

    def __init__(self) -> None:
        self._times, self._networks = array("q"), array("q")

    def add_message(self, time: int, network: int) -> None:
        """`network` is a hash. No message counts earlier than the one before, if the clock has gone back a little."""
        self._times.append(max(time, self.latest_time))
        self._networks.append(network)

    @property
    def latest_time(self) -> int:
        return self._times[-1] if self._times else 0

    def find_free_time(self, now: int, maximum: int, network: int | None = None) -> int:
        """When a further message fits, of this network or of all; 0 if it fits now."""
        self.forget_expired(now)
        if network is None:
            return self._times[-maximum] + HOUR if len(self._times) >= maximum else 0
        if self._networks.count(network) < maximum:
            return 0
        times = [time for time, other in zip(self._times, self._networks, strict=True) if other == network]
        return times[-maximum] + HOUR

    def forget_expired(self, now: int) -> bool:
        """Returns whether anything is left."""
        if expired := bisect_right(self._times, now - HOUR):
            del self._times[:expired], self._networks[:expired]
        return bool(self._times)

    def clamp_times_to(self, now: int) -> None:
        self._times = array("q", (min(time, now) for time in self._times))


@dataclass(slots=True)
class _Receiver:
    """An account as it receives."""

    counts: tuple[HourCount, ...] = field(default_factory=lambda: tuple(HourCount() for _ in Rank))
    """By the sender's rank."""
    new_origins: OrderedDict[int, int] = field(default_factory=OrderedDict)
    """Hashes and times of those that wrote for the first time within an hour, the latest last."""

    def add_origin(self, now: int, origin: int, maximum: int) -> None:
        self.new_origins[origin] = now
        self.new_origins.move_to_end(origin)
        if len(self.new_origins) > maximum:
            self.new_origins.popitem(last=False)

    def count_origins(self, now: int) -> int:
        """In the last hour."""
        while self.new_origins and next(iter(self.new_origins.values())) <= now - HOUR:
            self.new_origins.popitem(last=False)
        return len(self.new_origins)

    def forget_expired(self, now: int) -> bool:
        """Returns whether anything is left."""
        return any([*(count.forget_expired(now) for count in self.counts), self.count_origins(now)])

    def clamp_times_to(self, now: int) -> None:
        for count in self.counts:
            count.clamp_times_to(now)
        for origin, time in self.new_origins.items():
            self.new_origins[origin] = min(time, now)


class ReceivingJudge:
    """Restores the last hour from the database. All methods raise sqlite3.Error."""

    def __init__(self, read_config: Callable[[], GuardConfig], database: Database, now: int) -> None:
        self._read_config, self._database = read_config, database
        self._correspondents = Correspondents(database)
        self._receivers: dict[str, _Receiver] = {}
        self.bombs = {event.account: event.time for event in database.open_events(BOMB, BOMB_END)}
        """When each mail bomb that goes on was recognised, by account."""
        self.floods = dict.fromkeys((event.account for event in database.open_events(FLOOD, FLOOD_END)), now)
        """Accounts over their limit, and when a message was last refused."""
        for time, account, network, rank, origin in database.received_since(now - HOUR):
            receiver = self._receiver_of(account)
            if network:
                receiver.counts[rank].add_message(min(time, now), network)
            if origin:
                receiver.add_origin(min(time, now), origin, self._max_origins)

    def _receiver_of(self, account: str) -> _Receiver:
        if (receiver := self._receivers.get(account)) is None:
            receiver = self._receivers[account] = _Receiver()
        return receiver

    @property
    def _max_origins(self) -> int:
        """Enough to see that a bomb goes on; a larger one needs no more memory."""
        return 2 * FIRST_DAYS_FACTOR * self._read_config().receiving.new_senders_per_hour

    # --- a message ----------------------------------------------------------------------------------------------------

    def judge_recipient(self, now: int, message: IncomingMessage, recipient: str) -> str | None:
        """The refusal. A list is refused once all accounts behind it are over their limits: a member whom somebody
        floods takes nothing from the others."""
        config = self._read_config()
        accounts = self._find_accounts([recipient])
        if not accounts or config.is_exempt(message.client):
            return None
        free_times = [self._find_free_time(now, account, message) for account in accounts]
        if not all(free_times):
            return None
        for account in accounts:
            self._note_flood(now, account, message.client)
        if config.mode == "learn":
            return None
        free = datetime.fromtimestamp(min(free_times) / 1000, UTC)
        return f"{_TRY_LATER} Too many messages for {recipient} in an hour; again at {free:%H:%M} UTC"

    def judge_message(self, now: int, message: IncomingMessage) -> str:
        """Counts a message that is accepted. Returns the value of BULK_HEADER, or "" for the inbox.

        All recipients get the same message. So it is sorted only if it is part of a bomb for each of them.
        """
        accounts = self._find_accounts(message.recipients)
        days = [self._count_message(now, account, message) for account in accounts]
        return max(days) if days and all(days) and self._read_config().mode == "enforce" else ""

    def _find_accounts(self, recipients: list[str]) -> list[str]:
        """The accounts that mail to these addresses reaches."""
        config = self._read_config()
        reached = {owner_address(member) for member in config.reach.expand_all(recipients)}
        return sorted(reached & config.addresses.keys())

    def _find_free_time(self, now: int, account: str, message: IncomingMessage) -> int:
        """When the account has room for this message; 0 if it has."""
        limits, receiver = self._read_config().receiving, self._receiver_of(account)
        count = receiver.counts[self._correspondents.rank_sender(now, account, message.sender)]
        network = hash_text(network_of(message.client))
        return max(
            count.find_free_time(now, limits.messages_per_hour),
            count.find_free_time(now, limits.network_messages_per_hour, network),
        )

    def _count_message(self, now: int, account: str, message: IncomingMessage) -> str:
        """Returns the day of the account's bomb, if the message is part of it; else ""."""
        receiver = self._receiver_of(account)
        is_new_account = self._correspondents.is_new_account(now, account)
        rank = self._correspondents.rank_sender(now, account, message.sender)
        is_known = self._correspondents.knows_origin(now, account, message)
        origin, network = message.origin, 0
        if not self._read_config().is_exempt(message.client):
            network = hash_text(network_of(message.client))
            receiver.counts[rank].add_message(now, network)
        self._database.add_received(now, account, network, rank, 0 if is_known else origin)
        if is_known:
            return ""
        receiver.add_origin(now, origin, self._max_origins)
        if account not in self.bombs and not self._begins_bomb(now, account, receiver, is_new_account):
            self._correspondents.remember(now, account, origin)
            return ""
        return format_day(self.bombs[account])

    # --- floods and bombs ---------------------------------------------------------------------------------------------

    def _note_flood(self, now: int, account: str, client: str) -> None:
        if account not in self.floods:
            limits = self._read_config().receiving
            detail = (
                f"gets more mail than `guard.receiving` allows ({limits.messages_per_hour} messages in an hour, "
                f"{limits.network_messages_per_hour} from one network), the last from {client}. More is refused for "
                "now, and tried again by the sending servers"
            )
            self._database.add_event(now, FLOOD, account, detail)
        self.floods[account] = now

    def _begins_bomb(self, now: int, account: str, receiver: _Receiver, is_new_account: bool) -> bool:
        config = self._read_config()
        threshold = config.receiving.new_senders_per_hour * (FIRST_DAYS_FACTOR if is_new_account else 1)
        if receiver.count_origins(now) < threshold or self._correspondents.trusts_all(now, account):
            return False
        self.bombs[account] = now
        for origin in receiver.new_origins:  # the bomb's first: they are no acquaintances
            self._correspondents.forget(account, origin)
        detail = (
            f"gets a mail bomb: {threshold} senders wrote to it for the first time within an hour. Until that ends, "
            f"mail of new senders goes to its folder `Bulk {format_day(now)}`. Whom it knows reaches its inbox"
        )
        if config.mode == "learn":
            detail = f"gets a mail bomb: {threshold} new senders within an hour. In mode learn, nothing is sorted"
        self._database.add_event(now, BOMB, account, detail)
        return True

    def undo_bomb(self, now: int, account: str) -> None:
        """The operator has looked: for a day, nothing of this account is sorted, and new senders become known."""
        self._correspondents.trust_all_until(now + TRUST_AFTER_UNDO, account)
        if self.bombs.pop(account, None):
            self._database.add_event(
                now, BOMB_END, account, "has its inbox again: `mailkeepctl unsort` ended the sorting"
            )

    def end_what_is_over(self, now: int) -> None:
        """To be called regularly."""
        threshold = self._read_config().receiving.new_senders_per_hour
        for account in [name for name in self.bombs if self._receiver_of(name).count_origins(now) < threshold / 2]:
            day = format_day(self.bombs.pop(account))
            detail = f"gets no mail bomb any more. What was sorted stays in `Bulk {day}`; new mail reaches its inbox"
            self._database.add_event(now, BOMB_END, account, detail)
        for account in [name for name, refused_at in self.floods.items() if refused_at <= now - HOUR]:
            del self.floods[account]
            self._database.add_event(
                now, FLOOD_END, account, "gets no more mail than its limit: none was refused for an hour"
            )

    # --- time ---------------------------------------------------------------------------------------------------------

    def correct_clock_step(self, now: int) -> None:
        """To be called regularly. Messages counted by a clock that was ahead would keep mail out until that time."""
        receivers = self._receivers.values()
        latest = max((count.latest_time for each in receivers for count in each.counts), default=0)
        if latest > now + MAX_CLOCK_STEP:
            for receiver in receivers:
                receiver.clamp_times_to(now)
            self.floods = {account: min(time, now) for account, time in self.floods.items()}
            self._database.clamp_times_to(now)

    def forget_expired(self, now: int) -> None:
        self._receivers = {name: each for name, each in self._receivers.items() if each.forget_expired(now)}


def format_day(time: int) -> str:
    return f"{datetime.fromtimestamp(time / 1000, UTC):%Y-%m-%d}"
