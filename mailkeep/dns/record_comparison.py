"""Whether published records mean what they should: parsed, for the same thing can be said in many ways."""

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

Strings = tuple[str, ...]
STRENGTH = ("none", "quarantine", "reject")


@dataclass(frozen=True, slots=True)
class Flaw:
    """`grave`: it does not do what it is for. `missing`: there is nothing at all. `do` is what to do, where that is not
    to set what was wanted."""

    what: str
    seen: str = ""
    grave: bool = True
    missing: bool = False
    do: str = ""


@dataclass(frozen=True, slots=True)
class Parsers:
    """What SPF and DMARC records at the name come to, by their text."""

    spf: Callable[[str], Spf]
    dmarc: Callable[[str], Dmarc]


def kind(type_: str, value: str) -> str:
    """What must be unique at a name and is compared as such: a type, or the version tag of a TXT record."""
    if type_ != "TXT":
        return type_
    version = value.replace(";", " ").split(" ")[0]
    return version.lower() if version.lower() == "v=spf1" else version  # RFC 7208 §12: no matter the case


def compare(what: str, wanted: Strings, seen: Strings, parsers: Parsers) -> tuple[Flaw, ...]:
    """What is wrong with the values `seen` at a name where `wanted` of this kind should be."""
    if what in _TEXTS:
        return tuple(_text(what, wanted[0], seen, parsers))
    return tuple(_values(what, wanted, seen))


def _values(type_: str, wanted: Strings, seen: Strings) -> Iterator[Flaw]:
    ours, theirs = ({_canonical(type_, value) for value in values} for values in (wanted, seen))
    absent, extra = sorted(ours - theirs), sorted(theirs - ours)
    if not theirs:
        yield Flaw("it is not there", missing=True)
    elif absent:
        yield Flaw(f"it does not say {' nor '.join(absent)}", ", ".join(sorted(theirs)))
    elif extra:
        yield Flaw(f"it says {', '.join(extra)} besides", ", ".join(sorted(theirs)), grave=type_ in ("A", "AAAA"))


def _canonical(type_: str, value: str) -> str:
    """Names and digits in one spelling. PTR values come without the final dot too."""
    try:
        absolute = f"{value.rstrip('.')}." if type_ == "PTR" else value
        text = dns.rdata.from_text("IN", type_, absolute).to_text().lower()
        return re.sub(r"\s*;\s*", ";", text) if type_ == "CAA" else text
    except dns.exception.DNSException:
        return value


def _text(what: str, wanted: str, seen: Strings, parsers: Parsers) -> Iterator[Flaw]:
    """One of each version tag: RFC 7208 §4.5, 7489 §6.6.3, 8460 §3 and 8461 §3.1 take two for none."""
    found = [text for text in seen if kind("TXT", text) == what]
    if what == "v=DKIM1":
        found = list(seen)  # its version tag may be left out (RFC 6376 §3.6.1)
    if not found:
        yield Flaw("it is not there", " and ".join(seen), missing=True)
    elif len(found) > 1:
        yield Flaw(f"there are {len(found)} of them, and others take none of them", " and ".join(found))
    else:
        for flaw in _TEXTS[what](wanted, found[0], parsers):
            yield replace(flaw, seen=flaw.seen or found[0])


def _spf(wanted: str, seen: str, parsers: Parsers) -> Iterator[Flaw]:
    found = parsers.spf(seen)
    terms = wanted.split()[1:]
    if found.error:
        ours = f"include:{found.lacks}" in terms
        do = f"Put into dns.spf what whoever runs {found.lacks} names for SPF, and set what `mailkeep dns` prints then"
        yield Flaw(f"others take it for none: {found.error}", do=do if ours else "")
        return
    own = [network for term in terms if (network := _own(term))]
    for network in own:
        if not any(_covers(one, network) for one in found.passes):
            yield Flaw(f"mail from {network.network_address} does not pass")
    rest = _RESTS[terms[-1]]
    if found.rest != rest:
        yield Flaw(
            f"all others {_FARE[found.rest]}; they should {_FARE[rest]}", grave=found.rest in ("neutral", "pass")
        )
    named = [term for term in terms if ":" in term and not _own(term)]
    if lacking := [term for term in named if term not in found.terms]:
        yield Flaw(f"it does not name {' '.join(lacking)}", grave=False)
    may = [*own, *(network for term in named for network in found.terms.get(term) or ())]

    def more(networks: Networks | None) -> bool:
        return networks is None or any(not any(_covers(one, network) for one in may) for network in networks)

    if extra := [term for term, networks in found.terms.items() if term not in named and more(networks)]:
        yield Flaw(f"{' '.join(extra)} may send too. If that is yours, name it in dns.spf", grave=False)


