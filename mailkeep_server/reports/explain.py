"""Why mail failed DMARC or TLS, in words for the operator."""

from collections.abc import Iterable

from mailkeep_server.common.domain_names import are_related

Pairs = Iterable[tuple[str, str]]
"""Domains, each with the result of its check."""

_REASONS = {
    "forwarded": "the receiver took it for forwarded mail",
    "mailing_list": "the receiver took it for mail of a list",
    "trusted_forwarder": "the receiver trusts the forwarder",
    "local_policy": "the receiver has a rule of its own",
    "policy_test_mode": "the policy is in test mode",
    "sampled_out": "the policy was for a part of the mail",
}
"""RFC 7489 appendix C and RFC 9990 appendix A: why a receiver did not do what the policy says."""

_TLS_RESULTS = {
    "unknown": "the report does not say why",
    "starttls-not-supported": "the server did not offer STARTTLS",
    "certificate-host-mismatch": "the certificate is not for the server's name",
    "certificate-expired": "the certificate has expired",
    "certificate-not-trusted": "the sender does not trust the certificate's authority",
    "validation-failure": "the certificate or the policy did not pass",
    "tlsa-invalid": "no TLSA record fits the certificate",
    "dnssec-invalid": "the DNSSEC signatures do not validate",
    "dane-required": "the sender requires DANE, and there are no usable TLSA records",
    "sts-policy-fetch-error": "the MTA-STS policy could not be fetched",
    "sts-policy-invalid": "the MTA-STS policy could not be understood",
    "sts-webpki-invalid": "the certificate of the policy's web server is not trusted",
}
"""RFC 8460 section 4.3."""
POLICY_NAMES = {"sts": "MTA-STS", "tlsa": "DANE", "no-policy-found": "no policy"}


def explain_dmarc_failure(domain: str, signatures: Pairs, spf_checks: Pairs, reason: str) -> str:
    """The first cause that fits: a broken signature of ours, mail sent as another domain, or neither check."""
    signatures, spf_checks = tuple(signatures), tuple(spf_checks)
    others = [name for name, result in signatures if result == "pass" and not _is_aligned(name, domain)]
    envelope = [name for name, result in spf_checks if result == "pass" and not _is_aligned(name, domain)]
    if has_broken_signature(domain, signatures):
        cause = "signed as your domain, but changed on the way, as mailing lists do"
    elif others:
        cause = f"signed as {others[0]}, not as your domain"
    elif envelope:
        cause = f"not signed, and the envelope sender was of {envelope[0]}"
    else:
        cause = "not signed as your domain, and your SPF record does not name the source"
    return f"{cause}; {_REASONS[reason]}" if reason in _REASONS else cause


def has_broken_signature(domain: str, signatures: Pairs) -> bool:
    """Whether the message was signed as the domain, and the signature did not verify: a list or forwarder changed it,
    or our key is not published."""
    return any(result != "pass" and _is_aligned(name, domain) for name, result in signatures)


def _is_aligned(name: str, domain: str) -> bool:
    """Relaxed alignment without the list of public suffixes: the one name is, or is below, the other."""
    return are_related(name, domain)


def explain_tls_failure(policy: str, result: str) -> str:
    cause = _TLS_RESULTS.get(result, result)
    return f"{cause} ({POLICY_NAMES.get(policy, policy)})"


def format_pairs(pairs: Pairs) -> str:
    """For a column of the database; `parse_pairs` reads it."""
    return " ".join(f"{domain}={result}" for domain, result in pairs)


def parse_pairs(text: str) -> tuple[tuple[str, str], ...]:
    pairs = (pair.partition("=") for pair in text.split())
    return tuple((domain, result) for domain, _, result in pairs)
