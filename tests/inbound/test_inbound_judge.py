"""What becomes of a message: forgeries are refused or sorted, honest mail comes in, and a silent DNS refuses nobody."""

from dataclasses import replace
from ipaddress import ip_network

import pytest
from inbound_samples import (
    BANK,
    BANK_CLIENT,
    BANK_CLIENT6,
    CONFIG,
    HOST,
    LIST,
    LIST_CLIENT,
    OURS,
    SELECTOR,
    STRANGER,
    SampleDns,
    build_zone,
    compose,
    pass_message,
    seal,
    sign,
)

CEO, ANNA = f"ceo@{BANK}", f"anna@{OURS}"


@pytest.fixture
def dns() -> SampleDns:
    return SampleDns(build_zone())


# --- the owner's policy


def test_mail_that_spf_or_dkim_proves_comes_in(dns: SampleDns) -> None:
    for client in (BANK_CLIENT, BANK_CLIENT6):
        assert pass_message(compose(CEO), dns, client=client, sender=CEO).verdict == "c"
    assert pass_message(sign(compose(CEO), BANK), dns).verdict == "c"


def test_a_forgery_is_refused_with_a_text_that_helps(dns: SampleDns) -> None:
    answer = pass_message(compose(CEO), dns, sender="x@quiet.example")
    assert answer.verdict == "y"
    assert answer.text == (
        "550 5.7.1 bank.example asks to refuse mail that neither its SPF record nor its DKIM signature proves (DMARC). "
        "Send it by a server of that domain. For a mailing list or forwarder, write to postmaster@mail.example.org"
    )
    assert answer.inserted == {}


def test_spf_of_another_domain_proves_nothing(dns: SampleDns) -> None:
    answer = pass_message(compose(CEO), dns, client=LIST_CLIENT, sender=f"x@{LIST}")
    assert answer.text.startswith("550 5.7.1 bank.example ")


def test_an_empty_sender_is_proven_by_the_helo_name(dns: SampleDns) -> None:
    assert pass_message(compose(CEO), dns, client=BANK_CLIENT, helo=BANK).verdict == "c"
    assert pass_message(compose(CEO), dns, client=BANK_CLIENT, helo="mx.example").verdict == "y"


def test_a_suspicious_message_is_marked_for_junk(dns: SampleDns) -> None:
    answer = pass_message(compose("x@shop.example"), dns)
    assert answer.verdict == "c"
    assert answer.inserted["X-Mailkeep-Junk"] == " yes"
    assert answer.inserted["X-Mailkeep-Junk-Reason"] == (
        " neither SPF nor DKIM proves that it is from shop.example, which calls such mail suspicious (DMARC)"
    )


def test_a_refusal_under_test_is_junk(dns: SampleDns) -> None:
    answer = pass_message(compose("x@test.example"), dns)
    assert answer.verdict == "c"
    assert "dmarc=fail header.from=test.example policy.dmarc=reject" in answer.inserted["Authentication-Results"]
    assert answer.inserted["X-Mailkeep-Junk"] == " yes"


def test_mail_without_any_record_or_author_comes_in(dns: SampleDns) -> None:
    for data in (compose("x@quiet.example"), compose("undisclosed:;"), b"Subject: nobody\r\n\r\ntext\r\n", b"\r\n\r\n"):
        assert pass_message(data, dns).verdict == "c"


@pytest.mark.parametrize(
    "author",
    [
        "CEO <CEO@BANK.EXAMPLE>",
        "ceo@bank.example.",
        '"=?utf-8?q?x?=" <ceo@bank.example>',
        "(x@quiet.example) ceo@bank.example",
        '"x@quiet.example" <ceo@bank.example>',
        "x <ceo(comment)@bank.example>",
        "ceo@\r\n bank.example",
        "<ceo@bank.example",
        "a b c ceo@bank.example <>",
        "x" * 5000 + " <ceo@bank.example>",
        "ceo@bank.example <ceo@bank.example>",
    ],
)
def test_the_author_is_seen_in_every_spelling(dns: SampleDns, author: str) -> None:
    assert pass_message(compose(author), dns).text.startswith("550 5.7.1 bank.example asks"), author


