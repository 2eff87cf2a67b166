"""Authentication-Results: ours is written as RFC 8601 says, and a stranger's is recognised in every spelling."""

import random
import time
from email.header import Header

import pytest

from mailkeep_server.inbound.results_header import claims_identity, find_claimed_pass, format_result, format_results

HOST = "mail.example.org"


@pytest.mark.parametrize(
    "value",
    [
        f"{HOST}; spf=pass",
        f" {HOST};spf=pass",
        f"{HOST}",
        f"{HOST}; none",
        f"{HOST} 1; spf=pass",
        f"{HOST}/1; spf=pass",
        f"{HOST}1; spf=pass",
        f"{HOST.upper()}; spf=pass",
        "Mail.eXample.oRG ; spf=pass",
        f'"{HOST}"; spf=pass',
        f'"{HOST}" 1; spf=pass',
        '"mail\\.example.org"; spf=pass',
        f'"{HOST.upper()}" (a "comment"); spf=pass',
        f"(comment) {HOST}; spf=pass",
        f"(nested (comment;) \\) ) {HOST} (another) 1 (third); spf=pass",
        f"\r\n\t{HOST}\r\n\t; spf=pass",
        f"\n {HOST}\n ;spf=pass",
        f"(folded\r\n comment)\r\n {HOST}; spf=pass",
        "mail.\r\n example.org; spf=pass",
        f"{HOST}.; spf=pass",
        f"{HOST}\t\t2 ; spf=pass",
        f"=?utf-8?q?{HOST}?=; spf=pass",
        "=?utf-8?q?mail=2Eexample=2Eorg?=; spf=pass",
        f"{Header(HOST, 'utf-16-be').encode()}; spf=pass",
        "mail。example。org; spf=pass",
        "\uff4d\uff41\uff49\uff4c.example.org; spf=pass",
        f"(unclosed {HOST}; spf=pass",
        f'"unclosed {HOST}; spf=pass',
        f"other.example {HOST}; spf=pass",
        f"(a) (b) (c) {HOST} ; dkim=pass ; spf=pass (;)",
    ],
)
def test_a_claim_to_be_this_host_is_recognised(value: str) -> None:
    assert claims_identity(value, HOST)


def test_an_internationalised_name_is_recognised_in_both_forms() -> None:
    host = "mail.xn--bcher-kva.example"
    for value in (
        "mail.bücher.example; spf=pass",
        "MAIL.BÜCHER.EXAMPLE; spf=pass",
        f"{host}; spf=pass",
        '"mail.bücher.example"',
    ):
        assert claims_identity(value, host), value


@pytest.mark.parametrize(
    "value",
    [
        "",
        ";",
        "mx.example.org; spf=pass smtp.mailfrom=mail.example.org",
        f"not{HOST}; spf=pass",
        f"{HOST}.evil.example; spf=pass",
        "example.org; spf=pass",
        f"mx.elsewhere.example; spf=pass (by {HOST}); dkim=pass",
    ],
)
def test_results_of_others_stay(value: str) -> None:
    assert not claims_identity(value, HOST)


@pytest.mark.slow
def test_nobody_hides_a_claim_behind_much_text_or_makes_it_slow() -> None:
    chance = random.Random(3)  # noqa: S311 - no secret
    start = time.thread_time()
    for _ in range(100):
        text = "".join(chance.choices('()"\\; =?\r\n\tabc', k=100_000))
        claims_identity(text, HOST)
    for letter in '("\\=':
        claims_identity(letter * 100_000, HOST)
    claims_identity("=?utf-8?q?=41?=" * 7000, HOST)
    assert time.thread_time() - start < 20


def test_our_header_quotes_what_is_no_word() -> None:
    lines = [
        format_result("spf", "pass", smtp__mailfrom='a b"@example.org'),
        format_result("dkim", "fail", header__d="", header__b="ab/+=="),
        format_result("dmarc", "none", header__from="x\r\nEvil: yes\x00ü"),
    ]
    assert format_results(HOST, lines).decode() == (
        f' {HOST};\n\tspf=pass smtp.mailfrom="a b\\"@example.org";\n\tdkim=fail header.b="ab/+==";\n\t'
        'dmarc=none header.from="x??Evil: yes??"'
    )
    assert format_results(HOST, []).decode() == f" {HOST};\n\tnone"


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ("i=1; lists.example; dmarc=pass header.from=bank.example", True),
        ("i=1; lists.example; dkim=pass header.d=bank.example; dmarc=fail header.from=x.example", True),
        ("i=1; lists.example; dkim=pass header.i=@bank.example", True),
        ("i=1; lists.example; spf=pass smtp.mailfrom=anna@bank.example", True),
        ("i=1; lists.example; dkim=pass header.d=other.example; dmarc=fail header.from=bank.example", False),
        ("i=1; lists.example; dmarc=fail header.from=bank.example; spf=pass smtp.mailfrom=evil.example", False),
        ("i=1; lists.example; spf=fail (dmarc=pass header.from=bank.example)", False),
        ("i=1; lists.example; spf=fail (a \\) ; dmarc=pass header.from=bank.example ;)", False),
        ("i=1; lists.example; none", False),
        ("", False),
    ],
)
def test_a_sealers_results_prove_the_author_they_name(claims: str, expected: bool) -> None:
    assert find_claimed_pass(claims, "bank.example") is expected
