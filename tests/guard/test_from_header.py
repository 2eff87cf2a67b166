"""From: and Sender: contain only addresses of the login, however they are written; in doubt a message is refused."""

from __future__ import annotations

import base64
import time

import pytest

from mailkeep_server.guard import from_header

OWNED = {"anna@example.org", "sales@example.org", "anna+shop@example.org"}


def find_unowned(*headers: tuple[str, str]) -> str | None:
    return from_header.unowned_address(headers, lambda address: address.lower() in OWNED)


@pytest.mark.parametrize(
    "line",
    [
        "anna@example.org",
        "ANNA@Example.ORG",
        "<anna@example.org>",
        "Anna <anna@example.org>",
        "Anna B. Smith <anna@example.org>",
        '"Smith, Anna" <anna@example.org>',
        '"Anna \\"Ann\\" Smith" <anna+shop@example.org>',
        "=?utf-8?q?=C3=84nne?= <anna@example.org>",
        "=?utf-8?b?8J+RqeKAjfCfkrsgQW5uYQ==?= <anna@example.org>",
        "Änne <anna@example.org>",
        '"anna@example.org" <anna@example.org>',
        "Anna (at home (in bed)) <anna@example.org>",
        "Anna\r\n <anna@example.org>",
        "Anna\r\n\t<anna@example.org>",
        "anna@example.org, Sales <sales@example.org>",
        "Team: anna@example.org, sales@example.org;",
        '"Anna @ Example" <anna@example.org>',
        '"Anna @ Work. Berlin" <anna@example.org>',
        '"Anna @" <anna@example.org>',
        '"@anna" <anna@example.org>',
        '"Anna (@anna)" <anna@example.org>',
        '"Anna O\'Hara" <anna@example.org>',
        "\"'anna@example.org'\" <anna@example.org>",
        '"Mail: anna@example.org." <anna@example.org>',
        '"“anna@example.org”" <anna@example.org>',
        '"Anna @ Ørsted" <anna@example.org>',
        '"Anna @ Müller & Co." <anna@example.org>',
        '"Anna @ O\u2019Reilly" <anna@example.org>',
        '"Anna @ Web2Day" <anna@example.org>',
        "Änna Müller <anna@example.org>",
        "A\u0308nna Mu\u0308ller <anna@example.org>",
        "J. Q. Public <anna@example.org>",
        "Anna (Sales) <anna@example.org>",
        '"Anna, Dr. med." <anna@example.org>',
        "Nguyễn Thị Ánh <anna@example.org>",
        "Анна Иванова <anna@example.org>",
        '"Анна @ Работа" <anna@example.org>',
        "Άννα Παπαδοπούλου <anna@example.org>",
        "آنا محمدی <anna@example.org>",
        "أَنَّا ٢٠٢٦ <anna@example.org>",
        "חַנָּה כהן <anna@example.org>",
        "अन्ना शर्मा <anna@example.org>",
        '"अन्ना @ दिल्ली" <anna@example.org>',
        "อันนา ศรีสุข <anna@example.org>",
        "안나 김 <anna@example.org>",
        '"안나 @ 서울" <anna@example.org>',
        '"田中\uff08@tanaka\uff09" <anna@example.org>',
        '"田中。東京" <anna@example.org>',
        "=?utf-8?b?4p2k77iPIEFubmE=?= <anna@example.org>",
        "=?utf-8?b?4p2k77iPIEBhbm5h?= <anna@example.org>",
    ],
)
def test_an_honest_line_passes(line: str) -> None:
    assert find_unowned(("From", line)) is None


@pytest.mark.parametrize(
    "line",
    [
        "boss@example.org",
        "Anna <boss@example.org>",
        "anna@example.org, boss@example.org",
        "boss@example.org, anna@example.org",
        "Team: anna@example.org, boss@example.org;",
        '"boss@example.org" <anna@example.org>',
        '"The boss <boss@example.org>" <anna@example.org>',
        '"boss\\@example.org" <anna@example.org>',
        "anna@example.org (boss@example.org)",
        "anna@example.org (boss\\@example.org)",
        "(boss@example.org) anna@example.org",
        "=?utf-8?q?boss=40example=2Eorg?= <anna@example.org>",
        "=?utf-8?b?Ym9zc0BleGFtcGxlLm9yZw==?= <anna@example.org>",
        "=?utf-8?q?boss?= =?utf-8?q?=40example=2Eorg?= <anna@example.org>",
        '"=?utf-8?q?boss=40example=2Eorg?=" <anna@example.org>',
        "anna@example.org (=?utf-8?q?boss=40example=2Eorg?=)",
        "=?utf-8?q?boss=E2=80=8B@example=2Eorg?= <anna@example.org>",
        "boss\uff20example.org <anna@example.org>",
        "boss@example.org\r\n <anna@example.org>",
        '"boss @bank.example" <anna@example.org>',
        '"boss@ bank.example" <anna@example.org>',
        '"boss @ bank.example" <anna@example.org>',
        '"\\"boss\\"@bank.example" <anna@example.org>',
        '"\\"boss\\" @ \\"bank.example\\"" <anna@example.org>',
        "\"'boss'@bank.example\" <anna@example.org>",
        "“boss”@bank.example <anna@example.org>",
        '"(boss)@bank.example" <anna@example.org>',
        '"anna@example.org @bank.example" <anna@example.org>',
        "=?utf-8?q?boss_=40bank=2Eexample?= <anna@example.org>",
        '"ceo@bank" <anna@example.org>',
        '"team@work" <anna@example.org>',
        '"ceo@@bank.example" <anna@example.org>',
        '"ceo@ @bank.example" <anna@example.org>',
        '"ceo@bank.example@example.org" <anna@example.org>',
        '"<ceo>@<bank.example>" <anna@example.org>',
        '"【ceo】@bank.example" <anna@example.org>',
        '"änna@example.org" <anna@example.org>',
        '"anna@exämple.org" <anna@example.org>',
        '"🏦@bank.example" <anna@example.org>',
        "anna@[192.0.2.1]",
        '"boss"@example.org',
        "anna@example.org.evil.example",
        "evil.anna@example.org",
    ],
)
def test_an_unowned_address_is_refused_by_name(line: str) -> None:
    refused = find_unowned(("From", line))
    assert refused is not None
    assert "in the From: line" in refused or "cannot be read" in refused


