"""`mailkeep-learn.service`: teaches the spam filter what people have moved into and out of Junk.

Dovecot's script leaves a copy of each moved message in a spool. One learner works it off, oldest first, while the
machine has nothing better to do. If the filter does not answer, the copies stay, and systemd tries again.
"""

import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from mailkeep_server.common import paths
from mailkeep_server.common.files import atomic_write
from mailkeep_server.common.wording import describe_error

SPOOL = Path(paths.LEARN_SPOOL)
FILTER = paths.SPAM_LEARN_SOCKET
KINDS = ("spam", "ham")
WORDS = Path(paths.SPAM_WORDS)
LEARN_OPTIONS, UNLEARN_OPTIONS = {"spam": "s", "ham": "n"}, {"spam": "N", "ham": "S"}
BOGOFILTER_DONE = (0, 1, 2)
MAX_KNOWN = 10_000
"""Messages of an account of which is known what they were learned as."""
LEARN_TIMEOUT = 60.0  # seconds
SKIPPED = (204, 208)
"""rspamd's answers for a message without words, and for one that it has learned already."""


def main(arguments: list[str]) -> int:
    """`arguments`: the filter, `full` or `light`."""
    (kind_of_filter,) = arguments
    learn = learn_words if kind_of_filter == "light" else learn_by_rspamd
    counts = dict.fromkeys(KINDS, 0)
    try:
        for file in list_spooled(SPOOL):
            kind, account, message = parse_copy(file.read_bytes())
            if kind in KINDS:
                counts[kind] += learn(kind, account, message)
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
    """Kind, account and message: `templates/spam/learn` writes the first two in one line before the message."""
    line, _, message = content.partition(b"\n")
    kind, _, account = line.decode(errors="replace").partition(" ")
    return kind, account, message


def learn_by_rspamd(kind: str, account: str, message: bytes) -> bool:
    """Whether the message was new to the account's training. Raises OSError if the filter does not answer."""
    # `bulk`: what a person says is learned, however sure the filter already is (lua_bayes_learn).
    lines = f"POST /learn{kind} HTTP/1.0", f"Content-Length: {len(message)}", f"Rcpt: {account}", "Learn-Type: bulk"
    head, _, text = _ask("\r\n".join((*lines, "\r\n")).encode() + message).partition(b"\r\n\r\n")
    try:
        status = int(head.split(maxsplit=2)[1])
    except (IndexError, ValueError) as error:
        raise OSError(f"rspamd answers with {head[:100]!r}") from error
    if status >= 500:
        raise OSError(f"rspamd answers with {status}: {_read_error(text)}")
    if status != 200 and status not in SKIPPED:
        print(f"a message of {account} was not learned: {status} {_read_error(text)}", file=sys.stderr)
    return status == 200


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


def _ask(request: bytes) -> bytes:
    """The answer over HTTP; the module `http.client` would take 3 MB."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(LEARN_TIMEOUT)
        connection.connect(FILTER)
        connection.sendall(request)
        answer = b""
        while block := connection.recv(65536):
            answer += block
    return answer


def _read_error(text: bytes) -> str:
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text[:200].decode(errors="replace")
