"""Whether mail flows: what waits in the queue and for how long, and how deliveries to others and to mailboxes end."""

import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from mailkeep_server.common.wording import count_noun
from mailkeep_server.watch.alert_queue import Troubles
from mailkeep_server.watch.sensor import Sensor, SensorEvent

# By Postfix's smtp(8), lmtp(8) and error(8): recipient, next hop, the message's age, how it ended, and the reason.
DELIVERY = re.compile(
    r"\w+: to=<([^>]*)>, (?:orig_to=<[^>]*>, )?relay=([^,]+), (?:conn_use=\d+, )?delay=([\d.]+), "
    r"(?:\w+=[^,]*, )*status=(sent|deferred|bounced) \((.*)\)$"
)
MAILBOX_AGENT = "[private/dovecot-lmtp]"
# Without a connection to Dovecot, Postfix logs `relay=none`. Another server's answer follows that server's name.
MAILBOX_FAILURE = re.compile(r"(?:delivery temporarily suspended: )?[\w ]+ [\w.-]+\[private/dovecot-lmtp\]")
# 421: Dovecot is about to end (RFC 5321 section 3.8), as in an upgrade.
MAILBOX_REFUSAL = re.compile(r" said: (?!421)")
ANSWER = re.compile(r" said: | refused to talk to me: ")
WINDOW = 900.0  # seconds
MAX_REMEMBERED = 1000  # deliveries of the window, and recipients whose mailbox takes no mail
MAX_REASON = 160  # characters
PROOF_SECONDS = 120.0  # after a delivery that succeeded, in which mail leaves for certain
RECIPIENT_REFUSAL = "(in reply to RCPT TO command)"
MIN_STALLED = 3  # deliveries that failed, while none succeeded
RETRY_AGE = 300.0  # seconds: Postfix tries a message again after that time at least (minimal_backoff_time)
MIN_FAILING, MIN_DOMAINS, FAILING_SHARE = 20, 5, 0.8
EXPORT_SECONDS = 60.0  # between two copies of the state
FORGET_SECONDS = 7200.0  # Postfix tries a deferred message again after 4000 s at most (maximal_backoff_time)


@dataclass(frozen=True)
class Delivery:
    """One attempt to another server. `status` is `sent`, `deferred` or `bounced`."""

    at: float
    domain: str
    status: str
    reason: str
    is_retry: bool = False

    @property
    def has_answer(self) -> bool:
        """Whether a server refused it, for now or for good."""
        return ANSWER.search(self.reason) is not None

    @property
    def is_failure(self) -> bool:
        """Whether no server took it, nor refused it."""
        return self.status == "deferred" and not self.has_answer

    @property
    def is_recipients_fault(self) -> bool:
        """Whether a relay host takes mail, but cannot take it to this recipient now."""
        return self.status == "deferred" and self.reason.endswith(RECIPIENT_REFUSAL)


