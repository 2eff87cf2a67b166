"""A record behind an alias is as good: the world follows it, though the alias's own servers may not have the record."""

import pytest
from dns_samples import keys, settings
from nameservers import serving

from mailkeep.dns import formats, judge, observe, records
from mailkeep.dns.client import Question
from mailkeep.dns.findings import Finding
from mailkeep.dns.records import Record
from mailkeep.operate import dkim_rotation

DECLARED = settings()
KEYS = keys(DECLARED)
LISTED = [*records.own_zone_records(DECLARED, KEYS), *records.reverse_records(DECLARED)]
DKIM = records.dkim_record(next(key for key in KEYS.dkim if key.domain == "example.org"))
DMARC = next(record for record in LISTED if record.name == "_dmarc.example.org")
PTR = next(record for record in LISTED if record.name.endswith(".in-addr.arpa"))
# A hoster that hands its customers the names of their addresses does it so (RFC 2317 §4).
ALIASES = {DKIM: "s1.customers.example.net", DMARC: "_dmarc.example.com", PTR: "25.0-26.113.0.203.in-addr.arpa"}
ZONES = ("example.org", "example.net", "example.com", "113.0.203.in-addr.arpa", "0-26.113.0.203.in-addr.arpa")


def zones(record: Record, alias: str, targets: str) -> dict[str, str]:
    made = dict.fromkeys(ZONES, "")
    made[_zone(record.name)] += f"{record.name}. CNAME {alias}.\n"
    made[_zone(alias)] += targets
    return made


def _zone(name: str) -> str:
    return max((zone for zone in ZONES if name.endswith(zone)), key=len)


def found(record: Record, targets: str, monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    with serving(zones(record, ALIASES[record], targets), monkeypatch) as resolver:
        seen = observe.query_names([Question(record.name, record.type)], resolver)
    [answer] = seen.authoritative[Question(record.name, record.type)].values()
    assert answer.alias == ALIASES[record]  # it is the alias's own server that was asked
    return list(judge.judge_records([record], seen))


def target(record: Record, value: str) -> str:
    return formats.format_zone_file(
        [Record(record.need, ALIASES[record], record.type, value, record.reason, record.source)]
    )


OTHER = {DKIM: "v=DKIM1; p=", DMARC: "v=DMARC1; p=none", PTR: "customer-25.example.net"}


@pytest.mark.parametrize("record", ALIASES, ids=lambda record: record.name)
def test_what_an_alias_leads_to_counts(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(record, target(record, record.value), monkeypatch) == []
    assert found(record, target(record, OTHER[record]), monkeypatch)
    [missing] = found(record, "", monkeypatch)
    assert (missing.level, missing.problem) == ("error", "it is not there")


def test_a_new_key_behind_an_alias_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    [key] = [key for key in KEYS.dkim if key.domain == "example.org"]
    with serving(zones(DKIM, ALIASES[DKIM], target(DKIM, DKIM.value)), monkeypatch) as resolver:
        assert dkim_rotation.find_unpublished([key], resolver) == {}
