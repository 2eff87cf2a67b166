"""SPF is judged by whom each of its terms lets send, look-ups included."""

import pytest
from dns_samples import keys, settings
from nameservers import serving

from mailkeep.dns import judge, observe, records
from mailkeep.dns.client import Question
from mailkeep.dns.findings import Finding
from mailkeep.settings.models import Settings

DECLARED = settings(spf=["include:_spf.example.net", "ip4:198.51.100.7"])
OWN = "ip4:203.0.113.25 ip6:2001:db8::25"
TEXT = Question("example.org", "TXT")


def found(spf: str, monkeypatch: pytest.MonkeyPatch, declared: Settings = DECLARED) -> list[Finding]:
    """What is wrong with this record of example.org, where _spf.example.net lets 192.0.2.0/28 send."""
    wanted = [one for one in records.own_zone_records(declared, keys(declared)) if Question(one.name, one.type) == TEXT]
    zones = {"example.net": '_spf TXT "v=spf1 ip4:192.0.2.0/28 -all"\n', "example.org": f'@ TXT "{spf}"\n'}
    with serving(zones, monkeypatch) as resolver:
        return list(judge.judge_records(wanted, observe.query_names([TEXT], resolver)))


@pytest.mark.parametrize(
    "terms",
    [
        "ip4:203.0.113.25/32 ip6:2001:db8::25 include:_spf.example.net ip4:198.51.100.7",
        "+ip4:203.0.113.25 IP6:2001:db8:0::25 +INCLUDE:_spf.Example.net ip4:198.51.100.7/32",
        f"{OWN} include:_spf.example.net ip4:198.51.100.7 ip4:192.0.2.1",  # which the include has already
        f"{OWN} include:_spf.example.net ip4:198.51.100.7 ?ip4:192.0.2.99 exp=why.example.org",
    ],
)
def test_nobody_is_blamed_for_other_words(terms: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(f"v=spf1 {terms} -all", monkeypatch) == []


@pytest.mark.parametrize("more", ["ip4:198.51.100.0/30", "ip4:203.0.113.0/24", "exists:%{i}.list.example.net"])
def test_who_may_send_too_is_named_and_nobody_else(more: str, monkeypatch: pytest.MonkeyPatch) -> None:
    [finding] = found(f"v=spf1 {OWN} include:_spf.example.net ip4:198.51.100.7 {more} -all", monkeypatch)
    assert (finding.level, finding.problem.partition(" may send too")[0]) == ("warning", more)


def test_a_relay_host_without_spf_of_its_own_is_told_with_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = settings(relay={"host": "smtp.example.net"})
    [finding] = found(f"v=spf1 {OWN} include:smtp.example.net -all", monkeypatch, declared)
    assert finding.level == "error"
    assert "smtp.example.net has no SPF record" in finding.problem
    assert finding.advice.startswith("Put into dns.spf what whoever runs smtp.example.net names for SPF")
    [finding] = found(f"v=spf1 {OWN} include:smtp.example.net -all", monkeypatch)
    assert finding.advice.startswith("Set v=spf1")  # it is not mail.yml that names it
