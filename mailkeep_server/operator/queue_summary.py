"""What waits in the queue: in sum, by sender, by remote and by reason."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from mailkeep_server.common.mail_queue import QueuedMessage
from mailkeep_server.common.wording import count_noun, printable_text
from mailkeep_server.operator.queue_selection import find_remote

MAX_GROUPS = 10_000
"""Kept of each kind: senders and reasons are a stranger's text, and memory is bounded."""
SHOWN_GROUPS = 10
MAX_NAME = 110  # characters
OTHERS = "(others)"
NOT_TRIED = "not tried yet"
HELD = "on hold"
_VARIABLE = (
    # What differs from message to message. The host stays in the group by remote.
    (re.compile(r"^delivery temporarily suspended: "), ""),
    (re.compile(r"[\w.-]+\[[^\]\s]*\](?::\d+)?"), "…"),
    (re.compile(r"<?[^\s<>]+@[^\s<>]+>?"), "…"),
    (re.compile(r"\bname=\S+"), "name=…"),
    (re.compile(r"\S*\d\S*[A-Za-z_]\S*\d\S*|\S*\d{6,}\S*"), "…"),
)


@dataclass
class Group:
    messages: int = 0
    recipients: int = 0


@dataclass
class QueueSummary:
    messages: int = 0
    recipients: int = 0
    bytes: int = 0
    oldest: int = 0
    """Its arrival, in seconds since the epoch; 0: the queue is empty."""
    by_queue: dict[str, int] = field(default_factory=dict)
    by_sender: dict[str, Group] = field(default_factory=dict)
    by_remote: dict[str, Group] = field(default_factory=dict)
    by_reason: dict[str, Group] = field(default_factory=dict)

    def add_message(self, message: QueuedMessage) -> None:
        self.messages += 1
        self.recipients += len(message.recipients)
        self.bytes += message.size
        self.oldest = min(self.oldest or message.arrived, message.arrived)
        self.by_queue[message.queue] = self.by_queue.get(message.queue, 0) + 1
        _count_into(self.by_sender, [message.sender] * len(message.recipients))
        _count_into(self.by_remote, [find_remote(recipient) for recipient in message.recipients])
        _count_into(self.by_reason, _list_reasons(message))

    def to_json(self) -> dict[str, Any]:
        """The groups as lists, the largest first."""
        kinds = {name: _sort_groups(getattr(self, name)) for name in ("by_sender", "by_remote", "by_reason")}
        return asdict(self) | {
            name: [{"name": key, **asdict(group)} for key, group in groups] for name, groups in kinds.items()
        }


def summarise_messages(messages: Iterable[QueuedMessage]) -> QueueSummary:
    summary = QueueSummary()
    for message in messages:
        summary.add_message(message)
    return summary


def _list_reasons(message: QueuedMessage) -> list[str]:
    if message.queue == "hold":
        return [HELD] * len(message.recipients)
    return [generalise_reason(reason) if reason else NOT_TRIED for reason in message.reasons]


def generalise_reason(reason: str) -> str:
    """The same for all messages that wait for the same reason."""
    for pattern, replacement in _VARIABLE:
        reason = pattern.sub(replacement, reason)
    return " ".join(reason.split())[:MAX_NAME]


def _count_into(groups: dict[str, Group], names: list[str]) -> None:
    """A message counts once in each group that one of its recipients belongs to."""
    for name in {*names}:
        key = name if name in groups or len(groups) < MAX_GROUPS else OTHERS
        group = groups.setdefault(key, Group())
        group.messages += 1
        group.recipients += names.count(name)


def _sort_groups(groups: dict[str, Group]) -> list[tuple[str, Group]]:
    return sorted(groups.items(), key=lambda entry: (-entry[1].messages, entry[0]))


def describe_sum(summary: QueueSummary) -> str:
    queues = ", ".join(f"{number} {queue}" for queue, number in sorted(summary.by_queue.items()))
    messages, recipients = count_noun(summary.messages, "message"), count_noun(summary.recipients, "recipient")
    oldest = f"{datetime.fromtimestamp(summary.oldest, UTC):%Y-%m-%d %H:%M} UTC"
    return f"{messages} to {recipients}, {_format_bytes(summary.bytes)}: {queues}. The oldest is of {oldest}."


def format_summary(summary: QueueSummary) -> Iterator[str]:
    yield describe_sum(summary)
    for title, groups in (
        ("sender", summary.by_sender),
        ("remote", summary.by_remote),
        ("reason", summary.by_reason),
    ):
        yield f"messages  recipients  by {title}"
        for name, group in _sort_groups(groups)[:SHOWN_GROUPS]:
            yield f"{group.messages:8}  {group.recipients:10}  {printable_text(name)}"
        if len(groups) > SHOWN_GROUPS:
            yield f"{'':8}  {'':10}  and {len(groups) - SHOWN_GROUPS} more"


def _format_bytes(number: int) -> str:
    if number < 10**6:
        return f"{max(1, round(number / 1000))} KB"
    return f"{number / 10**6:.0f} MB" if number < 10**10 else f"{number / 10**9:.0f} GB"
