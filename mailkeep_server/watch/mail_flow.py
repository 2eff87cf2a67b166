"""Whether mail flows: what waits in the queue and for how long, and how deliveries to others and to mailboxes end."""

import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailkeep_server.common.wording import count_noun
from mailkeep_server.watch.alert_queue import Troubles
from mailkeep_server.watch.sensor import Sensor

# By Postfix's smtp(8), lmtp(8) and error(8): the recipient, the next hop, how it ended, and the reason.
DELIVERY = re.compile(
    r"\w+: to=<([^>]*)>, (?:orig_to=<[^>]*>, )?relay=([^,]+), (?:\w+=[^,]*, )*status=(sent|deferred|bounced) \((.*)\)$"
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
MIN_FAILING, MIN_DOMAINS, FAILING_SHARE = 20, 5, 0.8
FORGET_SECONDS = 7200.0  # Postfix tries a deferred message again after 4000 s at most (maximal_backoff_time)


@dataclass(frozen=True)
class Delivery:
    """One attempt to another server. `status` is `sent`, `deferred` or `bounced`."""

    at: float
    domain: str
    status: str
    reason: str

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
        self.recent = deque([Delivery(*fields) for fields in saved.get("recent", ())], maxlen=MAX_REMEMBERED)
        self.last_sent: float = float(saved.get("last_sent", time.time()))
        self.is_stalled = bool(saved.get("is_stalled"))
        self.dead_domains: list[str] = list(saved.get("dead_domains", ()))
        """Those that did not answer while another domain took mail, until they take mail: theirs is the fault. With a
        relay host, those that it refused meanwhile."""
        self.refusing_mailboxes: dict[str, tuple[float, str]] = {
            recipient: (at, reason) for recipient, (at, reason) in saved.get("refusing_mailboxes", {}).items()
        }
        """By recipient, the time of its last failure, and the reason."""

    def export_state(self) -> dict[str, Any]:
        """For the constructor after a restart, as JSON values."""
        with self.lock:
            recent = [[item.at, item.domain, item.status, item.reason] for item in self.recent]
            return {
                "deliveries": {
                    "recent": recent,
                    # To the minute: the state is written only when it has changed.
                    "last_sent": self.last_sent // 60 * 60,
                    "is_stalled": self.is_stalled,
                    "dead_domains": list(self.dead_domains),
                    "refusing_mailboxes": {name: list(value) for name, value in self.refusing_mailboxes.items()},
                }
            }

    def read_message(self, text: str) -> None:
        """A line of Postfix's log. Others are ignored."""
        if not (match := DELIVERY.match(text)):
            return
        recipient, relay, status, reason = match[1].lower(), match[2], match[3], shorten_reason(match[4])
        with self.lock:
            if relay.endswith(MAILBOX_AGENT) or MAILBOX_FAILURE.match(reason):
                self._note_mailbox(recipient, status, reason)
            else:
                self._note_delivery(Delivery(time.time(), recipient.rpartition("@")[2], status, reason))

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
            others = f" and {count_noun(len(refusing) - 1, 'other address')}" if len(refusing) > 1 else ""
            text = (
                f"Mail to {recipient}{others} cannot be stored, and waits in the queue: {reason}. "
                "`journalctl -u dovecot` says why; `mailkeep verify` names mailboxes with a wrong owner"
            )
            yield "mailbox", (text.replace("addresss", "addresses"), "Mail can be stored in all mailboxes again")

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
        failures = [item for item in self.recent if item.status != "sent"]
        count, domains = len(self.recent), {item.domain for item in failures}
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
        self.arrivals: dict[str, float] = {}
        """By queue ID of a deferred message, its arrival; infinity for a notification that cannot be returned."""

    def find_troubles(self) -> Troubles:
        counts = {queue: count_files(self.SPOOL / queue, self.MAX_COUNTED) for queue in self.QUEUES[:-1]}
        deferred = list_files(self.SPOOL / "deferred", self.MAX_COUNTED)
        counts["deferred"] = len(deferred)
        return dict((*self._find_length(counts), *self._find_age(deferred)))

    def _find_length(self, counts: Mapping[str, int]) -> Iterator[tuple[str, tuple[str, str]]]:
        total = sum(counts.values())
        self.is_long = total > (self.max_messages // 2 if self.is_long else self.max_messages)
        if self.is_long:
            by_queue = ", ".join(f"{number} {queue}" for queue, number in counts.items() if number)
            text = f"The mail queue is long: {by_queue}; `postqueue -p` shows it"
            yield "long", (text, "The mail queue is short again")

    def _find_age(self, deferred: list[str]) -> Iterator[tuple[str, tuple[str, str]]]:
        self._read_arrivals(deferred)
        now, oldest = time.time(), min(self.arrivals.values(), default=float("inf"))
        last_sent = self.deliveries.last_sent
        if now - oldest >= self.MAX_AGE or self._is_stalled(now):
            since = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(oldest))
            sent = "" if last_sent > oldest else ", and no other has left meanwhile"
            text = (
                f"Mail waits: the oldest of {count_noun(len(deferred), 'deferred message')} came at {since}{sent}; "
                "`postqueue -p` says why"
            )
            yield "old", (text, "No mail waits for long any more")

    def _is_stalled(self, now: float) -> bool:
        """Whether messages wait, and none has left, for an hour. At night, there may be a single one, whose recipient's
        server is off; a relay host should never be."""
        waiting = sum(now - arrival >= self.MAX_STALLED_AGE for arrival in self.arrivals.values())
        min_waiting = 1 if self.deliveries.relay else 2
        return waiting >= min_waiting and now - self.deliveries.last_sent >= self.MAX_STALLED_AGE

    def _read_arrivals(self, deferred: list[str]) -> None:
        names = {os.path.basename(path): path for path in deferred}  # noqa: PTH119 - of up to 100,000 paths
        self.arrivals = {name: at for name, at in self.arrivals.items() if name in names}
        unread = [path for name, path in names.items() if name not in self.arrivals]
        for path in unread[: self.MAX_READ]:
            self.arrivals[os.path.basename(path)] = read_arrival(path)  # noqa: PTH119


def shorten_reason(reason: str) -> str:
    """Its end says which command was refused."""
    return reason if len(reason) <= MAX_REASON else f"{reason[:100]} … {reason[103 - MAX_REASON :]}"


def read_arrival(path: str) -> float:
    """When a message arrived, by its queue file; infinity for a notification, which has no sender, and for a file that
    has gone or is none.

    A record is a letter, a length of 7 bits a byte, and data (Postfix's rec_type.h): `T` has the time, `S` the sender.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            records = dict(_split_records(file.read(4096)))
        return float(records[b"T"].split()[0]) if records[b"S"] else float("inf")
    except (OSError, LookupError, ValueError):
        return float("inf")


def _split_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Up to the sender's. Raises IndexError for data cut short."""
    at, kind = 0, b""
    while kind != b"S":
        kind, length, shift, at = data[at : at + 1], 0, 0, at + 1
        while True:
            byte, at = data[at], at + 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
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
