"""Settings of certificates by ACME fit together; a conflict names the setting and the remedy."""

from typing import Any

import pytest
from pydantic import ValidationError

from mailkeep.settings.models import Settings
from mailkeep.settings.sections import LETS_ENCRYPT


def parse_acme(acme: dict[str, str] | None = None, mode: str = "acme", **more: Any) -> Settings:
    return Settings.model_validate(
        {
            "host": {"name": "mail.example.org", "addresses": ["203.0.113.25"]},
            "domains": ["example.org"],
            "admin": {"addresses": ["you@example.net"]},
            "tls": {"mode": mode, "acme": acme or {}},
            **more,
        }
    )


def test_mode_acme_alone_means_lets_encrypt_over_http() -> None:
    tls = parse_acme().tls
    assert (tls.acme.directory, tls.acme.challenge, tls.answers_on_port_80) == (LETS_ENCRYPT, "http-01", True)
    assert parse_acme().certificate_names == ("mail.example.org",)


DNS_01 = {"challenge": "dns-01"}
REFUSED: list[tuple[tuple[Any, ...], dict[str, Any], str, str]] = [
    ((DNS_01,), {}, "tls.acme.provider", "lego dnshelp"),
    (({"provider": "rfc2136"},), {}, "tls.acme.provider", "`challenge: dns-01`, or no provider"),
    ((DNS_01 | {"provider": "My Registrar"},), {}, "tls.acme.provider", "such as rfc2136"),
    (({"directory": "http://acme.example.net/dir"},), {}, "tls.acme.directory", "https://"),
    (({"directory": "https://192.0.2.1/dir"},), {}, "tls.acme.directory", "https://"),
    (({"directory": "https://acme.example.net/a b"},), {}, "tls.acme.directory", "https://"),
    (({"challenge": "tls-alpn-01"},), {}, "tls.acme.challenge", "http-01"),
    (({"contact": "you"},), {}, "tls.acme.contact", "an address"),
    ((DNS_01, "files"), {}, "tls.acme.challenge", "`mode: acme`"),
    ((), {"host": {"name": "203.0.113.25", "addresses": ["203.0.113.25"]}}, "host.name", "fully qualified"),
    ((), {"host": {"name": "mail", "addresses": ["203.0.113.25"]}}, "host.name", "fully qualified"),
    ((), {"ssh": {"port": 80}}, "ssh.port", "another port"),
    ((), {"firewall": {"open": [8080, "http"]}}, "firewall.open.1", "dns-01"),
    ((), {"dns": {"caa": ["pki.example.net"]}}, "dns.caa", "letsencrypt.org too"),
]


@pytest.mark.parametrize(("acme", "more", "field", "expected"), REFUSED, ids=[row[2] + "-" + row[3] for row in REFUSED])
def test_a_conflict_names_its_setting_and_the_remedy(
    acme: tuple[Any, ...], more: dict[str, Any], field: str, expected: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        parse_acme(*acme, **more)
    messages = {".".join(map(str, error["loc"])): error["msg"] for error in refused.value.errors()}
    assert expected in messages[field]


def test_with_dns_01_port_80_is_free_for_other_programs() -> None:
    tls = parse_acme(DNS_01 | {"provider": "rfc2136"}, ssh={"port": 80}, firewall={"open": ["https"]}).tls
    assert not tls.answers_on_port_80


@pytest.mark.parametrize(
    ("directory", "issuer"),
    [
        (LETS_ENCRYPT, "letsencrypt.org"),
        ("https://acme-staging-v02.api.letsencrypt.org/directory", "letsencrypt.org"),
        ("https://letsencrypt.org.example.net/directory", ""),
    ],
)
def test_the_issuer_follows_from_the_host_of_its_directory(directory: str, issuer: str) -> None:
    assert parse_acme({"directory": directory}).tls.issuer == issuer
    assert parse_acme(mode="self-signed").tls.issuer == ""
