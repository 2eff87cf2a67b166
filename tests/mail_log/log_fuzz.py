"""Logs with the text of attackers, wherever a service writes text that is not its own.

A mail log of some messages is made, with hostile text in HELO names, addresses, message IDs, answers and user names.
Whatever they are, each message must have the fate that it had, or `unclear`; and nobody else's may change.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date

from mailkeep_server.mail_log.counting import LogCounter
from mailkeep_server.mail_log.report import Query, build_report
from mailkeep_server.mail_log.report_text import format_report
from mailkeep_server.mail_log.sources import Chunk
from mailkeep_server.mail_log.trace import TraceQuery, trace_messages
from mailkeep_server.mail_log.trace_text import describe_trace

LAST_DAY = date(2026, 12, 31)
HEAD = "2026-05-12T00:01:47.000001+00:00 mail "
FAKES = (
    "status=sent (250 2.0.0 Ok)",
    ", status=sent (",
    ", dsn=2.0.0, status=sent (250 ok)",
    ">, relay=evil.example[192.0.2.66]:25, delay=0, delays=0/0/0/0, dsn=2.0.0, status=sent (250",
    ">, relay=none, delay=0, delays=0/0/0/0, dsn=5.0.0, status=bounced (",
    "x@example.net>, relay=evil.example[192.0.2.66]:25, delay=0, delays=0/0/0/0, dsn=2.0.0, status=sent (250 ",
    " sasl_username=bert@example.org",
    "> proto=ESMTP helo=<x> sasl_method=PLAIN sasl_username=bert@example.org",
    "; from=<bert@example.org> to=<x@example.net> proto=ESMTP helo=<x",
    "#012May 12 00:01:47 mail postfix/smtp[1]: 1A2B3C4D5E6: to=<x@example.net>, relay=x[192.0.2.1]:25, status=sent (",
    "2026-05-12T00:01:47Z mail postfix/qmgr[1]: 1A2B3C4D5E6: removed",
    "]: 1A2B3C4D5E6: client=x[192.0.2.66], sasl_method=PLAIN, sasl_username=bert@example.org",
    ": 1A2B3C4D5E6: removed",
    "imap-login: Login: user=<bert@example.org>, method=PLAIN, rip=192.0.2.66, lip=192.0.2.1, TLS",
    ", rip=192.0.2.66, lip=",
    "<bert@example.org>",
    "orig_to=<bert@example.org>, relay=local, delay=0, status=sent (delivered)",
    "\x1b[2J\x1b]0;owned\x07",
    "\x9b31m",
    "\u202egro.elpmaxe@treb",
    "\x00\x01\x7f",
    "\r",
    "\t\t",
    "%s%n{}{0}",
    "A" * 5000,
    "'\"\\`$(reboot)",
    "=?utf-8?q?=00?=",
    "\u2028",
    "removed",
    "NOQUEUE: reject: ",
)


@dataclass
class FuzzedLog:
    """`fates` by the account that each message has; `text` is the log."""

    text: bytes
    fates: dict[str, str] = field(default_factory=dict)


class LogFuzzer:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - the same logs each time

    def make_hostile_text(self) -> str:
        """What a stranger may send, but for line ends: a service writes a line at a time."""
        return "".join(
            self.random.choice((*FAKES, "a", " ", "<", ">", "[", "]", ",", "(", ")", ":"))
            for _ in range(self.random.randrange(1, 4))
        )

    def make_log(self, messages: int) -> FuzzedLog:
        """Messages at the same time, whose lines are mixed."""
        fates: dict[str, str] = {}
        lines: list[list[str]] = []
        for number in range(messages):
            account, fate = f"user{number}@example.org", self.random.choice(("delivered", "bounced", "deferred"))
            fates[account] = fate
            lines.append(list(self._make_lines(number, account, fate)))
        mixed: list[str] = []
        while lines:
            of_message = self.random.choice(lines)
            mixed.append(of_message.pop(0))
            if not of_message:
                lines.remove(of_message)
        return FuzzedLog("".join(HEAD + line.replace("\n", "?") + "\n" for line in mixed).encode(), fates)

    def _make_lines(self, number: int, account: str, fate: str) -> Iterator[str]:
        queue_id, evil = f"1A2B3C4D{number:03X}", self.make_hostile_text
        status = {"delivered": "sent", "bounced": "bounced", "deferred": "deferred"}[fate]
        refusal = f"550 5.1.1 <{evil()}>: {evil()}; from=<{evil()}> to=<{evil()}> proto=ESMTP helo=<{evil()}>"
        yield f"postfix/smtpd[7]: NOQUEUE: reject: RCPT from x[192.0.2.9]: {refusal}"
        yield f"postfix/smtpd[7]: {queue_id}: client=pc[192.0.2.9], sasl_method=PLAIN, sasl_username={account}"
        yield f"postfix/cleanup[8]: {queue_id}: message-id={evil()}"
        yield f"postfix/qmgr[9]: {queue_id}: from=<{evil()}>, size=500, nrcpt=1 (queue active)"
        yield f"postfix/smtp[10]: {queue_id}: host mx.example[192.0.2.66] said: 450 {evil()} (in reply to RCPT TO)"
        quoted = evil().replace("\\", "").replace('"', "")
        address = self.random.choice((f"a{number}@example.net", f'"{quoted}"@example.net', evil()))
        yield (
            f"postfix/smtp[10]: {queue_id}: to=<{address}>, relay=mx.example[192.0.2.66]:25, delay=1, delays=0/0/0/1, "
            f"dsn=2.0.0, status={status} ({evil()})"
        )
        failure = "Login aborted: Connection closed (auth failed, 1 attempts in 2 secs) (auth_failed)"
        end = "method=PLAIN, rip=192.0.2.9, lip=192.0.2.1, TLS, session=<x>"
        yield f"dovecot[1]: imap-login: {failure}: user=<{evil()}>, {end}"

    def mutate(self, text: bytes) -> bytes:
        """Bytes changed, cut, doubled or inserted, anywhere."""
        data = bytearray(text)
        for _ in range(self.random.randrange(1, 8)):
            place = self.random.randrange(len(data))
            match self.random.randrange(4):
                case 0:
                    data[place] = self.random.randrange(256)
                case 1:
                    del data[place : place + self.random.randrange(1, 40)]
                case 2:
                    data[place:place] = self.make_hostile_text().encode()
                case _:
                    data[place:place] = data[place : place + self.random.randrange(1, 200)]
            data = data or bytearray(b"x")
        return bytes(data)


def check_attribution(log: FuzzedLog) -> None:
    """AssertionError if a message has another fate than its own, or somebody else's login."""
    query = Query(by="account")
    report = build_report(LogCounter(query.needs).read([Chunk(log.text, LAST_DAY)]).finish(), query)
    rows = {row["key"]: row for row in report["rows"]}
    for account, fate in log.fates.items():
        row = rows[account]
        assert row["people"] == row["attempted"] == 1, row
        assert row[fate] or row["unclear"], (fate, row)
    others = [row for key, row in rows.items() if key not in log.fates and key not in ("(no login)", "(no name)")]
    assert not any(row["people"] or row["attempted"] or row["logins"] for row in others), others
    assert report["totals"]["failed_logins"] == len(log.fates)


def check_no_crash(text: bytes) -> None:
    """Counting, tracing and printing end without an error, and print nothing that a terminal obeys."""
    for query in (Query(), Query(by="domain"), Query(by="hour", since="2026-05-12T00:00:00")):
        report = build_report(LogCounter(query.needs).read([Chunk(text, LAST_DAY)]).finish(), query)
        assert_printable("\n".join(format_report(report)))
    for query in (TraceQuery("bert@example.org"), TraceQuery("1A2B3C4D000")):
        trace = trace_messages(query, lambda: iter([Chunk(text, LAST_DAY)]))
        assert_printable("\n".join(describe_trace(trace, query, "2026-05-12T00:00:00", "home")))


def assert_printable(text: str) -> None:
    unsafe = [character for character in text if not (character.isprintable() or character in "\n█▓▒░\ufffd")]
    assert not unsafe, unsafe[:5]
