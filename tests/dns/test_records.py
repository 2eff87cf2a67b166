"""The list of records says all that the world must know of a server, and nothing of what is not its."""

import re
from dataclasses import replace

import pytest
from checkdmarc.dmarc import parse_dmarc_record
from dns_samples import FIRST_DAY, keys, settings

from mailkeep.dns import mta_sts, records
from mailkeep.dns.records import Record
from mailkeep.inventory import tls_certificate
from mailkeep.settings.models import Settings


def listed(declared: Settings) -> list[Record]:
    return records.own_zone_records(declared, keys(declared))


def values(declared: Settings, name: str, kind: str = "TXT") -> list[str]:
    return [record.value for record in listed(declared) if (record.name, record.type) == (name, kind)]


def test_the_most_important_come_first_and_each_says_why_and_by_which_rfc() -> None:
    needs = [record.need for record in listed(settings())]
    assert needs == sorted(needs, key=("required", "recommended", "optional").index)
    assert all(record.reason.endswith(".") and re.match(r"RFC \d+ §", record.source) for record in listed(settings()))


def test_mail_finds_the_server_and_the_server_is_who_it_says() -> None:
    assert values(settings(), "example.org", "MX") == ["10 mail.example.org."]
    assert values(settings(), "mail.example.org", "A") == ["203.0.113.25"]
    assert values(settings(), "mail.example.org", "AAAA") == ["2001:db8::25"]
    assert {record.value for record in records.reverse_records(settings())} == {"mail.example.org"}


@pytest.mark.parametrize("name", ["example.org", "mail.example.org"])
def test_only_the_servers_addresses_send_for_a_domain_and_for_the_host(name: str) -> None:
    assert values(settings(), name) == ["v=spf1 ip4:203.0.113.25 ip6:2001:db8::25 -all"]


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
def test_what_else_sends_is_in_spf(more: dict[str, object], terms: str) -> None:
    assert values(settings(**more), "example.org") == [f"v=spf1 ip4:203.0.113.25 ip6:2001:db8::25 {terms}"]


def test_a_relay_host_may_need_another_term_than_its_name() -> None:
    def said(**more: object) -> bool:
        return "put into dns.spf" in " ".join(
            records.list_instructions(settings(relay={"host": "smtp.example.net"}, **more))
        )

    assert said()
    assert not said(spf=["include:_spf.example.net"])


@pytest.mark.parametrize("stage", ["none", "quarantine", "reject"])
def test_dmarc_goes_in_stages_and_names_that_do_not_exist_are_refused_at_each(stage: str) -> None:
    declared = settings(dmarc=stage)
    [record] = values(declared, "_dmarc.example.org")
    tags = {name: tag["value"] for name, tag in parse_dmarc_record(record, "example.org")["tags"].items()}
    assert (tags["p"], tags["sp"], tags["np"]) == (stage, stage, "reject")
    assert "postmaster@mail.example.org" in str(tags["rua"])
    advice = " ".join(records.list_instructions(declared))
    assert ("set dns.dmarc: quarantine" in advice, "set dns.dmarc: reject" in advice) == (
        stage == "none",
        stage == "quarantine",
    )


def test_nobody_writes_as_the_host_even_while_dmarc_is_tried_out() -> None:
    assert "p=reject" in values(settings(dmarc="none"), "_dmarc.mail.example.org")[0]


def test_names_that_never_send_say_so() -> None:
    declared = settings(never_send=["www.example.org"], mta_sts="testing")
    for name in ("www.example.org", "mta-sts.example.org"):
        assert values(declared, name) == ["v=spf1 -all"]
        assert "p=reject" in values(declared, f"_dmarc.{name}")[0]


def test_reports_that_go_to_another_registered_domain_are_authorised_there() -> None:
    def authorised(declared: Settings) -> set[str]:
        return {record.name for record in listed(declared) if "._report." in record.name}

    def elsewhere(declared: Settings) -> set[str]:
        return {record.name for record in records.third_party_records(declared, keys(declared))}

    assert authorised(settings("example.org", "shop.example.org")) == set()
    assert authorised(settings("example.org", "example.com")) == {"example.com._report._dmarc.mail.example.org"}
    assert elsewhere(settings("example.org", "example.com")) == set()
    foreign = settings(reports="dmarc@example.net")
    assert authorised(foreign) == set()  # it is not ours to publish
    assert elsewhere(foreign) == {
        "example.org._report._dmarc.example.net",
        "mail.example.org._report._dmarc.example.net",
    }


