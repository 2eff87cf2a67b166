"""What borg's messages mean, in a sentence each that says what to do.

`borg --log-json` names its errors by IDs (`borg help` has none of them: docs/internals/frontends.rst of borg). Errors
that it did not expect come as a traceback, and those of ssh as plain lines.
"""

import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from mailkeep_server.common import paths

LOCK_WAIT = 600  # seconds; another run, or pruning
WARNINGS = range(100, 128)
"""Modern exit codes of what is done, with something to say."""
SSH_TIMEOUT = 60.0  # seconds
SSH_FAILED = 255  # ssh(1), EXIT STATUS
MAX_CHARACTERS = 200
"""Of a message of borg or ssh that is not known here."""
PAPER_KEY = "`borg key import --paper` with the key on paper brings it back"
DEPLOY = "A deploy puts the passphrase back"
EXPLANATIONS = {
    "Repository.DoesNotExist": "there is no repository. If it was there before, it has been deleted. For a new target, "
    "run `mailkeep backup NAME --init`",
    "Repository.AlreadyExists": "there is a repository already",
    "Repository.InvalidRepository": "what is there is no repository of borg's",
    "Repository.PathPermissionDenied": "its directory cannot be read or written",
    "Repository.ParentPathDoesNotExist": "the directory above it does not exist",
    "Repository.StorageQuotaExceeded": "its quota is used up: raise it there, or run `mailkeep backup NAME --prune`. "
    "The next backup goes on",
    "Repository.CheckNeeded": "it is damaged: run `borg check --repair` there, once you know why",
    "Repository.ObjectNotFound": "a part of it is missing",
    "PathNotAllowed": "its authorized_keys lets this server's key use another repository only. Take the line anew that "
    "`mailkeep backup NAME --init` prints",
    "PassphraseWrong": f"the passphrase is wrong, or the repository's key was changed. {DEPLOY}, and {PAPER_KEY}",
    "PasscommandFailure": f"{paths.BACKUP_ETC}/passphrase cannot be read. {DEPLOY}",
    "KeyfileInvalidError": f"its key was changed: {PAPER_KEY}",
    "KeyfileNotFoundError": f"its key is missing: {PAPER_KEY}",
    "RepoKeyNotFoundError": f"its key is missing: {PAPER_KEY}",
    "LockTimeout": "another program has used it for ten minutes. If no backup, proof or pruning of it runs, its lock "
    "was left by one that is dead: `{break_lock}` removes it",
    "LockFailed": "it cannot be locked: its directory cannot be written",
    "ConnectionClosed": "the connection has ended. The next run goes on",
    "ConnectionClosedWithHint": "the connection has ended, or was refused. After wrong keys, sshd there refuses "
    "this machine for some minutes",
    "UnexpectedRPCDataFormatFromServer": "the other side does not speak borg's protocol",
    "InvalidRPCMethod": "the borg of the other side is too old",
    "IntegrityError": "its data are damaged",
    "FileIntegrityError": "its data are damaged",
    "DecompressionError": "its data are damaged",
    "Archive.DoesNotExist": "it has no archive of this name",
    "Cache.RepositoryReplay": "it is older than it was at the last backup: somebody has put back an older copy. If you "
    "did, see docs/backup.md, When something is told",
    "Cache.RepositoryIDNotUnique": "it is a copy of another repository",
    "Cache.EncryptionMethodMismatch": "its encryption was changed",
    "NoManifestError": "its list of archives is missing or damaged",
    "RepositoryAccessAborted": "it is another repository than at the last backup: it was moved or replaced",
}
OWN_DISK_FULL = f"this server's own disk is full: borg's cache has no room in {paths.BACKUP_STATE}"
FULL = "the disk there is full: make room on it, or run `mailkeep backup NAME --prune`. The next backup goes on"
OTHER_HOST_KEY = (
    "it shows another SSH host key than mail.yml has, so nothing was sent. If the "
    "machine is new, compare its key there, write it as `host_key`, and deploy. Else somebody may stand in between"
)
PHRASES = {
    "Insufficient free space": FULL,
    "REMOTE HOST IDENTIFICATION HAS CHANGED": OTHER_HOST_KEY,
    "Host key verification failed": OTHER_HOST_KEY,
    "Permission denied (": "it refuses this server's SSH key: its authorized_keys must have the line that `mailkeep "
    "backup NAME --init` prints",
    "borg: not found": "borg is not installed there: `apt-get install borgbackup`",
}
"""Of messages without an ID."""
_DETAILS = re.compile(r"(Borg server: )?Platform: ")
_EXCEPTION = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt|NotExist)\w*(?::.*)?$", re.MULTILINE)
"""The line of a traceback that names its reason."""

