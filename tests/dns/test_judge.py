"""Findings besides wrong records: servers, resolvers, aliases, leftovers, certificates, policies."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from dns_observations import SERVER, Values, observe_values, values_of
from dns_samples import make_secrets, make_settings

from mailkeep.dns import mta_sts, observe, records
from mailkeep.dns.client import Answer, Question
from mailkeep.dns.findings import Finding
from mailkeep.dns.judge import judge_observation
from mailkeep.dns.mta_sts import ServedPolicy
from mailkeep.dns.observe import Observation
from mailkeep.dns.smtp_greeting import Greeting
from mailkeep.inventory import tls_certificate
from mailkeep.settings.models import Settings

SETTINGS = make_settings()
SECRETS = make_secrets(SETTINGS)
MX = Question("example.org", "MX")
DMARC = Question("_dmarc.example.org", "TXT")


def good_observation(settings: Settings = SETTINGS) -> Observation:
    return observe_values(_own_values(settings), _unanswered(settings))


def _unanswered(settings: Settings) -> list[Question]:
    """Questions besides those for the expected records."""
    return [*observe.leftover_questions(settings), *observe.caa_questions(settings)]


def _own_values(settings: Settings) -> Values:
    zone_records = records.own_zone_records(settings, make_secrets(settings))
    return values_of([*zone_records, *records.reverse_records(settings)])


GOOD = good_observation()


def change_answers(**changes: Any) -> Observation:
    return replace(GOOD, answers=replace(GOOD.answers, **changes))


def change_public(question: Question, **changes: Any) -> Mapping[Question, Answer]:
    """The resolver's answers, one of them changed."""
    public = GOOD.answers.public
    return {**public, question: replace(public[question], **changes)}


def change_servers(question: Question, **changes: Answer) -> Mapping[Question, Mapping[str, Answer]]:
    """The name servers' answers, with those of the named servers changed for one question."""
    authoritative = GOOD.answers.authoritative
    return {**authoritative, question: {**authoritative[question], **changes}}


def judge_all(observation: Observation, settings: Settings = SETTINGS) -> list[Finding]:
    return judge_observation(settings, make_secrets(settings), observation)


def judge_one(observation: Observation, settings: Settings = SETTINGS) -> Finding:
    [finding] = judge_all(observation, settings)
    return finding


# --- who may issue

ACME = make_settings(tls={"mode": "acme"})
BY_DNS = make_settings(tls={"mode": "acme", "acme": {"challenge": "dns-01", "provider": "rfc2136"}})
HOST_CAA, ABOVE_CAA = Question("mail.example.org", "CAA"), Question("example.org", "CAA")


def names_that_keep_out(settings: Settings, *at_host: str, above: tuple[str, ...] = ()) -> list[str]:
    """The names of findings about a kept-out issuer, when the zone has these CAA records."""
    zone = {question: values for question, values in _own_values(settings).items() if question.type != "CAA"}
    observation = observe_values(zone | {HOST_CAA: at_host, ABOVE_CAA: above}, _unanswered(settings))
    return [
        finding.name
        for finding in judge_all(observation, settings)
        if "keeps letsencrypt.org from issuing" in finding.problem
    ]


def test_an_issuer_that_caa_keeps_out_is_reported_at_those_records() -> None:
    assert judge_all(good_observation(ACME), ACME) == []
    assert judge_all(good_observation(BY_DNS), BY_DNS) == []
    assert names_that_keep_out(ACME) == []
    assert names_that_keep_out(ACME, above=('0 issue "ca.example.net"',)) == ["example.org"]
    assert names_that_keep_out(ACME, '0 issue ";"') == ["mail.example.org"]
    assert names_that_keep_out(ACME, '0 issue "letsencrypt.org"', above=('0 issue ";"',)) == []
    assert names_that_keep_out(ACME, '0 iodef "mailto:you@example.net"') == []
    assert names_that_keep_out(ACME, '0 issue "ca.example.net"', '0 issue "LetsEncrypt.org; accounturi=x"') == []


def test_caa_may_keep_out_an_issuer_by_its_challenge() -> None:
    assert names_that_keep_out(ACME, '0 issue "letsencrypt.org; validationmethods=dns-01"') == ["mail.example.org"]
    assert names_that_keep_out(BY_DNS, '0 issue "letsencrypt.org; validationmethods=http-01,dns-01"') == []


