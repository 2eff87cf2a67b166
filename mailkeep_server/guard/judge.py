"""Whether a message may go: limits, freezes, and the operator told of both.

All decisions are made here, one after another in one thread, from what was accepted and refused before. Time comes in
as an argument; what must survive goes to the store, which the caller commits before it answers.
"""

import sys
from collections import OrderedDict
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple, TypeVar

from mailkeep_server.common.networks import network_of
from mailkeep_server.freezes import freeze_list
from mailkeep_server.guard.account import Account
from mailkeep_server.guard.config import Config, Freeze, base
from mailkeep_server.guard.database import Message, Store
from mailkeep_server.guard.limits import NAMES, Over
from mailkeep_server.guard.sliding_window import DAY, HOUR, MOST_BACK, TEN_MINUTES, Sent, Used

GO_ON = "DUNNO"
"""Postfix's word for: nothing against it from here (access(5))."""
LOCAL = "local"
"""Who sends by sendmail(1): not an account, and no account is called so."""
_MOST_OPEN = 2000
"""Messages at hand: one a connection."""
_ASKED_AGAIN = 120_000
"""Milliseconds in which Postfix asks again when it had no answer (smtpd_policy_service_timeout: 100 s by default)."""
_LONGEST_SHOWN = 200
T = TypeVar("T")
_LATER = "450 4.7.1"
# 521 also ends the connection (access(5)): who is frozen does not go on guessing what else is possible.
_FROZEN = "521 5.7.1"


class Request(NamedTuple):
    """What Postfix says of a recipient or a message (SMTPD_POLICY_README)."""

    account: str
    client: str
    instance: str
    """The same for all requests of one message."""
    recipient: str = ""
    recipients: int = 0
    queue_id: str = ""


class Counted(NamedTuple):
    """A message that counts and that Postfix may still refuse."""

    message: Message
    recipients: Collection[int] = ()


