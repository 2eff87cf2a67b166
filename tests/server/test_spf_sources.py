"""Port 25 lets in the servers that dns.spf declares, as SPF evaluates its terms, and no others."""

import subprocess
import sys
from collections.abc import Mapping
from ipaddress import ip_address

import pytest

from mailkeep_server import spf_sources
from mailkeep_server.common import dns_query

ZONE: Mapping[tuple[str, str], list[str]] = {
    ("_spf.shop.example", "TXT"): ["v=spf1 ip4:192.0.2.0/24 -ip4:198.51.100.7 include:more.example ~all"],
    ("more.example", "TXT"): ["some text", "V=SPF1 a mx/28 a:six.example/32//48 redirect=last.example"],
    ("more.example", "A"): ["198.51.100.20"],
    ("more.example", "MX"): ["mx1.example", "mx2.example"],
    ("mx1.example", "A"): ["203.0.113.17"],
    ("mx2.example", "A"): ["203.0.113.99"],
    ("six.example", "AAAA"): ["2001:db8:1::1"],
    ("last.example", "TXT"): ["v=spf1 exists:%{i}.x.example ptr ip6:2001:db8:9::/64 -all"],
    ("two.example", "TXT"): ["v=spf1 +all", "v=spf1 -all"],
    ("all.example", "TXT"): ["v=spf1 +all"],
    ("loop.example", "TXT"): ["v=spf1 include:loop.example -all"],
}


def look_up(name: str, record_type: str) -> list[bytes]:
    if not name.isascii() or any(len(label) > 63 for label in name.split(".")):
        raise OSError("the resolver answers with code 1")
    values = ZONE.get((name, record_type), [])
    if record_type == "TXT":
        return [bytes([len(value)]) + value.encode() for value in values]
    return [b"\0\n" + value.encode() if record_type == "MX" else ip_address(value).packed for value in values]


def ask(client: str, *terms: str) -> str:
    request = f"request=smtpd_access_policy\nclient_address={client}\nsender=shop@example.org".encode()
    return spf_sources.answer_request(request, list(terms), look_up)


@pytest.mark.parametrize(
    "client",
    ["192.0.2.9", "198.51.100.20", "203.0.113.16", "203.0.113.100", "2001:db8:1::ffff", "2001:db8:9::1"],
    ids=["ip4", "a", "mx", "second mx", "a with a length", "redirect"],
)
def test_a_declared_source_is_let_in(client: str) -> None:
    assert ask(client, "include:_spf.shop.example") == "OK"


@pytest.mark.parametrize("client", ["198.51.100.7", "198.51.100.21", "203.0.113.33", "2001:db8:2::1", "nonsense", ""])
def test_others_are_not(client: str) -> None:
    assert ask(client, "include:_spf.shop.example") != "OK"


def test_terms_of_mail_yml_may_be_hosts_and_exchangers() -> None:
    assert ask("198.51.100.20", "a:more.example") == "OK"
    assert ask("203.0.113.17", "a:six.example", "mx:more.example") == "OK"
    assert ask("203.0.113.17", "a:more.example") == "DUNNO"


def test_two_records_or_none_let_nobody_in() -> None:
    assert ask("192.0.2.9", "include:two.example") == "DUNNO"
    assert ask("192.0.2.9", "include:none.example") == "DUNNO"
    assert ask("192.0.2.9", "include:all.example") == "OK"


def test_a_record_without_end_lets_nobody_in() -> None:
    assert ask("192.0.2.9", "include:loop.example") == "DUNNO"


def test_each_term_has_lookups_of_its_own() -> None:
    terms = ["include:loop.example"] + [f"a:{n}.missing.example" for n in range(25)]
    assert ask("192.0.2.9", *terms) == "DUNNO"
    assert ask("192.0.2.9", *terms, "include:all.example") == "OK"


@pytest.mark.parametrize(
    "term",
    [
        "ip4:192.0.2.999",
        "ip4:",
        "a:ok.example/99",
        "include:",
        "include:a..example",
        f"mx:{'x' * 64}.example",
        "a:ü.example",
    ],
)
def test_a_malformed_term_of_a_provider_defers_nobody_for_ever(monkeypatch: pytest.MonkeyPatch, term: str) -> None:
    """The operator here cannot mend it. Other terms hold."""
    zone = {("bad.example", "TXT"): [f"v=spf1 {term} -all"], ("ok.example", "A"): ["203.0.113.1"]}
    monkeypatch.setitem(globals(), "ZONE", {**ZONE, **zone})
    assert ask("192.0.2.9", "include:bad.example") == "DUNNO"
    assert ask("192.0.2.9", "include:bad.example", "ip4:192.0.2.9") == "OK"


def test_a_resolver_that_fails_defers_the_mail() -> None:
    def fail(_name: str, _type: str) -> list[bytes]:
        raise OSError("no answer")

    answer = spf_sources.answer_request(b"client_address=192.0.2.9", ["include:x.example"], fail)
    assert answer.startswith("451 4.4.3 ")


def test_a_name_in_an_mx_record_may_be_compressed() -> None:
    """Unbound compresses it (RFC 1035 section 4.1.4)."""
    question = b"\7example\3org\0" + b"\0\x0f\0\1"
    answer = b"\xc0\x0c" + b"\0\x0f\0\1" + b"\0\0\0\5" + b"\0\7" + b"\0\n" + b"\2mx" + b"\xc0\x0c"
    reply = b"\0\1\x81\x80\0\1\0\1\0\0\0\0" + question + answer
    assert dns_query.parse_reply(reply, dns_query.TYPES["MX"]).data == [b"\0\nmx.example.org"]
    with pytest.raises(IndexError):
        dns_query.read_name(b"\xc0\0", 0)


def test_it_answers_requests_one_after_another_at_its_standard_output() -> None:
    requests = "".join(f"client_address=nonsense\nn={n}\n\n" for n in range(3))
    done = subprocess.run(
        [sys.executable, "-IB", "-m", "mailkeep_server", "spf-sources", "a:x.example"],
        input=requests,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (
        done.stdout == "action=451 4.4.3 The SPF record of this domain could not be looked up. Try again later\n\n" * 3
    )
