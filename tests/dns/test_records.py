"""The list has every record that other servers need, and none of names that are not the operator's."""

import re
from dataclasses import replace

import pytest
from checkdmarc.dmarc import parse_dmarc_record
from dns_samples import FIRST_DAY, make_secrets, make_settings

from mailkeep.dns import mta_sts, records
from mailkeep.dns.records import Record
from mailkeep.inventory import tls_certificate
from mailkeep.settings.models import Settings


def own_records(settings: Settings) -> list[Record]:
    return records.own_zone_records(settings, make_secrets(settings))


def values_at(settings: Settings, name: str, record_type: str = "TXT") -> list[str]:
    return [record.value for record in own_records(settings) if (record.name, record.type) == (name, record_type)]


def test_the_most_important_come_first_and_each_says_why_and_by_which_rfc() -> None:
    needs = [record.need for record in own_records(make_settings())]
    assert needs == sorted(needs, key=("required", "recommended", "optional").index)
    assert all(
        record.reason.endswith(".") and re.match(r"RFC \d+ §", record.source) for record in own_records(make_settings())
    )


def test_mail_finds_the_server_and_its_addresses_name_it() -> None:
    assert values_at(make_settings(), "example.org", "MX") == ["10 mail.example.org."]
    assert values_at(make_settings(), "mail.example.org", "A") == ["203.0.113.25"]
    assert values_at(make_settings(), "mail.example.org", "AAAA") == ["2001:db8::25"]
    assert {record.value for record in records.reverse_records(make_settings())} == {"mail.example.org"}


@pytest.mark.parametrize("name", ["example.org", "mail.example.org"])
def test_only_the_servers_addresses_send_for_a_domain_and_for_the_host(name: str) -> None:
    assert values_at(make_settings(), name) == ["v=spf1 ip4:203.0.113.25 ip6:2001:db8::25 -all"]


@pytest.mark.parametrize(
    ("more", "terms"),
    [
        ({"relay": {"host": "smtp.example.net"}}, "include:smtp.example.net -all"),
        ({"relay": {"host": "198.51.100.7"}}, "ip4:198.51.100.7 -all"),
        ({"relay": {"host": "2001:db8:1::7"}}, "ip6:2001:db8:1::7 -all"),
        (
            {"spf": ["include:_spf.example.net", "ip4:198.51.100.7"]},
            "include:_spf.example.net ip4:198.51.100.7 -all",
        ),
        ({"relay": {"host": "smtp.example.net"}, "spf": ["include:_spf.example.net"]}, "include:_spf.example.net -all"),
        ({"dmarc": "none"}, "~all"),
    ],
)
def test_other_senders_are_in_spf(more: dict[str, object], terms: str) -> None:
    assert values_at(make_settings(**more), "example.org") == [f"v=spf1 ip4:203.0.113.25 ip6:2001:db8::25 {terms}"]


def test_a_relay_host_may_need_another_term_than_its_name() -> None:
    def mentions_spf(**more: object) -> bool:
        return "put into dns.spf" in " ".join(
            records.list_instructions(make_settings(relay={"host": "smtp.example.net"}, **more))
        )

    assert mentions_spf()
    assert not mentions_spf(spf=["include:_spf.example.net"])


@pytest.mark.parametrize("stage", ["none", "quarantine", "reject"])
def test_dmarc_has_stages_and_names_that_do_not_exist_are_refused_at_each(stage: str) -> None:
    settings = make_settings(dmarc=stage)
    [record] = values_at(settings, "_dmarc.example.org")
    tags = {name: tag["value"] for name, tag in parse_dmarc_record(record, "example.org")["tags"].items()}
    assert (tags["p"], tags["sp"], tags["np"]) == (stage, stage, "reject")
    assert "postmaster@mail.example.org" in str(tags["rua"])
    advice = " ".join(records.list_instructions(settings))
    assert ("set dns.dmarc: quarantine" in advice, "set dns.dmarc: reject" in advice) == (
        stage == "none",
        stage == "quarantine",
    )


def test_nobody_sends_as_the_host_even_in_the_trial_stage_of_dmarc() -> None:
    assert "p=reject" in values_at(make_settings(dmarc="none"), "_dmarc.mail.example.org")[0]


def test_names_that_never_send_say_so() -> None:
    settings = make_settings(never_send=["www.example.org"], mta_sts="testing")
    for name in ("www.example.org", "mta-sts.example.org"):
        assert values_at(settings, name) == ["v=spf1 -all"]
        assert "p=reject" in values_at(settings, f"_dmarc.{name}")[0]


def test_reports_that_go_to_another_registered_domain_are_authorised_there() -> None:
    def authorised_names(settings: Settings) -> set[str]:
        return {record.name for record in own_records(settings) if "._report." in record.name}

    def third_party_names(settings: Settings) -> set[str]:
        return {record.name for record in records.third_party_records(settings, make_secrets(settings))}

    assert authorised_names(make_settings("example.org", "shop.example.org")) == set()
    assert authorised_names(make_settings("example.org", "example.com")) == {
        "example.com._report._dmarc.mail.example.org"
    }
    assert third_party_names(make_settings("example.org", "example.com")) == set()
    foreign = make_settings(reports="dmarc@example.net")
    assert authorised_names(foreign) == set()  # only a third party can publish it
    assert third_party_names(foreign) == {
        "example.org._report._dmarc.example.net",
        "mail.example.org._report._dmarc.example.net",
    }


