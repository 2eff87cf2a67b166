"""What the milter tells Postfix, and what it writes into the journal."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from inbound_samples import ALL, BANK, CONFIG, HOST, SampleDns, build_zone, compose, list_packets, pass_message

from mailkeep_server.common.milter_server import ProtocolError
from mailkeep_server.inbound.config import ConfigError, load_config
from mailkeep_server.inbound.milter import MAX_HEADER_BYTES, MAX_HEADERS, InboundSession


@pytest.fixture
def dns() -> SampleDns:
    return SampleDns(build_zone())


def test_claims_are_removed_from_the_last_to_the_first_and_counted_by_name(dns: SampleDns) -> None:
    """Postfix counts a name without regard to case, and removes at once, so that later indexes change."""
    headers = [
        f"Authentication-Results: {HOST}; dmarc=pass",
        "AUTHENTICATION-RESULTS: mx.elsewhere.example; spf=pass",
        "X-Mailkeep-Junk: no",
        f'authentication-results: "{HOST}" 1; dkim=pass',
        "X-MAILKEEP-JUNK: no",
        "X-Mailkeep-Junk-Reason: none",
    ]
    answer = pass_message(compose("x@quiet.example", *headers), dns)
    assert answer.removed == [
        ("X-Mailkeep-Junk-Reason", 1),
        ("X-MAILKEEP-JUNK", 2),
        ("authentication-results", 3),
        ("X-Mailkeep-Junk", 1),
        ("Authentication-Results", 1),
    ]


def test_the_results_of_earlier_servers_stay(dns: SampleDns) -> None:
    headers = [
        "ARC-Authentication-Results: i=1; mail.example.org; spf=pass",
        "Authentication-Results: mx.elsewhere.example; x",
    ]
    assert pass_message(compose("x@quiet.example", *headers), dns).removed == []


def test_the_journal_has_a_line_for_each_message(dns: SampleDns, capsys: pytest.CaptureFixture[str]) -> None:
    pass_message(compose(f"ceo@{BANK}"), dns, sender="x@quiet.example")
    assert capsys.readouterr().out == (
        "4ABC: client=203.0.113.30 from=<x@quiet.example> author=bank.example spf=none dkim=none dmarc=fail "
        "policy=reject arc=none action=refuse\n"
    )


def test_no_stranger_writes_a_line_of_his_own_into_the_journal(
    dns: SampleDns, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = (
        b"DKIM-Signature: v=1; a=rsa-sha256; d=x\x1b[31m.example; s=s\x00; h=from; bh=A; b=\n 4ABC: action=accept\r\n"
    )
    data = evil + compose("x@quiet.example\x07")
    pass_message(data, dns, sender="a\nb\r4ABC:\x1b[0m action=accept\x00@x.example" + "y" * 5000, helo="\n\n")
    output = capsys.readouterr().out
    assert output.count("\n") == 1
    assert output.strip().isprintable()
    assert len(output) < 1500
    assert output.count(" action=") == 1


def test_messages_of_a_connection_are_kept_apart(dns: SampleDns) -> None:
    session = InboundSession(CONFIG, dns.make_lookups)
    next(session.answer_packet(b"O" + struct.pack("!III", 6, ALL, ALL)))
    refused = pass_message(compose(f"ceo@{BANK}"), dns, session=session)
    accepted = pass_message(compose("x@quiet.example"), dns, session=session)
    assert (refused.verdict, accepted.verdict) == ("y", "c")
    packets = [*list_packets(compose(f"ceo@{BANK}"), "203.0.113.30", "", "x")]
    assert [reply for packet in [*packets[:-1], b"A"] for reply in session.answer_packet(packet)] == [b"c"]
    assert pass_message(compose("x@quiet.example"), dns, session=session).verdict == "c"


@pytest.mark.parametrize(
    "headers", [[f"X-{n}: x" for n in range(MAX_HEADERS + 1)], [f"X-{n}: {'x' * 99_000}" for n in range(3)]]
)
def test_more_headers_than_are_read_are_refused(dns: SampleDns, headers: list[str]) -> None:
    answer = pass_message(compose("x@quiet.example", *headers), dns)
    assert answer.text == "552 5.3.4 This message has more than 2,000 headers, or more than 256 KiB of them", (
        MAX_HEADER_BYTES
    )


ATTACHMENT = """Content-Type: multipart/mixed; boundary=b1

--b1
Content-Type: application/octet-stream; name="invoice.Exe"

x
--b1--
"""


def test_attachments_of_refused_kinds_are_refused(dns: SampleDns) -> None:
    data = compose("x@quiet.example").replace(b"\r\n\r\n", b"\r\n" + ATTACHMENT.replace("\n", "\r\n").encode(), 1)
    assert pass_message(data, dns).verdict == "c"
    refusing = replace(CONFIG, refused_extensions=frozenset({"exe", "docm"}))
    text = "552 5.7.1 Attachments of the kind .exe are not accepted here. Send a link to the file instead"
    assert pass_message(data, dns, config=refusing).text == text
    assert pass_message(data.replace(b".Exe", b".pdf"), dns, config=refusing).verdict == "c"


@pytest.mark.parametrize(
    "packet", [b"Z", b"", b"O\0", b"O" + struct.pack("!III", 6, 0, ALL), b"O" + struct.pack("!III", 6, ALL, 0)]
)
def test_other_packets_end_the_session(packet: bytes) -> None:
    with pytest.raises(ProtocolError):
        [*InboundSession(CONFIG).answer_packet(packet)]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"host": "x", "domains": 3}'])
def test_a_configuration_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "inbound.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=str(file)):
        load_config(file)
    with pytest.raises(ConfigError, match="missing"):
        load_config(tmp_path / "missing")


def test_the_configuration_is_read(tmp_path: Path) -> None:
    values = {
        "host": HOST,
        "domains": ["example.org"],
        "trusted_networks": ["192.0.2.0/24"],
        "trusted_terms": ["a:x.example"],
        "forwarders": ["2001:db8::/32"],
        "trusted_sealers": [],
        "refused_extensions": ["exe"],
    }
    file = tmp_path / "inbound.json"
    file.write_text(json.dumps(values))
    config = load_config(file)
    assert config.refused_extensions == {"exe"}
    assert config.is_trusted_client("192.0.2.9")
    assert not config.is_trusted_client("2001:db8::1")
    assert config.is_forwarder("2001:db8::1")
    assert not config.is_forwarder("unknown")
    assert [config.find_own_domain(name) for name in ("a.example.org", HOST, "org", "xexample.org")] == [
        "example.org", "example.org", "", ""
    ]  # fmt: skip