class DeliverySensor(Sensor):
    """Deliveries that fail, by the lines of Postfix's delivery agents. Another thread reads these."""

    name = "delivery"

    def __init__(self, state: Mapping[str, Any] | None = None, *, relay: bool = False) -> None:
        """With a `relay`, all mail has the same way out: whatever the domain, it is the relay that fails."""
        saved: Mapping[str, Any] = (state or {}).get("deliveries", {})
        self.lock, self.relay = threading.Lock(), relay
        self.exported, self.state = float("-inf"), dict[str, Any]()
        self.recent = deque([Delivery(*fields) for fields in saved.get("recent", ())], maxlen=MAX_REMEMBERED)
        self.last_sent: float = float(saved.get("last_sent", time.time()))
        self.reported_arrival: float = float(saved.get("reported_arrival", 0))
        """Of the messages that have waited for hours, the arrival of the last one that was reported."""
        self.is_stalled = bool(saved.get("is_stalled"))
        self.dead_domains: list[str] = list(saved.get("dead_domains", ()))
        """Those that did not answer while another domain took mail, until they take mail: theirs is the fault. With a
        relay host, those that it refused meanwhile."""
        self.refusing_mailboxes: dict[str, tuple[float, str]] = {
            recipient: (at, reason) for recipient, (at, reason) in saved.get("refusing_mailboxes", {}).items()
        }
        """By recipient, the time of its last failure, and the reason."""

    def export_state(self) -> dict[str, Any]:
        """For the constructor after a restart, as JSON values. Up to a minute old: each delivery changes it, and all of
        the state is written anew after a change."""
        if not 0 <= time.monotonic() - self.exported < EXPORT_SECONDS:
            self.exported, self.state = time.monotonic(), self._compose_state()
        return {"deliveries": self.state}

    def _compose_state(self) -> dict[str, Any]:
        with self.lock:
            return {
                "recent": [astuple(item) for item in self.recent],
                "last_sent": self.last_sent,
                "reported_arrival": self.reported_arrival,
                "is_stalled": self.is_stalled,
                "dead_domains": list(self.dead_domains),
                "refusing_mailboxes": {name: list(value) for name, value in self.refusing_mailboxes.items()},
            }

    def read_message(self, text: str) -> None:
        """A line of Postfix's log. Others are ignored."""
        if not (match := DELIVERY.match(text)):
            return
        recipient, relay, age, status = match[1].lower(), match[2], float(match[3]), match[4]
        reason = shorten_reason(match[5])
        with self.lock:
            if relay.endswith(MAILBOX_AGENT) or MAILBOX_FAILURE.match(reason):
                self._note_mailbox(recipient, status, reason)
            else:
                domain, is_retry = recipient.rpartition("@")[2], age >= RETRY_AGE
                self._note_delivery(Delivery(time.time(), domain, status, reason, is_retry))

    def _note_mailbox(self, recipient: str, status: str, reason: str) -> None:
        if status != "deferred":
            self.refusing_mailboxes.pop(recipient, None)
        # Without an answer, Dovecot is down: that is another sensor's trouble.
        elif MAILBOX_REFUSAL.search(reason) and len(self.refusing_mailboxes) < MAX_REMEMBERED:
            self.refusing_mailboxes[recipient] = time.time(), reason

    def _note_delivery(self, delivery: Delivery) -> None:
        self.recent.append(delivery)
        if self._proves_way_out(delivery):
            self.last_sent, self.is_stalled = delivery.at, False
        if delivery.status == "sent":
            domains = dict.fromkeys((*self.dead_domains, *sorted(self._list_failed_domains())))
            domains.pop(delivery.domain, None)
            self.dead_domains = [*domains][-MAX_REMEMBERED:]
        elif delivery.domain in self._list_failed_domains() - {*self.dead_domains} and self._has_just_sent(delivery.at):
            self.dead_domains = [*self.dead_domains, delivery.domain][-MAX_REMEMBERED:]

    def _proves_way_out(self, delivery: Delivery) -> bool:
        """Without a relay host, a server that answers shows that mail leaves: it may be greylisting (RFC 6647)."""
        return delivery.status == "sent" or (delivery.has_answer and not self.relay)

    def _has_just_sent(self, now: float) -> bool:
        """A connection times out long after the other recipients of the same message have theirs."""
        return any(item.status == "sent" and 0 <= now - item.at < PROOF_SECONDS for item in self.recent)

    def _list_failed_domains(self) -> set[str]:
        """Those whose own fault it is, if mail leaves. A relay host that does not answer is none of a domain's."""
        return {item.domain for item in self.recent if (item.is_recipients_fault if self.relay else item.is_failure)}

    def find_troubles(self) -> Troubles:
        with self.lock:
            self._forget_old(time.time())
            return dict((*self._find_refusing_mailboxes(), *self._find_stalled(), *self._find_failing()))

    def _forget_old(self, now: float) -> None:
        while self.recent and not 0 <= now - self.recent[0].at < WINDOW:
            self.recent.popleft()
        for recipient, (at, _) in list(self.refusing_mailboxes.items()):
            if not 0 <= now - at < FORGET_SECONDS:
                del self.refusing_mailboxes[recipient]

    def _find_refusing_mailboxes(self) -> Iterator[tuple[str, tuple[str, str]]]:
        if refusing := self.refusing_mailboxes:
            recipient, (_, reason) = next(reversed(refusing.items()))
            others = len(refusing) - 1
            and_others = f" and {count_noun(others, 'other address', 'other addresses')}" if others else ""
            text = (
                f"Mail to {recipient}{and_others} cannot be stored, and waits in the queue: {reason}. "
                "`journalctl -u dovecot` says why; `mailkeep verify` names mailboxes with a wrong owner"
            )
            yield "mailbox", (text, "Mail can be stored in all mailboxes again")

    def _find_stalled(self) -> Iterator[tuple[str, tuple[str, str]]]:
        """Nothing leaves: no delivery succeeds, to several domains or to the relay host. It lasts until one does."""
        failures = [item for item in self.recent if item.status == "deferred" and item.domain not in self.dead_domains]
        if not any(map(self._proves_way_out, self.recent)) and self._shows_standstill(failures):
            self.is_stalled = True
        if self.is_stalled:
            last = f": {failures[-1].reason}" if failures else ""
            hint = "`postqueue -p` shows what waits, `mailkeep verify` tries the way out"
            yield "stalled", (f"No mail leaves this server; all deliveries fail{last}. {hint}", "Mail leaves again")

    def _shows_standstill(self, failures: list[Delivery]) -> bool:
        """A relay host that refuses recipients of one or two domains may be right: their names are mistyped."""
        domains = {item.domain for item in failures}
        if self.relay and not all(item.is_recipients_fault for item in failures):
            return len(failures) >= MIN_STALLED
        return len(failures) >= MIN_STALLED and len(domains) >= (MIN_STALLED if self.relay else 2)

    def _find_failing(self) -> Iterator[tuple[str, tuple[str, str]]]:
        """Old messages to dead servers are tried again all night: they show nothing new."""
        fresh = [item for item in self.recent if not item.is_retry and item.domain not in self.dead_domains]
        failures = [item for item in fresh if item.status != "sent"]
        count = len(failures) + sum(item.status == "sent" for item in self.recent)
        domains = {item.domain for item in failures}
        if count >= MIN_FAILING and len(domains) >= MIN_DOMAINS and len(failures) >= FAILING_SHARE * count:
            if self.is_stalled:
                return
            text = (
                f"Most mail is not taken elsewhere: {len(failures)} of {count} deliveries in {WINDOW / 60:.0f} minutes "
                f"failed, the last one with: {failures[-1].reason}"
            )
            yield "failing", (text, "Most mail is taken elsewhere again")


