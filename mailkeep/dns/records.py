"""The DNS records of a server, each with its reason. One list serves printing, publishing and checking.

It needs the settings and the public keys, but no host: the records can be published before the server exists.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, get_args

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mailkeep.dns import mta_sts
from mailkeep.dns.zones import registered_domain
from mailkeep.inventory.dkim_keys import DkimKey
from mailkeep.inventory.secrets import Secrets
from mailkeep.settings.models import Settings

Need = Literal["required", "recommended", "optional"]
SPF_NOBODY = "v=spf1 -all"

# Implicit TLS comes before STARTTLS (RFC 8314 §5.1).
_SERVICES = (("submissions", 0, 465), ("imaps", 0, 993), ("submission", 10, 587), ("imap", 10, 143))
_AUTOCONFIG_NAMES = (
    ("autoconfig", "Thunderbird and others configure themselves.", "draft-ietf-mailmaint-autoconfig"),
    ("autodiscover", "Outlook configures itself.", "[MS-OXDSCLI] §3.1.5"),
)
_DMARC_EFFECTS = {
    "none": "mail that is neither from here nor signed is reported, but delivered.",
    "quarantine": "mail that is neither from here nor signed goes to junk.",
    "reject": "mail that is neither from here nor signed is refused, subdomains included.",
}
_DMARC_NEXT_STEPS = {
    "none": (
        "DMARC is in its trial stage: nothing is refused yet. Read the reports of two weeks. Every source of yours (a "
        "newsletter, a shop, a printer) must pass with your domain: have it sign with DKIM, or add it to dns.spf. Then "
        "set dns.dmarc: quarantine.",
    ),
    "quarantine": (
        "DMARC is half in force. Read the reports of two more weeks, and ask your users whether their mail landed in "
        "junk. If everything that fails is not yours, set dns.dmarc: reject.",
    ),
}


@dataclass(frozen=True, slots=True)
class Record:
    """`name` is absolute, without the trailing dot. `value` is in zone file form, but TXT is unquoted and in one
    piece, and PTR has no trailing dot. `source` is the RFC, or its counterpart, that asks for the record."""

    need: Need
    name: str
    type: str
    value: str
    reason: str
    source: str

    def asdict(self) -> dict[str, str]:
        return asdict(self)


def own_zone_records(settings: Settings, secrets: Secrets) -> list[Record]:
    """The records of the operator's zones, the most important first."""
    return [record for record in _build_records(settings, secrets) if not _is_third_party(record, settings)]


def third_party_records(settings: Settings, secrets: Secrets) -> list[Record]:
    """The records that only a third party can set: it must agree to receive reports at its domain."""
    return [record for record in _build_records(settings, secrets) if _is_third_party(record, settings)]


def reverse_records(settings: Settings) -> list[Record]:
    """PTR records, which only the hoster of the addresses can set, usually in its panel."""
    reason = "Large providers refuse mail from an address that does not name its host."
    return [
        Record("required", address.reverse_pointer, "PTR", settings.host.name, reason, "RFC 1912 §2.1")
        for address in settings.host.addresses
    ]


def all_records(settings: Settings, secrets: Secrets) -> list[Record]:
    """The records of own zones, of third parties, and of the hoster."""
    return [
        *own_zone_records(settings, secrets),
        *third_party_records(settings, secrets),
        *reverse_records(settings),
    ]


def _is_third_party(record: Record, settings: Settings) -> bool:
    own_names = (settings.host.name, *settings.domains, *settings.dns.never_send)
    return registered_domain(record.name) not in map(registered_domain, own_names)


def _build_records(settings: Settings, secrets: Secrets) -> list[Record]:
    records = [
        *_host_records(settings, secrets),
        *(record for domain in settings.domains for record in _domain_records(domain, settings)),
        *(dkim_record(key) for key in secrets.published_dkim),
        *(record for name in dict.fromkeys(_silent_names(settings)) for record in _silent_name_records(name, settings)),
    ]
    return sorted(records, key=lambda record: get_args(Need).index(record.need))


