"""A DMARC aggregate report: XML as in RFC 7489 appendix C or RFC 9990 appendix A, with and without namespaces.

Reporters leave out elements, order them otherwise, and write white space around values. So elements are known by their
path alone. expat is given no chance to resolve anything: a document type ends the reading.
"""

from collections import Counter
from dataclasses import dataclass, field
from xml.parsers import expat

from mailkeep_server.reports.report_text import (
    ReportError,
    clean_address,
    clean_domain,
    clean_text,
    read_count,
    read_integer,
)

MAX_ELEMENTS = 200_000
MAX_DEPTH = 20
PIECE = 65_536  # bytes
MAX_QUIET_PIECES = 2
"""Without the end of any tag or text."""
MAX_VALUE = 1000  # characters of one element that are kept
MAX_ROWS = 500
"""Different rows of one report that are kept. A domain of a few thousand users has some dozens."""
MAX_SIGNATURES = 4
RESULTS = frozenset(("pass", "fail", "softfail", "neutral", "none", "policy", "temperror", "permerror"))
"""RFC 8601 section 2.7, for SPF and DKIM."""
DISPOSITIONS = frozenset(("none", "pass", "quarantine", "reject"))


@dataclass(frozen=True, slots=True)
class DmarcRow:
    """Messages that one source sent with one outcome. `dkim` and `spf`: whether they passed for the domain of `From:`.
    `signatures` and `spf_checks` are pairs of a domain and a result, whatever that domain; `reason` is why the
    receiver did not do as the policy says."""

    source: str
    header_from: str
    dkim: bool
    spf: bool
    disposition: str
    signatures: tuple[tuple[str, str], ...] = ()
    spf_checks: tuple[tuple[str, str], ...] = ()
    reason: str = ""


@dataclass(slots=True)
class DmarcReport:
    """Times in seconds since the epoch. `rows` counts messages; `unread_rows` were malformed, or beyond the bound."""

    reporter: str = ""
    report_id: str = ""
    begin: int = 0
    end: int = 0
    domain: str = ""
    policy: str = ""
    rows: Counter[DmarcRow] = field(default_factory=Counter)
    unread_rows: int = 0


def parse_dmarc_report(text: bytes) -> DmarcReport:
    """Raises ReportError."""
    try:
        return _Reader().read(text, None)
    except expat.ExpatError as error:
        # A wrong charset, or bytes that are none: the elements that matter are ASCII.
        if error.code not in _CHARSET_ERRORS:
            raise ReportError(f"its XML is malformed: {expat.ErrorString(error.code)}") from None
    except (LookupError, ValueError):  # an unknown encoding, or one of several bytes
        pass
    try:
        return _Reader().read(text.decode("utf-8", "replace").encode(), "utf-8")
    except expat.ExpatError as error:
        raise ReportError(f"its XML is malformed: {expat.ErrorString(error.code)}") from None


_CHARSET_ERRORS = tuple(
    expat.errors.codes[message]
    for message in (
        expat.errors.XML_ERROR_INVALID_TOKEN,
        expat.errors.XML_ERROR_UNKNOWN_ENCODING,
        expat.errors.XML_ERROR_INCORRECT_ENCODING,
        expat.errors.XML_ERROR_PARTIAL_CHAR,
    )
)


