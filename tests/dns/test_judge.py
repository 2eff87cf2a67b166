"""What the check says when not the records but something around them is wrong."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from dns_samples import keys, settings
from seen import SERVER, Values, seen, values

from mailkeep.dns import mta_sts, observe, records
from mailkeep.dns.client import Answer, Question
from mailkeep.dns.findings import Finding
from mailkeep.dns.judge import judge_observation
from mailkeep.dns.mta_sts import ServedPolicy
from mailkeep.dns.observe import DnsAnswers, Observation
from mailkeep.dns.smtp_greeting import Greeting
from mailkeep.inventory import tls_certificate
from mailkeep.settings.models import Settings

DECLARED = settings()
KEYS = keys(DECLARED)
MX = Question("example.org", "MX")
DMARC = Question("_dmarc.example.org", "TXT")


def good(declared: Settings = DECLARED) -> Observation:
    return seen(_values(declared), _asked(declared))


def _asked(declared: Settings) -> list[Question]:
    """What is asked beside the records that should be there."""
    return [*observe.leftover_questions(declared), *observe.caa_questions(declared)]


def _values(declared: Settings) -> Values:
    return values([*records.own_zone_records(declared, keys(declared)), *records.reverse_records(declared)])


def changed(now: Observation, **names: Any) -> Observation:
    return replace(now, answers=replace(now.answers, **names))


def public(names: DnsAnswers, question: Question, **answer: Any) -> Mapping[Question, Answer]:
    return {**names.public, question: replace(names.public[question], **answer)}


def at_servers(names: DnsAnswers, question: Question, **answers: Answer) -> Mapping[Question, Mapping[str, Answer]]:
    return {**names.authoritative, question: {**names.authoritative[question], **answers}}


def judged(now: Observation, declared: Settings = DECLARED) -> list[Finding]:
    return judge_observation(declared, keys(declared), now)


def only(now: Observation, declared: Settings = DECLARED) -> Finding:
    [finding] = judged(now, declared)
    return finding


# --- who may issue

ACME = settings(tls={"mode": "acme"})
BY_DNS = settings(tls={"mode": "acme", "acme": {"challenge": "dns-01", "provider": "rfc2136"}})
HOST_CAA, ABOVE_CAA = Question("mail.example.org", "CAA"), Question("example.org", "CAA")


def with_caa(declared: Settings, *at_host: str, above: tuple[str, ...] = ()) -> list[str]:
    """What is said to be kept out, when the zone has these CAA records."""
    zone = {question: found for question, found in _values(declared).items() if question.type != "CAA"}
    now = seen(zone | {HOST_CAA: at_host, ABOVE_CAA: above}, _asked(declared))
    return [finding.name for finding in judged(now, declared) if "keeps letsencrypt.org out" in finding.problem]


def test_an_issuer_that_caa_keeps_out_is_told_at_the_records_that_do() -> None:
    assert judged(good(ACME), ACME) == []
    assert judged(good(BY_DNS), BY_DNS) == []
    assert with_caa(ACME) == []
    assert with_caa(ACME, above=('0 issue "ca.example.net"',)) == ["example.org"]
    assert with_caa(ACME, '0 issue ";"') == ["mail.example.org"]
    assert with_caa(ACME, '0 issue "letsencrypt.org"', above=('0 issue ";"',)) == []
    assert with_caa(ACME, '0 iodef "mailto:you@example.net"') == []
    assert with_caa(ACME, '0 issue "ca.example.net"', '0 issue "LetsEncrypt.org; accounturi=x"') == []


def test_an_issuer_is_kept_out_by_the_method_too() -> None:
    assert with_caa(ACME, '0 issue "letsencrypt.org; validationmethods=dns-01"') == ["mail.example.org"]
    assert with_caa(BY_DNS, '0 issue "letsencrypt.org; validationmethods=http-01,dns-01"') == []


def test_a_space_in_a_caa_record_means_nothing() -> None:
    zone = _values(BY_DNS) | {HOST_CAA: ('0 issue "letsencrypt.org ; validationmethods=dns-01"',)}
    assert judged(seen(zone, _asked(BY_DNS)), BY_DNS) == []


# --- servers and resolvers


def test_a_resolver_that_is_late_is_a_matter_of_waiting() -> None:
    now = good()
    finding = only(changed(now, public=public(now.answers, MX, values=("10 old.example.net.",), ttl=300)))
    assert (finding.level, finding.name, finding.type) == ("instruction", *MX)
    assert "300 seconds" in finding.advice


def test_a_server_that_disagrees_with_the_others_is_named() -> None:
    now = good()
    behind = at_servers(now.answers, MX, second=Answer(("10 old.example.net.",)))
    finding = only(changed(now, authoritative=behind))
    assert finding.level == "error"
    assert "(at second alone)" in finding.problem


def test_a_server_that_does_not_answer_is_named_once_and_the_others_count() -> None:
    now = good()
    silent = {
        question: {**by, "second": Answer(error="timed out")} for question, by in now.answers.authoritative.items()
    }
    finding = only(changed(now, authoritative=silent))
    assert (finding.level, finding.name) == ("warning", "second")


def test_where_no_server_can_be_asked_the_resolver_counts() -> None:
    now = good()
    nobody: dict[Question, dict[str, Answer]] = {question: {} for question in now.answers.authoritative}
    assert judged(changed(now, authoritative=nobody)) == []
    finding = only(changed(now, authoritative=nobody, public=public(now.answers, DMARC, values=())))
    assert (finding.level, finding.name) == ("error", DMARC.name)


def test_an_answer_that_nobody_gets_is_an_error_with_its_reason() -> None:
    now = good()
    bogus = public(now.answers, MX, values=(), error="its DNSSEC signatures do not validate")
    finding = only(changed(now, public=bogus))
    assert finding.level == "error"
    assert "do not validate" in finding.problem


def test_a_zone_that_is_not_signed_is_told_once() -> None:
    now = good()
    unsigned = {question: replace(answer, authentic=False) for question, answer in now.answers.public.items()}
    finding = only(changed(now, public=unsigned))
    assert (finding.level, finding.name, finding.type) == ("warning", "example.org", "DNSSEC")
    finding = only(changed(now, public=unsigned, validates=False))
    assert (finding.level, finding.name) == ("instruction", ".")


# --- names


def test_an_mx_that_leads_to_an_alias_is_an_error() -> None:
    now = good()
    alias = public(now.answers, Question("mail.example.org", "A"), alias="vps.example.net")
    finding = only(changed(now, public=alias))
    assert (finding.level, finding.name, finding.observed) == ("error", "mail.example.org", "vps.example.net")


def test_a_time_to_live_of_days_is_a_warning() -> None:
    now = good()
    assert only(changed(now, public=public(now.answers, MX, ttl=604_800))).observed == "TTL 604800"
    long = at_servers(now.answers, MX, **{SERVER: replace(now.answers.public[MX], ttl=172_800)})
    assert only(changed(now, authoritative=long)).observed == "TTL 172800"


def test_a_name_that_a_form_has_completed_is_told_as_that() -> None:
    now = good()
    missing = at_servers(now.answers, DMARC, **{SERVER: Answer()})
    finding = only(changed(now, authoritative=missing, doubled=frozenset({DMARC.name})))
    assert "Enter the name without it" in finding.advice


def test_what_is_left_of_a_former_server_or_provider_is_an_error() -> None:
    declared = settings(addresses=["203.0.113.25"])
    assert judged(good(declared), declared) == []
    for question, value in (
        (Question("mail.example.org", "AAAA"), "2001:db8::99"),
        (Question("_mta-sts.example.org", "TXT"), "v=STSv1; id=20200101;"),
    ):
        left = seen(_values(declared) | {question: (value,)}, _asked(declared))
        finding = only(left, declared)
        assert (finding.level, finding.name, finding.type, finding.observed) == ("error", *question, value)


def test_an_authorisation_for_reports_is_somebody_elses_to_set() -> None:
    declared = settings(reports="dmarc@example.net")
    asked = [Question(one.name, one.type) for one in records.third_party_records(declared, keys(declared))]
    found = judged(seen(_values(declared), [*_asked(declared), *asked]), declared)
    assert {(finding.level, finding.name) for finding in found} == {("warning", question.name) for question in asked}
    assert all(finding.advice.startswith("Ask whoever has example.net") for finding in found)


def test_a_domain_below_a_live_one_is_not_measured_by_that() -> None:
    """Whatever the domain above says at the same names, it is not ours."""
    declared = settings("test.example.org", host="mail.test.example.org", addresses=["203.0.113.25"])
    now = seen(_values(declared), _asked(declared))
    wrong = Answer(("10 mx.example.net.", "v=spf1 +all", "v=STSv1; id=1;"), alias="elsewhere.example.net")
    own = [*_values(declared), Question("mail.test.example.org", "AAAA"), Question("_mta-sts.test.example.org", "TXT")]
    above = {
        Question(name.replace("test.example.org", "example.org"), type_): wrong
        for name, type_ in own
        if "test.example.org" in name
    }
    both = changed(
        now,
        public={**now.answers.public, **above},
        authoritative={**now.answers.authoritative, **{question: {SERVER: wrong} for question in above}},
    )
    assert judged(both, declared) == []


# --- the server on port 25


def greeted(**greeting: Any) -> Observation:
    der = tls_certificate.parse_chain("", KEYS.tls.certificate)[0].public_bytes(tls_certificate.Encoding.DER)
    made = replace(Greeting("mail.example.org", der), **greeting)
    return replace(good(), greetings={"203.0.113.25": made})


def test_a_server_that_shows_its_name_and_key_is_good() -> None:
    assert judged(greeted()) == []
    assert judged(greeted(distrust="self-signed certificate")) == []  # as declared


def test_a_greeting_with_another_name_is_an_error() -> None:
    finding = only(greeted(name="vps.example.net"))
    assert (finding.level, finding.type, finding.observed) == ("error", "SMTP", "vps.example.net")


def test_a_key_that_is_not_the_vaults_and_that_tlsa_does_not_name_is_an_error() -> None:
    other = tls_certificate.parse_chain("", keys(settings(host="mx.example.org")).tls.certificate)[0]
    found = judged(greeted(certificate=other.public_bytes(tls_certificate.Encoding.DER)))
    assert [(finding.level, finding.type) for finding in found] == [("error", "TLS"), ("error", "TLSA")]


def test_a_port_that_does_not_answer_is_no_error_for_it_may_be_our_network() -> None:
    assert only(greeted(error="timed out")).level == "warning"


# --- MTA-STS


@pytest.mark.parametrize(
    ("served", "problem"),
    [
        (ServedPolicy(error="certificate verify failed"), "the policy cannot be had"),
        (ServedPolicy("version: STSv1\nmode: enforce\nmx: mail.example.org\nmax_age: 86400\n"), "it is not the policy"),
        (ServedPolicy("<html>"), "it is not the policy"),
    ],
)
def test_a_policy_that_is_not_served_as_declared_is_an_error(served: ServedPolicy, problem: str) -> None:
    declared = settings(mta_sts="testing")
    finding = only(replace(good(declared), policies={"example.org": served}), declared)
    assert finding.level == "error"
    assert problem in finding.problem


def test_a_policy_that_cannot_be_had_is_mended_where_it_is_served() -> None:
    def advice(**web: bool) -> str:
        declared = settings(mta_sts="testing", web=web)
        return only(replace(good(declared), policies={"example.org": ServedPolicy(error="timed out")}), declared).advice

    assert "TCP port 443" in advice()
    assert "https://mta-sts.example.org/.well-known/mta-sts.txt" in advice(mta_sts=False)


def test_the_policy_as_printed_is_good_with_other_ends_of_lines_too() -> None:
    declared = settings(mta_sts="testing")
    text = mta_sts.policy_text(declared).replace("\r\n", "\n")
    assert judged(replace(good(declared), policies={"example.org": ServedPolicy(text)}), declared) == []


def test_an_enforced_policy_needs_a_certificate_that_others_trust() -> None:
    declared = settings(mta_sts="enforce")
    now = replace(greeted(distrust="self-signed certificate"), answers=good(declared).answers)
    assert [finding.type for finding in judged(now, declared)] == ["TLS", "MTA-STS"]
