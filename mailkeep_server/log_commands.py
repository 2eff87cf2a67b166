"""`mailkeepctl report`, `trace` and `forget`: what the log says was sent, and what became of a message."""

import argparse
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from mailkeep_server.common import paths
from mailkeep_server.common.wording import count_noun
from mailkeep_server.guard import config
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
    text = (
        "Remove the name of an account that is gone from the numbers of past days. The log's lines go with their age."
    )
    add("forget", forget_account, text, "bert@example.org")


def forget_account(options: argparse.Namespace) -> None:
    """Raises RuntimeError."""
    import sqlite3  # other commands need none

    from mailkeep_server.mail_log.digest import DATABASE, REMOVED, Digest

    if options.account in config.load_config(Path(paths.GUARD_CONFIG)).addresses:
        raise RuntimeError(f"{options.account} is still in mail.yml: remove it there, and deploy.")
    try:
        with closing(Digest(DATABASE)) as digest:
            days = digest.remove_account(options.account)
    except sqlite3.Error as error:
        raise RuntimeError(f"{DATABASE}: {error}") from None
    print(f"The numbers of {options.account} of {count_noun(days, 'day')} are now those of {REMOVED}.")
