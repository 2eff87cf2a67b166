"""`mailkeepctl report`, and `mail-report` for files on any machine."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from mailkeep_server.mail_log.report import GROUPS, Query, build_report, parse_time
from mailkeep_server.mail_log.report_text import format_report
from mailkeep_server.mail_log.sources import LogError, find_first_time, read_server_log, refuse_other_files
from mailkeep_server.mail_log.tally import Tally

OF_PAST_DAYS = ("day", "account", "remote")
"""What a report may be by, so that it reaches back before the log."""
LOW_PRIORITY = 10  # nice(2): reading the log must not delay mail


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_time_arguments(parser)
    parser.add_argument("--account", type=str.lower, default="", help="only what this login has sent")
    parser.add_argument("--domain", type=str.lower, default="", help="only what its accounts sent, or was sent to it")
    parser.add_argument("--by", choices=GROUPS, default="", help="a row for each")
    parser.add_argument("--plot", action="store_true", help="with --by: bars instead of numbers")
    parser.add_argument(
        "--file", action="append", default=[], type=Path, metavar="FILE", help="these logs instead of the server's own"
    )
    parser.add_argument(
        "--processes", type=int, default=0, metavar="NUMBER", help="for files: so many (default: one a processor)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")


def add_time_arguments(parser: argparse.ArgumentParser) -> None:
    example = "2026-11-29, '2026-11-29 02:00', yesterday or '3 days ago', in the log's own time (UTC)"
    parser.add_argument("--since", type=_read_since, default="", metavar="TIME", help=f"from then on: {example}")
    parser.add_argument("--until", type=_read_until, default="", metavar="TIME", help="up to then; a day is included")


def refuse_no_time(options: argparse.Namespace) -> None:
    """Raises LogError if the time asked for ends before it begins."""
    if options.until and options.until <= options.since:
        since, until = (time.replace("T", " ") for time in (options.since, options.until))
        raise LogError(f"--until ends at {until}, and --since begins at {since}: no time is between them")


def _read_since(text: str) -> str:
    return _read_time(text, is_end=False)


def _read_until(text: str) -> str:
    return _read_time(text, is_end=True)


def _read_time(text: str, *, is_end: bool) -> str:
    if not text:  # the default
        return ""
    try:
        return parse_time(text, datetime.now(UTC).replace(tzinfo=None), is_end=is_end)
    except ValueError:
        expected = "expected a time, such as 2026-11-29, '2026-11-29 02:00', yesterday or '3 days ago'"
        raise argparse.ArgumentTypeError(expected) from None


def show_report(options: argparse.Namespace) -> None:
    """Raises LogError."""
    refuse_no_time(options)
    query = Query(options.since, options.until, options.account, options.domain, options.by)
    report = build_report(count(query, options.file, options.processes), query)
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        print("\n".join(format_report(report, has_plot=options.plot)))


def count(query: Query, files: list[Path], processes: int) -> Tally:
    """Of the server's own log, what came before the time asked for is read, too: a message may have entered the queue
    then. Raises LogError."""
    # Other commands would start later for these.
    from mailkeep_server.mail_log.counting import LogCounter
    from mailkeep_server.mail_log.digest import add_days, read_past
    from mailkeep_server.mail_log.parallel import count_files

    if files:
        refuse_other_files(files)
        return count_files(files, query.needs, processes)
    os.nice(LOW_PRIORITY)
    has_past = not query.domain and query.by in ("", *OF_PAST_DAYS)
    past, since = read_past(query.since, query.until, find_first_time()) if has_past else ([], query.since)
    tally = LogCounter(replace(query.needs, since=since)).read(read_server_log()).finish()
    add_days(tally, past)
    return tally


def run_reader(
    parser: argparse.ArgumentParser, show: Callable[[argparse.Namespace], None], arguments: list[str]
) -> int:
    """The exit code."""
    try:
        show(parser.parse_args(arguments))
    except LogError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("mail-report", description="What a mail log says was sent, and what became of it.")
    add_arguments(parser)
    return run_reader(parser, show_report, arguments)
