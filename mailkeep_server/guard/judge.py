"""Decides whether a message may go, by limits and freezes, and notes events for the operator.

All decisions are made one after another in one thread, from the messages and violations so far. Time comes in as an
argument; everything that must survive goes to the database, which the caller commits before it answers.
"""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from mailkeep_server.common.addresses import hash_text, owner_address
from mailkeep_server.common.networks import network_of
from mailkeep_server.common.wording import count_noun
from mailkeep_server.guard.account import Account
from mailkeep_server.guard.complaints import Complaints
from mailkeep_server.guard.config import GuardConfig
from mailkeep_server.guard.confirmations import Confirmations
from mailkeep_server.guard.database import (
    NEW_RECIPIENT,
    OVER_LIMIT,
    RECEIPT,
    REDIRECT,
    UNOWNED_SENDER,
    Database,
)
from mailkeep_server.guard.database_recovery import LOST_COUNTS
from mailkeep_server.guard.forwards import ForwardJudge
from mailkeep_server.guard.freezer import Freezer, count_over_limit, count_unowned
from mailkeep_server.guard.from_header import Owner
from mailkeep_server.guard.ledger import Ledger, bound_size
from mailkeep_server.guard.limits import WINDOW_NAMES, ExceededLimit
from mailkeep_server.guard.network_use import NetworkJudge
from mailkeep_server.guard.policy import DUNNO, PolicyRequest
from mailkeep_server.guard.receiving import ReceivingJudge
from mailkeep_server.guard.scripts import ScriptJudge
from mailkeep_server.guard.sliding_window import DAY, HOUR, TEN_MINUTES, Usage
from mailkeep_server.guard.stranger_store import StrangerStore
from mailkeep_server.guard.strangers import StrangerJudge

_MAX_QUOTED = 200
"""Characters of a foreign sender that a refusal quotes."""
MAX_EXCEPTIONS_A_DAY = {RECEIPT: (50, "read receipts"), REDIRECT: (20, "redirected messages, by recipient,")}
"""For an account: a thief would use them to hide his sender, or to be shown as somebody elsewhere."""
_TRY_LATER = "450 4.7.1"
# 521 also ends the connection (access(5)): a frozen account must not go on trying.
_FROZEN = "521 5.7.1"


@dataclass(slots=True)
class _OpenMessage:
    """The recipients so far of an account's message in transfer."""

    reached: dict[int, bool] = field(default_factory=dict)
    """Everybody whom it reaches, through aliases too (hashes), and whether the account writes to them for the first
    time."""
    commands: int = 0
    """Of RCPT, that were accepted."""


