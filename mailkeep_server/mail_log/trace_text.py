"""Stories of messages in sentences."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from mailkeep_server.common.wording import count_noun
from mailkeep_server.mail_log.meanings import (
    REMOTE_WORDS,
    Meaning,
    explain_refusal,
    explain_remote,
    name_remote,
)
from mailkeep_server.mail_log.message_story import Recipient, Refusal, Story
from mailkeep_server.mail_log.report import NAMES
from mailkeep_server.mail_log.tally import BOUNCED, DELETED, SENT, UNCLEAR, WAITING
from mailkeep_server.mail_log.trace import Trace, TraceQuery

MAX_SHOWN = 20  # recipients of a message
MAX_WORDS = 300  # characters of an answer


def describe_trace(trace: Trace, query: TraceQuery, reaches_back: str, inventory: str) -> Iterator[str]:
    """`reaches_back` is the time of the first line of the log, `inventory` the name for commands that help."""
    if trace.left_out:
        yield f"{count_noun(trace.left_out, 'older message')} left out. --since, --until, --from and --to find them.\n"
    for story in trace.stories:
        yield from describe_story(story, inventory)
        yield ""
    for refusal in trace.refusals:
        yield from _describe_refusal(refusal, inventory)
    if not trace.stories and not trace.refusals:
        yield f"The log has no message of {query.text}."
        yield "Either none came to this server, or its lines are gone."
        yield f"`mailkeep dns {inventory} --check` says whether others find it."
    yield _describe_reach(reaches_back, query)


def _describe_reach(reaches_back: str, query: TraceQuery) -> str:
    if not reaches_back:
        return "The log is empty: nothing can be said."
    text = f"The log reaches back to {_show_time(reaches_back)} UTC"
    if query.since and query.since < reaches_back:
        return f"{text}: it NO LONGER REACHES back to {_show_time(query.since)}. What was before it is not known."
    return f"{text}."


def describe_story(story: Story, inventory: str) -> Iterator[str]:
    yield f"{_show_time(story.time)}  {story.queue_id}  {_describe_way_in(story)}"
    if story.verdict:
        yield f"  judged: From: {story.author}; {story.verdict}"
    for refusal in story.refusals:
        yield from _describe_refusal(refusal, inventory, "  ")
    recipients = list(story.recipients.values())
    for recipient in recipients[:MAX_SHOWN]:
        yield from _describe_fate(recipient, story, inventory)
    if len(recipients) > MAX_SHOWN:
        yield f"  and {count_noun(len(recipients) - MAX_SHOWN, 'more recipient')}: `--json` has all."
    yield from (f"  mailbox of {line}" for line in story.mailbox)
    yield from _describe_end(story)


def _describe_way_in(story: Story) -> str:
    message = f"{_name_source(story)}"
    if story.size:
        message += f", {story.size:,} bytes to {count_noun(story.people, 'recipient')}"
    return message + (f", message-id {story.message_id}" if story.message_id else "")


def _name_source(story: Story) -> str:
    sender = "" if story.sender is None else f"<{story.sender}>"
    if story.login:
        where = f"{story.login} sent it from {story.address}"
        return f"{where} as {sender}" if sender and sender != f"<{story.login}>" else where
    if story.client:
        return f"{story.client} [{story.address}] brought it{f' from {sender}' if sender else ''}"
    if story.program:
        return f"a program of {story.program} sent it{f' as {sender}' if sender else ''}"
    return "a notice of this server" if story.sender == "" else f"from {sender or 'before the log begins'}"


def _describe_fate(recipient: Recipient, story: Story, inventory: str) -> Iterator[str]:
    address = recipient.address + (f" (by {recipient.alias})" if recipient.alias else "")
    remote = name_remote(recipient.remote) if recipient.remote else ""
    words = recipient.words[:MAX_WORDS]
    meaning = explain_remote(words) if recipient.fate in (WAITING, BOUNCED) else None
    time = _show_time(recipient.time)
    if recipient.fate == SENT:
        holder = "it is in the mailbox" if recipient.is_mailbox or not remote else f"{remote} has it"
        yield f"  {address}: {holder} since {time}."
    elif recipient.fate == WAITING:
        way = f"held since {_show_time(story.hold)}" if story.hold else "waits, and is tried again"
        since = _show_time(recipient.first_time)
        yield f"  {address}: {way}; {count_noun(recipient.tries, 'try', 'tries')} since {since}."
    elif recipient.fate == BOUNCED:
        yield f"  {address}: given up at {time}; the sender {'got' if story.notice else 'gets'} a notice."
    elif recipient.fate == DELETED:
        yield f"  {address}: deleted from the queue by hand at {time}."
    elif recipient.fate == UNCLEAR:
        yield f"  {address}: its line can be read in two ways; nothing is guessed."
    if meaning:
        does = REMOTE_WORDS[NAMES[recipient.fate]]
        yield f"    {f'{remote} {does}: ' if remote else ''}{_with_remedy(meaning, inventory)}"
    if words and recipient.fate != DELETED:
        yield f"    in its words: {words}"


def _with_remedy(meaning: Meaning, inventory: str) -> str:
    text = f"{meaning.text}."
    return f"{text} Next: {meaning.remedy.replace('NAME', inventory)}" if meaning.remedy else text


def _describe_end(story: Story) -> Iterator[str]:
    left = story.people - len(story.recipients)
    if story.hold and not story.removed and not story.recipients:
        yield f"  on hold since {_show_time(story.hold)}: it is not sent until it is released."
        if story.login:
            yield f"  Next: mailkeepctl why {story.login}"
    elif story.size and left > 0:
        fated, waiting = ("has", "waits for its") if left == 1 else ("have", "wait for their")
        state = f"{fated} no fate in the log" if story.removed else f"{waiting} first try"
        yield f"  {count_noun(left, 'recipient')} {state}."
    elif not story.size and not story.refusals and not story.recipients:
        yield "  It was given up before the whole message was there, or its lines are gone."


def _describe_refusal(refusal: Refusal, inventory: str, indent: str = "") -> Iterator[str]:
    who = refusal.login or f"{refusal.client} [{refusal.address}]"
    route = f" from <{refusal.sender}>" if refusal.sender and refusal.sender != refusal.login else ""
    route += f" to <{refusal.recipient}>" if refusal.recipient else ""
    yield f"{indent}{_show_time(refusal.time)}  refused at the door ({refusal.stage}): {who}{route}."
    if meaning := explain_refusal(refusal.answer):
        text = _with_remedy(meaning, inventory)
        yield f"{indent}  {text[0].upper()}{text[1:]}"
    yield f"{indent}  our words: {refusal.answer[:MAX_WORDS]}"


def build_json(trace: Trace, query: TraceQuery, reaches_back: str) -> dict[str, Any]:
    """`messages` with `recipients`, each with its `meaning` and `remedy`; `refusals`; `reaches_back`; `is_complete`,
    whether the log reaches back to the time asked for."""
    messages = []
    for story in trace.stories:
        message = asdict(story)
        message["recipients"] = [_complete_recipient(recipient) for recipient in story.recipients.values()]
        messages.append(message)
    return {
        "messages": messages,
        "refusals": [asdict(refusal) for refusal in trace.refusals],
        "left_out": trace.left_out,
        "reaches_back": reaches_back,
        "is_complete": bool(reaches_back) and not (query.since and query.since < reaches_back),
    }


def _complete_recipient(recipient: Recipient) -> dict[str, Any]:
    meaning = explain_remote(recipient.words) if recipient.fate in (WAITING, BOUNCED) else None
    fate = NAMES.get(recipient.fate, "")
    return {
        **asdict(recipient),
        "fate": fate,
        "meaning": meaning.text if meaning else "",
        "remedy": meaning.remedy if meaning else "",
    }


def _show_time(time: str) -> str:
    return time.replace("T", " ")
