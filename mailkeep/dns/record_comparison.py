"""Compares published records with those that should be, by meaning: the same record can be written in many ways."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_network

import dns.exception
import dns.rdata
from checkdmarc.mta_sts import MTASTSError, parse_mta_sts_record
from checkdmarc.smtp_tls_reporting import SMTPTLSReportingError, parse_smtp_tls_reporting_record
from dkim.util import InvalidTagValueList, parse_tag_value

from mailkeep.dns.spf_dmarc import Dmarc, Network, Networks, Spf

Values = tuple[str, ...]
POLICY_STRENGTH = ("none", "quarantine", "reject")


@dataclass(frozen=True, slots=True)
class Flaw:
    """A difference in meaning. `is_grave`: the record fails its purpose. `is_missing`: there is no such record at all.
    `advice` is the remedy, if it is not to set the expected value."""

    problem: str
    observed: str = ""
    is_grave: bool = True
    is_missing: bool = False
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Evaluators:
    """Evaluate the text of an SPF or a DMARC record at the name in question."""

    spf: Callable[[str], Spf]
    dmarc: Callable[[str], Dmarc]


def record_kind(record_type: str, value: str) -> str:
    """Records of one kind are compared with one another: a type, or the version tag of a TXT record."""
    if record_type != "TXT":
        return record_type
    version = value.replace(";", " ").split(" ")[0]
    return version.lower() if version.lower() == "v=spf1" else version  # RFC 7208 §12: in any case


def compare_values(kind: str, expected: Values, observed: Values, evaluators: Evaluators) -> tuple[Flaw, ...]:
    """The flaws of the values observed at a name which should have the expected ones of this kind."""
    if kind in _TEXT_COMPARISONS:
        return tuple(_compare_text(kind, expected[0], observed, evaluators))
    return tuple(_compare_sets(kind, expected, observed))


def _compare_sets(record_type: str, expected: Values, observed: Values) -> Iterator[Flaw]:
    ours, theirs = ({_normalise(record_type, value) for value in values} for values in (expected, observed))
    absent, extra = sorted(ours - theirs), sorted(theirs - ours)
    if not theirs:
        yield Flaw("the record is missing", is_missing=True)
    elif absent:
        yield Flaw(f"it lacks {' and '.join(absent)}", ", ".join(sorted(theirs)))
    elif extra:
        problem = f"it has {', '.join(extra)} besides"
        yield Flaw(problem, ", ".join(sorted(theirs)), is_grave=record_type in ("A", "AAAA"))


def _normalise(record_type: str, value: str) -> str:
    """One spelling of names and digits. PTR values may come without the final dot."""
    try:
        absolute = f"{value.rstrip('.')}." if record_type == "PTR" else value
        text = dns.rdata.from_text("IN", record_type, absolute).to_text().lower()
        return re.sub(r"\s*;\s*", ";", text) if record_type == "CAA" else text
    except dns.exception.DNSException:
        return value


def _compare_text(kind: str, expected: str, observed: Values, evaluators: Evaluators) -> Iterator[Flaw]:
    """Receivers ignore all of several records with the same version tag (RFC 7208 §4.5, RFC 7489 §6.6.3, RFC 8460 §3,
    RFC 8461 §3.1)."""
    texts = [text for text in observed if record_kind("TXT", text) == kind]
    if kind == "v=DKIM1":
        texts = list(observed)  # the version tag is optional (RFC 6376 §3.6.1)
    if not texts:
        yield Flaw("the record is missing", " and ".join(observed), is_missing=True)
    elif len(texts) > 1:
        yield Flaw(f"there are {len(texts)} such records, so other servers ignore all of them", " and ".join(texts))
    else:
        for flaw in _TEXT_COMPARISONS[kind](expected, texts[0], evaluators):
            yield replace(flaw, observed=flaw.observed or texts[0])


def _compare_spf(expected: str, observed: str, evaluators: Evaluators) -> Iterator[Flaw]:
    spf = evaluators.spf(observed)
    terms = expected.split()[1:]
    if spf.error:
        advice = (
            f"Put into dns.spf what the provider of {spf.missing_name} names for SPF, then set what `mailkeep dns` "
            "prints"
        )
        is_ours = f"include:{spf.missing_name}" in terms
        yield Flaw(f"other servers ignore it: {spf.error}", advice=advice if is_ours else "")
        return
    own_networks = [network for term in terms if (network := _address_network(term))]
    for network in own_networks:
        if not any(_covers(passing, network) for passing in spf.networks):
            yield Flaw(f"mail from {network.network_address} does not pass")
    default = _SPF_DEFAULTS[terms[-1]]
    if spf.default != default:
        problem = f"all other senders {_SPF_RESULTS[spf.default]}, but should {_SPF_RESULTS[default]}"
        yield Flaw(problem, is_grave=spf.default in ("neutral", "pass"))
    yield from _compare_spf_terms(
        spf, [term for term in terms if ":" in term and not _address_network(term)], own_networks
    )


def _compare_spf_terms(spf: Spf, expected: list[str], own_networks: list[Network]) -> Iterator[Flaw]:
    if lacking := [term for term in expected if term not in spf.terms]:
        yield Flaw(f"it lacks {' '.join(lacking)}", is_grave=False)
    allowed = [*own_networks, *(network for term in expected for network in spf.terms.get(term) or ())]

    def exceeds_allowed(networks: Networks | None) -> bool:
        return networks is None or any(not any(_covers(outer, network) for outer in allowed) for network in networks)

    extra = [term for term, networks in spf.terms.items() if term not in expected and exceeds_allowed(networks)]
    if extra:
        yield Flaw(f"{' '.join(extra)} may send too. If that is yours, name it in dns.spf", is_grave=False)


_SPF_DEFAULTS = {"-all": "fail", "~all": "softfail"}
_SPF_RESULTS = {"fail": "fail", "softfail": "fail softly", "neutral": "are neutral", "pass": "pass"}


def _address_network(term: str) -> Network | None:
    version, _, address = term.partition(":")
    return ip_network(address) if version in ("ip4", "ip6") else None


def _covers(outer: Network, inner: Network) -> bool:
    return outer.version == inner.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def _compare_dkim(expected: str, observed: str, _evaluators: Evaluators) -> Iterator[Flaw]:
    ours, theirs = _parse_tags(expected), _parse_tags(observed)
    if "p" not in theirs:
        yield Flaw("it is no DKIM key")
        return
    if not theirs["p"]:
        yield Flaw("the key is revoked (p= is empty)")
    elif theirs["p"] != ours["p"]:
        yield Flaw(_describe_other_key(ours["p"], theirs["p"]))
    for tag, fitting in {"v": {"DKIM1"}, "k": {"rsa"}, "h": {"sha256"}, "s": {"email", "*"}}.items():
        if tag in theirs and not fitting & set(theirs[tag].split(":")):
            yield Flaw(f"{tag}={theirs[tag]} does not fit our signatures; it should be {tag}={ours[tag]}")
    if "y" in theirs.get("t", "").split(":"):
        yield Flaw("it is marked as a test (t=y): other servers may ignore your signatures", is_grave=False)


def _describe_other_key(ours: str, theirs: str) -> str:
    if ours.startswith(theirs):
        return f"the key is cut off after {len(theirs)} of {len(ours)} characters; the form may want it in two strings"
    return "the key differs from the one in the vault"


def _parse_tags(text: str) -> dict[str, str]:
    """The tag list (RFC 6376 §3.2), without white space in values; empty if it is malformed."""
    try:
        tags = parse_tag_value(text.encode())
    except InvalidTagValueList:
        return {}
    return {tag.decode(): "".join(value.decode(errors="replace").split()) for tag, value in tags.items()}


def _compare_dmarc(expected: str, observed: str, evaluators: Evaluators) -> Iterator[Flaw]:
    ours = _parse_tags(expected)
    if "p" not in ours:
        return  # an authorisation of reports (RFC 7489 §7.1) has no other tag
    dmarc = evaluators.dmarc(observed)
    if dmarc.error:
        yield Flaw(f"other servers ignore it: {dmarc.error}")
        return
    theirs = dict(dmarc.tags)
    theirs.setdefault("sp", theirs.get("p", "none"))
    theirs.setdefault("np", theirs["sp"])
    for tag in ("p", "sp", "np"):
        policy = theirs.get(tag, "none")
        difference = POLICY_STRENGTH.index(policy) - POLICY_STRENGTH.index(ours[tag])
        if difference:
            yield Flaw(f"it has {tag}={policy}, but mail.yml has {tag}={ours[tag]}", is_grave=difference < 0)
    # checkdmarc ignores a tag that RFC 9989 removed; receivers that follow RFC 7489 (§6.3) apply it.
    share = {tag.lower(): value for tag, value in _parse_tags(observed).items()}.get("pct", "100")
    if share != "100":
        yield Flaw(f"it applies to {share} % of the mail only (pct=)", is_grave=share.strip("0") == "")
    if theirs.get("t", "n") == "y":
        yield Flaw("it is marked as a test (t=y): other servers apply a weaker policy", is_grave=False)
    if missing := set(ours["rua"].split(",")) - set(theirs.get("rua", "").split(",")):
        yield Flaw(f"reports do not go to {', '.join(missing)}", is_grave=False)


def _compare_mta_sts(expected: str, observed: str, _evaluators: Evaluators) -> Iterator[Flaw]:
    try:
        theirs = parse_mta_sts_record(observed)["tags"]
    except MTASTSError as error:
        yield Flaw(f"other servers ignore it: {error}")
        return
    if theirs["id"] != _parse_tags(expected)["id"]:
        problem = "its id is not that of the policy: servers that know an earlier policy do not fetch this one"
        yield Flaw(problem, is_grave=False)


def _compare_tls_reports(expected: str, observed: str, _evaluators: Evaluators) -> Iterator[Flaw]:
    try:
        theirs = parse_smtp_tls_reporting_record(observed)["tags"]["rua"]["value"]
    except SMTPTLSReportingError as error:
        yield Flaw(f"other servers ignore it: {error}")
        return
    if _parse_tags(expected)["rua"] not in theirs:
        yield Flaw(f"reports do not go to {_parse_tags(expected)['rua']}", is_grave=False)


_TEXT_COMPARISONS: dict[str, Callable[[str, str, Evaluators], Iterator[Flaw]]] = {
    "v=spf1": _compare_spf,
    "v=DKIM1": _compare_dkim,
    "v=DMARC1": _compare_dmarc,
    "v=STSv1": _compare_mta_sts,
    "v=TLSRPTv1": _compare_tls_reports,
}
