"""What a server gets for its certificate: all of it, or the key and the renewal by ACME."""

import subprocess
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from mailkeep.inventory import tls_certificate
from mailkeep.inventory.secrets import Secrets
from mailkeep.inventory.tls_keys import TlsPair
from mailkeep.parts import certificates, firewall
from mailkeep.parts.model import SYSTEMD, File, Part
from mailkeep.settings.models import Settings
from mailkeep_server.certificate_renewal import load_config

SELF_SIGNED = tls_certificate.create_self_signed("mail.example.org", date.today())
SECRETS = Secrets((), TlsPair(*tls_certificate.split_pem(SELF_SIGNED)), None)
BY_DNS = {"mode": "acme", "acme": {"challenge": "dns-01", "provider": "rfc2136"}}


def build(declared: dict[str, object], tls: dict[str, Any], **secret: Any) -> Part:
    return certificates.build_part(Settings.model_validate(declared | {"tls": tls}), replace(SECRETS, **secret))


def find_file(part: Part, path: str) -> File:
    return next(file for file in part.files if file.path == path)


def test_key_and_chain_are_one_secret_file(declared: dict[str, object]) -> None:
    for mode in ("self-signed", "acme"):
        pem = find_file(build(declared, {"mode": mode}), certificates.PEM)
        assert (pem.content, pem.mode, pem.secret) == (SECRETS.tls.key + SECRETS.tls.certificate, 0o600, True)
        assert pem.create_only == (mode == "acme")


def test_by_acme_the_server_asks_and_otherwise_nothing_is_left_of_it(
    declared: dict[str, object], tmp_path: Path
) -> None:
    by_acme = build(declared, {"mode": "acme"})
    (tmp_path / "acme.json").write_bytes(find_file(by_acme, certificates.CONFIG).content)
    config = load_config(tmp_path / "acme.json")
    assert config.names == ["mail.example.org"]
    assert config.contact == "ann@example.net"
    assert find_file(by_acme, certificates.KEY).content == SECRETS.tls.key
    assert "lego" in by_acme.packages
    without = build(declared, {"mode": "self-signed"})
    assert {certificates.CONFIG, certificates.KEY, certificates.CREDENTIALS} <= {*without.absent}
    assert {*certificates.UNITS} <= {*without.absent}
    assert without.units == ()


def test_port_80_is_open_for_http_01_alone(declared: dict[str, object]) -> None:
    def is_open(tls: dict[str, Any]) -> bool:
        return 80 in firewall.open_ports(Settings.model_validate(declared | {"tls": tls}))

    assert is_open({"mode": "acme"})
    assert not is_open(BY_DNS)
    assert not is_open({"mode": "self-signed"})


def test_each_host_has_a_second_of_its_own_in_the_hour_and_always_the_same(declared: dict[str, object]) -> None:
    def timer(host: str) -> bytes:
        named = declared | {"host": {"name": host, "addresses": ["192.0.2.1"]}}
        return find_file(build(named, {"mode": "acme"}), f"{SYSTEMD}/{certificates.TIMER}").content

    assert timer("mail.example.org") == timer("mail.example.org")
    assert len({timer(f"mail-{n}.example.org") for n in range(20)}) > 15
    assert b"OnCalendar=*-*-* *:" in timer("mail.example.org")


def test_the_providers_credentials_arrive_as_they_were_typed(declared: dict[str, object]) -> None:
    """systemd.exec(5) unquotes within double quotes as a shell does."""
    value = "a=b \"c\" \\ $d `e` 'f' #g"
    credentials = find_file(build(declared, BY_DNS, dns_credentials={"TOKEN": value}), certificates.CREDENTIALS)
    assert credentials.secret
    assert credentials.mode == 0o600
    script = f'{credentials.content.decode()}printf %s "$TOKEN"'
    assert subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout == value