_RESTS = {"-all": "fail", "~all": "softfail"}
_FARE = {"fail": "fail", "softfail": "fail softly", "neutral": "are neither good nor bad", "pass": "pass"}


def _own(term: str) -> Network | None:
    version, _, address = term.partition(":")
    return ip_network(address) if version in ("ip4", "ip6") else None


def _covers(outer: Network, inner: Network) -> bool:
    return outer.version == inner.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def _dkim(wanted: str, seen: str, _parsers: Parsers) -> Iterator[Flaw]:
    ours = _tags(wanted)
    theirs = _tags(seen)
    if "p" not in theirs:
        yield Flaw("it is no DKIM key")
        return
    if not theirs["p"]:
        yield Flaw("the key is revoked (p= is empty)")
    elif theirs["p"] != ours["p"]:
        yield Flaw(_other_key(ours["p"], theirs["p"]))
    for tag, fitting in {"v": {"DKIM1"}, "k": {"rsa"}, "h": {"sha256"}, "s": {"email", "*"}}.items():
        if tag in theirs and not fitting & set(theirs[tag].split(":")):
            yield Flaw(f"{tag}={theirs[tag]} is not for our signatures; it should be {tag}={ours[tag]}")
    if "y" in theirs.get("t", "").split(":"):
        yield Flaw("it is marked as a test (t=y): others may take signatures for none", grave=False)


def _other_key(ours: str, theirs: str) -> str:
    if ours.startswith(theirs):
        return f"the key is cut off after {len(theirs)} of {len(ours)} characters; the form may want it in two strings"
    return "it is another key than the one in the vault"


def _tags(text: str) -> dict[str, str]:
    """A tag list (RFC 6376 §3.2), white space within values left out; empty where it is none."""
    try:
        found = parse_tag_value(text.encode())
    except InvalidTagValueList:
        return {}
    return {tag.decode(): "".join(value.decode(errors="replace").split()) for tag, value in found.items()}


def _dmarc(wanted: str, seen: str, parsers: Parsers) -> Iterator[Flaw]:
    ours = _tags(wanted)
    if "p" not in ours:
        return  # an authorisation for reports (RFC 7489 §7.1): it says nothing but that it is there
    found = parsers.dmarc(seen)
    if found.error:
        yield Flaw(f"others take it for none: {found.error}")
        return
    theirs = dict(found.tags)
    theirs.setdefault("sp", theirs.get("p", "none"))
    theirs.setdefault("np", theirs["sp"])
    for tag in ("p", "sp", "np"):
        weaker = STRENGTH.index(theirs.get(tag, "none")) - STRENGTH.index(ours[tag])
        if weaker:
            yield Flaw(f"{tag}={theirs.get(tag, 'none')}; mail.yml has {tag}={ours[tag]}", grave=weaker < 0)
    # checkdmarc passes over what RFC 9989 has removed; who goes by RFC 7489 (§6.3) does not.
    share = {tag.lower(): value for tag, value in _tags(seen).items()}.get("pct", "100")
    if share != "100":
        yield Flaw(f"it holds for {share} % of the mail only (pct=)", grave=share.strip("0") == "")
    if theirs.get("t", "n") == "y":
        yield Flaw("it is marked as a test (t=y): others go easy on what fails", grave=False)
    if missing := set(ours["rua"].split(",")) - set(theirs.get("rua", "").split(",")):
        yield Flaw(f"reports do not go to {', '.join(missing)}", grave=False)


def _mta_sts(wanted: str, seen: str, _parsers: Parsers) -> Iterator[Flaw]:
    try:
        theirs = parse_mta_sts_record(seen)["tags"]
    except MTASTSError as error:
        yield Flaw(f"others take it for none: {error}")
        return
    if theirs["id"] != _tags(wanted)["id"]:
        yield Flaw("its id is not that of the policy: who knows a former one would not fetch it", grave=False)


def _tls_reports(wanted: str, seen: str, _parsers: Parsers) -> Iterator[Flaw]:
    try:
        theirs = parse_smtp_tls_reporting_record(seen)["tags"]["rua"]["value"]
    except SMTPTLSReportingError as error:
        yield Flaw(f"others take it for none: {error}")
        return
    if _tags(wanted)["rua"] not in theirs:
        yield Flaw(f"reports do not go to {_tags(wanted)['rua']}", grave=False)


_TEXTS: dict[str, Callable[[str, str, Parsers], Iterator[Flaw]]] = {
    "v=spf1": _spf,
    "v=DKIM1": _dkim,
    "v=DMARC1": _dmarc,
    "v=STSv1": _mta_sts,
    "v=TLSRPTv1": _tls_reports,
}
