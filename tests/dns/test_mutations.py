"""Every record that is changed, dropped, doubled or cut off is reported by its name; a good zone has no finding."""

from collections.abc import Callable

import pytest
from dns_observations import Values, observe_values, values_of
from dns_samples import make_secrets, make_settings

from mailkeep.dns import observe, records
from mailkeep.dns.client import Question
from mailkeep.dns.findings import Finding
from mailkeep.dns.judge import judge_observation
from mailkeep.dns.records import Record

SETTINGS = make_settings(
    "example.org", "example.com", never_send=["www.example.org"], mta_sts="testing", caa=["letsencrypt.org"]
)
SECRETS = make_secrets(SETTINGS)
RECORDS = [*records.own_zone_records(SETTINGS, SECRETS), *records.reverse_records(SETTINGS)]
GOOD = values_of(RECORDS)

OTHER = {
    "A": "203.0.113.99",
    "AAAA": "2001:db8::99",
    "MX": "10 mx.example.net.",
    "PTR": "customer-25.example.net.",
    "TLSA": f"3 1 1 {'0' * 64}",
    "CAA": '0 issue "ca.example.net"',
    "SRV": "0 1 465 mx.example.net.",
}


def find_problems(published: Values) -> list[Finding]:
    unanswered = [*GOOD, *observe.leftover_questions(SETTINGS), *observe.caa_questions(SETTINGS)]
    return judge_observation(SETTINGS, SECRETS, observe_values(published, unanswered))


def change_value(value: str, record_type: str) -> tuple[str, ...]:
    """Another value of the same type."""
    if record_type != "TXT":
        return (OTHER[record_type],)
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


def drop_value(_value: str, _record_type: str) -> tuple[str, ...]:
    return ()


def double_value(value: str, record_type: str) -> tuple[str, ...]:
    """A former record was left beside the right one."""
    return (value, OTHER[record_type] if record_type != "TXT" else f"{value} ")


def cut_value(value: str, record_type: str) -> tuple[str, ...]:
    """As a form does that limits the length."""
    if record_type in ("A", "AAAA"):
        return (value[:-1],)
    return (value[: len(value) * 2 // 3],)


@pytest.mark.slow
@pytest.mark.parametrize("mutate", [change_value, drop_value, double_value, cut_value])
@pytest.mark.parametrize("record", RECORDS, ids=lambda record: f"{record.name} {record.type}")
def test_a_changed_record_is_reported_by_its_name_and_nothing_else_is(
    record: Record, mutate: Callable[[str, str], tuple[str, ...]]
) -> None:
    question = Question(record.name, record.type)
    others = tuple(value for value in GOOD[question] if value != record.value)
    findings = find_problems(GOOD | {question: (*others, *mutate(record.value, record.type))})
    assert {(finding.name, finding.type) for finding in findings} == {question}


@pytest.mark.parametrize(("tag", "level"), [("pct=0", "error"), ("PCT=50", "warning"), ("t=y", "warning")])
def test_a_policy_that_does_not_apply_to_all_mail_is_reported(tag: str, level: str) -> None:
    question = Question("_dmarc.example.org", "TXT")
    [finding] = find_problems(GOOD | {question: (f"{GOOD[question][0]}; {tag}",)})
    assert (finding.level, finding.name) == (level, question.name)
    assert f"{tag.partition('=')[0].lower()}=" in finding.problem


def test_a_good_zone_has_no_finding() -> None:
    assert find_problems(GOOD) == []


@pytest.mark.parametrize(
    ("name", "record_type", "value"),
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
def test_another_spelling_of_a_record_is_as_good(name: str, record_type: str, value: str) -> None:
    question = Question(name, record_type)
    if record_type == "TLSA":
        value = GOOD[question][0].upper()
    assert find_problems(GOOD | {question: (value,)}) == []


def test_another_spelling_of_a_key_is_as_good() -> None:
    question = next(question for question in GOOD if question.name.endswith("_domainkey.example.org"))
    key = GOOD[question][0].partition("p=")[2]
    assert find_problems(GOOD | {question: (f"k=rsa; p={key[:100]} {key[100:]};",)}) == []
