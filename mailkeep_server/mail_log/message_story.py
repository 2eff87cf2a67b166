"""The lines of one queue ID as the story of one message: from where, to whom, and what became of each recipient.

Each line is read from its beginning. What a stranger wrote into it is the end of a line, or stands in `<…>`.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from mailkeep_server.mail_log.log_lines import LogLine
from mailkeep_server.mail_log.tally import BOUNCED, DELETED, SENT, UNCLEAR, WAITING

MAX_RECIPIENTS = 1000
_QUOTED = r'"(?:[^"\\]|\\.)*"[^\s>]*'
_TEXT = re.compile(r"([0-9A-Za-z]+): (.*)$", re.DOTALL)
_CLIENT = re.compile(
    r"client=([^\s\[]*)\[([^\]]*)\](?::\d+)?(?:, sasl_method=([\w-]+), sasl_username=(.+?)(?:, sasl_sender=.*)?)?$"
)
_LOCAL = re.compile(r"uid=(\d+) from=<([^>]*)>")
_MESSAGE_ID = re.compile(r"(?:resent-)?message-id=(<?[^\s<>]*>?)")
_ACTIVE = re.compile(r"from=<(.*)>, size=(\d+)(?:, class=\w+)?, nrcpt=(\d+) \(queue active\)$")
_EXPIRED = re.compile(r"from=<.*>, status=(?:force-)?expired, returned to sender$")
_DELIVERY = re.compile(
    rf"to=<({_QUOTED}|[^\s>\"]*)>,(?: orig_to=<({_QUOTED}|[^>\"]*)>,)? relay=([^\s,]+), "
    r"(?:[a-z_]+=[\d./-]+, )*status=(\w+)(?: \((.*)\))?$",
    re.DOTALL,
)
_REFUSAL = re.compile(
    r"(?:milter-|proxy-)?reject: ([A-Z-]+) from ([^\s\[]*)\[([^\]]*)\](?::\d+)?: (.*?)"
    r"(?:; (?:from=<([^<>]*)> )?(?:to=<([^<>]*)> )?proto=.*)$",
    re.DOTALL,
)
_LOGIN = re.compile(r" sasl_username=([^\s>]+)(?: sasl_sender=\S*)?$")
_NOTICE = re.compile(r"(?:sender (?:non-delivery|delivery status)|postmaster non-delivery) notification: (\w+)$")
_VERDICT = re.compile(r"client=\S* from=<.*?> author=(\S*) (spf=\S+ dkim=\S+ dmarc=\S+ policy=\S+ arc=\S+ action=\S+)$")
FATES = {"sent": SENT, "deferred": WAITING, "bounced": BOUNCED, "expired": BOUNCED}
DOUBLE_RELAY = ">, relay="


@dataclass
class Recipient:
    """`fate` as the tally names it, or "" without one. `words` are the remote's. `alias` is the address before.
    `is_mailbox`: of this server, where Dovecot is the remote."""

    address: str
    alias: str = ""
    fate: str = ""
    time: str = ""
    first_time: str = ""
    remote: str = ""
    words: str = ""
    tries: int = 0
    is_mailbox: bool = False


@dataclass
class Refusal:
    """What this server refused at the door, and its answer."""

    time: str
    stage: str
    client: str
    address: str
    answer: str
    sender: str = ""
    recipient: str = ""
    login: str = ""


@dataclass
class Story:
    """`login` is empty without one; `program` is the Linux user of a local one. A message that was given up before it
    entered the queue has no `size`."""

    queue_id: str
    time: str
    login: str = ""
    client: str = ""
    address: str = ""
    program: str = ""
    sender: str | None = None
    message_id: str = ""
    size: int = 0
    people: int = 0
    verdict: str = ""
    author: str = ""
    hold: str = ""
    notice: str = ""
    removed: str = ""
    recipients: dict[str, Recipient] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    mailbox: list[str] = field(default_factory=list)
    """What Dovecot did with it, in Dovecot's words."""

    @property
    def has_ended(self) -> bool:
        return bool(self.removed)


def tell_stories(lines: Iterable[LogLine]) -> list[Story]:
    """Of lines of any queue IDs, in the order of the log. A queue ID that is used again begins a new story."""
    stories: list[Story] = []
    current: dict[tuple[str, str], Story] = {}
    for line in lines:
        if not (match := _TEXT.match(line.text)) or match[1] == "NOQUEUE":
            continue
        key = line.program.partition("/")[0] if "/" in line.program else "postfix", match[1]
        story = current.get(key)
        if story is None or (story.has_ended and match[2] != "removed") or _begins_again(story, match[2]):
            story = current[key] = Story(match[1], line.time)
            stories.append(story)
        _add_line(story, line, match[2])
    return stories