def test_mta_sts_has_a_policy_and_another_id_for_another_policy() -> None:
    def policy_id(mode: str) -> str:
        return values(settings(mta_sts=mode), "_mta-sts.example.org")[0]

    assert not values(settings(), "_mta-sts.example.org")
    assert policy_id("testing") != policy_id("enforce") == policy_id("enforce")
    text = mta_sts.policy_text(settings(mta_sts="enforce"))
    assert text.splitlines() == ["version: STSv1", "mode: enforce", "mx: mail.example.org", "max_age: 2592000"]


def test_a_policy_that_is_served_here_needs_addresses_and_elsewhere_an_instruction() -> None:
    here, elsewhere = settings(mta_sts="testing"), settings(mta_sts="testing", web={"mta_sts": False})
    assert values(here, "mta-sts.example.org", "A") == ["203.0.113.25"]
    assert values(here, "mta-sts.example.org", "AAAA") == ["2001:db8::25"]
    assert records.list_instructions(here) == []
    assert values(elsewhere, "mta-sts.example.org", "A") == []
    assert "https://mta-sts.example.org/.well-known/mta-sts.txt" in records.list_instructions(elsewhere)[0]
    for declared in (here, elsewhere):
        assert values(declared, "mta-sts.example.org") == ["v=spf1 -all"]


def test_names_for_mail_programs_are_optional_and_never_send() -> None:
    declared = settings(web={"autoconfig": True})
    for name in ("autoconfig.example.org", "autodiscover.example.org"):
        found = [record for record in listed(declared) if record.name == name]
        assert [(one.need, one.type) for one in found if one.type != "TXT"] == [("optional", "A"), ("optional", "AAAA")]
        assert values(declared, name) == ["v=spf1 -all"]
        assert "p=reject" in values(declared, f"_dmarc.{name}")[0]
        assert name not in {record.name for record in listed(settings())}


def test_a_name_is_listed_once_though_two_settings_say_that_it_never_sends() -> None:
    declared = settings(mta_sts="testing", never_send=["mta-sts.example.org"])
    assert values(declared, "mta-sts.example.org") == ["v=spf1 -all"]


def test_only_the_named_authorities_issue_for_the_host() -> None:
    assert not values(settings(), "mail.example.org", "CAA")
    named = settings(caa=["letsencrypt.org", "ca.example.net"])
    assert values(named, "mail.example.org", "CAA") == ['0 issue "letsencrypt.org"', '0 issue "ca.example.net"']


def test_with_acme_the_authority_in_use_alone_may_issue() -> None:
    def may(**acme: str) -> list[str]:
        return values(settings(tls={"mode": "acme", "acme": acme}), "mail.example.org", "CAA")

    assert may() == ['0 issue "letsencrypt.org"']
    # Who answers it in the DNS is hurt by nobody who gets hold of the address.
    by_dns = may(challenge="dns-01", provider="rfc2136")
    assert by_dns == ['0 issue "letsencrypt.org;validationmethods=dns-01"']
    assert may(directory="https://acme.example.net/directory") == []
    named = settings(tls={"mode": "acme"}, caa=["ca.example.net", "letsencrypt.org"])
    assert values(named, "mail.example.org", "CAA") == ['0 issue "ca.example.net"', '0 issue "letsencrypt.org"']


def test_while_a_tls_key_is_replaced_both_are_published() -> None:
    declared = settings()
    ours = keys(declared)
    other = tls_certificate.split_pem(tls_certificate.create_self_signed("mail.example.org", FIRST_DAY))[0]

    def published(*others: bytes) -> list[str]:
        found = records.own_zone_records(declared, replace(ours, other_tls=others))
        return [record.value for record in found if record.type == "TLSA"]

    [present] = published()
    assert published(other)[0] == present
    assert len({*published(other)}) == 2
    assert published(ours.tls.certificate) == [present]  # an interrupted roll-over leaves one twice


def test_a_mail_domain_below_a_live_one_leaves_that_alone() -> None:
    """As the author of incident A needed it: a test below the root domain, whose mail goes on elsewhere."""
    declared = settings("test.example.org", host="mail.test.example.org")
    below = re.compile(r"(?:.*\.)?test\.example\.org")
    assert not [record.name for record in listed(declared) if not below.fullmatch(record.name)]
    whole = {record.name.removesuffix(".test.example.org") for record in listed(declared)}
    root = {record.name.removesuffix(".example.org") for record in listed(settings())}
    assert whole == {name if name != "example.org" else "test.example.org" for name in root}