Message = tuple[str, str]
"""borg's ID, empty if it has none; the text."""


def read_messages(lines: Any, show_progress: Callable[[str], None] | None = None) -> Iterator[Message]:
    """borg's warnings and errors, of the lines of its standard error. Progress goes to `show_progress`."""
    for line in lines:
        text = line.decode(errors="replace").strip()
        try:
            entry = json.loads(text)
        except ValueError:
            yield "", text  # of ssh
            continue
        kind = entry.get("type", "")
        if kind == "log_message" and entry.get("levelname") in ("WARNING", "ERROR", "CRITICAL"):
            yield entry.get("msgid", ""), entry.get("message", "").strip()
        elif kind == "archive_progress" and show_progress and not entry.get("finished"):
            show_progress(f"{entry.get('nfiles', 0)} files, {entry.get('original_size', 0) / 2**20:.0f} MB")


def explain_failure(messages: Sequence[Message], code: int, repository: str) -> str:
    """Why a command failed, from its messages and exit code."""
    texts = [text for _, text in messages if text and not _DETAILS.match(text)]
    if full := [msgid for msgid, text in messages if "No space left on device" in text]:
        return OWN_DISK_FULL if "://" in repository and "OSError" not in full else FULL
    for phrase, explanation in PHRASES.items():
        if any(phrase in text for text in texts):
            return explanation
    if code < 0:
        return f"borg was killed ({signal.Signals(-code).name}). The next run goes on"
    if any("errors found" in text for text in texts):  # by `borg check`, which has no ID for it
        return f"its data are damaged ({shorten_text(texts[0])})"
    if explanation := _explain_id(messages, repository):
        return explanation
    reason = shorten_text(texts[-1]) if texts else f"borg ended with exit code {code}"
    is_of_key = "IntegrityError" in reason or any("/borg/crypto/" in text for text in texts)
    return f"its data are damaged, or its key was changed ({reason})" if is_of_key else reason


def _explain_id(messages: Sequence[Message], repository: str) -> str:
    """Empty if no message has an ID that is known here."""
    msgid = next((msgid for msgid, _ in reversed(messages) if msgid in EXPLANATIONS), "")
    ssh_message = next((text for other_id, text in messages if not other_id and text), "")
    if msgid and ssh_message and is_connection_fault(messages):
        return f"the connection has ended, or was refused ({shorten_text(ssh_message)})"
    return EXPLANATIONS.get(msgid, "").replace("{break_lock}", describe_break_lock(repository))


def is_connection_fault(messages: Sequence[Message]) -> bool:
    return any(msgid.startswith("ConnectionClosed") for msgid, _ in messages)


def ask_ssh(repository: str, *options: str) -> list[Message]:
    """What ssh itself says of the target: borg passes only a part of that on. Empty if it can log in."""
    url = urlsplit(repository)
    command = [
        "ssh",
        *options,
        "-o",
        "BatchMode=yes",
        "-p",
        str(url.port or 22),
        f"{url.username}@{url.hostname}",
        "true",
    ]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=SSH_TIMEOUT)
        if done.returncode == SSH_FAILED:
            return [*read_messages(done.stderr.splitlines())]
    return []


def shorten_text(text: str) -> str:
    """One line. Of a traceback, the exception."""
    exceptions = _EXCEPTION.findall(text) if "Traceback (most recent call last)" in text else []
    line = exceptions[-1] if exceptions else text.strip().partition("\n")[0]
    return line.removeprefix("Remote: ").strip()[:MAX_CHARACTERS]


def describe_break_lock(repository: str) -> str:
    """The command for whoever may remove a lock: root on the mail server, or the operator at another machine."""
    if "://" not in repository:
        return f"borg break-lock {repository}"
    url = urlsplit(repository)
    port = f"-p {url.port} " if url.port not in (None, 22) else ""
    return f"ssh {port}{url.username}@{url.hostname} borg break-lock {url.path}"