class QueueSensor(Sensor):
    """How many messages wait, and for how long. Held ones do not count: they stay, and their freeze was reported."""

    name = "queue"
    SPOOL = Path("/var/spool/postfix")
    QUEUES = ("maildrop", "incoming", "active", "deferred")
    MAX_COUNTED = 100_000  # a longer count would take longer than the interval
    MAX_READ = 200  # queue files read for their age at each sample
    MAX_AGE = 4 * 3600.0  # seconds; Postfix tells the sender then, too (delay_warning_time)
    MAX_STALLED_AGE = 3600.0  # seconds, while nothing else has left

    def __init__(self, max_messages: int, deliveries: DeliverySensor | None = None) -> None:
        self.max_messages, self.is_long = max_messages, False
        self.deliveries = deliveries or DeliverySensor()
        self.messages: dict[str, QueuedMessage] = {}
        """The deferred ones, by queue ID."""

    def find_troubles(self) -> Troubles:
        counts = {queue: count_files(self.SPOOL / queue, self.MAX_COUNTED) for queue in self.QUEUES[:-1]}
        deferred = list_files(self.SPOOL / "deferred", self.MAX_COUNTED)
        counts["deferred"] = len(deferred)
        self._read_messages(deferred)
        return dict((*self._find_length(counts), *self._find_standstill()))

    def take_events(self) -> Iterator[SensorEvent]:
        """Each message that has waited for hours is reported once. Where there are many accounts, there is always one:
        a trouble would never end, and hide the next."""
        arrivals = [message.arrival for message in self.messages.values()]
        old = [arrival for arrival in arrivals if arrival <= time.time() - self.MAX_AGE]
        if max(old, default=0) > self.deliveries.reported_arrival:
            self.deliveries.reported_arrival = max(old)
            yield "queue:old", self._describe_waiting(min(old), ""), False

    def _find_length(self, counts: Mapping[str, int]) -> Iterator[tuple[str, tuple[str, str]]]:
        total = sum(counts.values())
        self.is_long = total > (self.max_messages // 2 if self.is_long else self.max_messages)
        if self.is_long:
            by_queue = ", ".join(f"{number} {queue}" for queue, number in counts.items() if number)
            text = f"The mail queue is long: {by_queue}; `postqueue -p` shows it"
            yield "long", (text, "The mail queue is short again")

    def _find_standstill(self) -> Iterator[tuple[str, tuple[str, str]]]:
        """Whether messages wait for an hour, and nothing has left since they came. At night, they may be to a single
        domain, whose server is off; a relay host should never be.

        What came before the last delivery is its own trouble. So an alert that leaves ends this one for good.
        """
        deliveries, now = self.deliveries, time.time()
        waiting = [
            message
            for message in self.messages.values()
            if deliveries.last_sent < message.arrival <= now - self.MAX_STALLED_AGE
        ]
        domains = {domain for message in waiting for domain in message.domains}.difference(deliveries.dead_domains)
        if len(domains) >= (1 if deliveries.relay else 2) and not deliveries.is_stalled:  # which is told already
            text = self._describe_waiting(
                min(message.arrival for message in waiting), ", and no other has left meanwhile"
            )
            yield "stalled", (text, "Mail leaves again, or none waits")

    def _describe_waiting(self, oldest: float, remark: str) -> str:
        since = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(oldest))
        return (
            f"Mail waits: the oldest of {count_noun(len(self.messages), 'deferred message')} came at {since}{remark}; "
            "`postqueue -p` says why"
        )

    def _read_messages(self, deferred: list[str]) -> None:
        names = {os.path.basename(path): path for path in deferred}  # noqa: PTH119 - of up to 100,000 paths
        self.messages = {name: message for name, message in self.messages.items() if name in names}
        unread = [path for name, path in names.items() if name not in self.messages]
        for path in unread[: self.MAX_READ]:
            self.messages[os.path.basename(path)] = read_queue_file(path)  # noqa: PTH119


