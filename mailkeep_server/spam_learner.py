"""`mailkeep-learn.service`: teaches the spam filter what people have moved into and out of Junk.

Dovecot's script leaves a copy of each moved message in a spool. One learner works it off, oldest first, while the
machine has nothing better to do. If bogofilter fails, the copies stay, and systemd tries again.
"""

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from mailkeep_server.common import paths
from mailkeep_server.common.files import atomic_write
from mailkeep_server.common.spam_header import VERDICT_HEADER
from mailkeep_server.common.wording import describe_error

SPOOL = Path(paths.LEARN_SPOOL)
KINDS = ("spam", "ham")
WORDS = Path(paths.SPAM_WORDS)
LEARN_OPTIONS, UNLEARN_OPTIONS = {"spam": "s", "ham": "n"}, {"spam": "N", "ham": "S"}
BOGOFILTER_DONE = (0, 1, 2)
MAX_KNOWN = 10_000
"""Messages of an account of which is known what they were learned as."""
_END_OF_HEADERS = re.compile(rb"\r?\n\r?\n")
_VERDICT = re.compile(rb"^%s:.*\r?\n(?:[ \t].*\r?\n)*" % VERDICT_HEADER.encode(), re.IGNORECASE | re.MULTILINE)


def main(_arguments: list[str]) -> int:
    counts = dict.fromkeys(KINDS, 0)
    try:
        for file in list_spooled(SPOOL):
            kind, account, message = parse_copy(file.read_bytes())
            if kind in KINDS:
                counts[kind] += learn_words(kind, account, message)
            file.unlink()
    except OSError as error:
        print(f"the spam filter learns later: {describe_error(error)}", file=sys.stderr)
        return 1
    print(f"learned: {counts['spam']} as spam, {counts['ham']} as ham")
    return 0


def list_spooled(spool: Path) -> Iterator[Path]:
    """The copies, in the order of the moves; also those that come meanwhile."""
    while files := sorted((spool / "new").iterdir(), key=lambda file: file.stat().st_mtime_ns):
        yield from files


def parse_copy(content: bytes) -> tuple[str, str, bytes]:
    """Kind, account and message: `templates/spam/learn` writes the first two in one line before the message. What a
    filter has written into it is no word of the message."""
    line, _, message = content.partition(b"\n")
    kind, _, account = line.decode(errors="replace").partition(" ")
    end = _END_OF_HEADERS.search(message)
    size = end.end() if end else len(message)
    return kind, account, _VERDICT.sub(b"", message[:size]) + message[size:]


def learn_words(kind: str, account: str, message: bytes) -> bool:
    """Whether the message was new to the account's word list. What it has learned as the other kind, it unlearns.
    Raises OSError if bogofilter fails."""
    directory = WORDS / account
    directory.mkdir(mode=0o700, exist_ok=True)
    learned = directory / "learned"
    digest = hashlib.blake2b(message, digest_size=12).hexdigest()
    known = dict(line.split() for line in learned.read_text().splitlines()) if learned.exists() else {}
    if known.get(digest) == kind:
        return False
    options = LEARN_OPTIONS[kind] + (UNLEARN_OPTIONS[kind] if digest in known else "")
    done = subprocess.run(
        ["bogofilter", "-d", str(directory), f"-{options}"], input=message, capture_output=True, check=False
    )
    if done.returncode not in BOGOFILTER_DONE:
        raise OSError(f"bogofilter: {done.stderr.decode(errors='replace').strip()[:200]}")
    known.pop(digest, None)
    rows = [*known.items(), (digest, kind)][-MAX_KNOWN:]
    atomic_write(learned, "".join(f"{digest} {kind}\n" for digest, kind in rows), 0o600)
    return True
