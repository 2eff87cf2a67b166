"""A report for a terminal of 80 columns: a few lines of totals, a table, and bars."""

from collections.abc import Iterator, Sequence
from typing import Any

from mailkeep_server.common.wording import count_noun

MAX_ROWS = 40
MAX_KEY = 38  # columns
WIDTH = 80
BARS = {"delivered": "█", "bounced": "▓", "deferred": "▒", "rejected": "░"}
COLUMNS = ("messages", "people", *("delivered", "bounced", "deferred", "rejected"), "bytes", "logins", "failed_logins")
HEADS = {"failed_logins": "failed", "messages": "mails"}
MEANINGS = {
    "delivered": "another server, or a mailbox here, has it",
    "bounced": "refused for good, or given up",
    "rejected": "refused at the door: it never was in the queue",
    "deferred": "still waits, after {deferrals} that were put off",
    "deleted": "taken out of the queue by hand",
    "unknown": "the log has no fate: on its way, or lost with the log",
    "unclear": "its line can be read in two ways, and nothing is guessed",
}


def format_report(report: dict[str, Any], *, has_plot: bool = False, rows: int = MAX_ROWS) -> Iterator[str]:
    totals = report["totals"]
    deferrals = f"{totals['deferrals']:,} {'try' if totals['deferrals'] == 1 else 'tries'}"
    yield f"{_describe_filter(report)}, in a log of {_show_time(report['first'])} to {_show_time(report['last'])}"
    yield ""
    yield f"{'attempted':12}{totals['attempted']:>12,}"
    for name, meaning in MEANINGS.items():
        if totals[name] or name in BARS:
            yield f"{name:12}{totals[name]:>12,}  {meaning.format(deferrals=deferrals)}"
    yield ""
    yield "  ".join(_describe_totals(totals))
    if report["not_followed"]:
        yield f"{report['not_followed']:,} messages waited while too many others did: what came of them is not theirs."
    if report["by"]:
        yield ""
        shown = report["rows"][:rows] if report["by"] not in ("day", "hour") else report["rows"]
        yield from _plot_rows(shown) if has_plot else _format_table(report["by"], shown)
        if left := len(report["rows"]) - len(shown):
            yield f"{count_noun(left, 'more row')}: `--json` has all."


def _describe_filter(report: dict[str, Any]) -> str:
    return " and ".join(filter(None, (report["account"], report["domain"]))) or "all mail"


def _describe_totals(totals: dict[str, int]) -> Iterator[str]:
    yield f"{count_noun(totals['messages'], 'message')} to {count_noun(totals['people'], 'recipient')}".replace(",", "")
    yield _format_bytes(totals["bytes"])
    if totals["held"]:
        yield f"{totals['held']:,} put on hold"
    yield f"logins: {totals['logins']:,} good, {totals['failed_logins']:,} failed"


def _show_time(time: str) -> str:
    return time[:16].replace("T", " ") or "nothing"


def _format_table(by: str, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    columns = [name for name in COLUMNS if any(row[name] for row in rows)]
    cells = [[_format_cell(name, row[name]) for name in columns] for row in rows]
    heads = [HEADS.get(name, name) for name in columns]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    key_width = min(MAX_KEY, max(len(by), *(len(row["key"]) for row in rows))) if rows else len(by)
    yield "  ".join([f"{by:{key_width}}", *(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True))])
    for row, line in zip(rows, cells, strict=True):
        numbers = (f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
        yield "  ".join([f"{row['key'][:key_width]:{key_width}}", *numbers])


def _format_cell(name: str, number: int) -> str:
    return _format_bytes(number) if name == "bytes" else f"{number:,}"


def _format_bytes(number: int) -> str:
    return f"{number / 1e6:,.1f}MB" if number < 1e9 else f"{number / 1e9:,.1f}GB"


def _plot_rows(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A bar for each row, of what became of the recipients."""
    key_width = min(MAX_KEY, max((len(row["key"]) for row in rows), default=0))
    largest = max((sum(row[name] for name in BARS) for row in rows), default=0) or 1
    room = WIDTH - key_width - 12
    yield "  ".join(f"{block} {name}" for name, block in BARS.items())
    for row in rows:
        total = sum(row[name] for name in BARS)
        yield f"{row['key'][:key_width]:{key_width}} {total:>9,} {_draw_bar(row, room / largest)}"


def _draw_bar(row: dict[str, Any], scale: float) -> str:
    """Of rounded sums, so that the bar is as long as its whole."""
    bar, total = "", 0
    for name, block in BARS.items():
        total += row[name]
        bar += block * (round(total * scale) - len(bar))
    return bar