class _Reader:
    """One pass over the document."""

    def __init__(self) -> None:
        self.report, self.path = DmarcReport(), list[str]()
        self.elements, self.events = 0, 0
        self.text, self.length = list[str](), 0
        self.record: dict[str, str] = {}
        self.signatures: list[tuple[str, str]] = []
        self.spf_checks: list[tuple[str, str]] = []
        self.check: dict[str, str] = {}

    def read(self, text: bytes, encoding: str | None) -> DmarcReport:
        parser = expat.ParserCreate(encoding)
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = _refuse_document_type
        parser.StartElementHandler = self.begin_element
        parser.CharacterDataHandler = self.add_text
        parser.EndElementHandler = self.end_element
        self._feed(parser, text)
        if not self.report.domain:
            raise ReportError("it names no domain")
        return self.report

    def _feed(self, parser: expat.XMLParserType, text: bytes) -> None:
        """Piece by piece: one element with a million attributes would take twenty times its length in memory."""
        quiet_pieces = 0
        for begin in range(0, len(text), PIECE):
            before = self.events
            parser.Parse(text[begin : begin + PIECE], False)
            quiet_pieces = quiet_pieces + 1 if self.events == before else 0
            if quiet_pieces >= MAX_QUIET_PIECES:
                raise ReportError("an element or a comment is too long")
        parser.Parse(b"", True)

    def begin_element(self, name: str, _attributes: object) -> None:
        self.elements += 1
        self.events += 1
        self.path.append(name.rpartition(":")[2])
        if self.elements > MAX_ELEMENTS or len(self.path) > MAX_DEPTH:
            raise ReportError("it has too many elements")
        if self.elements == 1 and self.path != ["feedback"]:
            raise ReportError("it is XML, but no report")
        self.text, self.length = [], 0
        if self.path[1:] == ["record"]:
            self.record, self.signatures, self.spf_checks = {}, [], []

    def add_text(self, text: str) -> None:
        self.events += 1
        if self.length < MAX_VALUE:
            self.text.append(text[:MAX_VALUE])
            self.length += len(text)

    def end_element(self, _name: str) -> None:
        value, path = "".join(self.text).strip(), self.path[1:]
        match path:
            case ["record"]:
                self._add_record()
            case ["record", "auth_results", kind]:
                self._add_check(kind)
            case ["record", "auth_results", _, key]:
                self.check[key] = value
            case ["record", *_, key]:
                self.record.setdefault(key, value)
            case [section, *_, key]:
                self._set_report_value(section, key, value)
        self.path.pop()
        self.text, self.length = [], 0

    def _set_report_value(self, section: str, key: str, value: str) -> None:
        report = self.report
        match section, key:
            case "report_metadata", "org_name":
                report.reporter = clean_text(value)
            case "report_metadata", "report_id":
                report.report_id = clean_text(value, 200)
            case "report_metadata", "begin":
                report.begin = read_integer(value)
            case "report_metadata", "end":
                report.end = read_integer(value)
            case "policy_published", "domain":
                report.domain = clean_domain(value)
            case "policy_published", "p":
                report.policy = value if value in DISPOSITIONS else ""

    def _add_check(self, kind: str) -> None:
        checks = {"dkim": self.signatures, "spf": self.spf_checks}.get(kind)
        domain, result = clean_domain(self.check.get("domain", "")), self.check.get("result", "").lower()
        if checks is not None and domain and result in RESULTS and len(checks) < MAX_SIGNATURES:
            checks.append((domain, result))
        self.check = {}

    def _add_record(self) -> None:
        record = self.record
        try:
            row = DmarcRow(
                source=clean_address(record.get("source_ip", "")),
                header_from=clean_domain(record.get("header_from", "")),
                dkim=record.get("dkim", "").lower() == "pass",
                spf=record.get("spf", "").lower() == "pass",
                disposition=_read_disposition(record.get("disposition", "")),
                signatures=tuple(self.signatures),
                spf_checks=tuple(self.spf_checks),
                reason=clean_text(record.get("type", ""), 30),
            )
            messages = read_count(record.get("count", ""))
        except ReportError:
            self.report.unread_rows += 1
            return
        if row in self.report.rows or len(self.report.rows) < MAX_ROWS:
            self.report.rows[row] += messages
        else:
            self.report.unread_rows += 1


def _read_disposition(text: str) -> str:
    """Empty if it is unknown."""
    disposition = text.lower()
    return disposition if disposition in DISPOSITIONS else ""


def _refuse_document_type(*_declaration: object) -> None:
    raise ReportError("it has a document type: entities could be anything")
