"""Finds the messages of an address, a message ID or a queue ID. The log is read two times, or three.

The first time finds queue IDs. Only what stands where Postfix writes addresses counts: an answer of a remote server, or
another text of a stranger, connects nobody with a message.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from mailkeep_server.mail_log.log_lines import LogLine, search_lines
from mailkeep_server.mail_log.message_story import Refusal, Story, list_refusals, tell_stories
from mailkeep_server.mail_log.sources import Chunk

MAX_MESSAGES = 200
MAX_REFUSALS = 100
MAX_IDS_OF_ONE_SEARCH = 100
_QUEUE_ID = re.compile(r"[0-9A-F]{6,}|[0-9A-Za-z]{10,}")
_LMTP = re.compile(r"lmtp\(([^()\s]+)\)[^:]*: (?:Info: )?(?:sieve: )?msgid=(<[^<>\s]*>)[^:]*: (.*)$")
OpenLog = Callable[[], Iterator[Chunk]]


@dataclass(frozen=True)
class TraceQuery:
    """What to look for: `text` is an address, `<message-id>` or a queue ID. `sender` and `recipient` narrow it down."""

    text: str
    since: str = ""
    until: str = ""
    sender: str = ""
    recipient: str = ""


@dataclass
class Trace:
    stories: list[Story] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    left_out: int = 0
    """Messages that are older than those shown."""


def trace_messages(query: TraceQuery, open_log: OpenLog) -> Trace:
    """The latest MAX_MESSAGES, in the order of the log. Raises LogError."""
    lines = search_lines(open_log(), re.compile(re.escape(query.text.encode()), re.IGNORECASE))
    ids, refusal_lines = _sort_lines(lines, query)
    left_out = max(0, len(ids) - 2 * MAX_MESSAGES)
    stories = [story for story in _collect(list(ids)[left_out:], open_log) if _fits_story(story, query)]
    refusals = [refusal for refusal in list_refusals(refusal_lines) if _fits_refusal(refusal, query)]
    shown = stories[-MAX_MESSAGES:]
    _add_mailbox_lines(shown, open_log)
    left_out += len(stories) - len(shown)
    return Trace(shown, refusals[-MAX_REFUSALS:], left_out)


def is_queue_id(text: str) -> bool:
    return bool(_QUEUE_ID.fullmatch(text))


def _sort_lines(lines: Iterable[LogLine], query: TraceQuery) -> tuple[dict[str, None], list[LogLine]]:
    """The queue IDs of messages that may be meant, and lines of refusals."""
    about = _build_pattern(query.text)
    ids: dict[str, None] = {}
    refusals: list[LogLine] = []
    for line in lines:
        if line.text.startswith("NOQUEUE: "):
            refusals = [*refusals[-4 * MAX_REFUSALS :], line]
        elif match := about.match(line.text):
            ids.pop(match[1], None)  # the latest last
            ids[match[1]] = None
    return ids, refusals


def _build_pattern(text: str) -> re.Pattern[str]:
    if is_queue_id(text):
        return re.compile(rf"({re.escape(text)}): ")
    value = re.escape(text.strip("<>"))
    # A sender is followed by Postfix's own words, and a login by nothing.
    return re.compile(
        rf"([0-9A-Za-z]+): (?:(?:from|to)=<{value}>,|to=<[^<>]*>, orig_to=<{value}>,"
        rf"|(?:resent-)?message-id=<?{value}>?$"
        rf"|client=[^\s,]+, sasl_method=[\w-]+, sasl_username={value}(?:, sasl_sender=.*)?$"
        rf"|(?:milter-)?(?:reject|hold): .*; from=<[^<>]*> to=<{value}> proto=)",
        re.IGNORECASE,
    )


def _collect(ids: list[str], open_log: OpenLog) -> list[Story]:
    """A message's lines, of any program of Postfix and of the milter that judges."""
    if not ids:
        return []
    pattern = re.compile(rb" (?:%s): " % b"|".join(re.escape(queue_id.encode()) for queue_id in ids))
    known = frozenset(ids)
    lines = (line for line in search_lines(open_log(), pattern) if line.text.partition(":")[0] in known)
    return tell_stories(lines)


def _fits_story(story: Story, query: TraceQuery) -> bool:
    last = max([story.time, story.removed, *(recipient.time for recipient in story.recipients.values())])
    if last < query.since or (query.until and story.time >= query.until):
        return False
    recipients = {address.lower() for each in story.recipients.values() for address in (each.address, each.alias)}
    recipients |= {refusal.recipient.lower() for refusal in story.refusals}
    senders = {story.login.lower(), (story.sender or "").lower(), *(each.sender.lower() for each in story.refusals)}
    return (not query.sender or query.sender in senders) and (not query.recipient or query.recipient in recipients)


def _fits_refusal(refusal: Refusal, query: TraceQuery) -> bool:
    if refusal.time < query.since or (query.until and refusal.time >= query.until):
        return False
    senders, recipient = {refusal.sender.lower(), refusal.login.lower()}, refusal.recipient.lower()
    return (
        query.text.lower() in {*senders, recipient}
        and (not query.sender or query.sender in senders)
        and (not query.recipient or query.recipient == recipient)
    )


def _add_mailbox_lines(stories: list[Story], open_log: OpenLog) -> None:
    """What Dovecot's LMTP and Sieve have done. They know no queue ID, only the message's own, which its writer chose:
    so only what happened to a recipient of the message is shown."""
    by_id = {story.message_id: story for story in stories if story.message_id and story.recipients}
    for begin in range(0, len(by_id), MAX_IDS_OF_ONE_SEARCH):
        ids = list(by_id)[begin : begin + MAX_IDS_OF_ONE_SEARCH]
        pattern = re.compile(rb"msgid=(?:%s)" % b"|".join(re.escape(each.encode()) for each in ids))
        for line in search_lines(open_log(), pattern):
            match = _LMTP.match(line.text if line.program == "dovecot" else f"{line.program}: {line.text}")
            story = by_id.get(match[2]) if match else None
            if match and story and match[1].lower() in {address.lower() for address in story.recipients}:
                story.mailbox.append(f"{match[1]}: {match[3]}")
