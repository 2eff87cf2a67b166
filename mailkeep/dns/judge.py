"""What is wrong with what the world sees, and what to set: from the records that should be and what was seen alone."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from typing import get_args

from checkdmarc.mta_sts import MTASTSError, parse_mta_sts_policy
from cryptography import x509

from mailkeep.dns import mta_sts, records
from mailkeep.dns.client import Answer, Question
from mailkeep.dns.findings import Finding, Level
from mailkeep.dns.observe import DnsAnswers, Observation, leftover_questions
from mailkeep.dns.record_comparison import Flaw, Parsers, compare, kind
from mailkeep.dns.records import Record
from mailkeep.dns.spf_dmarc import Dmarc, Spf
from mailkeep.dns.zones import parents, registered
from mailkeep.inventory.secrets import Secrets
from mailkeep.settings.models import Settings

LONGEST_TTL = 86_400  # seconds: a mistake, or a move, takes as long to be over


def judge_observation(settings: Settings, secrets: Secrets, seen: Observation) -> list[Finding]:
    """All that is wrong, the worst first."""
    listed = [*records.own_zone_records(settings, secrets), *records.reverse_records(settings)]
    found = [
        *judge_records(listed, seen.answers),
        *_elsewhere(records.third_party_records(settings, secrets), seen.answers),
        *_leftovers(settings, seen.answers),
        *_servers(seen.answers),
        *_aliases(settings, seen.answers),
        *_dnssec(settings, seen.answers),
        *_times_to_live(seen.answers),
        *_authorities(settings, seen.answers),
        *_greetings(settings, secrets, seen),
        *_policies(settings, seen),
    ]
    return sorted(found, key=lambda finding: get_args(Level).index(finding.level))


# --- records


def judge_records(listed: Iterable[Record], names: DnsAnswers) -> Iterator[Finding]:
    """What is wrong with these records, as they were seen."""
    for (name, type_, what), same in groupby(sorted(listed, key=_set), key=_set):
        yield from _as_wanted(Question(name, type_), what, list(same), names)


def _set(record: Record) -> tuple[str, str, str]:
    return record.name, record.type, kind(record.type, record.value)


def _as_wanted(question: Question, what: str, wanted: list[Record], names: DnsAnswers) -> Iterator[Finding]:
    """The servers of the zone decide. If they are right, a resolver that says otherwise is only late. A server that
    knows of an alias alone leaves it to the resolver, which has followed it."""
    answers = {server: answer for server, answer in names.authoritative[question].items() if not answer.error}
    public = names.public[question]

    def flaws(answer: Answer) -> tuple[Flaw, ...]:
        return compare(what, tuple(record.value for record in wanted), answer.values, _parsers(question.name, names))

    of_servers = {server: flaws(answer) for server, answer in answers.items() if answer.values or not answer.alias}
    if any(of_servers.values()):
        for flaw in dict.fromkeys(flaw for found in of_servers.values() for flaw in found):
            says = [server for server, found in of_servers.items() if flaw in found]
            where = "" if len(says) == len(answers) else f" (at {', '.join(says)} alone)"
            yield _finding(flaw, question, wanted, names, where)
    elif public.error:
        yield Finding("error", *question, f"resolvers get no answer: {public.error}")
    elif late := flaws(public):
        if of_servers:
            yield _late(question, public)
        else:
            yield from (_finding(flaw, question, wanted, names) for flaw in late)


def _parsers(name: str, names: DnsAnswers) -> Parsers:
    unread = "it was not evaluated"
    return Parsers(
        spf=lambda text: names.spf.get((name, text), Spf(error=unread)),
        dmarc=lambda text: names.dmarc.get((name, text), Dmarc({}, unread)),
    )


_MISSING: dict[str, Level] = {"required": "error", "recommended": "warning", "optional": "instruction"}


def _finding(flaw: Flaw, question: Question, wanted: list[Record], names: DnsAnswers, where: str = "") -> Finding:
    need = wanted[0].need
    grave: Level = "warning" if need == "optional" or not flaw.grave else "error"
    level = _MISSING[need] if flaw.missing else grave
    return Finding(level, *question, f"{flaw.what}{where}", flaw.seen, flaw.do or _set_it(question, wanted, names))


def _set_it(question: Question, wanted: list[Record], names: DnsAnswers) -> str:
    values = " and ".join(record.value for record in wanted)
    if question.type == "PTR":
        return f"At the hoster of the address, set its reverse DNS to {values}"
    if question.name in names.doubled:
        zone = registered(question.name)
        return f"The form has put .{zone} behind a name that had it already. Enter the name without it; set {values}"
    return f"Set {values}"


def _late(question: Question, public: Answer) -> Finding:
    wait = f"for up to {public.ttl} seconds" if public.ttl else "for about an hour"
    problem = "its servers say it, but the resolver that was asked does not yet"
    return Finding("instruction", *question, problem, ", ".join(public.values), f"Wait {wait}, then check again")


def _elsewhere(listed: list[Record], names: DnsAnswers) -> Iterator[Finding]:
    """What only somebody else can set right."""
    for finding in judge_records(listed, names):
        whose = registered(finding.name)
        do = f"Ask whoever has {whose} to set v=DMARC1, or have reports go to yourself (dns.reports)"
        yield replace(finding, advice=do)


def _leftovers(settings: Settings, names: DnsAnswers) -> Iterator[Finding]:
    """Errors, both: who sends tries an address of either family, IPv6 first mostly; and who has seen an enforced policy
    delivers to nobody whom it does not name (RFC 8461 §5)."""
    for question in leftover_questions(settings):
        answers = (names.public[question], *names.authoritative[question].values())
        values = sorted({value for answer in answers for value in answer.values})
        if question.type == "TXT":
            problem = (
                "others look for an MTA-STS policy, and mail.yml has none: an enforced one of others stops your mail"
            )
            do = "Have the policy that it leads to say `mode: none`, then remove it (RFC 8461 §8.3). Or set dns.mta_sts"
            values = [value for value in values if kind("TXT", value) == "v=STSv1"]
        else:
            problem = "mail.yml has no address of this kind, so part of your mail goes to somebody else, or nowhere"
            do = "Remove it, or name it in host.addresses"
        if values:
            yield Finding("error", *question, problem, ", ".join(values), do)


# --- the zones


def _servers(names: DnsAnswers) -> Iterator[Finding]:
    """Those that do not answer, once each."""
    errors: dict[str, str] = {}
    for by_server in names.authoritative.values():
        errors.update({server: answer.error for server, answer in by_server.items() if answer.error})
    for server, error in sorted(errors.items()):
        do = "Where others do not answer either, it is the network that you ask from: ask from the server"
        yield Finding("warning", server, "NS", f"this name server does not answer: {error}", advice=do)


def _aliases(settings: Settings, names: DnsAnswers) -> Iterator[Finding]:
    """An MX record leads to a name with addresses, never to an alias; where there is an alias, nothing else may be."""
    host = settings.host.name
    questions = [Question(host, "A" if address.version == 4 else "AAAA") for address in settings.host.addresses]
    for question in (*questions, *(Question(domain, "MX") for domain in settings.domains)):
        if alias := names.public[question].alias:
            do = "Remove the CNAME, and enter the records of this name themselves"
            yield Finding("error", question.name, "CNAME", "it is an alias (RFC 2181 §10.3)", alias, do)


def _dnssec(settings: Settings, names: DnsAnswers) -> Iterator[Finding]:
    if not names.validates:
        do = "Check with one that does: --resolver ADDRESS"
        yield Finding("instruction", ".", "DNSSEC", "the resolver that was asked checks no signatures", advice=do)
        return
    version = "A" if settings.host.addresses[0].version == 4 else "AAAA"
    questions = (Question(settings.host.name, version), *(Question(domain, "MX") for domain in settings.domains))
    zones = {registered(question.name): names.public[question] for question in reversed(questions)}
    for zone, answer in zones.items():
        if not answer.authentic and not answer.error:
            do = "Switch DNSSEC on where the zone is, and have the DS record entered at the registrar"
            yield Finding("warning", zone, "DNSSEC", "it is not signed, so DANE (TLSA) does not count", advice=do)


def _times_to_live(names: DnsAnswers) -> Iterator[Finding]:
    """A resolver's is what is left of the servers'."""
    for question, answer in names.public.items():
        by_server = names.authoritative.get(question, {})
        ttl = max(one.ttl for one in (answer, *by_server.values()))
        if ttl > LONGEST_TTL:
            problem = "a change is seen by all only after more than a day"
            yield Finding("warning", *question, problem, f"TTL {ttl}", "Set 3600")


def _authorities(settings: Settings, names: DnsAnswers) -> Iterator[Finding]:
    """The nearest CAA records count, upwards from the name (RFC 8659 §3). Where mail.yml names none and some are there,
    somebody else's decide who may issue."""
    issuer = settings.tls.issuer
    for name in settings.certificate_names:
        above = (Question(one, "CAA") for one in parents(name))
        question = next((one for one in above if names.public[one].values), None)
        values = names.public[question].values if question else ()
        if question and issuer and not _may_issue(issuer, settings.tls.acme.challenge, values):
            problem = f"it keeps {issuer} out: there is no certificate for {name}, or it is not renewed"
            do = f"Publish the CAA records of {name} that `mailkeep dns` prints"
            yield Finding("error", question.name, "CAA", problem, ", ".join(values), do)
        elif question and not issuer and not settings.dns.caa and settings.tls.mode != "self-signed":
            do = "See that your certificate authority is among them, and name it in dns.caa"
            problem = f"only these may issue for {name}"
            yield Finding("instruction", question.name, "CAA", problem, ", ".join(values), do)