def test_a_space_in_a_caa_record_does_not_matter() -> None:
    zone = _own_values(BY_DNS) | {HOST_CAA: ('0 issue "letsencrypt.org ; validationmethods=dns-01"',)}
    assert judge_all(observe_values(zone, _unanswered(BY_DNS)), BY_DNS) == []


# --- servers and resolvers


def test_for_a_late_resolver_the_advice_is_to_wait() -> None:
    public = change_public(MX, values=("10 old.example.net.",), ttl=300)
    finding = judge_one(change_answers(public=public))
    assert (finding.level, finding.name, finding.type) == ("instruction", *MX)
    assert "300 seconds" in finding.advice


def test_a_server_that_disagrees_with_the_others_is_named() -> None:
    behind = change_servers(MX, second=Answer(("10 old.example.net.",)))
    finding = judge_one(change_answers(authoritative=behind))
    assert finding.level == "error"
    assert "(only at second)" in finding.problem


def test_a_server_that_does_not_answer_is_named_once_and_the_others_count() -> None:
    silent = {
        question: {**by_server, "second": Answer(error="timed out")}
        for question, by_server in GOOD.answers.authoritative.items()
    }
    finding = judge_one(change_answers(authoritative=silent))
    assert (finding.level, finding.name) == ("warning", "second")


def test_where_no_server_can_be_asked_the_resolver_counts() -> None:
    nobody: dict[Question, dict[str, Answer]] = {question: {} for question in GOOD.answers.authoritative}
    assert judge_all(change_answers(authoritative=nobody)) == []
    finding = judge_one(change_answers(authoritative=nobody, public=change_public(DMARC, values=())))
    assert (finding.level, finding.name) == ("error", DMARC.name)


def test_a_bogus_answer_is_an_error_with_its_reason() -> None:
    bogus = change_public(MX, values=(), error="its DNSSEC signatures do not validate")
    finding = judge_one(change_answers(public=bogus))
    assert finding.level == "error"
    assert "do not validate" in finding.problem


def test_an_unsigned_zone_is_reported_once() -> None:
    unsigned = {question: replace(answer, authentic=False) for question, answer in GOOD.answers.public.items()}
    finding = judge_one(change_answers(public=unsigned))
    assert (finding.level, finding.name, finding.type) == ("warning", "example.org", "DNSSEC")
    finding = judge_one(change_answers(public=unsigned, validates=False))
    assert (finding.level, finding.name) == ("instruction", ".")


# --- names


def test_an_mx_that_leads_to_an_alias_is_an_error() -> None:
    alias = change_public(Question("mail.example.org", "A"), alias="vps.example.net")
    finding = judge_one(change_answers(public=alias))
    assert (finding.level, finding.name, finding.observed) == ("error", "mail.example.org", "vps.example.net")


def test_a_time_to_live_of_days_is_a_warning() -> None:
    assert judge_one(change_answers(public=change_public(MX, ttl=604_800))).observed == "TTL 604800"
    long = change_servers(MX, **{SERVER: replace(GOOD.answers.public[MX], ttl=172_800)})
    assert judge_one(change_answers(authoritative=long)).observed == "TTL 172800"


def test_a_name_that_a_form_completed_is_recognised() -> None:
    missing = change_servers(DMARC, **{SERVER: Answer()})
    finding = judge_one(change_answers(authoritative=missing, doubled=frozenset({DMARC.name})))
    assert "Enter the name without it" in finding.advice


def test_a_leftover_of_a_former_server_or_provider_is_an_error() -> None:
    settings = make_settings(addresses=["203.0.113.25"])
    assert judge_all(good_observation(settings), settings) == []
    for question, value in (
        (Question("mail.example.org", "AAAA"), "2001:db8::99"),
        (Question("_mta-sts.example.org", "TXT"), "v=STSv1; id=20200101;"),
    ):
        left = observe_values(_own_values(settings) | {question: (value,)}, _unanswered(settings))
        finding = judge_one(left, settings)
        assert (finding.level, finding.name, finding.type, finding.observed) == ("error", *question, value)


def test_an_authorisation_of_reports_is_for_a_third_party_to_set() -> None:
    settings = make_settings(reports="dmarc@example.net")
    third_party = [
        Question(record.name, record.type) for record in records.third_party_records(settings, make_secrets(settings))
    ]
    findings = judge_all(observe_values(_own_values(settings), [*_unanswered(settings), *third_party]), settings)
    assert {(finding.level, finding.name) for finding in findings} == {
        ("warning", question.name) for question in third_party
    }
    assert all(finding.advice.startswith("Ask the owner of example.net") for finding in findings)


