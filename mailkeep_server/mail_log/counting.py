"""Counts what a log says, chunk by chunk: one look at each line, and two at those that count.

A line costs a split at its first spaces, and a look at the program and at the word behind the queue ID. The beginning
of a line is syslog's and Postfix's own text. An address in it has no space, unless Postfix writes it in quotes; such
lines are read strictly. A line that can be read in two ways is `unclear`.
"""

import re
from collections.abc import Callable, Iterable
from functools import partial
from io import BytesIO
from itertools import islice
from typing import Any

from mailkeep_server.mail_log.line_forms import LINE
from mailkeep_server.mail_log.line_words import FATES, LineWords, Needs
from mailkeep_server.mail_log.log_lines import LogLine, clean_text
from mailkeep_server.mail_log.logins import parse_login
from mailkeep_server.mail_log.message_states import SIMPLE_WAIT, Single
from mailkeep_server.mail_log.queue_state import MAX_STEPS, NO_FATE, QueueState
from mailkeep_server.mail_log.sources import Chunk
from mailkeep_server.mail_log.tally import (
    BOUNCED,
    DELETED,
    EARLIER,
    HELD,
    LOCAL,
    NO_NAME,
    REJECTED,
    UNCLEAR,
    Origin,
)

FIELDS_BEHIND = 3  # of the program: queue ID, a word, the rest
CLEANUPS = (b"cleanup", b"submission-cleanup", b"bounce-cleanup", b"alerts-cleanup", b"alerts-unsigned-cleanup")
MAX_PROGRAMS, MAX_SIZES = 4000, 2000  # kept in caches
BEGINNING = 16  # chunks; what arrived in the earlier part of a log enters the queue in them
DOUBLE_RELAY = b">, relay="
GREATER = ord(">")  # one byte is found faster than a text of one
STATUS = b", status="
_QUOTED = rb'"(?:[^"\\]|\\.)*"[^\s>]*'
_DELIVERY = re.compile(
    rb"to=<(%s|[^\s>\"]*)>,(?: orig_to=<(?:%s|[^>\"]*)>,)? "
    rb"(relay=[^\s,]+), (?:[a-z_]+=[\d./-]+, )*status=(\w+)(?: |$)" % (_QUOTED, _QUOTED)
)
_CODE = re.compile(rb", dsn=([\d.]+), status=")
_ACTIVE = re.compile(rb"(?:.*>, )?size=(\d+)(?:, class=\w+)?, nrcpt=(\d+) \(queue active\)$")
_EXPIRED = re.compile(rb"from=<.*>, status=(?:force-)?expired, returned to sender$")
_REJECT = re.compile(rb"(?:milter-|proxy-)?reject:$")
_REFUSED_CLIENT = re.compile(
    rb"[A-Z-]+ from ([^\[\s]*\[[0-9a-fA-F:.]+\])(?::\d+)?: (\d{3}(?: \d\.\d+\.\d+)?|\d\.\d+\.\d+)?"
)
_REFUSED_LOGIN = re.compile(rb" (sasl_username=[^\s>]+)(?: sasl_sender=[^\s>]*)?$")
_REFUSED_RECIPIENT = re.compile(rb"; (?:from=<[^\s<>]*> )?to=<([^\s<>]*)> ")
Handler = Callable[[bytes, list[bytes], int], None]