def _may_issue(issuer: str, method: str, values: Iterable[str]) -> bool:
    """Whether these CAA records let the authority issue after that challenge (RFC 8659 §4.2, RFC 8657 §4)."""
    properties = [value.split(" ", 2)[1:] for value in values]
    issue = [text.strip('"') for tag, text in properties if tag.lower() == "issue"]
    for text in issue:
        name, *parameters = (part.strip() for part in text.split(";"))
        methods = [one.partition("=")[2].strip() for one in parameters if one.startswith("validationmethods")]
        if name.lower() == issuer and (not methods or method in methods[0].split(",")):
            return True
    return not issue


# --- the server


def _greetings(settings: Settings, secrets: Secrets, seen: Observation) -> Iterator[Finding]:
    host = settings.host.name
    tlsa = seen.answers.public[Question(f"_25._tcp.{host}", "TLSA")].values
    for address, greeting in seen.greetings.items():
        if greeting.error:
            do = "If the server runs, it is the network that you ask from: many let no one out to port 25"
            yield Finding("warning", address, "SMTP", f"port 25 does not answer: {greeting.error}", advice=do)
            continue
        if greeting.name.lower() != host:
            problem = f"it greets with another name than {host}"
            yield Finding("error", address, "SMTP", problem, greeting.name, "Deploy; is it the right address?")
        yield from _certificate(address, greeting.certificate, secrets, tlsa)
        if greeting.distrust and settings.tls.mode != "self-signed":
            problem = f"others do not trust its certificate: {greeting.distrust}"
            do = "On the server, `systemctl start mailkeep-certificate` gets another, or says why not"
            yield Finding("error", address, "TLS", problem, advice=do if settings.tls.mode == "acme" else "")


