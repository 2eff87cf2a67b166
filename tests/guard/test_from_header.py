"""From: and Sender: show only addresses of the login, however mail programs read them. Names may be anything else."""

from __future__ import annotations

import base64
import encodings
import random
import re
import sysconfig
import time
from collections.abc import Iterator
from email.utils import getaddresses
from pathlib import Path

import pytest

from mailkeep_server.guard import encoded_words, from_header
from mailkeep_server.guard.from_header import Authors, Owner

OWNED = {"anna@example.org", "sales@example.org", "anna+shop@example.org", "anna@xn--bcher-kva.example"}
OWNER = Owner(lambda address: address.lower() in OWNED, ("example.org", "mail.example.org"), "mail.example.org")


def judge(*headers: tuple[str, str]) -> Authors:
    return from_header.judge_authors(headers, OWNER)


def find_unowned(*headers: tuple[str, str]) -> str | None:
    return judge(*headers).fault or None


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
        # Encoded in ways that RFC 2047 does not allow, and that all mail programs read.
        '"=?utf-8?Q?M=C3=BCller=2C_Anna?=" <anna@example.org>',
        "=?utf-8?B?TcO8bGxlcg==?=<anna@example.org>",
        "=?utf-8?Q?Anna M=C3=BCller?= <anna@example.org>",
        "=?utf-8?B?QW5uYQ?= <anna@example.org>",
        "=?x-unknown?Q?Anna?= <anna@example.org>",
        "=?UTF-8*de?Q?Anna?= <anna@example.org>",
        "=?utf-8?q?M=C3?= =?utf-8?q?=BCller?= <anna@example.org>",
        "=?utf-8?q?M=C3?= <anna@example.org>",
        "=?utf-8?q?Anna <anna@example.org>",
        "=?utf-8?Q?Wer=3F Anna??= <anna@example.org>",
        "=?shift_jis?B?g3SDQIN+g4qBW4Ns?= <anna@example.org>",
        "=?iso-2022-jp?B?GyRCRURDZhsoQg==?= <anna@example.org>",
        "=?utf-8?q?anna=40example=2Eorg?= <anna@example.org>",
        # Written in ways that RFC 5322 does not allow, and that all mail programs read.
        "[Sales] Anna <anna@example.org>",
        "anna@example.org <anna@example.org>",
        "EXAMPLE\\Anna <anna@example.org>",
        "Anna 👩‍💻 <anna@example.org>",
        "M\udcfcller <anna@example.org>",
        "Anna: Sales <anna@example.org>",
        "Anna.Müller <anna@example.org>",
        "<anna@example.org> (Sales)",
        "anna@example.org,",
        "undisclosed: anna@example.org;",
        "Anna <anna@bücher.example>",
        # No address, since its domain has no dot.
        "Shop@Home <anna@example.org>",
        '"Shop@Home" <anna@example.org>',
        '"Shop@Home | Berlin" <anna@example.org>',
        "Anna (Shop@Home) <anna@example.org>",
        '"team@work" <anna@example.org>',
        '"Büro@Müller" <anna@example.org>',
        '"Max (AT)" <anna@example.org>',
        '"Max (AT) GmbH" <anna@example.org>',
        '"Anna at Example.org" <anna@example.org>',
        '"anna@example.org/Sales" <anna@example.org>',
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
        "änna@example.org",
        "Anna <anna@bücher.evil.example>",
        "Anna <anna@straße.example>",
        # Charsets of which other programs show the bytes, and others that few know.
        "=?utf_16_be?q?boss=40bank=2Eexample?= <anna@example.org>",
        "=?utf-16be?b?AGIAbwBzAHMAQABiAGEAbgBrAC4AZQB4AGEAbQBwAGwAZQ?= <anna@example.org>",
        "=?utf-16be?q?boss=40bank=2Eexample?= <anna@example.org>",
        "=?utf-7?q?boss+AEA-bank.example?= <anna@example.org>",
        "=?punycode?q?boss=40bank=2Eexample-?= <anna@example.org>",
        "=?idna?q?boss=40bank=2Eexample?= <anna@example.org>",
        "=?rot13?q?boss=40bank=2Eexample?= <anna@example.org>",
        "=?unicode_escape?q?boss=40bank=2Eexample?= <anna@example.org>",
        "=?unicode_escape?q?boss=5Cx40bank=2Eexample?= <anna@example.org>",
        "=?zlib?q?boss=40bank=2Eexample?= <anna@example.org>",
        "=?hz?q?~{boss=40bank=2Eexample~}?= <anna@example.org>",
        "=?utf-8?q?boss=C1=80bank=2Eexample?= <anna@example.org>",
        "=?utf-8?q?boss=E0=81=80bank=2Eexample?= <anna@example.org>",
        "=?shift_jis?q?boss=83?= =?shift_jis?q?=40bank=2Eexample?= <anna@example.org>",
        "boss\udca3\udcc0bank.example <anna@example.org>",
        # Encoded words that overlap, touch, do not end, or are cut within a letter or a byte.
        "=?utf-8?q?a?=?utf-8?q?boss=40bank=2Eexample?= <anna@example.org>",
        "=?utf-8?q?=?utf-8?q?boss=40bank=2Eexample?= <anna@example.org>",
        "=?utf-8?q?boss?==?utf-8?q?=40bank=2Eexample?= <anna@example.org>",
        "=?utf-8?q?boss?= =?utf-8?q?=40bank?= =?utf-8?q?=2Eexample?= <anna@example.org>",
        "=?utf-8?q?boss?= =?iso-8859-1?q?=40bank=2Eexample?= <anna@example.org>",
        "=?utf-8?q?boss=40bank=2Eexample <anna@example.org>",
        "=?utf-8?q?boss=40bank?=2Eexample?= <anna@example.org>",
        "=?utf-8?b?Ym9zc0?= =?utf-8?b?BiYW5rLmV4YW1wbGU=?= <anna@example.org>",
        "=?utf-8?b?Ym9zc0BiYW5rLmV4YW1wbGU?= <anna@example.org>",
        "=?utf-8?b?Ym9zcw==QGJhbmsuZXhhbXBsZQ==?= <anna@example.org>",
        "=??q?boss=40bank=2Eexample?= <anna@example.org>",
        "=?boss@bank.example?q?x?= <anna@example.org>",
        # At signs and dots that look otherwise.
        "boss\u24d0bank.example <anna@example.org>",
        "boss\u24d0\u24e3bank.example <anna@example.org>",
        "boss\U0001f150bank.example <anna@example.org>",
        "boss\ufe6bbank.example <anna@example.org>",
        '"boss (at) bank.example" <anna@example.org>',
        '"boss(a)bank.example" <anna@example.org>',
        '"boss [AT] bank [dot] example" <anna@example.org>',
        "boss at bank dot example <anna@example.org>",
        '"\u0410nna@example.org" <anna@example.org>',
        '"anna@ex\u0430mple.org" <anna@example.org>',
        '"@boss@bank.example" <anna@example.org>',
        '"ceo@bank .example" <anna@example.org>',
        '"ceo@bank. example" <anna@example.org>',
        '"ceo@bank,example" <anna@example.org>',
        "=?utf-8?q?=E2=80=AEelpmaxe=2Eknab=40ssob?= <anna@example.org>",
    ],
)
def test_a_name_that_shows_an_unowned_address_is_refused(line: str) -> None:
    refused = find_unowned(("From", line))
    assert refused is not None
    assert "in the From: line" in refused or "From: line has a" in refused


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
    assert "in the From: line" in refused or "reads as an address" in refused
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
        "Anna anna@example.org",
        "MAILER DAEMON <>",
        "Anna <Sales> <anna@example.org>",
        '"Anna <anna@example.org>',
        "Anna :( <anna@example.org>",
        '"boss x anna"@example.org',
        "boss.(x)anna@example.org",
        "mail!anna@example.org@example.org",
        "(" * 400 + "anna@example.org",
        "[" * 400 + "anna@example.org",
        "a" * 2000 + " <anna@example.org>",
    ],
)
def test_a_line_without_a_certain_address_is_refused(line: str) -> None:
    assert find_unowned(("From", line))


