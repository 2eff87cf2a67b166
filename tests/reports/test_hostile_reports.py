"""Whatever strangers send costs bounded time and memory, and no exception."""

import gzip
import io
import json
import random
import struct
import time
import tracemalloc
import zipfile
import zlib

import pytest
from report_samples import (
    DMARC_SAMPLES,
    GOOGLE_TLS,
    MAILRU_TLS,
    OURS,
    compose_body_report,
    compose_record,
    compose_tls,
    compose_xml,
    pack_zip,
)

from mailkeep_server.reports import dmarc_report, tls_report
from mailkeep_server.reports.dmarc_report import DmarcReport, DmarcRow
from mailkeep_server.reports.message_parts import MAX_MESSAGE
from mailkeep_server.reports.report_mail import ReportMail, read_report_mail
from mailkeep_server.reports.tls_report import TlsReport

MAX_SECONDS, MAX_MEMORY = 5.0, 96 * 2**20
"""Of one message, on a slow machine; the memory is what the unit may have, without the interpreter."""
ENTITIES = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))


def send(content: bytes, kind: str = "application/gzip") -> ReportMail:
    return read_report_mail(compose_body_report("dmarc@example.net", content, kind))


@pytest.mark.slow
def test_each_bomb_is_refused_within_its_bounds() -> None:
    million = b"\0" * 2**20
    laughs = f'<!DOCTYPE x [<!ENTITY e0 "ha">{ENTITIES}]><feedback>&e11;'.encode()
    external = b'<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><feedback>&f;</feedback>'
    attributes = b" ".join(b"a%d='1'" % number for number in range(700_000))
    bombs = {
        "gzip": (gzip.compress(b"<feedback>" + 300 * million), "more than 10 MB"),
        "zip": (pack_zip(b"<feedback>" + 300 * million), "more than 10 MB"),
        "gzip in gzip": (gzip.compress(gzip.compress(compose_xml())), "an archive within an archive"),
        "zip in zip": (pack_zip(pack_zip(compose_xml())), "an archive within an archive"),
        "laughs": (compose_xml().replace(b"<feedback>", laughs), "document type"),
        "external": (compose_xml().replace(b"<feedback>", external), "document type"),
        "DTD": (b'<!DOCTYPE feedback SYSTEM "http://192.0.2.1/x.dtd"><feedback/>', "document type"),
        "elements": (gzip.compress(b"<feedback>" + b"<a/>" * 2_000_000 + b"</feedback>"), "too many elements"),
        "depth": (gzip.compress(b"<feedback>" + b"<a>" * 2_000_000), "too many elements"),
        "attributes": (gzip.compress(b"<feedback " + attributes + b"/>"), "too long"),
        "deep JSON": (gzip.compress(b'{"policies":' + b"[" * 900_000), "malformed"),
        "long JSON": (gzip.compress(b'{"policies":[' + b"{}," * 900_000 + b"{}]}"), "longer than 1 MB"),
    }
    for name, (bomb, fault) in bombs.items():
        tracemalloc.start()
        begin = time.monotonic()
        mail = send(bomb)
        seconds, peak = time.monotonic() - begin, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert mail.reports == [], name
        assert len(mail.faults) == 1, name
        assert fault in mail.faults[0], name
        assert seconds < 4 * MAX_SECONDS, name  # tracemalloc slows
        assert peak < MAX_MEMORY, name


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (gzip.compress(compose_xml())[:-20], "cut off"),
        (pack_zip(compose_xml())[:60], "cut off"),
        (pack_zip(compose_xml())[:20], "cut off"),
        (compose_xml()[:-30], "malformed"),
        (b"\x1f\x8b\x08\x00garbage beyond words", "damaged"),
        (pack_zip(b""), "no report in its first members"),
        (b"<feedback/>", "no domain"),
        (b"<other/>", "no report"),
        (b"{}", "no report"),
        (b"{", "malformed"),
        (b'{"policies": 7}', "no report"),
        (b'{"policies": []}', "times"),
        (compose_tls([]), "nothing of any domain"),
        (compose_xml().replace(b"<begin>", b"<begin>9" + b"9" * 5000), "too long"),
        (compose_tls([], **{"date-range": {"start-datetime": "soon"}}), "times"),
    ],
    # The bytes of an archive have its time, and processes that share the tests must agree on their names.
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_what_cannot_be_read_says_why(content: bytes, fault: str) -> None:
    mail = send(content)
    assert mail.reports == []
    assert fault in mail.faults[0]