def _host_records(settings: Settings, secrets: Secrets) -> Iterator[Record]:
    name = settings.host.name
    yield from _address_records(name, "required", "The address of the server.", "RFC 5321 §5.1", settings)
    reason = "SPF for the HELO name, which is the sender domain of bounces."
    yield Record("required", name, "TXT", _spf_value(settings), reason, "RFC 7208 §2.3")
    yield from _dmarc_records(name, "reject", "recommended", "DMARC: nobody else sends as the host.", settings)
    reason = "DANE: other servers check the server's key. It counts only where the zone is signed (DNSSEC)."
    for pem in dict.fromkeys(secrets.published_tls):
        yield tlsa_record(name, x509.load_pem_x509_certificate(pem), reason)
    for certificate_name in settings.certificate_names:
        yield from _caa_records(certificate_name, settings)


def tlsa_record(host: str, certificate: x509.Certificate, reason: str = "") -> Record:
    """3 1 1, for the server's own public key: it outlives a certificate that is renewed with its key."""
    value = f"3 1 1 {key_hash(certificate)}"
    return Record("recommended", f"_25._tcp.{host}", "TLSA", value, reason, "RFC 7672 §3.1.1")


def _caa_records(name: str, settings: Settings) -> Iterator[Record]:
    """The authorities of mail.yml, or else the ACME issuer.

    With the challenge dns-01, the issuer may use no other (RFC 8657 §4). So an attacker who controls the server's
    address for a while gets no certificate.
    """
    issuer, method = settings.tls.issuer, settings.tls.acme.challenge
    allowed = f"{issuer};validationmethods={method}" if method == "dns-01" else issuer
    for authority in settings.dns.caa or ([allowed] if issuer else []):
        reason = "No other certificate authority may issue for this name."
        yield Record("recommended", name, "CAA", f'0 issue "{authority}"', reason, "RFC 8659 §4.2")


def _domain_records(domain: str, settings: Settings) -> Iterator[Record]:
    host, policy = settings.host.name, settings.dns.dmarc
    yield Record(
        "required", domain, "MX", f"10 {host}.", "Mail to your addresses goes to this server.", "RFC 5321 §5.1"
    )
    reason = "SPF: no other server may send for your domain."
    yield Record("required", domain, "TXT", _spf_value(settings), reason, "RFC 7208 §3")
    reason = f"DMARC: {_DMARC_EFFECTS[policy]} Subdomains that do not exist: refused."
    yield from _dmarc_records(domain, policy, "required", reason, settings)
    reason = "TLS-RPT: other servers report failures of TLS to you."
    tls_reports = f"v=TLSRPTv1; rua={_report_uri(settings)}"
    yield Record("recommended", f"_smtp._tls.{domain}", "TXT", tls_reports, reason, "RFC 8460 §3")
    if settings.dns.mta_sts != "off":
        value = f"v=STSv1; id={mta_sts.policy_id(settings)};"
        reason = f"MTA-STS: the policy is at {mta_sts.policy_url(domain)}."
        yield Record("recommended", f"_mta-sts.{domain}", "TXT", value, reason, "RFC 8461 §3.1")
    if settings.serves_mta_sts_policy:
        name, reason = mta_sts.policy_host(domain), "This server serves the MTA-STS policy."
        yield from _address_records(name, "recommended", reason, "RFC 8461 §3.3", settings)
    for service, priority, port in _SERVICES:
        value = f"{priority} 1 {port} {host}."
        reason = "Mail programs find the server by themselves."
        yield Record("optional", f"_{service}._tcp.{domain}", "SRV", value, reason, "RFC 8314 §5.1")
    if settings.web.autoconfig:
        for label, reason, source in _AUTOCONFIG_NAMES:
            yield from _address_records(f"{label}.{domain}", "optional", reason, source, settings)


