"""Every record that is changed, dropped, doubled or cut off is reported by its name, and none of a good zone."""

from collections.abc import Callable

import pytest
from dns_samples import keys, settings
from seen import Values, seen, values

from mailkeep.dns import observe, records
from mailkeep.dns.client import Question
from mailkeep.dns.findings import Finding
from mailkeep.dns.judge import judge_observation
from mailkeep.dns.records import Record

DECLARED = settings(
    "example.org", "example.com", never_send=["www.example.org"], mta_sts="testing", caa=["letsencrypt.org"]
)
KEYS = keys(DECLARED)
RECORDS = [*records.own_zone_records(DECLARED, KEYS), *records.reverse_records(DECLARED)]
GOOD = values(RECORDS)

OTHER = {
    "A": "203.0.113.99",
    "AAAA": "2001:db8::99",
    "MX": "10 mx.example.net.",
    "PTR": "customer-25.example.net.",
    "TLSA": f"3 1 1 {'0' * 64}",
    "CAA": '0 issue "ca.example.net"',
    "SRV": "0 1 465 mx.example.net.",
}


def findings(published: Values) -> list[Finding]:
    asked = [*GOOD, *observe.leftover_questions(DECLARED), *observe.caa_questions(DECLARED)]
    return judge_observation(DECLARED, KEYS, seen(published, asked))


def changed(value: str, kind: str) -> tuple[str, ...]:
    """Something else than it should say, of the same kind."""
    if kind != "TXT":
        return (OTHER[kind],)
    for ours, theirs in _OTHER_TEXTS.items():
        if ours in value:
            return (value.replace(ours, theirs, 1),)
    raise AssertionError(value)


_OTHER_TEXTS = {
    "v=spf1 -all": "v=spf1 +all",
    "ip4:203.0.113.25": "ip4:203.0.113.99",
    "p=reject": "p=none",
    "p=MII": "p=MIJ",
    "v=TLSRPTv1; rua=mailto:": "v=TLSRPTv1; rua=mailto:not-",
    "id=": "id=0",
    "v=DMARC1": "v=DMARC2",
}


def dropped(_value: str, _kind: str) -> tuple[str, ...]:
    return ()


def doubled(value: str, kind: str) -> tuple[str, ...]:
    """A former record left beside the right one."""
    return (value, OTHER[kind] if kind != "TXT" else f"{value} ")


def cut_off(value: str, kind: str) -> tuple[str, ...]:
    """As a form does that takes only so many characters."""
    if kind in ("A", "AAAA"):
        return (value[:-1],)
    return (value[: len(value) * 2 // 3],)


@pytest.mark.parametrize("mutate", [changed, dropped, doubled, cut_off])
@pytest.mark.parametrize("record", RECORDS, ids=lambda record: f"{record.name} {record.type}")
def test_what_is_wrong_is_reported_by_name_and_nothing_else_is(
    record: Record, mutate: Callable[[str, str], tuple[str, ...]]
) -> None:
    question = Question(record.name, record.type)
    others = tuple(value for value in GOOD[question] if value != record.value)
    found = findings(GOOD | {question: (*others, *mutate(record.value, record.type))})
    assert {(finding.name, finding.type) for finding in found} == {question}


@pytest.mark.parametrize(("more", "level"), [("pct=0", "error"), ("PCT=50", "warning"), ("t=y", "warning")])
def test_a_policy_that_does_not_hold_for_all_mail_is_reported(more: str, level: str) -> None:
    question = Question("_dmarc.example.org", "TXT")
    [finding] = findings(GOOD | {question: (f"{GOOD[question][0]}; {more}",)})
    assert (finding.level, finding.name) == (level, question.name)
    assert f"{more.partition('=')[0].lower()}=" in finding.problem


def test_a_good_zone_is_good() -> None:
    assert findings(GOOD) == []


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("example.org", "TXT", "v=spf1  ip6:2001:db8:0::25 ip4:203.0.113.25/32   -all"),
        ("example.org", "TXT", "V=SPF1 ip4:203.0.113.25 ip6:2001:db8::25 -all"),
        ("example.org", "MX", "10 MAIL.example.org."),
        ("_dmarc.example.org", "TXT", "v=DMARC1;p=reject;rua=mailto:postmaster@mail.example.org;np=reject;adkim=s"),
        ("_smtp._tls.example.org", "TXT", "v=TLSRPTv1;rua=mailto:a@example.net,mailto:postmaster@mail.example.org"),
        ("mail.example.org", "AAAA", "2001:DB8::0:25"),
        ("_25._tcp.mail.example.org", "TLSA", ""),
    ],
)
def test_the_same_said_in_another_way_is_as_good(name: str, kind: str, said: str) -> None:
    question = Question(name, kind)
    if kind == "TLSA":
        said = GOOD[question][0].upper()
    assert findings(GOOD | {question: (said,)}) == []


def test_another_way_to_write_a_key_is_as_good() -> None:
    question = next(question for question in GOOD if question.name.endswith("_domainkey.example.org"))
    key = GOOD[question][0].partition("p=")[2]
    assert findings(GOOD | {question: (f"k=rsa; p={key[:100]} {key[100:]};",)}) == []
