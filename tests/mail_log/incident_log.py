"""A mail log of the shape of incidents A and B, the same bytes each time, with totals that are known beforehand.

Incident A is whole: 68,354 tries of one account. INCIDENT_A says what became of them; the last ones have no fate, as
the disk was full. Incident B is as long as asked for: an account whose messages have several recipients, most of them
tried again and again. Other people's mail goes on beside both.
"""

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import IO

START = datetime(2026, 5, 12, tzinfo=UTC)
INCIDENT_A = {"sent": 1654, "bounced": 6465, "rejected": 9685, "waiting": 50_533, "unknown": 17}
TRIES_A = sum(INCIDENT_A.values())
RETRY_SECONDS = (300, 600, 1200, 2400, 4000, 4000, 4000, 4000, 4000, 4000)
DAY = 86_400
REMOTES = 40  # mail exchangers that most mail goes to
REFUSAL = (
    b"550-5.7.26 This mail has been blocked because the sender is unauthenticated (in reply to end of DATA command)"
)
DEFERRAL = (
    b"421 4.7.0 [TSS05] Messages from 203.0.113.25 temporarily deferred due to unexpected volume or user complaints"
)


@dataclass
class Totals:
    """What the log holds, by what a report calls it."""

    numbers: Counter[str] = field(default_factory=Counter)
    by_account: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, name: str, account: str, number: int = 1) -> None:
        self.numbers[name] += number
        self.by_account[account, name] += number


class Writer:
    """Lines in the order of time, by a heap of what comes later."""

    def __init__(self, file: IO[bytes], totals: Totals, seed: int, *, classic: bool) -> None:
        self.file, self.totals, self.classic = file, totals, classic
        self.random = random.Random(seed)  # noqa: S311 - the same mail each time
        self.heap: list[tuple[float, int, Callable[[float], None]]] = []
        self.number, self.size = 0, 0
        self.stamp_second, self.stamp = -1, b""
        self.processes = dict[bytes, int]()
        """By program, the lines that it has written: a process ends after some hundred (postconf(5), max_use)."""

    def schedule(self, at: float, action: Callable[[float], None]) -> None:
        self.number += 1
        heapq.heappush(self.heap, (at, self.number, action))

    def run_until(self, at: float) -> None:
        while self.heap and self.heap[0][0] <= at:
            moment, _, action = heapq.heappop(self.heap)
            action(moment)

    def find_process(self, program: bytes) -> int:
        """Twenty work at the same time, and the queue manager alone."""
        lines = self.processes[program] = self.processes.get(program, 0) + 1
        return 7075 if program == b"qmgr" else 8000 + lines // 2000 * 20 + lines % 20

    def write(self, at: float, program: bytes, text: bytes, process: int = 0) -> None:
        second = int(at)
        if second != self.stamp_second:
            moment = START + timedelta(seconds=second)
            self.stamp_second = second
            self.stamp = (
                f"{moment:%b} {moment.day:2} {moment:%H:%M:%S}" if self.classic else f"{moment:%FT%T}"
            ).encode()
        micros = b"" if self.classic else b".%06d+00:00" % int((at - second) * 1e6)
        line = b"%s%s mail postfix/%s[%d]: %s\n" % (
            self.stamp,
            micros,
            program,
            process or self.find_process(program),
            text,
        )
        self.file.write(line)
        self.size += len(line)

    def make_queue_id(self) -> bytes:
        return b"%X%05X" % (0x10000 + self.number % 0xEFFFF, self.random.randrange(0x100000))


@dataclass
class Message:
    """`plan` is the end of each recipient: sent, bounced, waiting or unknown."""

    account: str
    sender: bytes
    client: bytes
    size: int
    recipients: list[tuple[bytes, str, int]]  # address, end, deferrals before it


