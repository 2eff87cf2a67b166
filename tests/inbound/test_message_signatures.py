"""DKIM and ARC of real signatures by dkimpy, verified while the body streams by."""

import re
import struct

import pytest
from inbound_samples import (
    ALL,
    BANK,
    CONFIG,
    LIST,
    SELECTOR,
    Answer,
    SampleDns,
    build_zone,
    compose,
    make_key,
    pass_message,
    seal,
    sign,
)

from mailkeep_server.inbound.milter import InboundSession
from mailkeep_server.inbound.signatures import MAX_SIGNATURE_BYTES, MAX_SIGNATURES

AUTHOR = f"CEO <ceo@{BANK}>"


@pytest.fixture
def dns() -> SampleDns:
    return SampleDns(build_zone())


def find_results(answer: Answer, method: str) -> list[str]:
    """The results of this method in our header, without their properties."""
    header = answer.inserted["Authentication-Results"]
    return [
        line.split()[0].partition("=")[2] for line in header.split(";")[1:] if line.split()[0].startswith(f"{method}=")
    ]


@pytest.mark.parametrize("header_form", [b"simple", b"relaxed"])
@pytest.mark.parametrize("body_form", [b"simple", b"relaxed"])
@pytest.mark.parametrize("body", ["", "Hello.\r\n", "a \t b  \r\n\r\n \r\n", "x" * 150_000 + "\r\n", "no line end"])
def test_a_signature_is_verified_in_each_form(dns: SampleDns, header_form: bytes, body_form: bytes, body: str) -> None:
    folded = "X-Folded:  two\r\n\tlines  and\r\n  three"
    data = sign(compose(AUTHOR, folded, body=body), BANK, (header_form, body_form))
    assert find_results(pass_message(data, dns), "dkim") == ["pass"]
    changed = data.replace(b"Subject: Hello", b"Subject: Jello")
    assert find_results(
        pass_message(data + b"x\r\n", SampleDns({**dns.zone, (f"_dmarc.{BANK}", "TXT"): []})), "dkim"
    ) == ["fail"]
    assert pass_message(changed, dns).verdict == "y"


def test_the_result_names_domain_selector_and_signature(dns: SampleDns) -> None:
    data = sign(compose(AUTHOR), BANK)
    key = re.sub(rb"\s", b"", data.partition(b"; b=")[2])[:8].decode()
    header = pass_message(data, dns).inserted["Authentication-Results"]
    assert f"dkim=pass header.d={BANK} header.s={SELECTOR} header.b=" in header
    assert key.rstrip("=") in header


def test_a_signature_over_a_part_of_the_text_proves_nothing(dns: SampleDns) -> None:
    data = sign(compose(AUTHOR), BANK, length=True)
    assert b"l=" in data
    assert find_results(pass_message(data, dns), "dkim") == ["pass"]
    assert pass_message(data + b"Send money to this account.\r\n", dns).text.startswith("550 5.7.1 ")


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ((b"a=rsa-sha256", b"a=rsa-sha1"), "permerror"),
        ((b"v=1", b"v=2"), "fail"),
        ((b"d=bank.example;", b""), "fail"),
        ((b"bh=", b"bh=!!"), "fail"),
        ((b" s=s1;", b" s=missing;"), "fail"),
        ((b"DKIM-Signature: v=1;", b"DKIM-Signature: ;;;;=;"), "permerror"),
        ((b"DKIM-Signature: v=1;", b"DKIM-Signature: v=1; v=1;"), "permerror"),
        ((b" t=1", b" t=91"), "fail"),
        ((b" q=dns/txt;", b" q=dns/txt; x=1;"), "fail"),
        ((b" q=dns/txt;", b" q=dns/txt; l=99999999999999999999999;"), "fail"),
        ((b"DKIM-Signature: v=1;", b"DKIM-Signature: v=1; z=" + b"x" * MAX_SIGNATURE_BYTES + b";"), "permerror"),
        ((b"DKIM-Signature: v=1;", b"DKIM-Signature: v=1;" + b" " * 7000), "permerror"),
    ],
)  # fmt: skip
def test_a_broken_signature_is_no_pass_and_no_error(dns: SampleDns, change: tuple[bytes, bytes], result: str) -> None:
    data = sign(compose("a@quiet.example"), BANK).replace(*change, 1)
    assert find_results(pass_message(data, dns), "dkim") == [result]


def test_a_signature_that_does_not_cover_from_proves_nothing(dns: SampleDns) -> None:
    data = sign(compose("a@quiet.example"), BANK)
    data = re.sub(rb"(\r\n h=|; h=)([^;]*)", rb"\1subject : to", data, count=1)
    assert find_results(pass_message(data, dns), "dkim") == ["permerror"]


