"""Ten thousand malformed messages: none ends the milter, takes long, or writes more than its line."""

import random
import resource
import time

import pytest
from inbound_samples import BANK, LIST, SampleDns, build_zone, compose, pass_message, seal, sign

from mailkeep_server.inbound.lookups import Lookups
from mailkeep_server.inbound.sender_policy import check_sender

MESSAGES = 10_000
MAX_SECONDS = 1.0
NAMES = [
    b"From", b"FROM", b"from ", b"Sender", b"Authentication-Results", b"DKIM-Signature", b"ARC-Seal",
    b"ARC-Message-Signature", b"ARC-Authentication-Results", b"X-Mailkeep-Junk", b"Subject", b"Content-Type", b"",
    b"\xff", b"a b", b"X" * 300,
]  # fmt: skip
PIECES = [
    b"", b" ", b"\t", b"\n ", b"\r", b"\x00", b"\xff\xfe", b";", b"=", b"==", b"@", b"<", b">", b"(", b")", b'"',
    b"\\", b",", b":", b"v=1", b"a=rsa-sha256", b"a=rsa-sha1", b"a=ed25519-sha256", b"d=bank.example", b"d=", b"d=.",
    b"s=s1", b"s=..", b"h=from", b"h=:::", b"bh=AAAA", b"bh=!", b"b=AAAA", b"b=", b"i=1", b"i=0", b"i=-1",
    b"i=99999999999", b"cv=none", b"cv=pass", b"cv=fail", b"c=relaxed/x", b"c=////", b"l=0", b"l=-1", b"t=1", b"x=9",
    b"q=dns", b"mail.example.org", b"MAIL.example.org", b"bank.example", b"example.org", b"=?utf-8?q?=40?=",
    b"=?x?b?AAAA?=", b"=?utf-7?q?+AEA-?=", "ä@ü.example".encode(), b"\xc3\x28", b"undisclosed:;", b"a" * 3000,
    b" " * 3000, b"(" * 500, b'"' * 500, b"=?" * 500, b"1" * 400, b"xn--a.example", b"xn--" + b"z" * 70,
    b"[192.0.2.1]", b"@" * 200, b"." * 300,
]  # fmt: skip
BODIES = [b"", b"\r\n", b"x", b"\r", b"\n", b"\x00" * 9, b"\r\n" * 500, b" " * 500, b"\xff" * 100, b"a\r\n.\r\nb"]


def build_message(chance: random.Random) -> bytes:
    lines = [
        chance.choice(NAMES)
        + b":"
        + chance.choice([b"; ", b" ", b""]).join(chance.choices(PIECES, k=chance.randrange(12)))
        for _ in range(chance.randrange(9))
    ]
    data = b"\r\n".join(lines) + b"\r\n\r\n" + b"".join(chance.choices(BODIES, k=3))
    return mutate(chance.choice(GENUINE), chance) if chance.random() < 0.3 else data


def mutate(data: bytes, chance: random.Random) -> bytes:
    """A genuine message with some bytes changed, left out or doubled."""
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(changed))
        match chance.randrange(3):
            case 0:
                changed[at] = chance.randrange(256)
            case 1:
                del changed[at : at + chance.randrange(1, 30)]
            case _:
                changed[at:at] = chance.choice(PIECES)
    return bytes(changed)


GENUINE = [sign(compose(f"ceo@{BANK}"), BANK), seal(compose(f"ceo@{BANK}"), LIST, f"dmarc=pass header.from={BANK}")]


@pytest.mark.slow
def test_no_malformed_message_ends_the_milter_or_takes_long(capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(12)  # noqa: S311 - no secret
    dns = SampleDns(build_zone())
    slowest = 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(MESSAGES):
        start = time.thread_time()
        sender = chance.choice(["", "x", "@", "a@b", "a@" + "b." * 200, "\udcff@x.example"])
        helo = chance.choice(["", ".", "x", "a" * 300, "[192.0.2.1]"])
        client = chance.choice(["192.0.2.1", "2001:db8::1", "unknown", ""])
        answer = pass_message(build_message(chance), dns, client=client, sender=sender, helo=helo)
        assert answer.verdict in "cy"
        slowest = max(slowest, time.thread_time() - start)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == MESSAGES
    assert all(line.isprintable() and " action=" in line for line in lines)
    assert len({line.rpartition("=")[2] for line in lines}) > 1
    assert slowest < MAX_SECONDS


@pytest.mark.slow
def test_no_malformed_record_ends_the_milter(capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ARG001
    chance = random.Random(13)  # noqa: S311 - no secret
    terms = [
        "v=spf1",
        "all",
        "-all",
        "+all",
        "include:" + BANK,
        "redirect=" + BANK,
        "exists:%{i}.x",
        "%{",
        "ip4:1",
        "a:",
        "mx/99",
        "ptr",
    ]
    tags = [
        "v=DMARC1",
        "p=reject",
        "p=",
        "sp=none",
        "np=x",
        "psd=y",
        "psd=n",
        "t=y",
        "adkim=s",
        ";",
        "=",
        "\xff",
        "pct=0",
        "v=DKIM1",
        "p=AAAA",
    ]
    for _ in range(3000):
        zone = build_zone()
        zone[BANK, "TXT"] = [" ".join(chance.choices(terms, k=6)) for _ in range(chance.randrange(3))]
        zone[f"_dmarc.{BANK}", "TXT"] = ["; ".join(chance.choices(tags, k=5)) for _ in range(chance.randrange(3))]
        zone[f"s1._domainkey.{BANK}", "TXT"] = ["; ".join(chance.choices(tags, k=3))]
        dns = SampleDns(zone)
        assert pass_message(GENUINE[0], dns, sender=f"x@{BANK}").verdict in "cy"
        assert len(dns.questions) < 60


@pytest.mark.parametrize("letter", [" ", ";", "=", "(", '"', "\t\n ", "a ", "b=", ":", "@", "<", "=?", "\\"])
def test_no_header_of_the_largest_size_takes_long(letter: str) -> None:
    value = (letter * (90_000 // len(letter))).replace("\n", "\r\n")
    start = time.thread_time()
    for name in ("From", "DKIM-Signature", "ARC-Seal", "Authentication-Results", "Subject"):
        data = f"{name}: {value}x\r\n".encode() + GENUINE[0]
        pass_message(data, SampleDns(build_zone()))
    assert time.thread_time() - start < 10


def test_a_sender_policy_without_end_asks_for_few_names() -> None:
    zone = {(f"{n}.loop.example", "TXT"): [f"v=spf1 include:{n + 1}.loop.example mx a ptr -all"] for n in range(99)}
    dns = SampleDns(zone)
    lookups: Lookups = dns.make_lookups()
    assert check_sender("192.0.2.1", "x@0.loop.example", "x", lookups).result == "permerror"
    assert len(dns.questions) <= 30
