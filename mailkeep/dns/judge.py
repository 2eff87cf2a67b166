"""Judges an observation: what is wrong, and what to set. Pure: it needs the settings, the keys and the observation."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from typing import get_args

from checkdmarc.mta_sts import MTASTSError, parse_mta_sts_policy
from cryptography import x509

from mailkeep.dns import mta_sts, records
from mailkeep.dns.client import Answer, Question
from mailkeep.dns.findings import Finding, Level
from mailkeep.dns.mta_sts import ServedPolicy
from mailkeep.dns.observe import DnsAnswers, Observation, leftover_questions
from mailkeep.dns.record_comparison import Evaluators, Flaw, compare_values, record_kind
from mailkeep.dns.records import Record
from mailkeep.dns.spf_dmarc import Dmarc, Spf
from mailkeep.dns.zones import name_and_parents, registered_domain
from mailkeep.inventory.secrets import Secrets
from mailkeep.settings.models import Settings

MAX_TTL = 86_400  # seconds; so long does a mistake last, or a move take


def judge_observation(settings: Settings, secrets: Secrets, observation: Observation) -> list[Finding]:
    """All findings, the worst first."""
    answers = observation.answers
    expected = [*records.own_zone_records(settings, secrets), *records.reverse_records(settings)]
    findings = [
        *judge_records(expected, answers),
        *_judge_third_party_records(records.third_party_records(settings, secrets), answers),
        *_judge_leftovers(settings, answers),
        *_judge_name_servers(answers),
        *_judge_aliases(settings, answers),
        *_judge_dnssec(settings, answers),
        *_judge_ttls(answers),
        *_judge_caa(settings, answers),
        *_judge_greetings(settings, secrets, observation),
        *_judge_policies(settings, observation),
    ]
    return sorted(findings, key=lambda finding: get_args(Level).index(finding.level))


# --- records


def judge_records(expected: Iterable[Record], answers: DnsAnswers) -> Iterator[Finding]:
    """Compare these records with the answers."""
    for (name, record_type, kind), group in groupby(sorted(expected, key=_comparison_key), key=_comparison_key):
        yield from _judge_rrset(Question(name, record_type), kind, list(group), answers)


def _comparison_key(record: Record) -> tuple[str, str, str]:
    return record.name, record.type, record_kind(record.type, record.value)


def _judge_rrset(question: Question, kind: str, expected: list[Record], answers: DnsAnswers) -> Iterator[Finding]:
    """The zone's servers decide: if they are right, a resolver that differs is only late. A server that knows nothing
    but an alias does not count; the resolver has followed the alias."""
    by_server = {server: answer for server, answer in answers.authoritative[question].items() if not answer.error}
    public = answers.public[question]
    evaluators = _evaluators_for(question.name, answers)

    def find_flaws(answer: Answer) -> tuple[Flaw, ...]:
        return compare_values(kind, tuple(record.value for record in expected), answer.values, evaluators)

    flaws = {server: find_flaws(answer) for server, answer in by_server.items() if answer.values or not answer.alias}
    if any(flaws.values()):
        for flaw in dict.fromkeys(flaw for server_flaws in flaws.values() for flaw in server_flaws):
            servers = [server for server, server_flaws in flaws.items() if flaw in server_flaws]
            where = "" if len(servers) == len(by_server) else f" (only at {', '.join(servers)})"
            yield _flaw_finding(flaw, question, expected, answers, where)
    elif public.error:
        yield Finding("error", *question, f"resolvers get no answer: {public.error}")
    elif public_flaws := find_flaws(public):
        if flaws:
            yield _late_resolver(question, public)
        else:
            yield from (_flaw_finding(flaw, question, expected, answers) for flaw in public_flaws)


def _evaluators_for(name: str, answers: DnsAnswers) -> Evaluators:
    error = "it was not evaluated"
    return Evaluators(
        spf=lambda text: answers.spf.get((name, text), Spf(error=error)),
        dmarc=lambda text: answers.dmarc.get((name, text), Dmarc({}, error)),
    )


_MISSING_LEVELS: dict[str, Level] = {"required": "error", "recommended": "warning", "optional": "instruction"}


def _flaw_finding(
    flaw: Flaw, question: Question, expected: list[Record], answers: DnsAnswers, where: str = ""
) -> Finding:
    need = expected[0].need
    level: Level = "warning" if need == "optional" or not flaw.is_grave else "error"
    if flaw.is_missing:
        level = _MISSING_LEVELS[need]
    advice = flaw.advice or _advise_to_set(question, expected, answers)
    return Finding(level, *question, f"{flaw.problem}{where}", flaw.observed, advice)


def _advise_to_set(question: Question, expected: list[Record], answers: DnsAnswers) -> str:
    values = " and ".join(record.value for record in expected)
    if question.type == "PTR":
        return f"At the hoster of the address, set its reverse DNS to {values}"
    if question.name in answers.doubled:
        zone = registered_domain(question.name)
        return f"The form added .{zone} to a name that had it already. Enter the name without it, and set {values}"
    return f"Set {values}"


def _late_resolver(question: Question, public: Answer) -> Finding:
    duration = f"up to {public.ttl} seconds" if public.ttl else "about an hour"
    problem = "the zone's servers have it, but the resolver does not yet"
    advice = f"Wait for {duration}, then check again"
    return Finding("instruction", *question, problem, ", ".join(public.values), advice)


def _judge_third_party_records(expected: list[Record], answers: DnsAnswers) -> Iterator[Finding]:
    for finding in judge_records(expected, answers):
        domain = registered_domain(finding.name)
        advice = f"Ask the owner of {domain} to set v=DMARC1, or send reports to an address of your own (dns.reports)"
        yield replace(finding, advice=advice)


def _judge_leftovers(settings: Settings, answers: DnsAnswers) -> Iterator[Finding]:
    """Both kinds are errors. Senders try addresses of either family, mostly IPv6 first. Senders that know an enforced
    policy deliver only to servers that it names (RFC 8461 §5)."""
    for question in leftover_questions(settings):
        all_answers = (answers.public[question], *answers.authoritative[question].values())
        values = sorted({value for answer in all_answers for value in answer.values})
        if question.type == "TXT":
            problem = (
                "it announces an MTA-STS policy, but mail.yml has none: an enforced foreign policy stops your mail"
            )
            advice = "Have its policy say `mode: none`, then remove the record (RFC 8461 §8.3). Or set dns.mta_sts"
            values = [value for value in values if record_kind("TXT", value) == "v=STSv1"]
        else:
            problem = "mail.yml has no address of this type, so part of your mail goes to another server, or nowhere"
            advice = "Remove it, or add it to host.addresses"
        if values:
            yield Finding("error", *question, problem, ", ".join(values), advice)


# --- zones


def _judge_name_servers(answers: DnsAnswers) -> Iterator[Finding]:
    """One finding for each name server that does not answer."""
    errors: dict[str, str] = {}
    for by_server in answers.authoritative.values():
        errors.update({server: answer.error for server, answer in by_server.items() if answer.error})
    for server, error in sorted(errors.items()):
        problem = f"this name server does not answer: {error}"
        advice = "If other name servers do not answer either, this network blocks DNS: check from the mail server"
        yield Finding("warning", server, "NS", problem, advice=advice)


def _judge_aliases(settings: Settings, answers: DnsAnswers) -> Iterator[Finding]:
    """An MX record must lead to a name with addresses, not to an alias; beside an alias, no other record can exist."""
    host = settings.host.name
    questions = [Question(host, records.address_type(address)) for address in settings.host.addresses]
    for question in (*questions, *(Question(domain, "MX") for domain in settings.domains)):
        if alias := answers.public[question].alias:
            advice = "Remove the CNAME, and enter this name's own records"
            yield Finding("error", question.name, "CNAME", "the name is an alias (RFC 2181 §10.3)", alias, advice)


def _judge_dnssec(settings: Settings, answers: DnsAnswers) -> Iterator[Finding]:
    if not answers.validates:
        advice = "Check with a resolver that does: --resolver ADDRESS"
        yield Finding("instruction", ".", "DNSSEC", "the resolver does not check signatures", advice=advice)
        return
    host_question = Question(settings.host.name, records.address_type(settings.host.addresses[0]))
    questions = (host_question, *(Question(domain, "MX") for domain in settings.domains))
    zones = {registered_domain(question.name): answers.public[question] for question in reversed(questions)}
    for zone, answer in zones.items():
        if not answer.authentic and not answer.error:
            advice = "Switch on DNSSEC at the DNS provider, and have the registrar enter the DS record"
            yield Finding(
                "warning", zone, "DNSSEC", "the zone is not signed, so DANE (TLSA) has no effect", advice=advice
            )


def _judge_ttls(answers: DnsAnswers) -> Iterator[Finding]:
    """The resolver's TTL is only the rest of the servers' TTL."""
    for question, answer in answers.public.items():
        by_server = answers.authoritative.get(question, {})
        ttl = max(candidate.ttl for candidate in (answer, *by_server.values()))
        if ttl > MAX_TTL:
            problem = "a change takes more than a day to reach everyone"
            yield Finding("warning", *question, problem, f"TTL {ttl}", "Set 3600")


def _judge_caa(settings: Settings, answers: DnsAnswers) -> Iterator[Finding]:
    """The nearest CAA records apply, upwards from the name (RFC 8659 §3). If mail.yml names no authority, records of
    somebody else may restrict the choice."""
    issuer = settings.tls.issuer
    for name in settings.certificate_names:
        questions = (Question(parent, "CAA") for parent in name_and_parents(name))
        question = next((candidate for candidate in questions if answers.public[candidate].values), None)
        if not question:
            continue
        values = answers.public[question].values
        if issuer and not _may_issue(issuer, settings.tls.acme.challenge, values):
            problem = f"it keeps {issuer} from issuing or renewing a certificate for {name}"
            advice = f"Publish the CAA records of {name} that `mailkeep dns` prints"
            yield Finding("error", question.name, "CAA", problem, ", ".join(values), advice)
        elif not issuer and not settings.dns.caa and settings.tls.mode != "self-signed":
            problem = f"only these authorities may issue certificates for {name}"
            advice = "Check that your certificate authority is one of them, and name it in dns.caa"
            yield Finding("instruction", question.name, "CAA", problem, ", ".join(values), advice)


def _may_issue(issuer: str, method: str, values: Iterable[str]) -> bool:
    """Whether these CAA records let the authority issue after this challenge (RFC 8659 §4.2, RFC 8657 §4)."""
    properties = [value.split(" ", 2)[1:] for value in values]
    issue_texts = [text.strip('"') for tag, text in properties if tag.lower() == "issue"]
    for text in issue_texts:
        name, *parameters = (part.strip() for part in text.split(";"))
        methods = [
            parameter.partition("=")[2].strip() for parameter in parameters if parameter.startswith("validationmethods")
        ]
        if name.lower() == issuer and (not methods or method in methods[0].split(",")):
            return True
    return not issue_texts


# --- the server


def _judge_greetings(settings: Settings, secrets: Secrets, observation: Observation) -> Iterator[Finding]:
    host = settings.host.name
    tlsa = observation.answers.public[Question(f"_25._tcp.{host}", "TLSA")].values
    for address, greeting in observation.greetings.items():
        if greeting.error:
            problem = f"port 25 does not answer: {greeting.error}"
            advice = "If the server is running, this network blocks outbound port 25, as many do"
            yield Finding("warning", address, "SMTP", problem, advice=advice)
            continue
        if greeting.name.lower() != host:
            problem = f"the server's greeting does not name {host}"
            yield Finding("error", address, "SMTP", problem, greeting.name, "Deploy. Check that the address is right")
        yield from _judge_certificate(address, greeting.certificate, secrets, tlsa)
        if greeting.tls_error and settings.tls.mode != "self-signed":
            problem = f"other servers do not trust its certificate: {greeting.tls_error}"
            advice = (
                "On the server, run `systemctl start mailkeep-certificate`: it gets a certificate, or logs the error"
            )
            yield Finding("error", address, "TLS", problem, advice=advice if settings.tls.mode == "acme" else "")


def _judge_certificate(address: str, der: bytes, secrets: Secrets, tlsa: tuple[str, ...]) -> Iterator[Finding]:
    if not der:
        return
    key = records.key_hash(x509.load_der_x509_certificate(der))
    is_named = any(key in value.lower() for value in tlsa)
    if key != records.key_hash(x509.load_pem_x509_certificate(secrets.tls.certificate)):
        problem = "the server's TLS key differs from the one in the vault"
        advice = "Publish the TLSA record of the vault's key beside the present one, wait an hour, then deploy"
        yield Finding("error", address, "TLS", problem, key, advice if is_named else "Deploy")
    if tlsa and not is_named:
        problem = "no TLSA record names the server's TLS key: senders that check DANE do not deliver"
        advice = "Publish the TLSA record, or deploy the vault's key"
        yield Finding("error", address, "TLSA", problem, f"3 1 1 {key}", advice)


# --- MTA-STS


def _judge_policies(settings: Settings, observation: Observation) -> Iterator[Finding]:
    for domain, served in observation.policies.items():
        if problem := _policy_problem(settings, served):
            advice = f"Serve the text that `mailkeep dns` prints at {mta_sts.policy_url(domain)}"
            if settings.serves_mta_sts_policy:
                advice = "Deploy, and have the hoster's firewall, if any, let in TCP port 443"
            text = " ".join(served.text.split())
            yield Finding("error", mta_sts.policy_host(domain), "MTA-STS", problem, text, advice)
    if settings.dns.mta_sts == "enforce":
        for address, greeting in observation.greetings.items():
            if greeting.tls_error:
                problem = f"senders that follow the policy do not deliver here: {greeting.tls_error}"
                advice = "Use a trusted certificate, or set dns.mta_sts: testing"
                yield Finding("error", address, "MTA-STS", problem, advice=advice)


def _policy_problem(settings: Settings, served: ServedPolicy) -> str:
    if served.error:
        return f"the policy cannot be fetched: {served.error}"
    is_right = _parse_policy(served.text) == _parse_policy(mta_sts.policy_text(settings))
    return "" if is_right else "the policy differs from that of mail.yml"


def _parse_policy(text: str) -> Mapping[str, object]:
    """The fields of the policy (RFC 8461 §3.2); empty if it is malformed."""
    try:
        policy: Mapping[str, object] = parse_mta_sts_policy(text)["policy"]
    except MTASTSError:
        return {}
    return policy
