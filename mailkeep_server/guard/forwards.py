"""Decides about mail of strangers that leaves the server again: through lists, and as bounces.

Nobody has logged in, so what counts is the list, and all of it together.

What does not fit is refused for the time being: the sending server, or Postfix's queue, keeps it and tries again.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from mailkeep_server.common.addresses import owner_address
from mailkeep_server.common.sender_kinds import BOUNCE, FORWARD, LOCAL
from mailkeep_server.guard.config import GuardConfig
from mailkeep_server.guard.ledger import Ledger, bound_size
from mailkeep_server.guard.limits import Ceiling, ExceededLimit
from mailkeep_server.guard.policy import DUNNO, PolicyRequest
from mailkeep_server.guard.sliding_window import DAY, HOUR, SendHistory, Usage

MAX_EXTENSIONS = 5
"""Addresses of one mailbox or list in one message. Dovecot's LMTP delivers to ten of one user at a time
(lmtp_user_concurrency_limit), of all messages together; others would wait in the queue for nothing but copies."""
TOO_MANY_EXTENSIONS = "452 4.5.3 Too many addresses of one mailbox in one message. Send the others in another one"
# RFC 5321 section 4.5.3.1.10: after 452, the client sends the other recipients in a further transaction.
MAX_BOUNCES = Ceiling(recipients_per_hour=3, recipients_per_day=10)
"""To one address elsewhere. A sender who exists learns enough from three; the address may be forged. Further ones wait
in the queue."""


@dataclass(slots=True)
class _StrangersMessage:
    """The message in transfer."""

    addresses: dict[str, set[str]] = field(default_factory=dict)
    """The recipients so far, by address without extension. Postfix may ask twice about one."""
    reached: set[str] = field(default_factory=set)
    """Elsewhere."""
    by_list: dict[str, int] = field(default_factory=dict)
    """By list, how many of `reached` it has added."""


class NotifyOnce(Protocol):
    def __call__(self, now: int, kind: str, detail: str, interval: int = HOUR, subject: str = "") -> None:
        """Tells the operator, once in the interval."""


class ForwardJudge:
    """`read_config` returns the configuration that holds now. `say_later` words a refusal, from reason and time."""

    def __init__(
        self,
        read_config: Callable[[], GuardConfig],
        ledger: Ledger,
        notify_once: NotifyOnce,
        say_later: Callable[[str, int], str],
    ) -> None:
        self._read_config, self._ledger = read_config, ledger
        self._notify_once, self._say_later = notify_once, say_later
        self._open: OrderedDict[str, _StrangersMessage] = OrderedDict()
        """By instance."""

    def transaction_aborted(self, instance: str) -> None:
        self._open.pop(instance, None)

    # --- on port 25 ---------------------------------------------------------------------------------------------------

    def judge_recipient(self, now: int, request: PolicyRequest) -> str:
        """The action for a recipient that has an extension, or that may lead elsewhere."""
        config = self._read_config()
        message = self._open.setdefault(request.instance, _StrangersMessage())
        bound_size(self._open)
        plain = owner_address(request.recipient)
        addresses = message.addresses.setdefault(plain, set())
        if len(addresses | {request.recipient.lower()}) > MAX_EXTENSIONS:
            return TOO_MANY_EXTENSIONS
        reach = config.reach
        name = reach.find_list(request.recipient)
        added = {member for member in reach.members_of(name) if reach.is_elsewhere(member)} if name else set[str]()
        added -= message.reached
        if added and (refusal := self._find_refusal(now, request.client, message.by_list | {name: len(added)})):
            return refusal
        addresses.add(request.recipient.lower())
        message.reached |= added
        if added:
            message.by_list[name] = len(added) + message.by_list.get(name, 0)
        return DUNNO

    def judge_message(self, now: int, request: PolicyRequest) -> str:
        """The action for a message that has arrived whole. Unless it is refused, it counts."""
        message = self._open.pop(request.instance, None)
        if not message or not message.by_list:
            return DUNNO
        if refusal := self._find_refusal(now, request.client, message.by_list):
            return refusal
        for name, number in message.by_list.items():
            self._ledger.count_message(now, FORWARD, Usage(1, number, 0), name, request.queue_id)
        return DUNNO

    def _find_refusal(self, now: int, client: str, by_list: dict[str, int]) -> str | None:
        config, ledger = self._read_config(), self._ledger
        for name, number in by_list.items():
            limits = config.list_limits.for_list(config.reach.count_elsewhere(name))
            history = ledger.lists.get(name) or SendHistory()
            if exceeded := limits.find_exceeded(history, now, Usage(1, number, 0)):
                detail = (
                    f"Strangers have sent {exceeded.limit} through {name}, the last from {client}: more is refused for "
                    f"now, and their servers try again. `guard.lists` in mail.yml is this limit"
                )
                self._notify_once(now, "list", detail, DAY, name)
                return self._refuse(f"{name} takes {exceeded.limit}", exceeded)
        return self.check_ceilings(now, sum(by_list.values()))

    # --- by programs and as bounces -----------------------------------------------------------------------------------

    def judge_forward(self, now: int, kind: str, recipients: Collection[str], queue_id: str) -> str | None:
        """`kind` is FORWARD, BOUNCE or LOCAL. The refusal; if None, it counts.

        Of programs on the server, everybody who is reached counts; else only those to whom it leaves the server.
        """
        config = self._read_config()
        reached = config.reach.expand_all(recipients)
        if kind != LOCAL:
            reached = set(filter(config.reach.is_elsewhere, reached))
            if not reached:
                return None
        number = max(len(reached), 1)
        # A bounce has one recipient. One of ours, such as root, has sent the mail; nobody else can name it.
        is_bounded = kind == BOUNCE and any(map(config.reach.is_elsewhere, map(str.lower, recipients)))
        list_name = f"bounces to {min(reached)}" if is_bounded else ""
        if kind == LOCAL:
            refusal = self._check_ceiling(
                now, self._ledger.local, config.local_ceiling, "local", "Programs on this server", number
            ) or self._check_server(now, number)
        else:
            refusal = self._check_bounces(now, list_name) or self.check_ceilings(now, number)
        if refusal is None:
            self._ledger.count_message(now, kind, Usage(1, number, 0), list_name, queue_id)
        return refusal

    def _check_bounces(self, now: int, list_name: str) -> str | None:
        """To one address. Its owner may know nothing of the mail that could not be delivered."""
        history = self._ledger.lists.get(list_name) if list_name else None
        exceeded = history and MAX_BOUNCES.find_exceeded(history, now, Usage(1, 1, 0))
        return self._refuse(f"This address gets {exceeded.limit} as notices", exceeded) if exceeded else None

    def check_ceilings(self, now: int, number: int) -> str | None:
        """Whether so many recipients more fit into what leaves of strangers' mail, and of all mail. The refusal."""
        ceiling = self._read_config().forward_ceiling
        senders = "Mail of strangers that leaves again, through aliases, scripts and bounces:"
        return self._check_ceiling(now, self._ledger.forwards, ceiling, FORWARD, senders, number) or self._check_server(
            now, number
        )

    def _check_server(self, now: int, number: int) -> str | None:
        ceiling = self._read_config().server_ceiling
        return self._check_ceiling(now, self._ledger.server, ceiling, "ceiling", "All who send here", number)

    def _check_ceiling(
        self, now: int, history: SendHistory, ceiling: Ceiling, kind: str, senders: str, number: int
    ) -> str | None:
        if not (exceeded := ceiling.find_exceeded(history, now, Usage(1, number, 0))):
            return None
        if kind == FORWARD:
            detail = (
                f"{senders} {exceeded.limit}. More is refused for now, and tried again. `mailkeepctl events` names "
                "lists over their limits, `postqueue -p` what waits"
            )
        else:
            detail = f"{senders} have sent {exceeded.limit}"
        self._notify_once(now, kind, detail)
        reason = f"This server sends {exceeded.limit} on" if kind == FORWARD else f"{senders} may send {exceeded.limit}"
        return self._refuse(reason, exceeded)

    def _refuse(self, reason: str, exceeded: ExceededLimit) -> str | None:
        """None in mode `learn`."""
        return self._say_later(reason, exceeded.free_at) if self._read_config().mode == "enforce" else None
