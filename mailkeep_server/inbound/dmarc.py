"""DMARC (RFC 9989): the policy of a domain for mail that falsely claims to be from it, and whether this is such mail.

It asks the DNS by functions that the caller gives, so it needs no network itself.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mailkeep_server.common.domain_names import is_within

ReadTexts = Callable[[str], list[str]]
"""The TXT records of a name. It may raise whatever means that the DNS does not answer."""
HasName = Callable[[str], bool]

NONE, QUARANTINE, REJECT = "none", "quarantine", "reject"
POLICIES = (NONE, QUARANTINE, REJECT)
IN_TEST_MODE = {NONE: NONE, QUARANTINE: NONE, REJECT: QUARANTINE}
"""What receivers do for a policy with `t=y`: one level below (section 4.7)."""
MAX_LABELS = 8
"""A walk asks for at most so many names, however many labels the domain has (section 4.10)."""

_VERSION = re.compile(r"[vV][ \t]*=[ \t]*DMARC1[ \t]*(?:;|$)")
_REPORT_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*:\S+", re.IGNORECASE)


@dataclass(frozen=True)
class PolicyRecord:
    """A valid record, and the domain at whose `_dmarc` name it is."""

    domain: str
    policy: str  # p
    subdomain_policy: str  # sp
    missing_name_policy: str  # np
    is_dkim_strict: bool
    is_spf_strict: bool
    suffix: str  # psd: y, n or u
    is_test: bool  # t


@dataclass(frozen=True)
class Policy:
    """What the owner of a domain asks for."""

    record: PolicyRecord
    organization: str
    """The organizational domain of the author's."""
    disposition: str
    """One of POLICIES: what a receiver does. It is weaker than `published` in test mode (`t=y`)."""
    published: str
    """As it is in the record, in test mode too."""


def parse_record(text: str, domain: str) -> PolicyRecord | None:
    """None if the text is no DMARC record, or one that no receiver applies (sections 4.7 and 4.10.1).

    Tags of RFC 7489 that are gone, such as `pct`, are ignored as unknown ones.
    """
    if not _VERSION.match(text):
        return None
    tags: dict[str, str] = {}
    for part in text.split(";")[1:]:
        name, equals, value = part.partition("=")
        if equals:
            tags.setdefault(name.strip().lower(), value.strip())
    policies = {name: tags[name].lower() for name in ("p", "sp", "np") if name in tags}
    if "p" not in policies or not all(policy in POLICIES for policy in policies.values()):
        if not any(_REPORT_ADDRESS.fullmatch(address.strip()) for address in tags.get("rua", "").split(",")):
            return None
        policies = {"p": NONE}
    subdomain_policy = policies.get("sp", policies["p"])
    suffix = tags.get("psd", "").lower()
    return PolicyRecord(
        domain=domain,
        policy=policies["p"],
        subdomain_policy=subdomain_policy,
        missing_name_policy=policies.get("np", subdomain_policy),
        is_dkim_strict=tags.get("adkim", "").lower() == "s",
        is_spf_strict=tags.get("aspf", "").lower() == "s",
        suffix=suffix if suffix in ("y", "n") else "u",
        is_test=tags.get("t", "").lower() == "y",
    )


def list_walk(domain: str) -> list[str]:
    """The domains whose records a walk may ask for, the longest first (section 4.10)."""
    labels = domain.split(".")
    first_parent = max(1, len(labels) - MAX_LABELS + 1)
    return [domain, *(".".join(labels[at:]) for at in range(first_parent, len(labels)))]


def walk_tree(domain: str, read_texts: ReadTexts) -> list[PolicyRecord]:
    """The records that a walk from this domain finds, the longest domain's first."""
    records = []
    for name in list_walk(domain):
        candidates = [text for text in read_texts(f"_dmarc.{name}") if _VERSION.match(text)]
        record = parse_record(candidates[0], name) if len(candidates) == 1 else None
        if record:
            records.append(record)
            if record.suffix == "n" or (record.suffix == "y" and name != domain):
                break
    return records


def find_organization(domain: str, records: Sequence[PolicyRecord]) -> str:
    """The organizational domain, by the records of a walk from this domain (section 4.10.2)."""
    for record in records:
        if record.suffix == "n":
            return record.domain
        if record.suffix == "y" and record.domain != domain:
            length = len(record.domain.split(".")) + 1
            return ".".join(domain.split(".")[-length:])
    return records[-1].domain if records else domain


def find_policy(author: str, read_texts: ReadTexts, has_name: HasName) -> Policy | None:
    """The policy for mail of this author's domain; None where no record applies (section 4.10.1)."""
    records = walk_tree(author, read_texts)
    organization = find_organization(author, records)
    by_domain = {record.domain: record for record in records}
    suffixes = [record for record in records if record.suffix == "y"]
    record = by_domain.get(author) or by_domain.get(organization) or (suffixes[0] if suffixes else None)
    if not record:
        return None
    if record.domain == author:
        published = record.policy
    elif record.missing_name_policy != record.subdomain_policy and not has_name(author):
        published = record.missing_name_policy
    else:
        published = record.subdomain_policy
    return Policy(record, organization, IN_TEST_MODE[published] if record.is_test else published, published)


def is_aligned(author: str, organization: str, domain: str, is_strict: bool, read_texts: ReadTexts) -> bool:
    """Whether this authenticated domain speaks for the author's (section 4.4)."""
    if domain == author or is_strict:
        return domain == author
    if not can_be_aligned(organization, domain):
        return False
    return domain == organization or find_organization(domain, walk_tree(domain, read_texts)) == organization


def can_be_aligned(organization: str, domain: str) -> bool:
    """No other domain needs a walk."""
    return is_within(domain, organization)


def is_any_aligned(author: str, policy: Policy, spf: str, dkim: Iterable[str], read_texts: ReadTexts) -> bool:
    """Whether the domain that SPF passed (empty: none), or one of those that DKIM passed, speaks for the author's."""
    record = policy.record
    if spf and is_aligned(author, policy.organization, spf, record.is_spf_strict, read_texts):
        return True
    return any(is_aligned(author, policy.organization, name, record.is_dkim_strict, read_texts) for name in dkim)
