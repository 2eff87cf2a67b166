"""Owners end a hold by a reply to a one-time code, which went to an address of theirs elsewhere (`confirm_at`).

A thief of the password reads the account's mail, but not that. Postfix asks at RCPT, before anything else could refuse
the reply, and so log a code that is good. It asks again at the end of the message, before milters: then the code is
used up. A server that only tries whether the address exists sends no message, and uses up nothing (Exim's `verify`).
"""

from collections import OrderedDict
from collections.abc import Callable

from mailkeep_server.common.release_codes import find_digest
from mailkeep_server.guard.config import GuardConfig
from mailkeep_server.guard.database import Database
from mailkeep_server.guard.freezer import Freezer
from mailkeep_server.guard.ledger import bound_size
from mailkeep_server.guard.policy import PolicyRequest
from mailkeep_server.guard.sliding_window import DAY
from mailkeep_server.guard.stranger_store import RELEASED, Confirmation, StrangerStore
from mailkeep_server.guard.strangers import StrangerJudge

GOOD_FOR = DAY
"""Since the code was made. Then messages on hold go back to their owner."""


class Confirmations:
    """`read_config` returns the configuration that holds now. All methods raise sqlite3.Error."""

    def __init__(
        self, read_config: Callable[[], GuardConfig], database: Database, freezer: Freezer, strangers: StrangerJudge
    ) -> None:
        self._read_config, self._freezer, self._strangers = read_config, freezer, strangers
        self._store = StrangerStore(database)
        self._open: OrderedDict[str, str] = OrderedDict()
        """Digests of good codes, by instance."""

    def add_code(self, now: int, account: str, digest: str, shown: str) -> int | None:
        """How many messages of the account are on hold. None if there is no hold to end, or the account is frozen.

        `digest` is the code's, in place of an earlier one. `shown` is the address elsewhere, as events name it.
        """
        hold = self._store.find_hold(account)
        if not hold or hold.cause == RELEASED or account in self._freezer.frozen_accounts(now):
            return None
        self._store.set_confirmation(Confirmation(account, now, digest, shown))
        return self._store.count_held(account)

    def refuse_recipient(self, now: int, request: PolicyRequest) -> str:
        """The refusal of a code that is not good; else ""."""
        digest = self._read_digest(request)
        if digest is None:
            return ""
        if not self._find_good(now, digest):
            contact = self._read_config().contact
            return f"550 5.7.1 This reply is too late, or was used before. Ask {contact}"
        self._open[request.instance] = digest
        bound_size(self._open)
        return ""

    def take_message(self, now: int, request: PolicyRequest) -> None:
        """For a message that has arrived whole. Postfix names its recipient only if there is no other.

        Bounces and automatic answers have no sender (RFC 3834 section 3.3). They end no hold. But they use up the code,
        since Postfix logs it.
        """
        digest = self._open.pop(request.instance, None) or self._read_digest(request)
        if not digest or not (confirmation := self._find_good(now, digest)):
            return
        self._store.remove_confirmation(confirmation.account)
        if request.sender:
            self._strangers.confirm(now, confirmation.account, confirmation.shown)

    def transaction_aborted(self, instance: str) -> None:
        self._open.pop(instance, None)

    def _read_digest(self, request: PolicyRequest) -> str | None:
        """None of what is no reply."""
        return find_digest(request.recipient, self._read_config().release_address)

    def _find_good(self, now: int, digest: str) -> Confirmation | None:
        confirmation = self._store.find_confirmation(digest)
        if not confirmation or now >= confirmation.time + GOOD_FOR:
            return None
        return None if confirmation.account in self._freezer.frozen_accounts(now) else confirmation
