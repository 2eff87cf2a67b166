"""Zone file, web form and octoDNS files hold the same records."""

from pathlib import Path

import dns.name
import dns.rdata
import dns.rdatatype
import dns.zone
import dns.zonefile
import pytest
import yaml
from dns_samples import make_secrets, make_settings
from octodns.manager import Manager

from mailkeep.dns import formats, records
from mailkeep.dns.records import Record

BY_DNS = {"mode": "acme", "acme": {"challenge": "dns-01", "provider": "rfc2136"}}
SETTINGS = make_settings(
    *("example.org", "example.com"),
    never_send=["www.example.org", "www2.example.org", "www10.example.org"],  # octoDNS insists on this order
    mta_sts="testing",
    tls=BY_DNS,
)
RECORDS = records.own_zone_records(SETTINGS, make_secrets(SETTINGS))


def parse_zone(zone: str) -> set[tuple[str, str, str]]:
    """The records of a zone file, as dnspython reads them."""
    rrsets = dns.zonefile.read_rrsets(zone, rdclass=None, default_ttl=60)
    return {parse_rdata(rrset.name, rdata) for rrset in rrsets for rdata in rrset}


def parse_rdata(name: dns.name.Name, rdata: dns.rdata.Rdata) -> tuple[str, str, str]:
    """TXT strings are joined: it does not matter where they are cut."""
    value = b"".join(rdata.strings).decode() if rdata.rdtype == dns.rdatatype.TXT else rdata.to_text()
    return name.to_text(), rdata.rdtype.name, value


def test_a_zone_file_has_every_record_and_no_string_longer_than_255() -> None:
    zone = formats.format_zone_file(RECORDS)
    assert len(parse_zone(zone)) == len(RECORDS)
    texts = [rdata for rrset in dns.zonefile.read_rrsets(zone, rdclass=None) for rdata in rrset if rrset.rdtype == 16]
    assert max(len(string) for rdata in texts for string in rdata.strings) == 255


def test_a_web_form_gets_short_names_and_bare_values_on_one_line_each() -> None:
    lines = formats.format_web_form(RECORDS).splitlines()
    assert lines[0] == "example.org" or lines[0] == "example.com"
    rows = [line.split("  ") for line in lines if line.startswith("  ")]
    assert len(rows) == len(RECORDS)
    assert ["", "@", "MX", "10 mail.example.org"] in rows
    assert ["", "mail", "A", "203.0.113.25"] in rows
    [dkim] = [row for row in rows if row[1] == "s20261123._domainkey" and row[3].endswith(_public_key("example.org"))]
    assert len(dkim[3]) > 255
    assert not [row for row in rows if row[1].endswith((".", ".org", ".com")) or row[3].startswith('"')]


def _public_key(domain: str) -> str:
    return next(key.public for key in make_secrets(SETTINGS).dkim if key.domain == domain)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:octodns_bind")
def test_octodns_publishes_every_record(tmp_path: Path) -> None:
    """Through octodns-bind, a provider that writes zone files."""
    config = tmp_path / "config"
    config.mkdir()
    written = formats.format_octodns(RECORDS)
    for name, text in written.items():
        (config / name).write_text(text)
    (tmp_path / "production.yaml").write_text(yaml.safe_dump(_octodns_config(tmp_path, written)))
    (tmp_path / "zones").mkdir()
    Manager(str(tmp_path / "production.yaml")).sync(dry_run=False, force=True)
    published = set()
    for file in (tmp_path / "zones").iterdir():
        zone = dns.zone.from_file(str(file), origin=f"{file.stem}.", relativize=False, check_origin=False)
        published |= {parse_rdata(name, rdata) for name, _, rdata in zone.iterate_rdatas()}
    assert published >= parse_zone(formats.format_zone_file(RECORDS))


def _octodns_config(directory: Path, files: dict[str, str]) -> dict[str, object]:
    """octoDNS's own configuration."""
    return {
        "providers": {
            "config": {
                "class": "octodns.provider.yaml.YamlProvider",
                "directory": str(directory / "config"),
                "escaped_semicolons": True,
            },
            "files": {
                "class": "octodns_bind.ZoneFileProvider",
                "directory": str(directory / "zones"),
                "file_extension": ".zone",
            },
        },
        "zones": {f"{file.removesuffix('.yaml')}.": {"sources": ["config"], "targets": ["files"]} for file in files},
    }


def test_the_domain_itself_has_the_empty_name_for_octodns() -> None:
    rrsets = yaml.safe_load(formats.format_octodns(RECORDS)["example.org.yaml"])
    [mx] = [rrset for rrset in rrsets[""] if rrset["type"] == "MX"]
    assert mx["values"] == [{"preference": 10, "exchange": "mail.example.org."}]


def test_a_third_partys_zone_has_no_file() -> None:
    settings = make_settings(reports="dmarc@example.net")
    assert set(formats.format_octodns(records.own_zone_records(settings, make_secrets(settings)))) == {
        "example.org.yaml"
    }


def test_reverse_names_are_complete_in_a_zone_file() -> None:
    ptr = Record("required", "25.113.0.203.in-addr.arpa", "PTR", "mail.example.org", "", "")
    assert formats.format_zone_file([ptr]) == "25.113.0.203.in-addr.arpa. 3600 IN PTR mail.example.org.\n"
