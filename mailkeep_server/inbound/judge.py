"""Decides what becomes of an incoming message, by who it says that it is from and by what proves it.

A failure of the DNS never refuses for good: where the verdict depends on the answer, the message waits at its sender.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from mailkeep_server.inbound import dmarc, results_header
from mailkeep_server.inbound.authors import list_author_domains
from mailkeep_server.inbound.config import InboundConfig
from mailkeep_server.inbound.lookups import LookupFailedError, Lookups
from mailkeep_server.inbound.sender_policy import SpfResult, check_sender
from mailkeep_server.inbound.signatures import (
    FAIL,
    NONE,
    PASS,
    TEMPERROR,
    BodyHashes,
    ChainResult,
    Header,
    SignatureResult,
    list_passed,
    verify_chain,
    verify_signatures,
)
from mailkeep_server.spf_sources import is_any_allowed

ACCEPT, JUNK, DEFER, REFUSE = "accept", "junk", "defer", "refuse"
_SEVERITY = (ACCEPT, JUNK, DEFER, REFUSE)


@dataclass(frozen=True)
class Arrival:
    """A message as it has come in. `sender` is the envelope sender, and may be empty."""

    client: str
    helo: str
    sender: str
    headers: Sequence[Header]
    hashes: BodyHashes


@dataclass(frozen=True)
class Proofs:
    """Whom the message is from beyond doubt, and whom it may be from once the DNS answers."""

    spf: SpfResult
    dkim: Sequence[SignatureResult]
    arc: ChainResult

    @property
    def spf_domain(self) -> str:
        return self.spf.domain if self.spf.result == PASS else ""

    @property
    def domains(self) -> list[str]:
        return [name for name in (self.spf_domain, *list_passed(self.dkim)) if name]

    @property
    def unanswered(self) -> list[str]:
        signatures = [result.domain for result in self.dkim if result.result == TEMPERROR]
        return [*([self.spf.domain] if self.spf.result == TEMPERROR else []), *signatures]


@dataclass(frozen=True)
class Opinion:
    """What follows from one author's domain. `text` is the reply, or the reason for Junk."""

    author: str
    result: str
    """Of DMARC."""
    action: str = ACCEPT
    text: str = ""
    published: str = ""
    """The policy of the domain's owner."""


@dataclass(frozen=True)
class Verdict:
    proofs: Proofs
    opinion: Opinion
    """The gravest one."""
    note: str = ""
    """Why a message is accepted in spite of its policy."""

    @property
    def action(self) -> str:
        return ACCEPT if self.note else self.opinion.action

    def list_results(self) -> list[str]:
        """For Authentication-Results."""
        spf, arc = self.proofs.spf, self.proofs.arc
        spf_property = "smtp__mailfrom" if spf.identity == "mailfrom" else "smtp__helo"
        lines = [results_header.format_result("spf", spf.result, **{spf_property: spf.domain})]
        for signature in self.proofs.dkim:
            properties = {"header__d": signature.domain, "header__s": signature.selector, "header__b": signature.key}
            lines.append(results_header.format_result("dkim", signature.result, **properties))
        if not self.proofs.dkim:
            lines.append("dkim=none")
        published = self.opinion.published
        lines.append(
            results_header.format_result(
                "dmarc", self.opinion.result, header__from=self.opinion.author, policy__dmarc=published
            )
        )
        if arc.result != NONE:
            lines.append(results_header.format_result("arc", arc.result, header__d=arc.sealer))
        return lines


def judge_arrival(arrival: Arrival, config: InboundConfig, lookups: Lookups) -> Verdict:
    authors = list_author_domains(arrival.headers)
    proofs = Proofs(
        check_sender(arrival.client, arrival.sender, arrival.helo, lookups),
        verify_signatures(arrival.headers, arrival.hashes, lookups, authors),
        verify_chain(arrival.headers, arrival.hashes, lookups),
    )
    opinions = [_judge_author(author, proofs, config, lookups) for author in authors] or [Opinion("", NONE)]
    # A line with several domains is outside of DMARC (RFC 9989 section 5.3.1): no policy refuses it.
    if len(opinions) > 1:
        opinions = [_soften(opinion, config) for opinion in opinions]
    opinion = max(opinions, key=lambda candidate: _SEVERITY.index(candidate.action))
    if opinion.action == ACCEPT:
        return Verdict(proofs, opinion)
    return _find_exemption(arrival, Verdict(proofs, opinion), config, lookups)