@dataclass(frozen=True, slots=True)
class QueuedMessage:
    """`arrival` is infinity for a notification, which has no sender, and for a file that has gone or is none."""

    arrival: float
    domains: tuple[str, ...]
    """Of its recipients; an empty name where the file's beginning does not have them."""


def shorten_reason(reason: str) -> str:
    """Its end says which command was refused."""
    return reason if len(reason) <= MAX_REASON else f"{reason[:100]} … {reason[103 - MAX_REASON :]}"


def read_queue_file(path: str) -> QueuedMessage:
    """A record is a letter, a length of 7 bits a byte, and data (Postfix's rec_type.h): `T` has the time, `S` the
    sender, `R` a recipient."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            records = list(_split_records(file.read(4096)))
        fields = dict(records)
        arrival = float(fields[b"T"].split()[0]) if fields[b"S"] else float("inf")
    except (OSError, LookupError, ValueError):
        return QueuedMessage(float("inf"), ())
    recipients = [data.decode(errors="replace").lower() for kind, data in records if kind == b"R"]
    return QueuedMessage(arrival, tuple({recipient.rpartition("@")[2] for recipient in recipients or [""]}))


def _split_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Up to the message's text (`M`), or the last whole record."""
    at = 0
    while at < len(data) and (kind := data[at : at + 1]) != b"M":
        length, shift, at = 0, 0, at + 1
        while at < len(data):
            byte, at = data[at], at + 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
        if at + length <= len(data):
            yield kind, data[at : at + length]
        at += length


def count_files(directory: Path, limit: int) -> int:
    return len(list_files(directory, limit))


def list_files(directory: Path, limit: int) -> list[str]:
    """Files in a directory and below, up to about `limit`. Postfix moves them about meanwhile."""
    files: list[str] = []
    directories = [str(directory)]
    while directories and len(files) < limit:
        try:
            with os.scandir(directories.pop()) as entries:
                for entry in entries:
                    (directories if entry.is_dir(follow_symlinks=False) else files).append(entry.path)
        except FileNotFoundError:
            continue
    return files