# Characters that nobody sees, such as variation selectors, fillers and Braille's blank; and lookalikes of a dot.
UNSEEN = "\0\x1b\ufe0f\u034f\u180b\u17b4\u200b\u200d\u00ad\u1160\u3164\u2800\ufeff\ue000\U000e0100"
DOTS = "\ua4f8\u3002\u0660\u06d4\u0701\u0702\ua60e\u2024\u00b7\ua78f\u1427\u30fb\ufe52\uff0e\u0323\u201a"


@pytest.mark.parametrize(
    "shown",
    [
        *(f"ceo@bank{mark}.example" for mark in UNSEEN),
        *(f"ceo@ba{mark}nk.example" for mark in UNSEEN),
        *(f"ceo{mark}@{mark}bank.example" for mark in UNSEEN),
        *(f"ceo {mark}@{mark} bank.example" for mark in UNSEEN),
        *(f"ceo@bank{dot}example" for dot in DOTS),
        *(f"ceo @ bank{dot}example" for dot in DOTS if dot not in "\u0323\u201a"),
    ],
    ids=ascii,
)
def test_no_character_hides_an_address_in_a_name(shown: str) -> None:
    """An encoded word can hold characters that a header line must not."""
    coded = base64.b64encode(f"<{shown}>".encode()).decode()
    refused = find_unowned(("From", f"=?utf-8?b?{coded}?= <anna@example.org>"))
    assert refused is not None
    assert "in the From: line" in refused or "cannot be read" in refused
    assert refused.isprintable()


@pytest.mark.parametrize(
    "line",
    [
        "",
        " ",
        "<>",
        "anna",
        "anna@",
        "@example.org",
        "undisclosed-recipients:;",
        "anna@example.org <boss@example.org>",
        "<anna@example.org> <boss@example.org>",
        "anna@example.org boss@example.org",
        "<@relay.example,@other.example:anna@example.org>",
        "Smith, Anna <anna@example.org>",
        "anna@example(x).org <boss@example.org>",
        "anna@example.org\0",
        "anna@example.org\0boss@example.org",
        "anna@example.org\r\nFrom: boss@example.org",
        "anna@example.org\x1b[2K",
        "\udcc4nne <anna@example.org>",
        "=?unknown?q?Anna?= <anna@example.org>",
        "(" * 400 + "anna@example.org",
        "[" * 400 + "anna@example.org",
        "a" * 2000 + " <anna@example.org>",
    ],
)
def test_a_line_that_cannot_be_read_with_certainty_is_refused(line: str) -> None:
    assert find_unowned(("From", line))


@pytest.mark.parametrize("name", ["Sender", "SENDER", "Resent-From", "Resent-Sender"])
def test_the_other_lines_that_name_an_author_are_judged_alike(name: str) -> None:
    assert find_unowned(("From", "anna@example.org"), (name, "sales@example.org")) is None
    assert "boss@example.org" in str(find_unowned(("From", "anna@example.org"), (name, "boss@example.org")))


@pytest.mark.parametrize("name", ["To", "Reply-To", "X-From", "Subject"])
def test_other_lines_are_nobodys_business(name: str) -> None:
    assert find_unowned(("From", "anna@example.org"), (name, "boss@example.org")) is None


def test_there_is_one_from_line() -> None:
    assert find_unowned() == "0 From: lines, and there must be one"
    assert (
        find_unowned(("From", "anna@example.org"), ("from", "anna@example.org"))
        == "2 From: lines, and there must be one"
    )


@pytest.mark.parametrize(
    "piece",
    [
        "(",
        '"',
        ",",
        "<",
        "@",
        ".",
        "\\",
        "a ",
        "a@b.c,",
        "a:",
        "[",
        ";",
        "(a) ",
        "=?",
        "=?utf-8?q?a?= ",
        " @",
        "'",
        "a @ b.c ",
        "ﷺ@",
    ],
)
def test_no_line_keeps_the_guard_busy(piece: str) -> None:
    line = (piece * from_header.MAX_LENGTH)[: from_header.MAX_LENGTH]
    start = time.process_time()
    for value in (line, f"{line[:-19]} <anna@example.org>"):
        find_unowned(("From", value))
    assert time.process_time() - start < 0.5
    assert find_unowned(("From", line + "a")) == "From: and Sender: lines of more than 1000 characters"