@pytest.mark.parametrize(
    ("line", "names_other"),
    [
        ("boss@example.org", True),
        ("Boss <boss@bank>", True),
        ('"boss@bank.example" <anna@example.org>', True),
        ("=?utf-8?q?boss=40bank=2Eexample?= <anna@example.org>", True),
        ("boss@bank.example <<anna@example.org>", True),
        ("anna@example.org, Boss <boss@example.org>, x", True),
        # Faults of programs and of people: refused, but nobody is frozen for them.
        ("Smith, Anna <anna@example.org>", False),
        ("Smith@mail.example.org, Anna <anna@example.org>", False),
        ("anna", False),
        ("", False),
        ("MAILER DAEMON <>", False),
        ('"Anna <anna@example.org>', False),
        ("anna@example.org\0", False),
        ("a" * 2000 + " <anna@example.org>", False),
        ('"@anna@social.example" <anna@example.org>', False),
        ('"anna\u200b@example.org" <anna@example.org>', False),
        ('"Anna (@anna.social.example)" <anna@example.org>', False),
        ("=?utf_16_be?q?x=40y=2Ez?= <anna@example.org>", False),
    ],
)
def test_only_a_plain_address_of_somebody_else_counts_as_one(line: str, names_other: bool) -> None:
    verdict = judge(("From", line))
    assert verdict.fault
    assert verdict.names_other is names_other