class LogCounter:
    """Reads chunks in their order. `queue` has what was counted."""

    def __init__(self, needs: Needs, *, is_later: bool = False, max_weight: int = 0) -> None:
        self.needs, self.words = needs, LineWords(needs)
        self.queue = QueueState(is_later=is_later, max_weight=max_weight)
        self.handlers: dict[bytes, Handler | None] = {}
        self.place = 2
        """Of the program, among the fields of a line."""
        self.sizes: dict[bytes, tuple[int, int]] = {}
        delivery = read_quick_delivery(self) if not needs.of_fates else partial(read_delivery, self)
        self.kinds: dict[bytes, Handler] = {
            **dict.fromkeys(
                (b"smtp", b"lmtp", b"local", b"virtual", b"pipe", b"error", b"retry", b"discard"), delivery
            ),
            **dict.fromkeys((b"qmgr", b"nqmgr", b"oqmgr"), read_queue_manager(self)),
            **dict.fromkeys((b"smtpd", b"postscreen"), partial(read_smtpd, self)),
            **dict.fromkeys(CLEANUPS, partial(read_cleanup, self)),
            b"pickup": partial(read_pickup, self),
            b"postsuper": partial(read_postsuper, self),
        }

    def read(self, chunks: Iterable[Chunk]) -> QueueState:
        for number, chunk in enumerate(chunks):
            self.queue.is_beginning = self.queue.is_later and number < BEGINNING
            self.read_chunk(chunk)
        return self.queue

    def read_chunk(self, chunk: Chunk) -> None:
        self.words.set_last_day(chunk.last_day)
        text = chunk.text
        self._find_place(text)
        first, last = text[: text.find(b"\n")], text[text.rfind(b"\n", 0, -1) + 1 :]
        self.queue.tally.note_times(self.words.read_time(first), self.words.read_time(last))
        if self.queue.steps > MAX_STEPS:
            self.queue.flush()
        if len(self.handlers) > MAX_PROGRAMS:
            self.handlers.clear()
        self._read_lines(text)

    def _find_place(self, text: bytes) -> None:
        """Most lines of a chunk are of one form. Others are recognised one by one."""
        for line in islice(BytesIO(text), 10):
            if match := LINE.match(line):
                self.place = line.count(b" ", 0, match.start("program"))
                return

    def _read_lines(self, text: bytes) -> None:
        place, find_handler, recognise = self.place, self.handlers.get, self._recognise
        splits = place + FIELDS_BEHIND
        for line in BytesIO(text):  # faster by far than bytes.split
            parts = line.split(b" ", splits)
            try:
                handler = find_handler(parts[place], recognise)
            except IndexError:
                continue
            if handler:
                handler(line, parts, place)

    def _recognise(self, line: bytes, _parts: list[bytes], _place: int) -> None:
        """A line of a program that was not there before, or of another form than the lines before."""
        if not (match := LINE.match(line)):
            return
        place = line.count(b" ", 0, match.start("program"))
        parts = line.split(b" ", place + FIELDS_BEHIND)
        handler = self.handlers[parts[place]] = self._choose_handler(match["program"])
        if handler:
            handler(line, parts, place)

    def _choose_handler(self, program: bytes) -> Handler | None:
        instance, slash, rest = program.partition(b"/")
        if not slash:
            return partial(read_dovecot, self) if program == b"dovecot" or program.endswith(b"-login") else None
        handler = self.kinds.get(rest.rpartition(b"/")[2])
        if not handler or instance == b"postfix":
            return handler
        return partial(read_instance, handler, instance)

    def read_size(self, rest: bytes) -> tuple[int, int] | None:
        """Bytes and recipients, by the queue manager's line."""
        if not (match := _ACTIVE.match(rest)):
            return None
        if len(self.sizes) >= MAX_SIZES:
            self.sizes.clear()
        size = self.sizes[rest] = int(match[1]), int(match[2])
        return size


def read_instance(handler: Handler, instance: bytes, line: bytes, parts: list[bytes], place: int) -> None:
    """Of several instances of Postfix on one machine, each has queue IDs of its own."""
    if len(parts) > place + 1:
        parts[place + 1] = instance + b"/" + parts[place + 1]
        handler(line, parts, place)


def read_quick_delivery(counter: LogCounter) -> Handler:
    """For a report that asks for fates alone: nine of ten lines of an attack end here."""
    queue, events = counter.queue, counter.words.simple_events
    states, find_state, read_strictly = queue.open, queue.open.get, partial(read_delivery, counter)

    def read(line: bytes, parts: list[bytes], place: int) -> None:
        word, rest = parts[-2], parts[-1]
        begin = rest.find(STATUS) + 9
        event = events.get(rest[begin : begin + 3])
        if not event or GREATER not in word or (GREATER in rest and DOUBLE_RELAY in rest):
            read_strictly(line, parts, place)
            return
        queue_id = parts[-3]
        state: Any = find_state(queue_id)  # isinstance would cost a tenth
        if state.__class__ is Single:
            step = state[event]
            step.count += 1
            if step.state is not state:
                if step.state is None:
                    del states[queue_id]
                else:
                    states[queue_id] = step.state
        elif event is SIMPLE_WAIT and state and hash(word[4:-2]) in state.simple:
            state.repeats[0] += 1
        else:
            queue.add_fate(queue_id, word[4:-2], event)

    return read


def read_delivery(counter: LogCounter, line: bytes, parts: list[bytes], place: int) -> None:
    """A line with the fate of a recipient, read strictly. Postfix before 3.5 writes an address as it is: it may look
    like the fate that follows it, and so may the remote's answer. Such a line is unclear."""
    if len(parts) <= place + FIELDS_BEHIND or not parts[place + 2].startswith(b"to=<"):
        return
    text = b" ".join(parts[place + 2 :])
    match = _DELIVERY.match(text)
    if match and (text.startswith(b'to=<"') or text.count(DOUBLE_RELAY) == 1):
        address, relay, status = match.groups()
        fate = FATES.get(status[:3])
        code = _CODE.search(text, 0, match.end())
        relay = b"" if relay == b"relay=none" else relay
    else:
        address, relay, code, fate = b"", b"", None, UNCLEAR if STATUS in text else None
    if fate:
        event = counter.words.make_event(line, fate, relay, address, code[1] if code else b"")
        counter.queue.add_fate(parts[place + 1], address, event)


def read_queue_manager(counter: LogCounter) -> Handler:
    queue, arriving, find_size = counter.queue, counter.queue.arriving, counter.sizes.get

    def read(line: bytes, parts: list[bytes], place: int) -> None:
        rest = parts[-1]
        if rest[:5] == b"size=":
            queue_id = parts[-3]
            if (queue_id in arriving or queue.is_beginning) and (size := find_size(rest) or counter.read_size(rest)):
                queue.activate(queue_id, counter.words.read_moment(line), size[1], size[0])
        elif rest.rstrip() == b"removed":
            queue.end(parts[-2], NO_FATE)
        elif len(parts) > place + FIELDS_BEHIND:
            read_other_activation(counter, line, parts, place)

    return read