def _certificate(address: str, der: bytes, secrets: Secrets, tlsa: tuple[str, ...]) -> Iterator[Finding]:
    if not der:
        return
    key = records.key_hash(x509.load_der_x509_certificate(der))
    named = any(key in value.lower() for value in tlsa)
    if key != records.key_hash(x509.load_pem_x509_certificate(secrets.tls.certificate)):
        do = "Publish the TLSA record of the vault's key beside this one's, wait an hour, and deploy then"
        problem = "it shows another key than the one in the vault"
        yield Finding("error", address, "TLS", problem, key, do if named else "Deploy")
    if tlsa and not named:
        problem = "it shows a key that TLSA does not name: who checks (DANE) does not deliver"
        yield Finding("error", address, "TLSA", problem, f"3 1 1 {key}", "Publish the TLSA record, or deploy the key")


# --- MTA-STS


_SERVED_HERE = "Deploy, and have the hoster's firewall, if there is one, let in TCP port 443"


def _policies(settings: Settings, seen: Observation) -> Iterator[Finding]:
    wanted = _policy(mta_sts.policy_text(settings))
    for domain, served in seen.policies.items():
        problem = ""
        if served.error:
            problem = f"the policy cannot be had: {served.error}"
        elif _policy(served.text) != wanted:
            problem = "it is not the policy of mail.yml"
        if problem:
            do = (
                _SERVED_HERE
                if settings.serves_mta_sts_policy
                else f"Serve what `mailkeep dns` prints at {mta_sts.policy_url(domain)}"
            )
            yield Finding("error", f"mta-sts.{domain}", "MTA-STS", problem, " ".join(served.text.split()), do)
    if settings.dns.mta_sts == "enforce":
        for address, greeting in seen.greetings.items():
            if greeting.distrust:
                do = "Use a certificate that the world trusts, or set dns.mta_sts: testing"
                problem = f"who follows the policy does not deliver here: {greeting.distrust}"
                yield Finding("error", address, "MTA-STS", problem, advice=do)


def _policy(text: str) -> Mapping[str, object]:
    """What it says (RFC 8461 §3.2); nothing where it is no policy."""
    try:
        found: Mapping[str, object] = parse_mta_sts_policy(text)["policy"]
    except MTASTSError:
        return {}
    return found
