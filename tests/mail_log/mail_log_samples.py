"""Logs for tests, and what the program prints of them."""

import io
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

from incident_log import DAY, Mail, Totals, Writer, make_honest_mail, make_incident_b

from mailkeep_server.mail_log.counting import LogCounter
from mailkeep_server.mail_log.report import Query, build_report
from mailkeep_server.mail_log.sources import Chunk

FATES = {"sent": "delivered", "waiting": "deferred", "bounced": "bounced"}
LAST_DAY = date(2026, 12, 31)


def make_small_log(*, classic: bool = False) -> tuple[bytes, Totals]:
    """A day of incident B with 150 messages, and other people's mail beside it."""
    file, totals = io.BytesIO(), Totals()
    writer = Writer(file, totals, 13, classic=classic)
    mail = Mail(writer)
    make_incident_b(mail, 0, DAY / 4, 150)
    make_honest_mail(mail, 0, DAY / 4, 100)
    writer.run_until(float("inf"))
    return file.getvalue(), totals


def report_text(text: bytes, **query: str) -> dict[str, Any]:
    options = Query(**query)
    queue = LogCounter(options.needs).read([Chunk(text, LAST_DAY)])
    return build_report(queue.finish(), options)


def count_rows(text: bytes, by: str, **query: str) -> dict[str, dict[str, int]]:
    """By row, its numbers that are not 0."""
    rows = report_text(text, by=by, **query)["rows"]
    return {row["key"]: {name: number for name, number in row.items() if name != "key" and number} for row in rows}


def has_totals(report: dict[str, Any], totals: Totals) -> bool:
    expected = Counter({FATES.get(name, name): number for name, number in totals.numbers.items()})
    return all(report["totals"][name] == number for name, number in expected.items())


def write(directory: Path, name: str, content: bytes) -> Path:
    path = directory / name
    path.write_bytes(content)
    return path