def _soften(opinion: Opinion, config: InboundConfig) -> Opinion:
    if opinion.action != REFUSE or config.find_own_domain(opinion.author):
        return opinion
    text = f"neither SPF nor DKIM proves that it is from {opinion.author}, which asks to refuse such mail (DMARC)"
    return Opinion(opinion.author, opinion.result, JUNK, text, opinion.published)


def _judge_author(author: str, proofs: Proofs, config: InboundConfig, lookups: Lookups) -> Opinion:
    if own_domain := config.find_own_domain(author):
        return _judge_own(author, own_domain, proofs)
    try:
        policy = dmarc.find_policy(author, lookups.read_texts, lookups.has_name)
    except LookupFailedError:
        return _defer(author, "")
    if not policy:
        return Opinion(author, NONE)
    try:
        domains = list_passed(proofs.dkim)
        is_proven = dmarc.is_any_aligned(author, policy, proofs.spf_domain, domains, lookups.read_texts)
        is_open = any(dmarc.can_be_aligned(policy.organization, domain) for domain in proofs.unanswered)
    except LookupFailedError:
        is_proven, is_open = False, True
    if is_proven:
        return Opinion(author, PASS, published=policy.published)
    if policy.disposition == dmarc.NONE:
        return Opinion(author, TEMPERROR if is_open else FAIL, published=policy.published)
    if is_open:
        return _defer(author, policy.published)
    return _apply_policy(author, policy, config.host)


def _judge_own(author: str, own_domain: str, proofs: Proofs) -> Opinion:
    """Whatever we publish, and whether it can be looked up or not: mail from us has our proof."""
    if any(dmarc.can_be_aligned(own_domain, domain) for domain in proofs.domains):
        return Opinion(author, PASS)
    if any(dmarc.can_be_aligned(own_domain, domain) for domain in proofs.unanswered):
        return _defer(author, "")
    text = (
        f"550 5.7.1 From: shows {author}, a domain of this server, and neither SPF nor DKIM proves it. Its users log "
        "in on a submission port. The operator can name other servers that send for it in inbound.trusted"
    )
    return Opinion(author, FAIL, REFUSE, text)


def _defer(author: str, published: str) -> Opinion:
    text = f"451 4.7.0 The DNS does not tell now whether this is mail of {author}. Try again later"
    return Opinion(author, TEMPERROR, DEFER, text, published)


def _apply_policy(author: str, policy: dmarc.Policy, host: str) -> Opinion:
    if policy.disposition == dmarc.QUARANTINE:
        text = f"neither SPF nor DKIM proves that it is from {author}, which calls such mail suspicious (DMARC)"
        return Opinion(author, FAIL, JUNK, text, policy.published)
    text = (
        f"550 5.7.1 {author} asks to refuse mail that neither its SPF record nor its DKIM signature proves (DMARC). "
        f"Send it by a server of that domain. For a mailing list or forwarder, write to postmaster@{host}"
    )
    return Opinion(author, FAIL, REFUSE, text, policy.published)


def _find_exemption(arrival: Arrival, verdict: Verdict, config: InboundConfig, lookups: Lookups) -> Verdict:
    proofs, opinion = verdict.proofs, verdict.opinion
    if config.is_forwarder(arrival.client):
        return Verdict(proofs, opinion, "forwarder")
    is_believed = proofs.arc.sealer in config.trusted_sealers
    if (
        proofs.arc.result == PASS
        and is_believed
        and results_header.find_claimed_pass(proofs.arc.claims, opinion.author)
    ):
        return Verdict(proofs, opinion, f"sealed:{proofs.arc.sealer}")
    if proofs.arc.result == TEMPERROR and config.trusted_sealers:
        return Verdict(proofs, _defer(opinion.author, opinion.published))
    if not config.find_own_domain(opinion.author):
        return verdict
    try:
        is_trusted = config.is_trusted_client(arrival.client) or _passes_terms(arrival.client, config, lookups)
    except LookupFailedError:
        return Verdict(proofs, _defer(opinion.author, opinion.published))
    return Verdict(proofs, opinion, "trusted") if is_trusted else verdict


def _passes_terms(client: str, config: InboundConfig, lookups: Lookups) -> bool:
    """Raises LookupFailedError."""
    try:
        return is_any_allowed(ip_address(client), config.trusted_terms, lookups.look_up)
    except ValueError:  # no address, or an answer that is none
        return False
