"""What the world should see: the DNS records of a server, each with the reason for it.

One list serves printing, publishing and checking. It needs the settings and the public halves of the keys, and no
host: the records can be published before the server exists.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal, get_args

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mailkeep.dns import mta_sts
from mailkeep.dns.zones import registered
from mailkeep.inventory.dkim_keys import DkimKey
from mailkeep.inventory.secrets import Secrets
from mailkeep.settings.models import Settings

Need = Literal["required", "recommended", "optional"]
SPF_NOBODY = "v=spf1 -all"


@dataclass(frozen=True, slots=True)
class Record:
    """`name` is absolute, without the trailing dot. `value` is what the record says, as a zone file has it, but TXT
    unquoted and in one piece, and PTR without the trailing dot. `source` is the RFC that says so, or what stands for
    one."""

    need: Need
    name: str
    type: str
    value: str
    reason: str
    source: str

    def asdict(self) -> dict[str, str]:
        return asdict(self)


def own_zone_records(settings: Settings, secrets: Secrets) -> list[Record]:
    """The records of your zones, the most important first."""
    return [record for record in _all(settings, secrets) if not _is_elsewhere(record, settings)]


def third_party_records(settings: Settings, secrets: Secrets) -> list[Record]:
    """Those that only somebody else can set: where reports go to a domain that is none of yours, it must agree."""
    return [record for record in _all(settings, secrets) if _is_elsewhere(record, settings)]


def all_records(settings: Settings, secrets: Secrets) -> list[Record]:
    """The records of your zones, of third parties, and of the hoster (PTR)."""
    return [
        *own_zone_records(settings, secrets),
        *third_party_records(settings, secrets),
        *reverse_records(settings),
    ]


def _is_elsewhere(record: Record, settings: Settings) -> bool:
    yours = (settings.host.name, *settings.domains, *settings.dns.never_send)
    return registered(record.name) not in map(registered, yours)


def _all(settings: Settings, secrets: Secrets) -> list[Record]:
    listed = [
        *_host(settings, secrets),
        *(record for domain in settings.domains for record in _domain(domain, settings)),
        *(dkim_record(key) for key in secrets.published_dkim),
        *(record for name in dict.fromkeys(_silent(settings)) for record in _never_sends(name, settings)),
    ]
    return sorted(listed, key=lambda record: get_args(Need).index(record.need))


def reverse_records(settings: Settings) -> list[Record]:
    """PTR records, which only the hoster of the addresses can set (a field in its panel, mostly)."""
    why = "Large providers refuse mail from an address that does not name its host."
    return [
        Record("required", address.reverse_pointer, "PTR", settings.host.name, why, "RFC 1912 §2.1")
        for address in settings.host.addresses
    ]


def _host(settings: Settings, secrets: Secrets) -> Iterator[Record]:
    name = settings.host.name
    yield from _addresses(name, "required", "Where the server is.", "RFC 5321 §5.1", settings)
    why = "SPF for the HELO name, which is the sender of bounces."
    yield Record("required", name, "TXT", _spf(settings), why, "RFC 7208 §2.3")
    yield from _dmarc(name, "reject", "recommended", "Nobody else writes as the host.", settings)
    why = "DANE: who sends to you sees that the key is yours. Counts where the zone is signed (DNSSEC)."
    for pem in dict.fromkeys(secrets.published_tls):
        yield tlsa_record(name, x509.load_pem_x509_certificate(pem), why)
    for covered in settings.certificate_names:
        yield from _authorities(covered, settings)


def tlsa_record(host: str, leaf: x509.Certificate, why: str = "") -> Record:
    """3 1 1, for the server's own public key: it outlives a certificate that is renewed with its key."""
    return Record("recommended", f"_25._tcp.{host}", "TLSA", f"3 1 1 {key_hash(leaf)}", why, "RFC 7672 §3.1.1")


def _authorities(name: str, settings: Settings) -> Iterator[Record]:
    """Those that mail.yml names, else the one that is asked by ACME. Who answers it in the DNS lets it ask nowhere else
    (RFC 8657 §4): then whoever gets hold of the server's address for a while gets no certificate."""
    ours, method = settings.tls.issuer, settings.tls.acme.challenge
    allowed = f"{ours};validationmethods={method}" if method == "dns-01" else ours
    for authority in settings.dns.caa or ([allowed] if ours else []):
        why = "No other certificate authority issues for this name."
        yield Record("recommended", name, "CAA", f'0 issue "{authority}"', why, "RFC 8659 §4.2")


def _domain(domain: str, settings: Settings) -> Iterator[Record]:
    host, policy = settings.host.name, settings.dns.dmarc
    yield Record("required", domain, "MX", f"10 {host}.", "Where mail to you goes.", "RFC 5321 §5.1")
    yield Record("required", domain, "TXT", _spf(settings), "SPF: who else sends for you is not you.", "RFC 7208 §3")
    why = f"DMARC: {_DMARC_DOES[policy]} Subdomains that do not exist: refused."
    yield from _dmarc(domain, policy, "required", why, settings)
    why = "TLS-RPT: others report when TLS to you fails."
    tls_reports = f"v=TLSRPTv1; rua={_reports(settings)}"
    yield Record("recommended", f"_smtp._tls.{domain}", "TXT", tls_reports, why, "RFC 8460 §3")
    if settings.dns.mta_sts != "off":
        value = f"v=STSv1; id={mta_sts.policy_id(settings)};"
        why = f"MTA-STS: there is a policy at {mta_sts.policy_url(domain)}."
        yield Record("recommended", f"_mta-sts.{domain}", "TXT", value, why, "RFC 8461 §3.1")
    if settings.serves_mta_sts_policy:
        yield from _addresses(
            mta_sts.policy_host(domain), "recommended", "The policy is served here.", "RFC 8461 §3.3", settings
        )
    for service, priority, port in _SERVICES:
        value = f"{priority} 1 {port} {host}."
        why = "Mail programs find the server by themselves."
        yield Record("optional", f"_{service}._tcp.{domain}", "SRV", value, why, "RFC 8314 §5.1")
    if settings.web.autoconfig:
        for name, why, source in _SETUP:
            yield from _addresses(f"{name}.{domain}", "optional", why, source, settings)