def _address_records(name: str, need: Need, reason: str, source: str, settings: Settings) -> Iterator[Record]:
    """Not an alias: a name with a CNAME can have no other records (RFC 1034 §3.6.2), such as those against senders."""
    for address in settings.host.addresses:
        yield Record(need, name, address_type(address), str(address), reason, source)


def _dmarc_records(name: str, policy: str, need: Need, reason: str, settings: Settings) -> Iterator[Record]:
    """`np` rejects mail from names that do not exist, at every stage: nobody's mail can depend on them
    (RFC 9989 §4.7)."""
    report_uri = _report_uri(settings)
    value = f"v=DMARC1; p={policy}; sp={policy}; np=reject; rua={report_uri}"
    yield Record(need, f"_dmarc.{name}", "TXT", value, reason, "RFC 7489 §6.3")
    receiver = report_uri.rpartition("@")[2]
    if registered_domain(receiver) != registered_domain(name):
        authorisation = f"{name}._report._dmarc.{receiver}"
        reason = f"{receiver} accepts reports about {name}."
        yield Record("recommended", authorisation, "TXT", "v=DMARC1", reason, "RFC 7489 §7.1")


def _silent_names(settings: Settings) -> Iterator[str]:
    """Names that never send mail. Neither a domain's SPF nor its DKIM key covers subdomains, and many receivers accept
    any sender domain that exists."""
    yield from settings.dns.never_send
    if settings.dns.mta_sts != "off":
        yield from (mta_sts.policy_host(domain) for domain in settings.domains)
    yield from settings.https_names


def _silent_name_records(name: str, settings: Settings) -> Iterator[Record]:
    yield Record("recommended", name, "TXT", SPF_NOBODY, "SPF: nobody sends as this name.", "RFC 7208 §10.1.2")
    reason = "DMARC: mail that claims to come from this name is refused."
    yield from _dmarc_records(name, "reject", "recommended", reason, settings)


def dkim_record(key: DkimKey) -> Record:
    return Record(
        "required",
        f"{key.selector}._domainkey.{key.domain}",
        "TXT",
        f"v=DKIM1; h=sha256; k=rsa; s=email; p={key.public}",
        "DKIM: other servers verify the signatures of your mail with this key.",
        "RFC 6376 §3.6.1",
    )


def _spf_value(settings: Settings) -> str:
    """A relay host sends for us, so its own SPF counts too. While DMARC is in its trial stage, other senders may be
    unknown yet: they fail softly (RFC 7208 §8.5)."""
    own_terms = (f"ip{address.version}:{address}" for address in settings.host.addresses)
    default = "~all" if settings.dns.dmarc == "none" else "-all"
    return " ".join(("v=spf1", *own_terms, *settings.spf_terms, default))


def _report_uri(settings: Settings) -> str:
    return f"mailto:{settings.report_address}"


def address_type(address: IPv4Address | IPv6Address) -> str:
    return "A" if address.version == 4 else "AAAA"


def key_hash(certificate: x509.Certificate) -> str:
    """The SHA-256 hash of the public key, in hexadecimal: the last field of a TLSA record 3 1 1."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def list_instructions(settings: Settings) -> list[str]:
    """Next steps besides publishing the records."""
    return [
        *_DMARC_NEXT_STEPS.get(settings.dns.dmarc, ()),
        *_relay_instructions(settings),
        *mta_sts.list_instructions(settings),
    ]


def _relay_instructions(settings: Settings) -> Iterator[str]:
    if settings.relay and not settings.dns.spf and settings.spf_terms[0].startswith("include:"):
        yield (
            f"SPF includes the record of {settings.relay.host}, because your mail leaves through it. If that name has "
            "no SPF record of its own, other servers ignore yours (RFC 7208 §5.2). Then put into dns.spf what the "
            "relay's provider names for SPF, such as include:_spf.example.net."
        )
