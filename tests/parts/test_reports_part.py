"""Reports are read where they arrive, and nothing is set up where they do not."""

import json
from pathlib import Path

import pytest

from mailkeep.dns import records
from mailkeep.parts import postfix, reports
from mailkeep.parts.model import Part
from mailkeep.settings.models import Settings
from mailkeep_server.reports.config import load_config

HASH = "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$c29tZXNhbHQ$gRMSlFCVSIAzBHOMSwyVHjNcl9wpNmkqbK1OIIVQ1EA"


def read_file(part: Part, path: str) -> str:
    return next(file.content.decode() for file in part.files if file.path == path)


@pytest.mark.parametrize(
    ("reports_setting", "address"),
    [
        (None, "postmaster@mail.example.org"),
        ("anna@example.org", "anna@example.org"),
        ("anna+dmarc@example.org", "anna+dmarc@example.org"),
        ("dmarc@example.org", "dmarc@example.org"),
    ],
)
def test_a_copy_of_the_published_addresss_mail_goes_to_the_reader(
    declared: dict[str, object], reports_setting: str | None, address: str
) -> None:
    more = {
        "accounts": [{"address": "anna@example.org", "password": HASH}],
        "aliases": {"dmarc@example.org": "x@y.test"},
    }
    settings = Settings.model_validate(declared | more | {"dns": {"reports": reports_setting}})
    part = postfix.build_part(settings, None)
    rows = [line.split() for line in read_file(part, "/etc/postfix/report_copies").splitlines() if line[:1] not in "# "]
    abuse = ("abuse@mail.example.org", "abuse@example.org")
    assert rows == [[name, "mailkeep-reports@localhost"] for name in (address, *abuse)]
    assert "recipient_bcc_maps = texthash:/etc/postfix/report_copies" in read_file(part, "/etc/postfix/main.cf")
    assert "user=mailkeep-reports argv=/usr/bin/python3" in read_file(part, "/etc/postfix/master.cf")
    assert settings.report_address == address
    aliases = read_file(part, "/etc/postfix/aliases")
    assert "mailkeep-reports" not in aliases, "strangers could write to it"


def test_the_address_is_that_of_the_records(settings: Settings) -> None:
    values = [record.value for record in records._domain_records("example.org", settings)]
    assert sum(f"rua=mailto:{settings.report_address}" in value for value in values) == 2


def test_where_reports_go_elsewhere_nothing_is_read(declared: dict[str, object]) -> None:
    settings = Settings.model_validate(declared | {"dns": {"reports": "reports@example.net"}})
    part, mail = reports.build_part(settings), postfix.build_part(settings, None)
    assert (part.files, part.units, part.users, part.kept) == ((), (), (), ())
    removed = {file.path for file in reports.build_part(Settings.model_validate(declared)).files}
    assert set(part.absent) == removed
    assert "mailkeep-reports" not in read_file(mail, "/etc/postfix/main.cf")
    assert "mailkeep-reports" not in read_file(mail, "/etc/postfix/master.cf")
    assert "mailkeep-reports" not in read_file(mail, "/etc/postfix/report_copies")


def test_the_reader_knows_our_domains_and_who_sends_for_us(declared: dict[str, object], tmp_path: Path) -> None:
    more = {
        "dns": {"spf": ["ip4:198.51.100.0/28", "include:_spf.example.net"], "never_send": ["www.example.org"]},
        "forwarders": ["203.0.113.60"],
    }
    part = reports.build_part(Settings.model_validate(declared | more))
    file = tmp_path / "reports.json"
    file.write_text(read_file(part, reports.CONFIG))
    config = load_config(file)
    assert config.address == "postmaster@mail.example.org"
    assert [config.find_domain(name) for name in ("a.example.org", "mail.example.org", "example.com")] == [
        "example.org",
        "mail.example.org",
        "",
    ]
    sources = ("192.0.2.1", "2001:db8::1", "198.51.100.3", "203.0.113.60", "203.0.113.61")
    assert [config.find_kind(source) for source in sources] == ["own", "own", "spf", "forwarder", ""]


def test_the_state_is_in_backups_and_the_waiting_copies_are_not(settings: Settings) -> None:
    part = reports.build_part(settings)
    assert part.kept == ("/var/lib/mailkeep-reports/reports.db", "/var/lib/mailkeep-reports/announcements.json")


def test_the_reader_is_shut_in(settings: Settings) -> None:
    unit = read_file(reports.build_part(settings), reports.SERVICE)
    for line in ("PrivateNetwork=yes", "CapabilityBoundingSet=", "ProtectSystem=strict", "MemoryMax=128M", "Nice=19"):
        assert f"\n{line}\n" in unit
    assert json.loads(read_file(reports.build_part(settings), reports.CONFIG))["domains"][0] == "example.org"