def _addresses(name: str, need: Need, why: str, source: str, settings: Settings) -> Iterator[Record]:
    """No alias: beside a CNAME there may be none of the records by which the name never sends (RFC 1034 §3.6.2)."""
    for address in settings.host.addresses:
        yield Record(need, name, _type(address), str(address), why, source)


_DMARC_DOES = {
    "none": "what is neither from here nor signed is reported, and delivered.",
    "quarantine": "what is neither from here nor signed is junk.",
    "reject": "what is neither from here nor signed is refused, subdomains included.",
}
# TLS from the first byte comes before STARTTLS (RFC 8314 §5.1).
_SERVICES = (("submissions", 0, 465), ("imaps", 0, 993), ("submission", 10, 587), ("imap", 10, 143))


_SETUP = (
    ("autoconfig", "Thunderbird and others set themselves up.", "draft-ietf-mailmaint-autoconfig"),
    ("autodiscover", "Outlook sets itself up.", "[MS-OXDSCLI] §3.1.5"),
)


def _dmarc(name: str, policy: str, need: Need, why: str, settings: Settings) -> Iterator[Record]:
    """`np` closes the names that do not exist at every stage: nobody's mail can depend on them (RFC 9989 §4.7)."""
    reports = _reports(settings)
    value = f"v=DMARC1; p={policy}; sp={policy}; np=reject; rua={reports}"
    yield Record(need, f"_dmarc.{name}", "TXT", value, why, "RFC 7489 §6.3")
    receiver = reports.rpartition("@")[2]
    if registered(receiver) != registered(name):
        authorise = f"{name}._report._dmarc.{receiver}"
        why = f"Reports about {name} may go to {receiver}."
        yield Record("recommended", authorise, "TXT", "v=DMARC1", why, "RFC 7489 §7.1")


def _silent(settings: Settings) -> Iterator[str]:
    """Names that must never send. Neither SPF of a domain nor a DKIM key covers its subdomains, and one that exists is
    a sender that many receivers take."""
    yield from settings.dns.never_send
    if settings.dns.mta_sts != "off":
        yield from (mta_sts.policy_host(domain) for domain in settings.domains)
    yield from settings.https_names


def _never_sends(name: str, settings: Settings) -> Iterator[Record]:
    yield Record("recommended", name, "TXT", SPF_NOBODY, "Nobody sends as this name.", "RFC 7208 §10.1.2")
    why = "What claims to be from this name is refused."
    yield from _dmarc(name, "reject", "recommended", why, settings)


def dkim_record(key: DkimKey) -> Record:
    return Record(
        "required",
        f"{key.selector}._domainkey.{key.domain}",
        "TXT",
        f"v=DKIM1; h=sha256; k=rsa; s=email; p={key.public}",
        "DKIM: the key that your mail is signed with.",
        "RFC 6376 §3.6.1",
    )


def _spf(settings: Settings) -> str:
    """A relay host sends in our place, so its own SPF counts too. While DMARC is tried out, what else sends is not yet
    known: it fails softly (RFC 7208 §8.5)."""
    own = (f"ip{address.version}:{address}" for address in settings.host.addresses)
    relay = (_relay(settings.relay.host),) if settings.relay else ()
    rest = "~all" if settings.dns.dmarc == "none" else "-all"
    return " ".join(("v=spf1", *own, *(settings.dns.spf or relay), rest))


def _relay(host: str) -> str:
    try:
        return f"ip{ip_address(host).version}:{host}"
    except ValueError:
        return f"include:{host}"


def _reports(settings: Settings) -> str:
    return f"mailto:{settings.dns.reports or f'postmaster@{settings.host.name}'}"


def key_hash(leaf: x509.Certificate) -> str:
    """Of the public key: what a TLSA record 3 1 1 has."""
    spki = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def _type(address: IPv4Address | IPv6Address) -> str:
    return "A" if address.version == 4 else "AAAA"


def list_instructions(settings: Settings) -> list[str]:
    """What to do beside publishing the records."""
    return [
        *_DMARC_NEXT.get(settings.dns.dmarc, ()),
        *_relay_instructions(settings),
        *mta_sts.list_instructions(settings),
    ]


def _relay_instructions(settings: Settings) -> Iterator[str]:
    if settings.relay and not settings.dns.spf and _relay(settings.relay.host).startswith("include:"):
        yield (
            f"SPF includes the record of {settings.relay.host}, for mail goes out through it. Where that name has no "
            "SPF record of its own, others take yours for none (RFC 7208 §5.2): put into dns.spf what its provider "
            "names for SPF, such as include:_spf.example.net."
        )


_DMARC_NEXT = {
    "none": (
        "DMARC is tried out: nothing is refused yet. Read the reports of two weeks. Every source that is yours (a "
        "newsletter, a shop, a printer) must pass with your domain: have it sign with DKIM, or add it to dns.spf. Then "
        "set dns.dmarc: quarantine.",
    ),
    "quarantine": (
        "DMARC is half in force. Read the reports of two more weeks, and ask your users whether mail of theirs was "
        "found in junk. If all that fails is not yours, set dns.dmarc: reject.",
    ),
}