def read_other_activation(counter: LogCounter, line: bytes, parts: list[bytes], place: int) -> None:
    """A sender with spaces, in quotes, or a message that has waited for too long: its sender gets a notice about all
    who still wait."""
    queue_id = parts[place + 1]
    if size := counter.read_size(parts[-1]):
        counter.queue.activate(queue_id, counter.words.read_moment(line), size[1], size[0])
    elif _EXPIRED.match(b" ".join(parts[place + 2 :])):
        counter.queue.end(queue_id, counter.words.make_event(line, BOUNCED, code=b"expired"))


def read_smtpd(counter: LogCounter, line: bytes, parts: list[bytes], place: int) -> None:
    if len(parts) < place + FIELDS_BEHIND:
        return
    word = parts[place + 2]
    if word[:7] == b"client=":
        login = parts[-1] if len(parts) > place + FIELDS_BEHIND else b""
        origin = counter.words.read_origin(word[7:], login)
        counter.queue.arrive(parts[place + 1], origin)
        if login:
            counter.queue.sessions[parts[place]] = origin
    elif parts[place + 1] == b"disconnect":
        moment = counter.words.read_moment(line)
        counter.queue.end_session(parts[place], moment, has_login=b" auth=1" in parts[-1])
    elif word[-7:] == b"reject:" or parts[place + 1] == b"warning:":
        read_refusal(counter, line, parts, place)


def read_refusal(counter: LogCounter, line: bytes, parts: list[bytes], place: int) -> None:
    """Nobody has to refuse in the same words twice, so these lines are read as a whole."""
    rest = parts[-1]
    if parts[place + 1] == b"warning:":
        read_login(counter, line, b"postfix/smtpd", b" ".join(parts[place + 1 :]))
    elif _REJECT.match(parts[place + 2]) and (match := _REFUSED_CLIENT.match(rest)):
        queue_id = parts[place + 1]
        login = _REFUSED_LOGIN.search(rest)
        recipient = _REFUSED_RECIPIENT.search(rest) if rest.count(b" proto=") == 1 else None
        origin = counter.queue.arriving.get(queue_id) or counter.words.read_origin(match[1], login[1] if login else b"")
        address = recipient[1] if recipient else b""
        event = counter.words.make_event(line, REJECTED, b"", address, match[2] or b"")
        counter.queue.tally.add_fate(origin, None, event)


def read_cleanup(counter: LogCounter, line: bytes, parts: list[bytes], place: int) -> None:
    if len(parts) < place + FIELDS_BEHIND:
        return
    queue_id, word = parts[place + 1], parts[place + 2]
    if word[:11] == b"message-id=" or word[:18] == b"resent-message-id=":
        counter.queue.arrive_here(queue_id)
    elif word[-7:] == b"reject:":
        read_refusal(counter, line, parts, place)
        counter.queue.arriving.pop(queue_id, None)
    elif word in (b"hold:", b"milter-hold:"):
        note_hold(counter, line, queue_id)


def note_hold(counter: LogCounter, line: bytes, queue_id: bytes) -> None:
    """Holding is no fate: the message has one once it is released."""
    queue = counter.queue
    origin = queue.arriving.get(queue_id) or getattr(queue.open.get(queue_id), "origin", None) or Origin(EARLIER)
    counter.queue.tally.add_fate(origin, None, counter.words.make_event(line, HELD))


def read_pickup(counter: LogCounter, _line: bytes, parts: list[bytes], place: int) -> None:
    if len(parts) > place + 2 and parts[place + 2][:4] == b"uid=":
        account = LOCAL.format(clean_text(parts[place + 2][4:20].rstrip(b"\n")))
        counter.queue.arrive(parts[place + 1], Origin(account))


def read_postsuper(counter: LogCounter, line: bytes, parts: list[bytes], place: int) -> None:
    text = b" ".join(parts[place + 2 :]).rstrip()
    if text == b"removed":
        counter.queue.end(parts[place + 1], counter.words.make_event(line, DELETED))
    elif text == b"placed on hold":
        note_hold(counter, line, parts[place + 1])


def read_dovecot(counter: LogCounter, line: bytes, _parts: list[bytes], _place: int) -> None:
    if b"-login: " in line and (match := LINE.match(line)):
        read_login(counter, line, match["program"], line[match.end() :])


def read_login(counter: LogCounter, line: bytes, program: bytes, text: bytes) -> None:
    login = parse_login(LogLine("", program.decode(), "", clean_text(text.rstrip(b"\n"))))
    if login:
        words = counter.words
        account = words.name("account", login.account.lower().encode()) if login.account else NO_NAME
        origin = Origin(account, words.read_network(b"[%s]" % login.address.encode()))
        moment = words.read_moment(line)
        counter.queue.tally.add_login(origin, moment, is_good=login.is_good, number=login.attempts)
