"""`report-intake`: what Postfix's pipe(8) gives a copy of each message to, at the address where reports arrive.

It stands in the way of no mail: the message itself goes where mail.yml leads it, whatever becomes of the copy. So the
intake parses nothing, writes a file, and always says that all is well. What does not fit is left out: else a bounce
about the copy would go to a sender who may be forged.
"""

import contextlib
import os
import sys
import syslog
import time
from pathlib import Path
from typing import BinaryIO

from mailkeep_server.common import paths
from mailkeep_server.reports.message_parts import MAX_MESSAGE

SPOOL = Path(paths.REPORTS_SPOOL)
MAX_WAITING = 2000  # messages
MAX_WAITING_BYTES = 64 * 2**20
CHUNK = 65_536  # bytes
PARTIAL = "partial."
"""Beside the messages, a name begins with this until the copy is complete."""
OVERFLOW_FILE = "overflow"
"""Beside the messages: a byte for each one that was left out because too many waited."""


def store_message(message: BinaryIO, spool: Path) -> str:
    """Why it is left out; "" if it waits for the reader. Raises OSError."""
    with os.scandir(spool) as entries:
        sizes = [entry.stat(follow_symlinks=False).st_size for entry in entries]
    if len(sizes) >= MAX_WAITING or sum(sizes) >= MAX_WAITING_BYTES:
        with (spool.parent / OVERFLOW_FILE).open("ab") as overflow:
            overflow.write(b".")
        return f"{len(sizes)} messages wait for the reader already"
    name = f"{time.time_ns()}.{os.getpid()}"
    partial = spool.parent / f"{PARTIAL}{name}"
    try:
        with partial.open("xb") as file:
            length = 0
            while chunk := message.read(CHUNK):
                length += len(chunk)
                if length > MAX_MESSAGE:
                    return f"it has more than {MAX_MESSAGE // 2**20} MB"
                file.write(chunk)
        partial.rename(spool / name)
    finally:
        partial.unlink(missing_ok=True)
    return ""


def main(_arguments: list[str]) -> int:
    """Always 0 (EX_OK of sysexits.h). Reasons are in the journal: pipe(8) logs no output of a success."""
    syslog.openlog("mailkeep-reports", 0, syslog.LOG_MAIL)
    os.umask(0o077)
    try:
        reason = store_message(sys.stdin.buffer, SPOOL)
    except OSError as error:
        reason = str(error)
    if reason:
        syslog.syslog(syslog.LOG_WARNING, f"a message is not looked at for reports: {reason}")
    with contextlib.suppress(OSError):
        while sys.stdin.buffer.read(CHUNK):  # Postfix would take a broken pipe for a failure
            pass
    return 0
