"""Complaints of recipients (ARF, RFC 5965): which account sent the message, and whether that counts.

The reader of reports (`mailkeep_server.reports.complaint`) takes only reports whose sender DMARC proves. Recipients do
not know our queue ids. They know the Message-ID: so of each message that an account sends, the guard keeps a keyed hash
of it for MESSAGE_IDS_KEPT. A row and its place in the index take some 80 bytes.

A complaint must not get a victim frozen. So it counts only of first-time recipients whose domain had not written first.
It must be of that domain, or of a feedback loop. A message counts once, and so does a voice (`outcomes.count_voice`):
whoever owns a domain has one, in however many names he reports. Anybody has several mailboxes at large providers, so
all of one provider's count once towards a freeze.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from hashlib import blake2b

from mailkeep_server.common.addresses import hash_text
from mailkeep_server.common.domain_names import are_related, is_within
from mailkeep_server.guard.config import GuardConfig
from mailkeep_server.guard.database import Database
from mailkeep_server.guard.ledger import Ledger
from mailkeep_server.guard.outcomes import LARGE_PROVIDERS, Fate
from mailkeep_server.guard.sliding_window import DAY
from mailkeep_server.guard.stranger_store import NOT_YET, SentMessage, Stranger, StrangerStore
from mailkeep_server.guard.strangers import StrangerJudge

COMPLAINT = "complaint"
"""The kind of an event."""
FEEDBACK_LOOPS = (
    "arf.mail.yahoo.com",
    "fbl.apps.rackspace.com",
    "fbl.hostedemail.com",
    "fbl.synacor.com",
    "senderscore.net",
)
"""Domains that report for others: of Yahoo's brands, of providers that host mail of other domains, and of those whose
loops Validity runs. No customer of theirs has an address there."""


class Complaints:
    """`read_config` returns the configuration that holds now. All methods raise sqlite3.Error."""

    def __init__(
        self, read_config: Callable[[], GuardConfig], ledger: Ledger, database: Database, strangers: StrangerJudge
    ) -> None:
        self._read_config, self._ledger, self._database, self._strangers = read_config, ledger, database, strangers
        self._store = StrangerStore(database)
        self._keys = [bytes.fromhex(key) for key in self._store.list_message_keys()]

    def note_message(self, now: int, name: str, queue_id: str, digests: Iterable[str]) -> None:
        """Of a message that is accepted. `digests` are those of its Message-IDs."""
        for digest in digests:
            self._store.add_message_id(now, name, queue_id, _hash_digest(self._keys[0], digest))

    def note_complaint(self, now: int, reporter: str, digests: Iterable[str]) -> str:
        """`reporter` is the domain that DMARC proves. Returns the account; "" if nobody here sent such a message.

        A report that comes again finds its recipient noted, and changes nothing.
        """
        messages = [*self._find_messages(digests)]
        for message in messages:
            if stranger := self._find_speaker(reporter, message):
                self._store.note_complaint(stranger)
                self._tell(now, message, reporter, is_counted=True)
                self._strangers.judge_outcomes(now, message.account)
                return message.account
        if messages:
            self._tell(now, messages[0], reporter, is_counted=False)
        return messages[0].account if messages else ""

    def _find_speaker(self, reporter: str, message: SentMessage) -> Stranger | None:
        """The recipient who complains. None if the reporter may speak for nobody, or has done so."""
        if reporter in LARGE_PROVIDERS:  # anybody may write reports there: their loops have names of their own
            return None
        speakers = _select_speakers(reporter, self._store.list_strangers(message.queue_id))
        strangers = [stranger for stranger in speakers if not self._is_answered(message, stranger)]
        if any(stranger.fate == Fate.COMPLAINED for stranger in strangers):
            return None
        return next((stranger for stranger in strangers if stranger.fate in (NOT_YET, Fate.SENT)), None)

    def _is_answered(self, message: SentMessage, stranger: Stranger) -> bool:
        """Whether the recipient's domain wrote first: else whoever gets answers could complain of them."""
        noted_at = self._database.sender_time(message.account, hash_text(stranger.voice))
        return 0 < noted_at <= message.time

    def _find_messages(self, digests: Iterable[str]) -> Iterator[SentMessage]:
        for digest in digests:
            for key in self._keys:
                yield from self._store.find_messages(_hash_digest(key, digest))

    def _tell(self, now: int, message: SentMessage, reporter: str, *, is_counted: bool) -> None:
        """Once a day of each account: `mailkeepctl why` has the count."""
        subject = COMPLAINT if is_counted else f"{COMPLAINT} uncounted"
        if not self._ledger.get_account(message.account).should_notify(subject, now, DAY):
            return
        thresholds, number = self._read_config().hold_thresholds, self._strangers.count_complaints(now, message.account)
        day = f"{datetime.fromtimestamp(message.time / 1000, UTC):%Y-%m-%d}"
        counts = f"{number} in a week, {thresholds.complaints} hold its mail to strangers"
        why_not = "that does not count, for the reasons in docs/guard.md, Complaints"
        detail = f"{reporter} reports its message of {day} as spam; {counts if is_counted else why_not}"
        self._database.add_event(now, COMPLAINT, message.account, detail)


def _hash_digest(key: bytes, digest: str) -> int:
    """64 bits, signed. Without the key, nobody makes a Message-ID that has the hash of another. Raises ValueError."""
    return int.from_bytes(blake2b(bytes.fromhex(digest), key=key, digest_size=8).digest(), signed=True)


def _select_speakers(reporter: str, strangers: Iterable[Stranger]) -> Iterator[Stranger]:
    """For whom the reporter may speak."""
    is_loop = any(is_within(reporter, loop) for loop in FEEDBACK_LOOPS)
    for stranger in strangers:
        if is_loop or are_related(stranger.voice.partition(" ")[0], reporter):
            yield stranger