def test_an_encrypted_zip_and_another_packing_say_so() -> None:
    archive = bytearray(pack_zip(compose_xml()))
    archive[6] |= 1
    assert "encrypted" in send(bytes(archive)).faults[0]
    archive[6], archive[8] = 0, 12
    assert "another method" in send(bytes(archive)).faults[0]


def test_names_in_a_zip_file_are_never_used() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../../../etc/", b"")
        archive.writestr("../../../../etc/cron.d/\u202exml\x1b[2J", compose_xml())
    assert len(send(buffer.getvalue(), "application/zip").reports) == 1


def test_a_directory_of_a_zip_file_that_lies_is_not_believed() -> None:
    archive = bytearray(pack_zip(compose_xml()))
    end = archive.rindex(b"PK\x05\x06")
    struct.pack_into("<HHLL", archive, end + 8, 65535, 65535, 2**32 - 1, 2**32 - 1)
    assert len(send(bytes(archive)).reports) == 1


def test_hostile_names_become_one_plain_line() -> None:
    name = "B\x1b[31mank\u202e\u2066\x9b2J\r\n\tof &lt;script&gt; " + "x" * 5000
    text = compose_xml("NAME").replace(b"NAME", name.encode().replace(b"\x1b", b"").replace(b"\x9b", b""))
    [report] = send(text).reports
    assert report.reporter.isprintable()
    assert len(report.reporter) <= 100
    raw = compose_tls(
        [{"policy": {"policy-type": "sts", "policy-domain": "example.org"}, "summary": {}}],
        **{"organization-name": name},
    )
    [report] = send(raw).reports
    assert report.reporter.isprintable()
    assert "\x1b" not in report.reporter
    assert "\u202e" not in report.reporter


def test_domains_and_sources_are_names_and_addresses_or_nothing() -> None:
    rows = [
        compose_record("203.0.113.25; rm -rf /", 1, "pass", "pass", ""),
        compose_record("fe80::1%eth0", 1, "pass", "pass", ""),
        compose_record("::ffff:203.0.113.25", 1, "pass", "pass", "").replace("example.org", "EXAMPLE.org."),
        compose_record(OURS, 1, "pass", "pass", "<dkim><domain>a b=pass</domain><result>pass</result></dkim>"),
    ]
    [report] = send(compose_xml("x", "1", *rows)).reports
    assert isinstance(report, DmarcReport)
    assert {row.source for row in report.rows} == {OURS}
    assert {row.header_from for row in report.rows} == {"example.org"}
    assert {row.signatures for row in report.rows} == {()}
    assert report.unread_rows == 2


@pytest.mark.parametrize("count", ["-1", "1e9", "9" * 400, "1000000001", "", "NaN", "\u0663", "0x10"])
def test_a_number_that_is_none_costs_its_row_alone(count: str) -> None:
    row = compose_record(OURS, 1, "pass", "pass", "").replace("<count>1<", f"<count>{count}<")
    [report] = send(compose_xml("x", "1", row, compose_record(OURS, 5, "pass", "pass", ""))).reports
    assert isinstance(report, DmarcReport)
    assert (list(report.rows.values()), report.unread_rows) == ([5], 1)


@pytest.mark.parametrize("count", [-1, 1e300, float("inf"), float("nan"), 10**30, "x", [], None, True, {}])
def test_a_number_of_sessions_that_is_none_costs_its_policy_alone(count: object) -> None:
    good = {"policy": {"policy-type": "sts", "policy-domain": "example.org"}, "summary": {}}
    bad = good | {"summary": {"total-successful-session-count": count}}
    [report] = send(compose_tls([bad, good, "text", None, {}])).reports  # type: ignore[list-item]
    assert isinstance(report, TlsReport)
    assert (len(report.rows), report.unread_rows) == (1, 4)


@pytest.mark.slow
def test_a_report_has_a_bounded_number_of_rows() -> None:
    rows = [compose_record(f"198.51.{n // 256}.{n % 256}", 1, "pass", "fail", "") for n in range(3000)]
    [report] = send(gzip.compress(compose_xml("x", "1", *rows))).reports
    assert isinstance(report, DmarcReport)
    assert (len(report.rows), report.unread_rows) == (dmarc_report.MAX_ROWS, 3000 - dmarc_report.MAX_ROWS)
    policy = {"policy": {"policy-type": "sts", "policy-domain": "example.org"}, "summary": {}}
    [tls] = send(compose_tls([policy] * 1000)).reports
    assert isinstance(tls, TlsReport)
    assert (len(tls.rows), tls.unread_rows) == (tls_report.MAX_POLICIES, 1000 - tls_report.MAX_POLICIES)