def test_mta_sts_has_a_policy_and_another_id_for_another_policy() -> None:
    def policy_id(mode: str) -> str:
        return values_at(make_settings(mta_sts=mode), "_mta-sts.example.org")[0]

    assert not values_at(make_settings(), "_mta-sts.example.org")
    assert policy_id("testing") != policy_id("enforce") == policy_id("enforce")
    text = mta_sts.policy_text(make_settings(mta_sts="enforce"))
    assert text.splitlines() == ["version: STSv1", "mode: enforce", "mx: mail.example.org", "max_age: 2592000"]


def test_a_policy_served_here_needs_addresses_and_one_served_elsewhere_an_instruction() -> None:
    served_here, served_elsewhere = (
        make_settings(mta_sts="testing"),
        make_settings(mta_sts="testing", web={"mta_sts": False}),
    )
    assert values_at(served_here, "mta-sts.example.org", "A") == ["203.0.113.25"]
    assert values_at(served_here, "mta-sts.example.org", "AAAA") == ["2001:db8::25"]
    assert records.list_instructions(served_here) == []
    assert values_at(served_elsewhere, "mta-sts.example.org", "A") == []
    assert "https://mta-sts.example.org/.well-known/mta-sts.txt" in records.list_instructions(served_elsewhere)[0]
    for settings in (served_here, served_elsewhere):
        assert values_at(settings, "mta-sts.example.org") == ["v=spf1 -all"]


def test_names_for_mail_programs_are_optional_and_never_send() -> None:
    settings = make_settings(web={"autoconfig": True})
    for name in ("autoconfig.example.org", "autodiscover.example.org"):
        at_name = [record for record in own_records(settings) if record.name == name]
        assert [(record.need, record.type) for record in at_name if record.type != "TXT"] == [
            ("optional", "A"),
            ("optional", "AAAA"),
        ]
        assert values_at(settings, name) == ["v=spf1 -all"]
        assert "p=reject" in values_at(settings, f"_dmarc.{name}")[0]
        assert name not in {record.name for record in own_records(make_settings())}


def test_a_name_is_listed_once_though_two_settings_say_that_it_never_sends() -> None:
    settings = make_settings(mta_sts="testing", never_send=["mta-sts.example.org"])
    assert values_at(settings, "mta-sts.example.org") == ["v=spf1 -all"]


def test_only_the_named_authorities_issue_for_the_host() -> None:
    assert not values_at(make_settings(), "mail.example.org", "CAA")
    named = make_settings(caa=["letsencrypt.org", "ca.example.net"])
    assert values_at(named, "mail.example.org", "CAA") == ['0 issue "letsencrypt.org"', '0 issue "ca.example.net"']


def test_with_acme_the_authority_in_use_alone_may_issue() -> None:
    def issuers(**acme: str) -> list[str]:
        return values_at(make_settings(tls={"mode": "acme", "acme": acme}), "mail.example.org", "CAA")

    assert issuers() == ['0 issue "letsencrypt.org"']
    # With DNS-01, an attacker who controls the address gets no certificate.
    by_dns = issuers(challenge="dns-01", provider="rfc2136")
    assert by_dns == ['0 issue "letsencrypt.org;validationmethods=dns-01"']
    assert issuers(directory="https://acme.example.net/directory") == []
    named = make_settings(tls={"mode": "acme"}, caa=["ca.example.net", "letsencrypt.org"])
    assert values_at(named, "mail.example.org", "CAA") == ['0 issue "ca.example.net"', '0 issue "letsencrypt.org"']


def test_while_a_tls_key_is_replaced_both_keys_are_published() -> None:
    settings = make_settings()
    secrets = make_secrets(settings)
    other = tls_certificate.split_pem(tls_certificate.create_self_signed("mail.example.org", FIRST_DAY))[0]

    def published_tlsa(*others: bytes) -> list[str]:
        all_records = records.own_zone_records(settings, replace(secrets, other_tls=others))
        return [record.value for record in all_records if record.type == "TLSA"]

    [present] = published_tlsa()
    assert published_tlsa(other)[0] == present
    assert len({*published_tlsa(other)}) == 2
    assert published_tlsa(secrets.tls.certificate) == [present]  # an interrupted rollover leaves a key twice


def test_a_mail_domain_below_a_live_one_leaves_that_alone() -> None:
    """As for a trial below the root domain, whose mail stays at another server (incident A)."""
    settings = make_settings("test.example.org", host="mail.test.example.org")
    below = re.compile(r"(?:.*\.)?test\.example\.org")
    assert not [record.name for record in own_records(settings) if not below.fullmatch(record.name)]
    whole = {record.name.removesuffix(".test.example.org") for record in own_records(settings)}
    root = {record.name.removesuffix(".example.org") for record in own_records(make_settings())}
    assert whole == {name if name != "example.org" else "test.example.org" for name in root}