class Judge:
    """`frozen_file` is the freeze list. All methods raise sqlite3.Error when something cannot be recorded."""

    def __init__(self, config: GuardConfig, database: Database, frozen_file: Path, now: int) -> None:
        self.declared_config = self.config = config
        """`config` is the tighter one while `careful_until` has not come."""
        self._database = database
        lost_at = database.latest_event_time(LOST_COUNTS)
        self.careful_until = lost_at + DAY if lost_at else 0
        self.set_config(config, now)
        self.ledger = Ledger(database, now)
        self.freezer = Freezer(self.ledger, database, frozen_file, now)
        self.forwards = ForwardJudge(lambda: self.config, self.ledger, self._notify_once, self._try_later)
        self.scripts = ScriptJudge(
            lambda: self.config,
            self.ledger,
            database,
            self.forwards,
            self._refuse_stranger_or_frozen,
            self._try_later,
        )
        self.strangers = StrangerJudge(lambda: self.config, self.ledger, database, self.freezer)
        self.complaints = Complaints(lambda: self.config, self.ledger, database, self.strangers)
        self.confirmations = Confirmations(lambda: self.config, database, self.freezer, self.strangers)
        self._networks = NetworkJudge(lambda: self.config, database, self._refuse_over_limit)
        self.receiving = ReceivingJudge(lambda: self.config, database, now)
        self._open: OrderedDict[str, _OpenMessage] = OrderedDict()
        """By instance."""
        self._refused: OrderedDict[str, None] = OrderedDict()
        """Instances or queue ids of messages whose refusal has been counted."""
        self._client = ""
        """Where the present request comes from, for events."""

    def set_config(self, config: GuardConfig, now: int) -> None:
        self.declared_config = config
        self.config = config.tighten() if now < self.careful_until else config
        StrangerStore(self._database).note_births(now, config.addresses)

    def end_care(self, now: int) -> None:
        """To be called regularly: a day after counts were lost, the declared limits hold again."""
        if self.config is not self.declared_config and now >= self.careful_until:
            self.config = self.declared_config
            self._database.add_event(now, "state", "", "The limits of mail.yml hold again: a day is counted")

    # --- requests -----------------------------------------------------------------------------------------------------

    def judge_recipient(self, now: int, request: PolicyRequest) -> str:
        """The action for one more recipient. Refused this early, the sender's mail program says which one it was."""
        self._client = request.client
        if refusal := self._refuse_stranger_or_frozen(now, request.account):
            return refusal
        name, account = request.account, self.ledger.get_account(request.account)
        message = self._open.setdefault(request.instance, _OpenMessage())
        bound_size(self._open)
        members = self.config.reach.expand(request.recipient)
        added = self._find_new(name, members)
        with_these = message.reached | added
        more = Usage(1, len(with_these), sum(with_these.values()))
        refusal = self._networks.check_network(now, request, account) or self._check_limits(
            now, request, account, more, len(members)
        )
        if refusal:
            if any(added.values()) and self._exceeds_new_recipients(now, name, account, more):
                # A list is one try, however long: whoever writes to it once too often is no spammer.
                self._note_new_recipient(now, name, account, hash_text(request.recipient))
            if verdict := self._final_verdict(now, name, account, refusal):
                return verdict
        message.reached = with_these
        message.commands += 1
        return DUNNO

    def _find_new(self, name: str, members: Collection[str]) -> dict[int, bool]:
        """The hash of each recipient, and whether the account writes to it for the first time."""
        hashes = [hash_text(member) for member in members]
        if len(hashes) == 1:
            return {hashes[0]: not self._database.knows_recipient(name, hashes[0])}
        known = self._database.find_known_recipients(name, hashes)
        return {recipient: recipient not in known for recipient in hashes}

    def judge_message(self, now: int, request: PolicyRequest) -> str:
        """The action for a message that has arrived whole. Unless it is refused, it counts."""
        self._client, message = request.client, self._open.pop(request.instance, None) or _OpenMessage()
        if refusal := self._refuse_stranger_or_frozen(now, request.account):
            return refusal
        pending = self.ledger.pending_message(request.queue_id)
        if pending and pending.account == request.account:
            return DUNNO  # counted before, but the answer did not reach Postfix
        account = self.ledger.get_account(request.account)
        unseen = max(request.recipients - message.commands, 0)  # as after a restart: they count as new
        more = Usage(1, max(len(message.reached) + unseen, 1), sum(message.reached.values()) + unseen)
        refusal = self._networks.check_network(now, request, account) or self._check_limits(now, request, account, more)
        if refusal and (verdict := self._final_verdict(now, request.account, account, refusal)):
            return verdict
        network = network_of(request.client)
        self.ledger.count_message(now, request.account, more, network, request.queue_id, message.reached)
        if account.is_first_use:
            self._networks.note_first_use(now, request, account, more.recipients)
        self._notify_near_limits(now, request.account, account)
        self.strangers.note_request(request)
        return DUNNO

    def reject_unowned_sender(self, now: int, name: str, sender: str, client: str = "") -> str | None:
        """The refusal of a message whose envelope sender or From: the account does not own. In mode `learn`, None for
        an account of ours: a stranger is refused in any mode."""
        if name not in self.config.addresses:  # its own address is not known either: that is no spoof
            return f"{_TRY_LATER} {name} is no account here"
        account, self._client = self.ledger.get_account(name), client
        sender = _quote(sender)
        account.violations.unowned_sender.append(now)
        self._database.add_violation(now, name, UNOWNED_SENDER, sender)
        if account.should_notify("spoof", now):
            count, threshold = count_unowned(now, account), self.config.freeze_thresholds.foreign_senders
            tries = f"{count_noun(count, 'such message')} in {WINDOW_NAMES[HOUR]}, {threshold} freeze it"
            self._database.add_event(now, "spoof", name, f"tried to send as {sender}; {tries}{self._source}")
        self.freezer.freeze_abuser(now, name, account, self.config, self._source)
        return None if self.config.mode == "learn" else f"553 5.7.1 {name} does not own {sender}"

    def refuse_message(self, now: int, name: str, fault: str, client: str = "") -> str | None:
        """The refusal of a message that is not as mail programs write it. It names nobody else, so it does not count:
        a program's fault must not freeze its user. In mode `learn`, None."""
        fault, self._client = _quote(fault), client
        if self.ledger.get_account(name).should_notify("unreadable", now, DAY):
            self._database.add_event(now, "unreadable", name, f"{fault}{self._source}")
        return None if self.config.mode == "learn" else f"553 5.7.1 {fault}"

    def judge_exception(
        self, now: int, name: str, kind: str, recipients: int, queue_id: str, client: str = ""
    ) -> str | None:
        """The refusal of a read receipt or a redirected message, of which a day has few. If None, it counts."""
        self._client = client
        account, (maximum, noun) = self.ledger.get_account(name), MAX_EXCEPTIONS_A_DAY[kind]
        times = [time for time in account.violations.exceptions.get(kind, ()) if time > now - DAY]
        if len(times) + recipients > maximum:
            free_at = (times[0] if times else now) + DAY
            refusal = self._refuse_over_limit(
                now, name, account, queue_id, f"may send {maximum} {noun} in a day", free_at
            )
            if verdict := self._final_verdict(now, name, account, refusal):
                return verdict
        account.violations.exceptions[kind] = [*times, *[now] * recipients]
        for _ in range(recipients):
            self._database.add_violation(now, name, kind, "")
        return None

    def judge_spam(self, now: int, name: str, client: str = "") -> str | None:
        """Of a message that the spam filter is sure about: it may err, so the message goes, unless it is the one that
        freezes its account."""
        self._client = client
        if refusal := self._refuse_stranger_or_frozen(now, name):
            return refusal
        self.freezer.note_spam(now, name, self.ledger.get_account(name), self.config, self._source)
        return None if self.config.mode == "learn" else self._refuse_stranger_or_frozen(now, name)

    def owner_of(self, account: str) -> Owner:
        """What the account may name in From:."""
        return Owner(partial(self.owns_address, account), self.config.domains, self.config.completed_domain)

    def owns_address(self, account: str, address: str) -> bool:
        """Whether the account may send as this address, an extension (anna+shop@…) included."""
        return owner_address(address) in self.config.addresses.get(account, ())

    def transaction_aborted(self, instance: str) -> None:
        """The message of this instance will not be completed."""
        self._open.pop(instance, None)
        self.forwards.transaction_aborted(instance)
        self.confirmations.transaction_aborted(instance)

    # --- the shared store ---------------------------------------------------------------------------------------------

    def refuse_over_shared_limit(self, now: int, queue_id: str, exceeded: ExceededLimit) -> str | None:
        """The refusal of a message that fits here, but not into the count of all servers."""
        if not (message := self.ledger.pending_message(queue_id)):
            return None  # dropped meanwhile
        account, self._client = self.ledger.get_account(message.account), message.network
        reason = f"may send {exceeded.limit}"
        refusal = self._refuse_over_limit(now, message.account, account, queue_id, reason, exceeded.free_at)
        if verdict := self._final_verdict(now, message.account, account, refusal):
            self.ledger.message_dropped(queue_id)
        return verdict

    def note_store_state(self, now: int, state: str) -> None:
        """Tells the operator of the shared store."""
        self._database.add_event(now, "store", "", state)

    # --- refusals -----------------------------------------------------------------------------------------------------

    def _refuse_stranger_or_frozen(self, now: int, name: str) -> str | None:
        if name not in self.config.addresses:
            return f"{_TRY_LATER} {name or 'Nobody'} is no account here"
        if freeze := self.freezer.frozen_accounts(now).get(name):
            since = f"{freeze.at:%Y-%m-%d %H:%M} UTC"
            return f"{_FROZEN} {name} is frozen since {since}. Ask {self.config.contact}"
        return None

    def _final_verdict(self, now: int, name: str, account: Account, refusal: str) -> str | None:
        """The refusal, or that the account is frozen by now; None in mode `learn`."""
        self.freezer.freeze_abuser(now, name, account, self.config, self._source)
        if self.config.mode == "learn":
            return None
        return self._refuse_stranger_or_frozen(now, name) or refusal

    def _check_limits(
        self, now: int, request: PolicyRequest, account: Account, more: Usage, members: int = 1
    ) -> str | None:
        """`members` are those whom the last recipient reaches."""
        name = request.account
        if exceeded := self.config.limits_of(name).find_exceeded(account.history, now, more):
            reason = f"may send {exceeded.limit}"
            if members > exceeded.limit.maximum:
                reason += f", and {request.recipient.lower()} is {members}: `limits` of the account in mail.yml"
            return self._refuse_over_limit(now, name, account, request.instance, reason, exceeded.free_at)
        if exceeded := self.config.server_ceiling.find_exceeded(self.ledger.server, now, more):
            self._notify_once(now, "ceiling", f"All who send here have sent {exceeded.limit}")
            if self.config.mode == "enforce":
                return self._try_later(f"All who send here may send {exceeded.limit}", exceeded.free_at)
        return None

    def _refuse_over_limit(self, now: int, name: str, account: Account, message: str, reason: str, free_at: int) -> str:
        """Counts a violation, one a message however many recipients were refused. `message`: instance or queue id."""
        if message not in self._refused:
            self._refused[message] = None
            bound_size(self._refused)
            account.violations.over_limit.append(now)
            self._database.add_violation(now, name, OVER_LIMIT, reason)
        is_learning = self.config.mode == "learn"
        kind, subject = ("would-refuse", f"would-refuse {reason}") if is_learning else ("over", "over")
        if account.should_notify(subject, now):
            count, threshold = count_over_limit(now, account), self.config.freeze_thresholds.refused_tries
            tries = f"{count} refused in {WINDOW_NAMES[TEN_MINUTES]}, {threshold} freeze it"
            self._database.add_event(now, kind, name, f"{reason}; {tries}{self._source}")
        return self._try_later(f"{name} {reason}", free_at)

    def _exceeds_new_recipients(self, now: int, name: str, account: Account, more: Usage) -> bool:
        used = account.history.usage_within(now, DAY).new_recipients
        return more.new_recipients + used > self.config.limits_of(name).new_recipients_per_day

    def _note_new_recipient(self, now: int, name: str, account: Account, recipient: int) -> None:
        if recipient not in account.violations.new_recipients:
            account.violations.new_recipients[recipient] = now
            self._database.add_violation(now, name, NEW_RECIPIENT, str(recipient))

    def _try_later(self, reason: str, free_at: int) -> str:
        free = datetime.fromtimestamp(free_at / 1000, UTC)
        return f"{_TRY_LATER} {reason}; again at {free:%H:%M} UTC, or ask {self.config.contact}"

    # --- notices to the operator --------------------------------------------------------------------------------------

    @property
    def _source(self) -> str:
        """Ends the text of an event."""
        return f", last from {self._client}" if self._client else ""

    def _notify_near_limits(self, now: int, name: str, account: Account) -> None:
        for limit, used in self.config.limits_of(name).find_nearly_reached(account.history, now):
            if account.should_notify(limit.name, now, limit.window):
                self._database.add_event(now, "near", name, f"has sent {used} of {limit}{self._source}")

    def _notify_once(self, now: int, kind: str, detail: str, interval: int = HOUR, subject: str = "") -> None:
        """Once in the interval, of something that concerns no single account."""
        if self.ledger.notices.should_notify(f"{kind} {subject}".strip(), now, interval):
            self._database.add_event(now, kind, "", detail)


def _quote(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_MAX_QUOTED])