def nest(part: bytes, levels: int, before: int = 0) -> bytes:
    """A message with the part at this depth, after so many others at each level."""
    for level in range(levels):
        boundary = b"b%d" % level
        others = (b"--" + boundary + b"\n\nx\n") * before
        head = b'Content-Type: multipart/mixed; boundary="' + boundary + b'"\n\n'
        part = head + others + b"--" + boundary + b"\n" + part + b"\n--" + boundary + b"--\n"
    return part


@pytest.mark.parametrize(
    ("levels", "before", "read"), [(3, 0, 1), (4, 0, 1), (5, 0, 0), (2, 8, 1), (2, 12, 0), (1, 30, 0)]
)
def test_a_report_is_sought_in_so_many_parts(levels: int, before: int, read: int) -> None:
    message = nest(b"Content-Type: text/xml\n\n" + compose_xml(), levels, before)
    assert len(read_report_mail(message).reports) == read


def test_a_message_has_bounded_parts_depth_and_size() -> None:
    begin = time.monotonic()
    parts = b"--b\n\n<feedback/>\n" * 200_000
    mail = read_report_mail(b"Content-Type: multipart/mixed; boundary=b\n\n" + parts)
    assert 0 < len(mail.faults) <= 5
    nested = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(50_000))
    assert read_report_mail(nested + compose_xml()).reports == []
    messages = b"Content-Type: message/rfc822\n\n" * 100_000
    assert read_report_mail(messages + compose_xml()).reports == []
    assert "more than 5 MB" in read_report_mail(b"x" * (MAX_MESSAGE + 1)).faults[0]
    assert read_report_mail(b"A: b\n " * 800_000).reports == []
    assert time.monotonic() - begin < 2 * MAX_SECONDS


@pytest.mark.slow
def test_ten_thousand_mutated_reports_raise_nothing_and_end() -> None:
    """Bytes changed, cut, doubled and moved, in the message and inside the packed text."""
    random_source = random.Random(12)  # noqa: S311 - the same mutations in each run
    texts = [compose_xml(), compose_xml().replace(b"feedback", b"n:feedback"), MAILRU_TLS]
    messages = [*(sample.message for sample in DMARC_SAMPLES.values()), GOOGLE_TLS, MAILRU_TLS]
    read, slowest = 0, 0.0
    for number in range(10_000):
        if number % 2:
            message = mutate(random_source.choice(messages), random_source)
        else:
            text = mutate(random_source.choice(texts), random_source)
            packed = random_source.choice([gzip.compress, pack_zip, bytes, zlib.compress])(text)
            message = compose_body_report("dmarc@example.net", packed, "application/gzip")
        begin = time.monotonic()
        mail = read_report_mail(message)
        slowest = max(slowest, time.monotonic() - begin)
        read += len(mail.reports)
        check_fields(mail)
    assert slowest < MAX_SECONDS
    assert 500 < read < 9_500, "the mutations break all or nothing"


def mutate(data: bytes, random_source: random.Random) -> bytes:
    content = bytearray(data)
    for _ in range(random_source.randint(1, 6)):
        position = random_source.randrange(len(content) or 1)
        match random_source.randrange(5):
            case 0:
                content[position : position + 1] = bytes([random_source.randrange(256)])
            case 1:
                del content[position : position + random_source.randint(1, 200)]
            case 2:
                content[position:position] = content[position : position + 300] * random_source.randint(1, 5)
            case 3:
                content[position:position] = random_source.choice(
                    [
                        b"<",
                        b">",
                        b"&",
                        b"]]>",
                        b"<!DOCTYPE x [",
                        b"\0" * 9,
                        b"9" * 40,
                        b"-",
                        b"\xff\xfe",
                        b"{",
                        b"[" * 99,
                    ]
                )
            case 4:
                end = random_source.randrange(len(content) or 1)
                content[position:position] = content[end : end + 100]
    return bytes(content)


def check_fields(mail: ReportMail) -> None:
    """What a mutated report may have brought in."""
    for report in mail.reports:
        assert report.reporter.isprintable()
        assert report.report_id.isprintable()
        for row in report.rows:
            assert isinstance(row, DmarcRow) or row.sessions >= 0
            assert json.dumps(str(row)).isascii()
    assert all(fault.isprintable() for fault in mail.faults)