def test_several_authors_are_sorted_and_ours_refused(dns: SampleDns) -> None:
    """RFC 9989 section 5.3.1 leaves such mail to the receiver: no honest letter of two authors is refused."""
    answer = pass_message(compose(f"x@quiet.example, {CEO}"), dns)
    assert answer.verdict == "c"
    assert "bank.example, which asks to refuse such mail" in answer.inserted["X-Mailkeep-Junk-Reason"]
    assert pass_message(compose(f"x@quiet.example, {ANNA}"), dns).verdict == "y"
    two_lines = compose("x@quiet.example", f"From: {ANNA}")
    assert pass_message(two_lines, dns).verdict == "y"


def test_without_from_the_sender_line_counts(dns: SampleDns) -> None:
    """Some mail programs show it then."""
    for author in (CEO, ANNA):
        assert pass_message(f"Sender: {author}\r\nSubject: x\r\n\r\n".encode(), dns).verdict == "y"
    assert pass_message(compose("x@quiet.example", f"Sender: {ANNA}"), dns).verdict == "c"


def test_many_authors_ask_the_dns_for_few(dns: SampleDns) -> None:
    authors = ", ".join(f"x@a{number}.b.c.d.example" for number in range(90))
    assert pass_message(compose(authors), dns).verdict == "c"
    assert len(dns.questions) < 30


# --- our own domains


@pytest.mark.parametrize("author", [ANNA, "x@news.example.org", f"root@{HOST}", "anna@example.net", "ANNA@EXAMPLE.ORG"])
def test_our_domains_need_our_proof_whatever_we_publish(dns: SampleDns, author: str) -> None:
    answer = pass_message(compose(author), dns, sender="x@quiet.example")
    assert answer.text.startswith("550 5.7.1 From: shows "), answer
    assert "inbound.trusted" in answer.text


def test_our_own_mail_comes_back(dns: SampleDns) -> None:
    assert pass_message(sign(compose(ANNA), OURS), dns, sender="list-bounces@lists.example").verdict == "c"
    assert pass_message(compose(ANNA), dns, client="192.0.2.25", sender=ANNA).verdict == "c"


def test_a_name_that_only_looks_like_ours_is_not_ours(dns: SampleDns) -> None:
    for author in ("x@notexample.org", "x@example.org.evil.example", f'"{ANNA}" <x@quiet.example>'):
        assert pass_message(compose(author), dns).verdict == "c"


def test_trusted_clients_write_as_us_and_as_nobody_else(dns: SampleDns) -> None:
    dns.zone["scanner.example.org", "A"] = ["198.51.100.77"]
    config = replace(
        CONFIG,
        trusted_networks=(ip_network("198.51.100.64/29"), ip_network("2001:db8:64::/48")),
        trusted_terms=("a:missing.example", "a:scanner.example.org"),
    )
    for client in ("198.51.100.66", "198.51.100.77", "2001:db8:64::66"):
        assert pass_message(compose(ANNA), dns, client=client, config=config).verdict == "c"
        assert pass_message(compose(CEO), dns, client=client, config=config).verdict == "y"
    assert pass_message(compose(ANNA), dns, client="198.51.100.78", config=config).verdict == "y"


# --- lists and forwards


def test_a_forwarder_may_bring_anything(dns: SampleDns) -> None:
    config = replace(CONFIG, forwarders=(ip_network(STRANGER), ip_network("2001:db8:61::/48")))
    for author, client in ((CEO, STRANGER), (ANNA, STRANGER), ("x@shop.example", "2001:db8:61::1")):
        answer = pass_message(compose(author), dns, client=client, config=config)
        assert (answer.verdict, "X-Mailkeep-Junk" in answer.inserted) == ("c", False)


