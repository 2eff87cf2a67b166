"""A server's settings and keys, without an inventory."""

from datetime import date
from functools import cache

from mailkeep.inventory import tls_certificate
from mailkeep.inventory.dkim_keys import DkimKey, generate_dkim_pem, signing_domains
from mailkeep.inventory.secrets import Secrets
from mailkeep.inventory.tls_keys import TlsPair
from mailkeep.settings.models import Settings

FIRST_DAY = date(2026, 11, 23)


def make_settings(*domains: str, host: str = "mail.example.org", **dns: object) -> Settings:
    relay, web = dns.pop("relay", None), dns.pop("web", None)
    addresses = dns.pop("addresses", ["203.0.113.25", "2001:db8::25"])
    trusted = {"mode": "files", "certificate": "chain.pem"}
    tls = dns.pop("tls", trusted if web or dns.get("mta_sts") else {})
    return Settings.model_validate(
        {
            "host": {"name": host, "addresses": addresses},
            "domains": domains or ["example.org"],
            "admin": {"addresses": ["you@example.net"]},
            "relay": relay,
            "tls": tls,
            "web": web,
            "dns": dns,
        }
    )


def make_secrets(declared: Settings) -> Secrets:
    """The keys that these settings need, the same at every call."""
    return Secrets(
        dkim=tuple(_dkim_key(domain, f"s{FIRST_DAY:%Y%m%d}") for domain in signing_domains(declared)),
        tls=_tls_pair(declared.host.name),
        relay_password=None,
    )


@cache
def _dkim_key(domain: str, selector: str) -> DkimKey:
    return DkimKey(domain, selector, generate_dkim_pem())


@cache
def _tls_pair(host: str) -> TlsPair:
    return TlsPair(*tls_certificate.split_pem(tls_certificate.create_self_signed(host, date.today())))
