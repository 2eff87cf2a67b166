"""SPF is judged by the senders that each term lets pass, lookups included."""

import pytest
from dns_samples import make_secrets, make_settings
from nameservers import serve_zones

from mailkeep.dns import judge, observe, records
from mailkeep.dns.client import Question
from mailkeep.dns.findings import Finding
from mailkeep.settings.models import Settings

SETTINGS = make_settings(spf=["include:_spf.example.net", "ip4:198.51.100.7"])
OWN_TERMS = "ip4:203.0.113.25 ip6:2001:db8::25"
TEXT = Question("example.org", "TXT")


def find_flaws(spf: str, monkeypatch: pytest.MonkeyPatch, settings: Settings = SETTINGS) -> list[Finding]:
    """The flaws of this record of example.org, where _spf.example.net lets 192.0.2.0/28 send."""
    all_records = records.own_zone_records(settings, make_secrets(settings))
    expected = [record for record in all_records if Question(record.name, record.type) == TEXT]
    zones = {"example.net": '_spf TXT "v=spf1 ip4:192.0.2.0/28 -all"\n', "example.org": f'@ TXT "{spf}"\n'}
    with serve_zones(zones, monkeypatch) as resolver:
        return list(judge.judge_records(expected, observe.query_names([TEXT], resolver)))


@pytest.mark.parametrize(
    "terms",
    [
        "ip4:203.0.113.25/32 ip6:2001:db8::25 include:_spf.example.net ip4:198.51.100.7",
        "+ip4:203.0.113.25 IP6:2001:db8:0::25 +INCLUDE:_spf.Example.net ip4:198.51.100.7/32",
        f"{OWN_TERMS} include:_spf.example.net ip4:198.51.100.7 ip4:192.0.2.1",  # the include covers it
        f"{OWN_TERMS} include:_spf.example.net ip4:198.51.100.7 ?ip4:192.0.2.99 exp=why.example.org",
    ],
)
def test_equivalent_terms_are_no_flaw(terms: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_flaws(f"v=spf1 {terms} -all", monkeypatch) == []


@pytest.mark.parametrize("extra", ["ip4:198.51.100.0/30", "ip4:203.0.113.0/24", "exists:%{i}.list.example.net"])
def test_an_additional_sender_is_named_and_nothing_else(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    [finding] = find_flaws(f"v=spf1 {OWN_TERMS} include:_spf.example.net ip4:198.51.100.7 {extra} -all", monkeypatch)
    assert (finding.level, finding.problem.partition(" may send too")[0]) == ("warning", extra)


@pytest.mark.slow
def test_a_relay_host_without_its_own_spf_is_reported_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_settings(relay={"host": "smtp.example.net"})
    [finding] = find_flaws(f"v=spf1 {OWN_TERMS} include:smtp.example.net -all", monkeypatch, settings)
    assert finding.level == "error"
    assert "smtp.example.net has no SPF record" in finding.problem
    assert finding.advice.startswith("Put into dns.spf what the provider of smtp.example.net names for SPF")
    [finding] = find_flaws(f"v=spf1 {OWN_TERMS} include:smtp.example.net -all", monkeypatch)
    assert finding.advice.startswith("Set v=spf1")  # mail.yml does not name it
