"""`mailkeepctl report` and `trace`: what the log says was sent, and what became of a message."""

import argparse
from collections.abc import Callable
from typing import Any

from mailkeep_server.mail_log import report_command, trace_command


def add_log_commands(add: Callable[..., Any]) -> None:
    """`add` makes a command of its name, function, help and example."""
    text = "Show what was sent, by whom and with which fate: delivered, bounced, deferred, rejected, and logins."
    report: argparse.ArgumentParser = add(
        "report", report_command.show_report, text, "--since yesterday --by account", account=False
    )
    report_command.add_arguments(report)
    text = "Show each message of an address, of a message ID or of a queue ID: its way, and each recipient's fate."
    trace: argparse.ArgumentParser = add(
        "trace", trace_command.show_trace, text, "friend@example.net --since '3 days ago'", account=False
    )
    trace_command.add_arguments(trace)
