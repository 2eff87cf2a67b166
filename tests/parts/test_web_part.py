"""The pages served over HTTPS; without any, nothing is installed."""

from xml.etree import ElementTree

import pytest

from mailkeep.dns import mta_sts
from mailkeep.parts import firewall, web
from mailkeep.settings.models import Settings

TRUSTED = {"tls": {"mode": "files", "certificate": "chain.pem"}}
DOMAINS = {"domains": ["example.org", "example.com"]}
POLICY = TRUSTED | {"dns": {"mta_sts": "enforce"}}
AUTOCONFIG = TRUSTED | {"web": {"autoconfig": True}}


@pytest.mark.parametrize("more", [{}, TRUSTED, POLICY | {"web": {"mta_sts": False}}])
def test_without_pages_there_is_no_web_server(declared: dict[str, object], more: dict[str, object]) -> None:
    settings = Settings.model_validate(declared | more)
    part = web.build_part(settings)
    assert settings.https_names == ()
    assert firewall.published_ports(settings) == firewall.MAIL_PORTS
    assert (part.packages, part.users, part.files) == ((), (), ())
    assert web.UNIT in part.absent


def test_each_domain_has_its_names(declared: dict[str, object]) -> None:
    settings = Settings.model_validate(declared | DOMAINS | AUTOCONFIG | POLICY)
    kinds = ("mta-sts", "autoconfig", "autodiscover")
    assert settings.https_names == tuple(f"{kind}.{domain}" for domain in DOMAINS["domains"] for kind in kinds)
    assert firewall.HTTPS in firewall.published_ports(settings)


def test_the_served_policy_is_the_printed_one(declared: dict[str, object]) -> None:
    settings = Settings.model_validate(declared | POLICY)
    [page] = web.list_pages(settings)
    assert f"https://{page.name}{page.path}" == mta_sts.policy_url("example.org")
    assert page.content.decode() == mta_sts.policy_text(settings)


def test_mail_programs_get_tls_first_and_the_whole_address(declared: dict[str, object]) -> None:
    config, _ = web.list_pages(Settings.model_validate(declared | AUTOCONFIG))
    provider = ElementTree.fromstring(config.content)[0]  # noqa: S314 - our own
    assert provider.findtext("domain") == "example.org"
    for kind, ports in (("incoming", ["993", "143"]), ("outgoing", ["465", "587"])):
        servers = provider.findall(f"{kind}Server")
        assert [server.findtext("port") for server in servers] == ports
        assert [server.findtext("socketType") for server in servers] == ["SSL", "STARTTLS"]
        assert {server.findtext("hostname") for server in servers} == {"mail.example.org"}
        assert {server.findtext("username") for server in servers} == {"%EMAILADDRESS%"}


def test_outlook_gets_the_tls_ports_and_the_login_domain(declared: dict[str, object]) -> None:
    _, answer = web.list_pages(Settings.model_validate(declared | AUTOCONFIG))
    protocols = ElementTree.fromstring(answer.content).findall(".//{*}Protocol")  # noqa: S314 - our own
    settings = [
        [protocol.findtext(f"{{*}}{tag}") for tag in ("Type", "Port", "SSL", "DomainName")] for protocol in protocols
    ]
    assert settings == [["IMAP", "993", "on", "example.org"], ["SMTP", "465", "on", "example.org"]]


@pytest.mark.parametrize(("addresses", "listens"), [(["192.0.2.1"], {"443"}), (["2001:db8::1"], {"[::]:443"})])
def test_nginx_listens_only_on_the_declared_address_families(
    declared: dict[str, object], addresses: list[str], listens: set[str]
) -> None:
    host = {"host": {"name": "mail.example.org", "addresses": addresses}}
    part = web.build_part(Settings.model_validate(declared | POLICY | host))
    conf = next(file.content.decode() for file in part.files if file.path == web.CONF)
    assert {line.split()[1] for line in conf.splitlines() if line.split()[:1] == ["listen"]} == listens