def _begins_again(story: Story, text: str) -> bool:
    return story.people > 0 and text.startswith(("client=", "uid=")) and not _VERDICT.match(text)


def _add_line(story: Story, line: LogLine, text: str) -> None:
    program = line.program.rpartition("/")[2]
    if match := _VERDICT.match(text):
        story.author, story.verdict = match.groups()
    elif reader := _READERS.get(program):
        reader(story, line, text)
    elif text.startswith("to=<"):
        _add_delivery(story, line, text)


def _add_arrival(story: Story, line: LogLine, text: str) -> None:
    if match := _CLIENT.match(text):
        story.client, story.address, _, login = match.groups()
        story.login = login or ""
    elif refusal := read_refusal(line, text):
        story.refusals.append(refusal)


def _add_local_arrival(story: Story, _line: LogLine, text: str) -> None:
    if match := _LOCAL.match(text):
        story.program = f"uid {match[1]}"


def _add_notice(story: Story, _line: LogLine, text: str) -> None:
    if match := _NOTICE.match(text):
        story.notice = match[1]


def _add_cleanup(story: Story, line: LogLine, text: str) -> None:
    if match := _MESSAGE_ID.match(text):
        story.message_id = match[1]
    elif text.startswith(("hold:", "milter-hold:")):
        story.hold = line.time
    elif refusal := read_refusal(line, text):
        story.refusals.append(refusal)
        story.removed = line.time


def _add_queue_manager(story: Story, line: LogLine, text: str) -> None:
    if match := _ACTIVE.match(text):
        story.sender, story.size, story.people = match[1], int(match[2]), int(match[3])
    elif text == "removed":
        story.removed = line.time
    elif _EXPIRED.match(text):
        for recipient in story.recipients.values():
            if recipient.fate == WAITING:
                recipient.fate, recipient.time = BOUNCED, line.time


def _add_change(story: Story, line: LogLine, text: str) -> None:
    """By somebody who types postsuper(1), or a freeze."""
    if text == "placed on hold":
        story.hold = line.time
    elif text == "released from hold":
        story.hold = ""
    elif text == "removed":
        story.removed = line.time
        for recipient in story.recipients.values():
            if recipient.fate in ("", WAITING):
                recipient.fate, recipient.time = DELETED, line.time


def _add_delivery(story: Story, line: LogLine, text: str) -> None:
    match = _DELIVERY.match(text)
    if not match or (text.count(DOUBLE_RELAY) > 1 and not text.startswith('to=<"')):
        address, alias, relay, status, words = "an address that cannot be read", "", "none", UNCLEAR, ""
    else:
        address, alias, relay, status, words = (value or "" for value in match.groups())
    fate = FATES.get(status, UNCLEAR if status == UNCLEAR else "")
    if not fate or (address not in story.recipients and len(story.recipients) >= MAX_RECIPIENTS):
        return
    recipient = story.recipients.setdefault(address, Recipient(address, alias, first_time=line.time))
    recipient.fate, recipient.time, recipient.words = fate, line.time, words
    recipient.remote = "" if relay == "none" else relay.partition("[")[0]
    recipient.is_mailbox = "[private/" in relay
    recipient.tries += 1


def read_refusal(line: LogLine, text: str) -> Refusal | None:
    """Of the text behind the queue ID. Its fields stand after the answer, which may have some of the client's words."""
    if not (match := _REFUSAL.match(text)):
        return None
    stage, client, address, answer, sender, recipient = match.groups()
    if text.count(" proto=") > 1:  # a client has written one of them
        sender = recipient = ""
    login = _LOGIN.search(text)
    return Refusal(line.time, stage, client, address, answer, sender or "", recipient or "", login[1] if login else "")


def list_refusals(lines: Iterable[LogLine]) -> Iterator[Refusal]:
    """Of messages that never got a queue ID."""
    for line in lines:
        if line.text.startswith("NOQUEUE: ") and (refusal := read_refusal(line, line.text[9:])):
            yield refusal


_READERS: dict[str, Callable[[Story, LogLine, str], None]] = {
    "smtpd": _add_arrival,
    "pickup": _add_local_arrival,
    "cleanup": _add_cleanup,
    "submission-cleanup": _add_cleanup,
    "bounce-cleanup": _add_cleanup,
    "alerts-cleanup": _add_cleanup,
    "alerts-unsigned-cleanup": _add_cleanup,
    "qmgr": _add_queue_manager,
    "postsuper": _add_change,
    "bounce": _add_notice,
}
