"""`mailkeepctl trace`, and `mail-trace` for files on any machine."""

import argparse
import json
import os
from functools import partial
from pathlib import Path

from mailkeep_server.mail_log.report_command import LOW_PRIORITY, add_time_arguments, refuse_no_time, run_reader
from mailkeep_server.mail_log.sources import (
    find_first_time,
    find_first_time_of,
    read_files,
    read_server_log,
    refuse_other_files,
)
from mailkeep_server.mail_log.trace import OpenLog, TraceQuery, trace_messages
from mailkeep_server.mail_log.trace_text import build_json, describe_trace


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", type=_read_name, metavar="ADDRESS|MESSAGE-ID|QUEUE-ID", help="whose messages, or which one"
    )
    add_time_arguments(parser)
    parser.add_argument(
        "--from", dest="sender", type=str.lower, default="", metavar="ADDRESS", help="only of this sender"
    )
    parser.add_argument("--to", dest="recipient", type=str.lower, default="", metavar="ADDRESS", help="only to them")
    parser.add_argument("--file", action="append", default=[], type=Path, metavar="FILE", help="these logs instead")
    parser.add_argument("--inventory", default="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")


def _read_name(text: str) -> str:
    """Nothing would be in each line."""
    name = text.strip()
    if not name or len(name.split()) > 1:
        raise argparse.ArgumentTypeError("expected an address, a message ID or a queue ID, without spaces")
    return name


def show_trace(options: argparse.Namespace) -> None:
    """Raises LogError."""
    refuse_no_time(options)
    query = TraceQuery(options.name, options.since, options.until, options.sender, options.recipient)
    open_log: OpenLog = read_server_log
    if options.file:
        refuse_other_files(options.file)
        open_log = partial(read_files, options.file)
        reaches_back = find_first_time_of(options.file)
    else:
        os.nice(LOW_PRIORITY)
        reaches_back = find_first_time()
    trace = trace_messages(query, open_log)
    if options.json:
        print(json.dumps(build_json(trace, query, reaches_back), indent=1))
    else:
        print("\n".join(describe_trace(trace, query, reaches_back, options.inventory)))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("mail-trace", description="What a mail log says became of a message.")
    add_arguments(parser)
    return run_reader(parser, show_trace, arguments)