class Mail:
    def __init__(self, writer: Writer) -> None:
        self.writer, self.random, self.totals = writer, writer.random, writer.totals

    def submit(self, at: float, message: Message) -> None:
        write, queue_id = self.writer.write, self.writer.make_queue_id()
        login = b", sasl_method=PLAIN, sasl_username=%s" % message.account.encode() if message.account else b""
        port = b"submission/smtpd" if login else b"smtpd"
        process = self.writer.find_process(port)
        write(at, port, b"connect from %s" % message.client, process)
        write(at + 0.02, port, b"%s: client=%s%s" % (queue_id, message.client, login), process)
        write(at + 0.04, b"cleanup", b"%s: message-id=<%X.%s@pc>" % (queue_id, self.random.getrandbits(64), queue_id))
        self.totals.add("messages", message.account)
        self.totals.add("people", message.account, len(message.recipients))
        self.totals.add("bytes", message.account, message.size)
        for _, end, deferrals in message.recipients:
            self.totals.add(end, message.account)
            self.totals.add("deferrals", message.account, deferrals)
        self.activate(at + 0.05, queue_id, message, message.recipients)
        auth = b" auth=1" if login else b""
        counts = b"%s mail=1 rcpt=%d data=1 quit=1" % (auth, len(message.recipients))
        disconnection = b"disconnect from %s ehlo=1%s commands=6" % (message.client, counts)
        self.writer.schedule(at + 0.9, lambda now: write(now, port, disconnection, process))

    def activate(
        self, at: float, queue_id: bytes, message: Message, left: list[tuple[bytes, str, int]], tries: int = 0
    ) -> None:
        active = (queue_id, message.sender, message.size, len(message.recipients))
        self.writer.write(at, b"qmgr", b"%s: from=<%s>, size=%d, nrcpt=%d (queue active)" % active)
        if left[0][1] == "unknown":
            return
        self.writer.schedule(
            at + self.random.uniform(0.2, 2), lambda now: self.deliver(now, queue_id, message, left, tries)
        )

    def deliver(
        self, at: float, queue_id: bytes, message: Message, left: list[tuple[bytes, str, int]], tries: int
    ) -> None:
        still_waiting = []
        for address, end, deferrals in left:
            if tries < deferrals:
                self.write_fate(at, queue_id, address, "deferred", tries)
                still_waiting.append((address, end, deferrals))
            elif end == "waiting":
                still_waiting.append((address, end, deferrals))
            else:
                self.write_fate(at, queue_id, address, end, tries)
        if still_waiting and any(tries + 1 < deferrals or end != "waiting" for _, end, deferrals in still_waiting):
            pause = RETRY_SECONDS[min(tries, len(RETRY_SECONDS) - 1)] + self.random.uniform(0, 30)
            self.writer.schedule(
                at + pause, lambda now: self.activate(now, queue_id, message, still_waiting, tries + 1)
            )
        elif not still_waiting:
            if any(end == "bounced" for _, end, _ in message.recipients):
                self.return_message(at + 0.005, queue_id, message)
            self.writer.write(at + 0.01, b"qmgr", b"%s: removed" % queue_id)

    def return_message(self, at: float, queue_id: bytes, message: Message) -> None:
        """The notice that the sender's own server makes, and that is delivered there."""
        notice = self.writer.make_queue_id()
        self.writer.number += 1
        self.writer.write(at, b"cleanup", b"%s: message-id=<%s.%s@mail.example.org>" % (notice, notice, queue_id))
        self.writer.write(at, b"bounce", b"%s: sender non-delivery notification: %s" % (queue_id, notice))
        self.writer.write(at, b"qmgr", b"%s: from=<>, size=%d, nrcpt=1 (queue active)" % (notice, message.size + 2000))
        tail = b"relay=mail.example.org[private/dovecot-lmtp], delay=0.1, delays=0.05/0/0/0.05, dsn=2.0.0, status=sent"
        text = b"%s: to=<%s>, %s (250 2.0.0 <%s> AbC Saved)" % (notice, message.sender, tail, message.sender)
        self.writer.write(at + 0.002, b"lmtp", text)
        self.writer.write(at + 0.003, b"qmgr", b"%s: removed" % notice)
        for name, number in (("messages", 1), ("people", 1), ("sent", 1), ("bytes", message.size + 2000)):
            self.totals.add(name, "(notices)", number)

    def write_fate(self, at: float, queue_id: bytes, address: bytes, end: str, tries: int) -> None:
        remote = sum(address) % REMOTES
        host = b"mx%d.example.net[192.0.2.%d]" % (remote, remote + 1)
        if end == "deferred" and tries == 0:
            self.writer.write(
                at, b"smtp", b"%s: host %s said: %s (in reply to MAIL FROM command)" % (queue_id, host, DEFERRAL)
            )
        answer, status = {
            "sent": (
                b"250 2.0.0 OK 1747008107 a640c23a62f3a-ad2192d0b2bsi844939466b.1 - gsmtp",
                b"dsn=2.0.0, status=sent",
            ),
            "bounced": (b"host %s said: %s" % (host, REFUSAL), b"dsn=5.7.26, status=bounced"),
            "deferred": (b"host %s said: %s" % (host, DEFERRAL), b"dsn=4.7.0, status=deferred"),
        }[end]
        delay = 0.7 + sum(RETRY_SECONDS[:tries])
        delays = b"%.2f, delays=%.2f/0.03/0.13/0.56" % (delay, delay - 0.7)
        text = b"%s: to=<%s>, relay=%s:25, delay=%s, %s (%s)" % (queue_id, address, host, delays, status, answer)
        self.writer.write(at, b"smtp", text)

    def refuse(self, at: float, account: str, client: bytes) -> None:
        text = (
            b"NOQUEUE: reject: MAIL from %s: 452 4.3.1 Insufficient system storage; proto=ESMTP helo=<[198.51.100.241]>"
        )
        self.writer.write(at, b"submission/smtpd", b"connect from %s" % client)
        self.writer.write(at + 0.01, b"submission/smtpd", text % client)
        self.writer.write(
            at + 0.02, b"submission/smtpd", b"disconnect from %s ehlo=1 auth=1 mail=0/1 quit=1 commands=3/4" % client
        )
        self.totals.add("rejected", account)


