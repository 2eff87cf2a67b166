"""The order in which to change DNS records when a server takes the place of another, so that no mail is lost.

What is published is still the old server's. Before the switch, records must be right for both servers; at the switch,
mail goes to the new one; afterwards the old one's traces go. Pure: it needs the settings, the keys and the answers.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Literal, get_args

from mailkeep.dns import records
from mailkeep.dns.client import Question
from mailkeep.dns.judge import judge_records
from mailkeep.dns.observe import DnsAnswers
from mailkeep.dns.record_comparison import record_kind
from mailkeep.dns.records import Record
from mailkeep.inventory.secrets import Secrets
from mailkeep.settings.models import Settings

Stage = Literal["days before", "before", "switch", "after", "unchanged"]
STAGES: dict[Stage, str] = {
    "days before": "Some days before",
    "before": "Before the switch, while the old server still serves: these are right for both",
    "switch": "The switch, once `mailkeep verify` is content and the mail is copied",
    "after": "Afterwards, once the old server's queue is empty",
    "unchanged": "Nothing to change",
}
SHORT_TTL = 300  # seconds that senders still go to the old server after the switch


@dataclass(frozen=True, slots=True)
class Change:
    """A step. `value` is what to publish; empty if nothing changes, or if the record goes. `published` is there now."""

    stage: Stage
    name: str
    type: str
    action: str
    value: str = ""
    published: str = ""

    def asdict(self) -> dict[str, str]:
        return asdict(self)


def order_changes(settings: Settings, secrets: Secrets, answers: DnsAnswers) -> list[Change]:
    """All steps, in their order."""
    expected = [*records.all_records(settings, secrets)]
    changes = [
        *_shorten_ttls(settings, answers),
        *(change for group in _group_records(expected) for change in _order_group(settings, group, answers)),
    ]
    return sorted(changes, key=lambda change: get_args(Stage).index(change.stage))


def _group_records(expected: Iterable[Record]) -> Iterator[list[Record]]:
    """The records that are compared with one another, the most important first."""
    needs = get_args(records.Need)
    groups = [list(group) for _, group in groupby(sorted(expected, key=_key), key=_key)]
    yield from sorted(groups, key=lambda group: needs.index(group[0].need))


def _key(record: Record) -> tuple[str, str, str]:
    return record.name, record.type, record_kind(record.type, record.value)


def _shorten_ttls(settings: Settings, answers: DnsAnswers) -> Iterator[Change]:
    """The authoritative TTL counts: the resolver's is what is left of it."""
    host = settings.host.name
    questions = [Question(host, records.address_type(address)) for address in settings.host.addresses]
    for question in dict.fromkeys((*questions, *(Question(domain, "MX") for domain in settings.domains))):
        every_answer = (answers.public[question], *answers.authoritative.get(question, {}).values())
        ttl = max(answer.ttl for answer in every_answer)
        if any(answer.values for answer in every_answer) and ttl > SHORT_TTL:
            action = f"Set its TTL to {SHORT_TTL}, so that the switch reaches everybody in minutes"
            yield Change("days before", *question, action, "", f"TTL {ttl}")


def _order_group(settings: Settings, group: list[Record], answers: DnsAnswers) -> Iterator[Change]:
    name, record_type, kind = _key(group[0])
    question, value = Question(name, record_type), " and ".join(record.value for record in group)
    values = tuple(text for text in answers.public[question].values if _is_of_kind(record_type, kind, text))
    published = ", ".join(values)
    if not any(True for _ in judge_records(group, answers)):
        yield Change("unchanged", name, record_type, "It is right already", "", published)
    elif kind == "v=spf1":
        yield from _order_spf(question, value, values)
    elif record_type == "TLSA":
        yield from _order_tlsa(question, group, values)
    elif kind == "v=DKIM1":
        yield _order_dkim(question, value, published)
    else:
        stage, action = _order_other(settings, question, kind, bool(values))
        yield Change(stage, name, record_type, action, value, published)


def _is_of_kind(record_type: str, kind: str, text: str) -> bool:
    """The version tag of a DKIM record is optional (RFC 6376 §3.6.1)."""
    return record_kind(record_type, text) == kind or (kind == "v=DKIM1" and "p=" in text)


def _order_spf(question: Question, value: str, values: tuple[str, ...]) -> Iterator[Change]:
    """Both servers send for a while: the old one empties its queue."""
    if len(values) != 1 or question.type != "TXT":
        yield Change("before", *question, "Publish it; others of its kind go", value, ", ".join(values))
        return
    both = merge_spf(values[0], value)
    if both.lower() != values[0].lower():
        yield Change("before", *question, "Add the new server to the old record", both, values[0])
    yield Change("after", *question, "Drop what only the old server needed", value, both)


def merge_spf(published: str, value: str) -> str:
    """The published record with the terms of the other before its own: an early `-all` would end it."""
    version, *terms = published.split()
    lowered = {term.lower() for term in terms}
    new = [term for term in value.split()[1:] if term.lower() not in lowered and not term.endswith("all")]
    return " ".join((version, *new, *terms))


def _order_tlsa(question: Question, group: list[Record], values: tuple[str, ...]) -> Iterator[Change]:
    """Senders that check DANE deliver to no server whose key none of the records names."""
    value = " and ".join(record.value for record in group)
    if values:
        yield Change("before", *question, "Add it beside the old one", value, ", ".join(values))
        yield Change("after", *question, "Remove the old one", value)
    else:
        yield Change("after", *question, "Publish it: with it, senders that check DANE insist on this key", value)


def _order_dkim(question: Question, value: str, published: str) -> Change:
    if not published:
        return Change("before", *question, "Publish it: the new server signs with this key", value)
    action = (
        "Another key is published under this selector, so signatures of the new server would fail: "
        "`mailkeep dkim rotate` after the switch, or replace it at the switch"
    )
    return Change("switch", *question, action, value, published)


def _order_other(settings: Settings, question: Question, kind: str, is_published: bool) -> tuple[Stage, str]:
    is_host = question.name == settings.host.name
    if question.type in ("A", "AAAA"):
        if is_host and not is_published:
            return "before", "Publish it: nobody uses the name yet"
        return ("switch", "Lead it to the new server") if is_published else ("after", "Publish it")
    if question.type == "MX":
        return "switch", "From now on mail goes to the new server"
    if question.type == "PTR":
        return "before", "At the hoster of the new address: large providers refuse mail without it"
    if question.type == "SRV":
        return "switch", "Mail programs that set themselves up find the new server"
    if question.type == "CAA" and is_published:
        return "before", "Add it, or the new server gets no certificate"
    if kind == "v=DMARC1" and question.name in {f"_dmarc.{domain}" for domain in settings.domains}:
        return "before", "Publish it: with p=none it refuses nothing" if settings.dns.dmarc == "none" else "Publish it"
    return "after", "Publish it"