def test_a_second_line_counts_if_it_names_somebody_else() -> None:
    anna, boss = ("From", "anna@example.org"), ("From", "boss@example.org")
    assert not judge(anna, anna).names_other
    assert judge(anna, boss).names_other


@pytest.mark.parametrize("name", ["Sender", "Resent-From", "Resent-Sender"])
def test_a_line_that_is_empty_names_nobody(name: str) -> None:
    assert find_unowned(("From", "anna@example.org"), (name, "")) is None or name == "Resent-From"
    assert not judge(("From", "anna@example.org"), (name, "")).names_other


# --- real lines and generated ones ------------------------------------------------------------------------------------

_MAILS = Path(sysconfig.get_path("stdlib")) / "test" / "test_email" / "data"
_AUTHOR_LINE = re.compile(rb"(?mi)^(?:From|Sender):((?:[^\r\n]*)(?:\r?\n[ \t]+[^\r\n]*)*)")
NO_ADDRESS = {"foo", "MAILER DAEMON <>"}
"""Names a bounce and a test. Mail programs show no address either."""


def test_no_spelling_of_a_charset_is_remembered() -> None:
    """Python keeps each of them for as long as the process lives, and an account may send endless ones."""
    labels = [f"{name}{end}" for name in ("x-secret", "utf-16", "mac-arabic") for end in ("-1", ":", "--", "+x")]
    encoded_words.list_readings("=?mac_arabic?q?x?= =?utf_16?q?x?=")
    known = set(vars(encodings)["_cache"])
    for label in labels:
        assert "ab" in encoded_words.list_readings(f"=?{label}?q?ab?=")
    assert set(vars(encodings)["_cache"]) == known


@pytest.mark.skipif(not _MAILS.is_dir(), reason="this Python has no tests of its own")
def test_no_line_in_the_mails_of_python_s_own_tests_is_refused() -> None:
    """Some 36 lines of real mails, each as if its address belonged to the login."""
    values = {
        match.decode("utf-8", "surrogateescape").strip()
        for path in _MAILS.glob("*.txt")
        for match in _AUTHOR_LINE.findall(path.read_bytes())
    }
    refused = set()
    for value in values:
        addresses = {address.lower() for _, address in getaddresses([value])}
        if from_header.judge_authors(
            [("From", value)], Owner(lambda address, owned=addresses: address.lower() in owned)
        ).fault:
            refused.add(value)
    assert len(values) > 20
    assert refused - {""} <= NO_ADDRESS


_PACKAGES = Path("/var/lib/dpkg/status")


@pytest.mark.skipif(not _PACKAGES.is_file(), reason="this system has no packages of Debian's")
def test_no_maintainer_of_debian_s_packages_is_refused() -> None:
    """A hundred names and more, as people and teams write them: `Maintainer:` is written as From: is (Debian Policy
    section 5.6.2). Of 2,517 such lines of Ubuntu's package lists and of changelogs, none was refused."""
    lines = re.findall(r"(?m)^(?:Original-)?Maintainer: (.*<(.*@.*)>)$", _PACKAGES.read_text(errors="surrogateescape"))
    refused = [
        line
        for line, address in set(lines)
        if from_header.judge_authors([("From", line)], Owner(lambda other, owned=address: other == owned)).fault
    ]
    assert lines
    assert refused == []


