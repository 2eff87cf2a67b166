"""What an old server has published is compared with ours, and each difference has its place in the order of changes."""

from dns_observations import observe_values, values_of
from dns_samples import make_secrets, make_settings

from mailkeep.dns import records
from mailkeep.dns.client import Question
from mailkeep.dns.moving_order import Change, merge_spf, order_changes
from mailkeep.inventory.secrets import Secrets
from mailkeep.settings.models import Settings

OLD_ADDRESS = "198.51.100.25"
OLD_TLSA = "3 1 1 " + "ab" * 32
HOST, DOMAIN = "mail.example.org", "example.org"


def make_changes(
    published: dict[tuple[str, str], tuple[str, ...]], settings: Settings, secrets: Secrets
) -> dict[tuple[str, str], list[Change]]:
    values = {Question(*question): answers for question, answers in published.items()}
    expected = [Question(record.name, record.type) for record in records.all_records(settings, secrets)]
    changes: dict[tuple[str, str], list[Change]] = {}
    for change in order_changes(settings, secrets, observe_values(values, expected).answers):
        changes.setdefault((change.name, change.type), []).append(change)
    return changes


def old_zone(secrets: Secrets) -> dict[tuple[str, str], tuple[str, ...]]:
    """As the old server needs it: the same names, another address, and the DKIM key that was taken over."""
    key = secrets.dkim[0]
    return {
        (HOST, "A"): (OLD_ADDRESS,),
        (DOMAIN, "MX"): (f"10 {HOST}.",),
        (DOMAIN, "TXT"): (f"v=spf1 mx ip4:{OLD_ADDRESS} include:_spf.example.net -all", "some-verification=1"),
        (f"{key.selector}._domainkey.{DOMAIN}", "TXT"): (f"k=rsa; p={key.public}",),
        (f"_25._tcp.{HOST}", "TLSA"): (OLD_TLSA,),
    }


def test_on_another_machine_the_address_is_the_switch_and_the_dkim_record_stays() -> None:
    settings = make_settings()
    secrets = make_secrets(settings)
    changes = make_changes(old_zone(secrets), settings, secrets)

    [ttl, switch] = changes[HOST, "A"]
    assert (ttl.stage, ttl.published) == ("days before", "TTL 3600")
    assert (switch.stage, switch.published, switch.value) == ("switch", OLD_ADDRESS, "203.0.113.25")
    assert [change.stage for change in changes[DOMAIN, "MX"]] == ["days before", "unchanged"]
    [dkim] = changes[f"{secrets.dkim[0].selector}._domainkey.{DOMAIN}", "TXT"]
    assert dkim.stage == "unchanged", "written in another way, and the same key"
    [host_key] = changes[f"{secrets.dkim[1].selector}._domainkey.{HOST}", "TXT"]
    assert host_key.stage == "before"

    spf_before, spf_after = changes[DOMAIN, "TXT"]
    assert (spf_before.stage, spf_before.value) == (
        "before",
        f"v=spf1 ip4:203.0.113.25 ip6:2001:db8::25 mx ip4:{OLD_ADDRESS} include:_spf.example.net -all",
    )
    assert (spf_after.stage, spf_after.value) == ("after", "v=spf1 ip4:203.0.113.25 ip6:2001:db8::25 -all")
    tlsa_before, tlsa_after = changes[f"_25._tcp.{HOST}", "TLSA"]
    assert (tlsa_before.stage, tlsa_before.published, tlsa_after.stage) == ("before", OLD_TLSA, "after")
    assert tlsa_before.value == tlsa_after.value != OLD_TLSA
    assert changes["25.113.0.203.in-addr.arpa", "PTR"][0].stage == "before"
    assert changes[f"_imaps._tcp.{DOMAIN}", "SRV"][0].stage == "switch"


def test_the_steps_are_in_the_order_in_which_to_take_them() -> None:
    settings = make_settings()
    secrets = make_secrets(settings)
    published = {Question(*question): answers for question, answers in old_zone(secrets).items()}
    expected = [Question(record.name, record.type) for record in records.all_records(settings, secrets)]
    stages = [change.stage for change in order_changes(settings, secrets, observe_values(published, expected).answers)]
    assert [*dict.fromkeys(stages)] == ["days before", "before", "switch", "after", "unchanged"]


def test_with_a_new_name_its_address_comes_before_and_the_mx_is_the_switch() -> None:
    settings = make_settings(host="mx.example.org")
    secrets = make_secrets(settings)
    changes = make_changes(old_zone(secrets), settings, secrets)
    assert [(change.stage, change.published) for change in changes["mx.example.org", "A"]] == [("before", "")]
    assert [change.stage for change in changes[DOMAIN, "MX"]] == ["days before", "switch"]
    assert changes["_25._tcp.mx.example.org", "TLSA"][0].stage == "after"


def test_where_all_is_published_nothing_changes() -> None:
    settings = make_settings()
    secrets = make_secrets(settings)
    answers = observe_values(values_of(records.all_records(settings, secrets))).answers
    stages = {change.stage for change in order_changes(settings, secrets, answers)}
    assert stages == {"days before", "unchanged"}


def test_a_selector_with_another_key_is_a_conflict_and_not_called_right() -> None:
    settings = make_settings()
    secrets = make_secrets(settings)
    name = f"{secrets.dkim[0].selector}._domainkey.{DOMAIN}"
    zone = {**old_zone(secrets), (name, "TXT"): (f"v=DKIM1; p={secrets.dkim[1].public}",)}
    [change] = make_changes(zone, settings, secrets)[name, "TXT"]
    assert change.stage == "switch"
    assert "signatures of the new server would fail" in change.action


def test_both_servers_may_send_by_the_record_in_between() -> None:
    assert merge_spf("v=spf1 mx -all", "v=spf1 ip4:203.0.113.25 -all") == "v=spf1 ip4:203.0.113.25 mx -all"
    assert merge_spf("v=spf1 IP4:203.0.113.25 ~all", "v=spf1 ip4:203.0.113.25 -all") == "v=spf1 IP4:203.0.113.25 ~all"