@pytest.mark.parametrize(
    "record",
    [
        "",
        "v=DKIM1; p=",
        "v=DKIM1; k=rsa; p=AAAA",
        "v=DKIM2; p=x",
        "k=dsa; p=AAAA",
        "v=DKIM1; s=tlsrpt; p=AAAA",
        "p=\xff;;;=",
        "v=DKIM1; k=ed25519; p=AA",
    ],
)
def test_a_key_that_is_none_is_no_error(dns: SampleDns, record: str) -> None:
    dns.zone[f"{SELECTOR}._domainkey.{BANK}", "TXT"] = [record]
    answer = pass_message(sign(compose("a@quiet.example"), BANK), dns)
    assert find_results(answer, "dkim")[0] in ("fail", "permerror")


def test_signatures_of_others_do_not_crowd_out_the_authors(dns: SampleDns) -> None:
    data = sign(compose(AUTHOR), BANK)
    others = b"DKIM-Signature: v=1; a=rsa-sha256; d=evil%d.example; s=s; h=from; bh=AAAA; b=AAAA\r\n"
    data = b"".join(others % number for number in range(100)) + data
    answer = pass_message(data, dns)
    assert find_results(answer, "dmarc") == ["pass"]
    assert len(find_results(answer, "dkim")) == MAX_SIGNATURES
    assert len(dns.questions) < 30


def test_an_ed25519_signature_is_verified(dns: SampleDns) -> None:
    import base64

    import dkim
    from nacl.signing import SigningKey

    key = SigningKey.generate()
    dns.zone[f"ed._domainkey.{BANK}", "TXT"] = [
        f"v=DKIM1; k=ed25519; p={base64.b64encode(key.verify_key.encode()).decode()}"
    ]
    data = compose(AUTHOR)
    private = base64.b64encode(key.encode())
    signature = dkim.sign(data, b"ed", BANK.encode(), private, signature_algorithm=b"ed25519-sha256")
    assert find_results(pass_message(bytes(signature) + data, dns), "dkim") == ["pass"]


# --- ARC


def test_a_chain_is_verified(dns: SampleDns) -> None:
    data = seal(sign(compose(AUTHOR), BANK), LIST, f"dkim=pass header.d={BANK}")
    header = pass_message(data, dns).inserted["Authentication-Results"]
    assert f"arc=pass header.d={LIST}" in header
    again = seal(data, BANK, "arc=pass")
    assert find_results(pass_message(again, dns), "arc") == ["pass"]
    assert find_results(
        pass_message(again + b"changed\r\n", SampleDns({**dns.zone, (f"_dmarc.{BANK}", "TXT"): []})), "arc"
    ) == ["fail"]


@pytest.mark.parametrize(
    "header",
    [
        b"ARC-Seal: i=1",
        b"ARC-Seal: i=99999999999999999999; a=rsa-sha256; cv=none; d=x; s=y; b=AAAA",
        b"ARC-Seal: nonsense",
        b"ARC-Authentication-Results: i=1; x",
        b"ARC-Seal:i=1;a=rsa-sha256;cv=none;d=x;s=y;b=AAAA\r\nARC-Authentication-Results:i=1; x\r\n"
        b"ARC-Message-Signature:i=1;a=rsa-sha256;d=x;s=y;h=from;bh=AAAA;b=AAAA",
    ],
)
def test_a_broken_chain_fails_and_is_no_error(dns: SampleDns, header: bytes) -> None:
    answer = pass_message(header + b"\r\n" + compose("a@quiet.example"), dns)
    assert find_results(answer, "arc") in (["fail"], [])


@pytest.mark.slow
def test_a_large_message_is_verified_in_little_memory(dns: SampleDns) -> None:
    """The signature is over 23 MB, of which nothing is kept."""
    import tracemalloc

    body = "x" * 76 + "\r\n"
    data = sign(compose(AUTHOR, body=body * 320_000), BANK)
    assert len(data) > 23 << 20
    session = InboundSession(CONFIG, dns.make_lookups)
    next(session.answer_packet(b"O" + struct.pack("!III", 6, ALL, ALL)))
    head, _, text = data.partition(b"\r\n\r\n")
    packets = [b"L" + name + b"\0" + value + b"\0" for name, _, value in (
        line.partition(b":") for line in re.sub(rb"\r\n(?=[ \t])", b"\n", head).split(b"\r\n")
    )]  # fmt: skip
    for packet in [b"DM{client_addr}\x00203.0.113.30\0", b"M<>\0", *packets]:
        [*session.answer_packet(packet)]
    tracemalloc.start()
    try:
        for at in range(0, len(text), 65535):
            [*session.answer_packet(b"B" + text[at : at + 65535])]
        replies = [*session.answer_packet(b"E")]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert any(b"dmarc=pass" in reply for reply in replies)
    assert peak < 2 << 20


def test_the_records_of_the_samples_are_keys() -> None:
    assert make_key(BANK)[1].startswith("v=DKIM1; k=rsa; p=")