@pytest.mark.slow
def test_a_domain_below_a_live_one_is_judged_by_its_own_records() -> None:
    """Records of the domain above, at the same names, do not matter."""
    settings = make_settings("test.example.org", host="mail.test.example.org", addresses=["203.0.113.25"])
    observation = observe_values(_own_values(settings), _unanswered(settings))
    wrong = Answer(("10 mx.example.net.", "v=spf1 +all", "v=STSv1; id=1;"), alias="elsewhere.example.net")
    leftovers = [Question("mail.test.example.org", "AAAA"), Question("_mta-sts.test.example.org", "TXT")]
    above = {
        Question(name.replace("test.example.org", "example.org"), record_type): wrong
        for name, record_type in (*_own_values(settings), *leftovers)
        if "test.example.org" in name
    }
    answers = replace(
        observation.answers,
        public={**observation.answers.public, **above},
        authoritative={**observation.answers.authoritative, **{question: {SERVER: wrong} for question in above}},
    )
    assert judge_all(replace(observation, answers=answers), settings) == []


# --- the server on port 25


def observe_greeting(**greeting: Any) -> Observation:
    der = tls_certificate.parse_chain("", SECRETS.tls.certificate)[0].public_bytes(Encoding.DER)
    changed = replace(Greeting("mail.example.org", der), **greeting)
    return replace(good_observation(), greetings={"203.0.113.25": changed})


def test_a_server_with_the_right_name_and_key_has_no_finding() -> None:
    assert judge_all(observe_greeting()) == []
    assert judge_all(observe_greeting(tls_error="self-signed certificate")) == []  # as declared


def test_a_greeting_with_another_name_is_an_error() -> None:
    finding = judge_one(observe_greeting(name="vps.example.net"))
    assert (finding.level, finding.type, finding.observed) == ("error", "SMTP", "vps.example.net")


def test_a_key_that_neither_the_vault_nor_tlsa_has_is_an_error() -> None:
    other = tls_certificate.parse_chain("", make_secrets(make_settings(host="mx.example.org")).tls.certificate)[0]
    findings = judge_all(observe_greeting(certificate=other.public_bytes(Encoding.DER)))
    assert [(finding.level, finding.type) for finding in findings] == [("error", "TLS"), ("error", "TLSA")]


def test_a_silent_port_is_only_a_warning_for_it_may_be_this_network() -> None:
    assert judge_one(observe_greeting(error="timed out")).level == "warning"


# --- MTA-STS


@pytest.mark.parametrize(
    ("served", "problem"),
    [
        (ServedPolicy(error="certificate verify failed"), "the policy cannot be fetched"),
        (ServedPolicy("version: STSv1\nmode: enforce\nmx: mail.example.org\nmax_age: 86400\n"), "the policy differs"),
        (ServedPolicy("<html>"), "the policy differs"),
    ],
)
def test_a_policy_that_is_not_served_as_declared_is_an_error(served: ServedPolicy, problem: str) -> None:
    settings = make_settings(mta_sts="testing")
    finding = judge_one(replace(good_observation(settings), policies={"example.org": served}), settings)
    assert finding.level == "error"
    assert problem in finding.problem


def test_the_advice_for_an_unreachable_policy_depends_on_its_server() -> None:
    def advise(**web: bool) -> str:
        settings = make_settings(mta_sts="testing", web=web)
        return judge_one(
            replace(good_observation(settings), policies={"example.org": ServedPolicy(error="timed out")}), settings
        ).advice

    assert "TCP port 443" in advise()
    assert "https://mta-sts.example.org/.well-known/mta-sts.txt" in advise(mta_sts=False)


def test_the_policy_may_have_other_line_endings() -> None:
    settings = make_settings(mta_sts="testing")
    text = mta_sts.policy_text(settings).replace("\r\n", "\n")
    assert judge_all(replace(good_observation(settings), policies={"example.org": ServedPolicy(text)}), settings) == []


def test_an_enforced_policy_needs_a_trusted_certificate() -> None:
    settings = make_settings(mta_sts="enforce")
    observation = replace(
        observe_greeting(tls_error="self-signed certificate"), answers=good_observation(settings).answers
    )
    assert [finding.type for finding in judge_all(observation, settings)] == ["TLS", "MTA-STS"]