def test_a_trusted_seal_is_believed_for_what_it_says(dns: SampleDns) -> None:
    trusting = replace(CONFIG, trusted_sealers=(LIST,))
    changed = compose(CEO, body="Hello.\r\n-- \r\nlist footer\r\n")
    genuine = seal(changed, LIST, f"dmarc=pass header.from={BANK}")
    assert pass_message(genuine, dns, config=trusting).verdict == "c"
    assert pass_message(genuine, dns).verdict == "y"  # nobody trusts it
    forged = seal(changed, LIST, f"dmarc=fail header.from={BANK}")
    assert pass_message(forged, dns, config=trusting).verdict == "y"
    broken = genuine.replace(b"list footer", b"pay to me")
    assert pass_message(broken, dns, config=trusting).verdict == "y"
    ours = seal(compose(ANNA), LIST, f"dkim=pass header.d={OURS}")
    assert pass_message(ours, dns, config=trusting).verdict == "c"


# --- a DNS that does not answer


def is_deferred(answer: object) -> bool:
    return getattr(answer, "text", "").startswith("451 4.7.0 The DNS does not tell now")


@pytest.mark.parametrize("name", [f"_dmarc.{BANK}", BANK])
def test_a_silent_dns_defers_a_forgery_and_nothing_that_is_proven(dns: SampleDns, name: str) -> None:
    signed = sign(compose(CEO), BANK)
    dns.dead = {name}
    assert is_deferred(pass_message(compose(CEO), dns, client=BANK_CLIENT, sender=CEO))
    if name == BANK:
        assert pass_message(signed, dns, sender=CEO).verdict == "c"


def test_a_key_that_cannot_be_looked_up_defers(dns: SampleDns) -> None:
    signed = sign(compose(CEO), BANK)
    dns.dead = {f"{SELECTOR}._domainkey.{BANK}"}
    assert is_deferred(pass_message(signed, dns))
    assert pass_message(signed, dns, client=BANK_CLIENT, sender=CEO).verdict == "c"


def test_a_failure_that_cannot_change_the_verdict_defers_nothing(dns: SampleDns) -> None:
    dns.dead = {"x.example", f"{SELECTOR}._domainkey.{LIST}"}
    assert pass_message(sign(compose(CEO), LIST), dns, sender="a@x.example").text.startswith("550 ")
    assert pass_message(sign(compose("a@quiet.example"), LIST), dns, sender="a@x.example").verdict == "c"


def test_our_own_domains_wait_for_the_dns_too(dns: SampleDns) -> None:
    signed = sign(compose(ANNA), OURS)
    dns.dead = {f"{SELECTOR}._domainkey.{OURS}"}
    assert is_deferred(pass_message(signed, dns))
    dns.dead = {"scanner.example.org"}
    config = replace(CONFIG, trusted_terms=("a:scanner.example.org",))
    assert is_deferred(pass_message(compose(ANNA), dns, config=config))


def test_a_chain_whose_keys_cannot_be_looked_up_defers_where_it_could_help(dns: SampleDns) -> None:
    data = seal(compose(CEO), LIST, f"dmarc=pass header.from={BANK}")
    dns.dead = {f"{SELECTOR}._domainkey.{LIST}"}
    assert is_deferred(pass_message(data, dns, config=replace(CONFIG, trusted_sealers=(LIST,))))
    assert pass_message(data, dns).text.startswith("550 ")


def test_a_resolver_that_is_gone_defers_mail_and_asks_for_no_more_than_its_time(dns: SampleDns) -> None:
    signed = sign(compose(CEO), BANK)
    lookups = dns.make_lookups()
    lookups.deadline = 0
    dns.make_lookups = lambda: lookups  # type: ignore[method-assign]
    assert is_deferred(pass_message(signed, dns))
    assert dns.questions == []
