"""A record behind an alias counts: resolvers follow it, though the alias's own servers may not have the record."""

import pytest
from dns_samples import make_secrets, make_settings
from nameservers import serve_zones

from mailkeep.dns import formats, judge, observe, records
from mailkeep.dns.client import Question
from mailkeep.dns.findings import Finding
from mailkeep.dns.records import Record
from mailkeep.operate import dkim_rotation

SETTINGS = make_settings()
SECRETS = make_secrets(SETTINGS)
RECORDS = [*records.own_zone_records(SETTINGS, SECRETS), *records.reverse_records(SETTINGS)]
DKIM = records.dkim_record(next(key for key in SECRETS.dkim if key.domain == "example.org"))
DMARC = next(record for record in RECORDS if record.name == "_dmarc.example.org")
PTR = next(record for record in RECORDS if record.name.endswith(".in-addr.arpa"))
# Hosters delegate the reverse names of addresses to customers in this way (RFC 2317 §4).
ALIASES = {DKIM: "s1.customers.example.net", DMARC: "_dmarc.example.com", PTR: "25.0-26.113.0.203.in-addr.arpa"}
ZONES = ("example.org", "example.net", "example.com", "113.0.203.in-addr.arpa", "0-26.113.0.203.in-addr.arpa")


def build_zones(record: Record, alias: str, targets: str) -> dict[str, str]:
    zones = dict.fromkeys(ZONES, "")
    zones[_zone_of(record.name)] += f"{record.name}. CNAME {alias}.\n"
    zones[_zone_of(alias)] += targets
    return zones


def _zone_of(name: str) -> str:
    return max((zone for zone in ZONES if name.endswith(zone)), key=len)


def find_flaws(record: Record, targets: str, monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    with serve_zones(build_zones(record, ALIASES[record], targets), monkeypatch) as resolver:
        answers = observe.query_names([Question(record.name, record.type)], resolver)
    [answer] = answers.authoritative[Question(record.name, record.type)].values()
    assert answer.alias == ALIASES[record]  # the alias's own server was asked
    return list(judge.judge_records([record], answers))


def format_target(record: Record, value: str) -> str:
    return formats.format_zone_file(
        [Record(record.need, ALIASES[record], record.type, value, record.reason, record.source)]
    )


OTHER = {DKIM: "v=DKIM1; p=", DMARC: "v=DMARC1; p=none", PTR: "customer-25.example.net"}


@pytest.mark.slow
@pytest.mark.parametrize("record", ALIASES, ids=lambda record: record.name)
def test_the_target_of_an_alias_counts(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_flaws(record, format_target(record, record.value), monkeypatch) == []
    assert find_flaws(record, format_target(record, OTHER[record]), monkeypatch)
    [missing] = find_flaws(record, "", monkeypatch)
    assert (missing.level, missing.problem) == ("error", "the record is missing")


def test_a_new_key_behind_an_alias_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    [key] = [key for key in SECRETS.dkim if key.domain == "example.org"]
    with serve_zones(build_zones(DKIM, ALIASES[DKIM], format_target(DKIM, DKIM.value)), monkeypatch) as resolver:
        assert dkim_rotation.find_unpublished([key], resolver) == {}