class Judge:
    def __init__(self, config: Config, store: Store, frozen_file: Path, now: int) -> None:
        self.config = config
        self._store = store
        self._frozen_file = frozen_file
        self._frozen: freeze_list.FrozenAccounts = {}
        self._frozen_stat: tuple[int, ...] | None = None
        self._frozen_looked_at = 0
        self._unwritten: freeze_list.FrozenAccounts = {}
        self.accounts: dict[str, Account] = {}
        self.server, self.local = Sent(), Sent()
        self._told = Account()
        self._open: OrderedDict[str, dict[int, bool]] = OrderedDict()
        """By instance: recipients so far, and whether the account writes to them for the first time."""
        self._counted: OrderedDict[str, Counted] = OrderedDict()
        """By queue id."""
        self.taken_back: Callable[[Message], None] = lambda _: None
        """Hears of messages that were counted and did not go."""
        self._refused: OrderedDict[str, None] = OrderedDict()
        if self._store.latest() > now + MOST_BACK:
            self._go_back(now, self._store.latest())
        self._remember(now)
        for thawed_meanwhile in self._store.frozen() - self.frozen(now).keys():
            self._forgive(now, thawed_meanwhile)

    def _remember(self, now: int) -> None:
        for message in self._store.messages_since(now - DAY):
            if message.account == LOCAL:
                self.local.add(message.time, message.recipients, message.new)
            else:
                account = self._account(message.account)
                account.sent.add(message.time, message.recipients, message.new)
                account.networks[message.network] = message.time
            self.server.add(message.time, message.recipients, message.new)
            if message.time > now - _ASKED_AGAIN:
                # Without their recipients, who stay new: Postfix refuses what was at hand when its milter went.
                self._count(Counted(message))
        for one in self._store.tries_since(now - DAY):
            account = self._account(one.account)
            if one.kind == "new":
                account.trouble.new[int(one.what)] = one.time
            elif one.kind == "network":
                account.networks.setdefault(one.what, -one.time)
            else:
                (account.trouble.foreign if one.kind == "foreign" else account.trouble.refused).append(one.time)
        self.prune(now)

    # --- what Postfix asks ------------------------------------------------------------------------------------------

    def recipient(self, now: int, request: Request) -> str:
        """Whether a message may have this recipient too: refused early, the sender's program says whom it is about."""
        if refusal := self._stranger_or_frozen(now, request.account):
            return refusal
        name, account = request.account, self._account(request.account)
        known = self._open.setdefault(request.instance, {})
        _bound(self._open)
        recipient = _hash(request.recipient)
        new = not self._store.knows_recipient(name, recipient)
        so_far = known | {recipient: new}
        more = Used(1, len(so_far), sum(so_far.values()))
        refusal = self._network(now, request, account) or self._limits(now, request, account, more)
        if refusal and new and more.new + account.sent.used(now, DAY).new > self._limit(name, "new_recipients_per_day"):
            self._new_refused(now, name, account, recipient)
        if refusal := refusal and self._verdict(now, request.account, account, refusal):
            return refusal
        known[recipient] = new
        return GO_ON

    def message(self, now: int, request: Request) -> str:
        """Whether a message may go, now that it has come whole. If so it counts."""
        recipients = self._open.pop(request.instance, {})
        unseen = max(request.recipients - len(recipients), 0)  # as after a restart: taken for new ones
        if refusal := self._stranger_or_frozen(now, request.account):
            return refusal
        if (asked_before := self.counted(request.queue_id)) and asked_before.account == request.account:
            return GO_ON  # and the answer did not reach Postfix: it is counted already
        account = self._account(request.account)
        more = Used(1, max(request.recipients, 1), sum(recipients.values()) + unseen)
        refusal = self._network(now, request, account) or self._limits(now, request, account, more)
        if refusal := refusal and self._verdict(now, request.account, account, refusal):
            return refusal
        network = network_of(request.client)
        self._add(now, request.account, account.sent, more, network, request.queue_id, recipients)
        self._near(now, request.account, account)
        return GO_ON

    def local_message(self, now: int, recipients: int, queue_id: str) -> str | None:
        """Why a message of a program on this server may not go now, if so. Else it counts."""
        more = Used(1, max(recipients, 1), 0)
        for sent, ceiling, kind in (
            (self.local, self.config.local, "local"),
            (self.server, self.config.server, "ceiling"),
        ):
            if found := ceiling.over(sent, now, more):
                whose = "Programs on this server" if kind == "local" else "All who send here"
                self._tell_once(now, kind, "", f"{whose} have sent {found.limit}")
                if self.config.mode == "enforce":
                    return self._later(f"{whose} may send {found.limit}", found.free_at)
        self._add(now, LOCAL, self.local, more, "", queue_id)
        return None

    def foreign(self, now: int, account_name: str, whose: str) -> str | None:
        """The refusal of a message that says to be from somebody else than the account; tries count."""
        account = self._account(account_name)
        whose = "".join(letter if letter.isprintable() else "?" for letter in whose[:_LONGEST_SHOWN])
        account.trouble.foreign.append(now)
        self._store.tried(now, account_name, "foreign", whose)
        if account.tell("spoof", now):
            self._store.event(now, "spoof", account_name, f"tried to send as {whose}")
        self._freeze_abuser(now, account_name, account)
        return None if self.config.mode == "learn" else f"553 5.7.1 {account_name} does not own {whose}"

    def owns(self, account: str, address: str) -> bool:
        """Whether the account may send as this address, an extension (anna+shop@…) included."""
        return base(address) in self.config.addresses.get(account, ())

    def given_up(self, instance: str) -> None:
        """This message will not have an end."""
        self._open.pop(instance, None)

    def counted(self, queue_id: str) -> Message | None:
        """An account's message that counts and that Postfix may still refuse."""
        counted = self._counted.get(queue_id)
        return counted.message if counted and counted.message.account != LOCAL else None

    def over_elsewhere(self, now: int, queue_id: str, found: Over) -> str | None:
        """The refusal of a message that fits here, and not in what all servers have counted."""
        if not (message := self.counted(queue_id)):
            return None  # taken back meanwhile
        account = self._account(message.account)
        refusal = self._refuse(now, message.account, account, queue_id, f"may send {found.limit}", found.free_at)
        if verdict := self._verdict(now, message.account, account, refusal):
            self.did_not_go(queue_id)
        return verdict

    def store_is(self, now: int, state: str) -> None:
        """Tells the operator of the shared store."""
        self._store.event(now, "store", "", state)

    def went(self, queue_id: str) -> None:
        """Nothing in Postfix refuses the message any more. Only now its recipients are known to the account."""
        if counted := self._counted.pop(queue_id, None):
            for recipient in counted.recipients:
                self._store.wrote_to(counted.message.time, counted.message.account, recipient)

    def did_not_go(self, queue_id: str) -> None:
        """Postfix refused the message after all, as when it could not be signed: its retry must not count again."""
        if counted := self._counted.pop(queue_id, None):
            message = counted.message
            sent = self.local if message.account == LOCAL else self._account(message.account).sent
            sent.take_back(message.time, message.recipients, message.new)
            self.server.take_back(message.time, message.recipients, message.new)
            self._store.take_back(message)
            self.taken_back(message)

    # --- freezes ----------------------------------------------------------------------------------------------------

    def frozen(self, now: int) -> freeze_list.FrozenAccounts:
        """The frozen accounts, read again when somebody has changed the file; it is looked at once a millisecond."""
        if now != self._frozen_looked_at:
            self._frozen_looked_at = now
            self._read_frozen(now)
        return self._frozen | self._unwritten if self._unwritten else self._frozen

    def _read_frozen(self, now: int) -> None:
        try:
            stat = self._frozen_file.stat()
            changed = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        except FileNotFoundError:
            changed = (0, 0, 0)
        if changed != self._frozen_stat:
            before, self._frozen = self._frozen, freeze_list.read_freezes(self._frozen_file)
            for name in self._frozen.keys() - before.keys() if self._frozen_stat else ():
                self._store.event(now, "frozen", name, f"by {self._frozen[name].by}: {self._frozen[name].why}")
            for name in before.keys() - self._frozen.keys():
                self._forgive(now, name)
            self._frozen_stat = changed

    def _forgive(self, now: int, name: str) -> None:
        """What it was frozen for does not freeze it again; what it has sent still counts."""
        self._account(name).forgive(now)
        self._store.forgive(name)
        self._store.event(now, "thawed", name, "may send and log in again")

    def _freeze_abuser(self, now: int, name: str, account: Account) -> None:
        if not (why := self._abuse(now, account)) or name in self.frozen(now):
            return
        if self.config.mode == "learn":
            if account.tell("would-freeze", now):
                self._store.event(now, "would-freeze", name, why)
            return
        self._unwritten[name] = freeze_list.FreezeRecord(_date(now), "guard", why)
        self.write_freezes(now)

    def write_freezes(self, now: int) -> None:
        """Those that could not be written, on a full disk say, hold all the same; to be called now and then."""
        for name, one in [*self._unwritten.items()]:
            try:
                freeze_list.freeze_account(name, one.by, one.why, one.at, self._frozen_file)
            except OSError as error:
                print(f"{self._frozen_file}: {error}; {name} is frozen here alone so far", file=sys.stderr)
                return
            del self._unwritten[name]
        self._read_frozen(now)

    def _abuse(self, now: int, account: Account) -> str | None:
        """What no honest user does, in words."""
        most: Freeze = self.config.freeze
        refused = sum(time > now - TEN_MINUTES for time in account.trouble.refused)
        foreign = sum(time > now - HOUR for time in account.trouble.foreign)
        networks = account.networks_refused(now)
        new = sum(time > now - DAY for time in account.trouble.new.values())
        tests = (
            (refused, most.refused_tries, f"{refused} messages over its limits in {NAMES[TEN_MINUTES]}"),
            (foreign, most.foreign_senders, f"{foreign} messages as somebody else in {NAMES[HOUR]}"),
            (networks, most.networks, f"{networks} networks more than it may send from in {NAMES[HOUR]}"),
            (new, most.new_recipients, f"{new} first-time recipients over its limit in {NAMES[DAY]}"),
        )
        return next((why for number, threshold, why in tests if number >= threshold), None)

    # --- refusals ---------------------------------------------------------------------------------------------------

    def _stranger_or_frozen(self, now: int, name: str) -> str | None:
        if name not in self.config.addresses:
            return f"{_LATER} {name or 'Nobody'} is no account here"
        if is_frozen := self.frozen(now).get(name):
            since = f"{is_frozen.at:%Y-%m-%d %H:%M} UTC"
            return f"{_FROZEN} {name} is frozen since {since}. Ask {self.config.contact}"
        return None

    def _verdict(self, now: int, name: str, account: Account, refusal: str) -> str | None:
        """What who is over a limit is told: that it is frozen now, or the refusal; nothing in mode learn."""
        self._freeze_abuser(now, name, account)
        if self.config.mode == "learn":
            return None
        return self._stranger_or_frozen(now, name) or refusal

    def _network(self, now: int, request: Request, account: Account) -> str | None:
        network = network_of(request.client)
        last = account.networks.get(network, 0)
        if last > now - HOUR:
            account.networks[network] = now
            return None
        used = account.networks_used(now)
        most = self._limit(request.account, "networks_per_hour")
        if len(used) < most:
            self._sends_from(now, request.account, account, network)
            return None
        if last >= 0 or -last <= now - HOUR:
            self._store.tried(now, request.account, "network", network)
        account.networks[network] = -now
        free_at = min(used.values()) + HOUR
        why = f"may send from {most} networks in {NAMES[HOUR]}"
        return self._refuse(now, request.account, account, request.instance, why, free_at)

    def _sends_from(self, now: int, name: str, account: Account, network: str) -> None:
        """For the first time in an hour."""
        known = self._store.networks(name)
        if known and network not in known and account.tell(f"network {network}", now, DAY):
            self._store.event(now, "network", name, f"sends from {network}, for the first time")
        self._store.sent_from(now, name, network)
        account.networks[network] = now

    def _limits(self, now: int, request: Request, account: Account, more: Used) -> str | None:
        if found := self.config.limits_of(request.account).over(account.sent, now, more):
            why = f"may send {found.limit}"
            return self._refuse(now, request.account, account, request.instance, why, found.free_at)
        if found := self.config.server.over(self.server, now, more):
            self._tell_once(now, "ceiling", "", f"All who send here have sent {found.limit}")
            if self.config.mode == "enforce":
                return self._later(f"All who send here may send {found.limit}", found.free_at)
        return None

    def _refuse(self, now: int, name: str, account: Account, message: str, why: str, free_at: int) -> str:
        """A message over a limit: a try, counted once however many of its recipients were refused. `message` is what
        it is known by: its instance, or its queue id."""
        if message not in self._refused:
            self._refused[message] = None
            _bound(self._refused)
            account.trouble.refused.append(now)
            self._store.tried(now, name, "refused", why)
        kind, once = ("would-refuse", f"would-refuse {why}") if self.config.mode == "learn" else ("over", "over")
        if account.tell(once, now):
            self._store.event(now, kind, name, why)
        return self._later(f"{name} {why}", free_at)

    def _new_refused(self, now: int, name: str, account: Account, recipient: int) -> None:
        if recipient not in account.trouble.new:
            account.trouble.new[recipient] = now
            self._store.tried(now, name, "new", str(recipient))

    def _later(self, what: str, free_at: int) -> str:
        return f"{_LATER} {what}; again at {_date(free_at):%H:%M} UTC, or ask {self.config.contact}"

    # --- what counts ------------------------------------------------------------------------------------------------

    def _add(
        self, now: int, name: str, sent: Sent, more: Used, network: str, queue_id: str, to: Collection[int] = ()
    ) -> None:
        time = self.server.add(now, more.recipients, more.new)  # which has seen the latest of all
        sent.add(time, more.recipients, more.new)
        self._count(Counted(self._store.sent(time, name, more.recipients, more.new, network, queue_id), to))

    def _count(self, counted: Counted) -> None:
        self._counted[counted.message.queue_id] = counted
        _bound(self._counted)

    def _near(self, now: int, name: str, account: Account) -> None:
        for limit, used in self.config.limits_of(name).near(account.sent, now):
            if account.tell(limit.name, now, limit.window):
                self._store.event(now, "near", name, f"has sent {used} of {limit}")

    def _tell_once(self, now: int, kind: str, name: str, detail: str) -> None:
        if self._told.tell(kind, now):
            self._store.event(now, kind, name, detail)

    def _limit(self, name: str, limit: str) -> int:
        return int(getattr(self.config.limits_of(name), limit))

    def _account(self, name: str) -> Account:
        account = self.accounts.get(name)
        if account is None:
            account = self.accounts[name] = Account()
        return account

    def mind_the_clock(self, now: int) -> None:
        """What was counted by a clock that was ahead would hold up all mail until that time has come; to be called now
        and then."""
        if self.server.latest > now + MOST_BACK:
            self._go_back(now, self.server.latest)

    def _go_back(self, now: int, latest: int) -> None:
        for account in (*self.accounts.values(), self._told):
            account.go_back(now)
        for sent in (self.server, self.local):
            sent.go_back(now)
        for queue_id, (message, recipients) in self._counted.items():
            self._counted[queue_id] = Counted(message._replace(time=min(message.time, now)), recipients)
        self._store.go_back(now)
        ahead = f"The clock has gone back by {(latest - now) // 60_000} minutes"
        self._store.event(now, "clock", "", f"{ahead}; what was sent since counts from now on")

    def prune(self, now: int) -> None:
        """Forgets what counts no more; a sweep over 100,000 accounts takes a tenth of a second."""
        self.accounts = {name: account for name, account in self.accounts.items() if account.prune(now)}
        self.server.prune(now)
        self.local.prune(now)


def _bound(of: OrderedDict[str, T]) -> None:
    if len(of) > _MOST_OPEN:
        of.popitem(last=False)


def _hash(recipient: str) -> int:
    """64 bits are enough to know it again, and tell nobody who it is."""
    return int.from_bytes(blake2b(recipient.lower().encode(), digest_size=8).digest(), signed=True)


def _date(time: int) -> datetime:
    return datetime.fromtimestamp(time / 1000, UTC)