def make_incident_a(mail: Mail, at: float, length: float) -> None:
    """68,354 tries within `length` seconds from `at` on."""
    fates = [fate for fate, number in INCIDENT_A.items() for _ in range(number) if fate not in ("rejected", "unknown")]
    mail.random.shuffle(fates)
    fates += ["rejected"] * INCIDENT_A["rejected"] + ["unknown"] * INCIDENT_A["unknown"]  # the disk is full at the end
    client = b"unknown[198.51.100.241]"
    for number, fate in enumerate(fates):
        moment = at + length * number / len(fates)
        mail.writer.schedule(moment, partial(_try_a, mail, fate, number, client))


def _try_a(mail: Mail, fate: str, number: int, client: bytes, at: float) -> None:
    if fate == "rejected":
        mail.refuse(at, "", client)
        return
    deferrals = {"waiting": mail.random.randint(1, 12), "unknown": 0}.get(fate, number % 3 == 0)
    recipient = (b"x%d@r%d.example.net" % (number, number % 300), fate, int(deferrals))
    mail.submit(at, Message("test", b"test@mail.example.org", client, 549 + number % 90, [recipient]))


def make_incident_b(mail: Mail, at: float, length: float, messages: int) -> None:
    """493,404 messages had 1.54 million deliveries, 448,708 bounces, and 108 deferrals for each that waited."""
    client = b"unknown[203.0.113.%d]"
    for number in range(messages):
        moment = at + length * number / messages
        mail.writer.schedule(moment, partial(_try_b, mail, number, client % (number % 7)))


def _try_b(mail: Mail, number: int, client: bytes, at: float) -> None:
    chance, recipients = mail.random, []
    for place in range(chance.choice((1, 2, 4, 6, 8))):
        kind = chance.random()
        end, deferrals = (
            ("sent", 0) if kind < 0.66 else ("bounced", 0) if kind < 0.85 else ("waiting", chance.randint(15, 40))
        )
        recipients.append((b"p%d.%d@d%d.example.com" % (number, place, chance.randrange(2000)), end, deferrals))
    mail.submit(at, Message("android", b"android@example.org", client, 2000 + number % 3000, recipients))


def make_honest_mail(mail: Mail, at: float, length: float, messages: int) -> None:
    """Others' mail: half of it comes in, half of it is the accounts' own."""
    for number in range(messages):
        moment = at + length * number / messages
        mail.writer.schedule(moment, partial(_send_honest, mail, number))


def _send_honest(mail: Mail, number: int, at: float) -> None:
    account = "" if number % 2 else f"user{number % 50}@example.org"
    sender = account.encode() or b"friend%d@example.net" % (number % 900)
    client = b"home[203.0.113.207]" if account else b"mx%d.example.net[192.0.2.%d]" % (number % 40, number % 40 + 1)
    recipient = b"friend@d%d.example.com" % (number % 100) if account else b"user%d@example.org" % (number % 50)
    mail.submit(at, Message(account, sender, client, 4000 + number % 9000, [(recipient, "sent", 0)]))


def write_incident_log(
    file: IO[bytes], size: int, *, seed: int = 13, classic: bool = False, with_a: bool = True
) -> Totals:
    """At least `size` bytes: incident A, then days of incident B until it is that long."""
    totals = Totals()
    writer = Writer(file, totals, seed, classic=classic)
    mail, now = Mail(writer), 0.0
    if with_a:
        make_incident_a(mail, now + 60_000, 9 * 3600)
        make_honest_mail(mail, now, 2 * DAY, 4000)
        now += 2 * DAY
        writer.run_until(now)
    while writer.size < size:
        make_incident_b(mail, now, DAY, 20_000)
        make_honest_mail(mail, now, DAY, 2000)
        while writer.heap and writer.heap[0][0] <= now + DAY and writer.size < size:
            writer.run_until(writer.heap[0][0])
        now += DAY
    _finish(writer)
    return totals


def _finish(writer: Writer) -> None:
    """What is scheduled still comes, so that the totals hold."""
    writer.run_until(float("inf"))