_AT_SIGNS = ("@", "\uff20", "\ufe6b", "\u24d0", "(at)", "[at]", " @ ", "@ ", "\u200b@", "@\u00ad")
_DOTS = (".", "\u2024", "\uff0e", "\u3002", "\ua4f8", "[dot]", ".\u200b")
_CHARSETS = ("utf-8", "us-ascii", "iso-8859-1", "utf_16_be", "x-unknown", "idna", "rot13", "windows-1252", "utf-8*en")


def _encode(random_source: random.Random, text: str) -> str:
    """As one encoded word or several, in ways that some mail program reads."""
    charset, raw = random_source.choice(_CHARSETS), text.encode()
    if not text.isascii():
        charset = "utf-8"
    cut = random_source.randrange(len(raw) + 1)
    words = []
    for part in (raw[:cut], raw[cut:]):
        if random_source.random() < 0.5:
            filling = random_source.choice(("", "="))
            payload = base64.b64encode(part).decode().rstrip("=") + filling * (-len(base64.b64encode(part)) % 4)
            words.append(f"=?{charset}?{random_source.choice('bB')}?{payload}?=")
        else:
            payload = "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"={byte:02X}" for byte in part)
            words.append(f"=?{charset}?{random_source.choice('qQ')}?{payload}?=")
    return random_source.choice((" ", "", "\r\n ")).join(words)


def _generate_hostile_lines(seed: int, count: int) -> Iterator[str]:
    random_source = random.Random(seed)  # noqa: S311
    for _ in range(count):
        pick = random_source.choice
        address = f"{pick(('ceo', 'boss', 'anna', 'Service.Team'))}{pick(_AT_SIGNS)}bank{pick(_DOTS)}example"
        shown = f"{pick(('', 'The boss ', '<', 'x, '))}{address}{pick(('', '>', ' ', ' (Bank)', '.'))}"
        form = pick(("{}", '"{}"', "({})", "\u201c{}\u201d", "Anna {}", "{} Anna")).format(
            _encode(random_source, shown) if random_source.random() < 0.7 else shown.replace("<", "").replace(">", "")
        )
        yield pick(("{} <anna@example.org>", "<anna@example.org> {}", "anna@example.org ({})")).format(form)


@pytest.mark.slow
def test_none_of_a_thousand_hostile_lines_passes() -> None:
    passed = [line for line in _generate_hostile_lines(10, 1000) if not find_unowned(("From", line))]
    assert passed == []


@pytest.mark.parametrize("name", ["Sender", "SENDER", "Resent-From", "Resent-Sender"])
def test_the_other_lines_that_name_an_author_are_judged_alike(name: str) -> None:
    assert find_unowned(("From", "anna@example.org"), (name, "sales@example.org")) is None
    assert "boss@example.org" in str(find_unowned(("From", "anna@example.org"), (name, "boss@example.org")))


@pytest.mark.parametrize("name", ["To", "Reply-To", "X-From", "Subject"])
def test_other_lines_are_nobodys_business(name: str) -> None:
    assert find_unowned(("From", "anna@example.org"), (name, "boss@example.org")) is None


def test_there_is_one_from_line() -> None:
    assert find_unowned() == "There are 0 From: lines, and there must be one"
    assert (
        find_unowned(("From", "anna@example.org"), ("from", "anna@example.org"))
        == "There are 2 From: lines, and there must be one"
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
        "=?utf-8?b?QA==?= ",
        "=?punycode?q?a-b?= ",
        "=?x?q?=",
        "\udcff@",
        "<a>",
        "\\(",
    ],
)
def test_no_line_keeps_the_guard_busy(piece: str) -> None:
    line = (piece * from_header.MAX_LENGTH)[: from_header.MAX_LENGTH]
    start = time.process_time()
    for value in (line, f"{line[:-19]} <anna@example.org>"):
        find_unowned(("From", value))
    assert time.process_time() - start < 0.5
    assert find_unowned(("From", line + "a")) == "The From: and Sender: lines have more than 1000 characters"
