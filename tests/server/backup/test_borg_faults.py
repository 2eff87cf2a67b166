"""Each fault of borg or ssh becomes one sentence that says what to do. The messages are those of borg 1.4.0."""

import json

import pytest

from mailkeep_server.common.borg_faults import explain_failure, read_messages

REMOTE, LOCAL = "ssh://mailkeep@backup.example.net:22/home/mailkeep/mail", "/srv/backup/mail"
PLATFORM = "Platform: Linux mail.example.org 6.12.0 x86_64\nPID: 1961  CWD: /\nsys.argv: ['/usr/bin/borg', 'list']"
TRACEBACK = (
    "Traceback (most recent call last):\n"
    '  File "/usr/lib/python3/dist-packages/borg/helpers/manifest.py", line 192, in load\n'
    "    data = key.decrypt(None, cdata)\n"
)
NO_SPACE = "OSError: [Errno 28] No space left on device\n"
CHANGED_HOST_KEY = (
    "@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@",
    "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @",
    "Someone could be eavesdropping on you right now (man-in-the-middle attack)!",
    "Host key verification failed.",
)
CLOSED = ("ConnectionClosedWithHint", "Connection closed by remote host. Is borg working on the server?")


@pytest.mark.parametrize(
    ("messages", "code", "repository", "text"),
    [
        ([("", f"{TRACEBACK}{NO_SPACE}\n{PLATFORM}")], 2, LOCAL, "the disk there is full: make room on it"),
        (
            [("OSError", f"{NO_SPACE}\n{TRACEBACK}{NO_SPACE}"), ("", f"Borg server: {PLATFORM}")],
            2,
            REMOTE,
            "disk there",
        ),
        ([("", f"{TRACEBACK}{NO_SPACE}\n{PLATFORM}")], 2, REMOTE, "this server's own disk is full"),
        (
            [("", f"{TRACEBACK}borg.crypto.low_level.IntegrityError: MAC Authentication failed\n\n{PLATFORM}")],
            2,
            LOCAL,
            "its data are damaged, or its key was changed (borg.crypto.low_level.IntegrityError: MAC Auth",
        ),
        (
            [("", f"{TRACEBACK}KeyError: 'version'\n"), ("", f"Borg server: {PLATFORM}")],
            2,
            REMOTE,
            "KeyError: 'version'",
        ),
        ([("", f"Remote: {line}") for line in CHANGED_HOST_KEY] + [CLOSED], 81, REMOTE, "another SSH host key"),
        (
            [("", "Remote: mailkeep@192.0.2.1: Permission denied (publickey)."), CLOSED],
            81,
            REMOTE,
            "refuses this server's",
        ),
        (
            [("", "Remote: ssh: connect to host backup.example.net port 22: No route to host"), CLOSED],
            81,
            REMOTE,
            "was refused (ssh: connect to host backup.example.net port 22: No route to host)",
        ),
        ([("", "Remote: sh: 1: borg: not found"), CLOSED], 81, REMOTE, "borg is not installed there"),
        ([("PathNotAllowed", "Repository path not allowed: /x")], 83, REMOTE, "use another repository only"),
        ([("PassphraseWrong", "passphrase … is incorrect.")], 52, LOCAL, "the passphrase is wrong"),
        ([("RepoKeyNotFoundError", "No key entry found")], 44, LOCAL, "`borg key import --paper`"),
        ([("LockTimeout", "Failed to create/acquire")], 73, LOCAL, "`borg break-lock /srv/backup/mail` removes it"),
        (
            [("LockTimeout", "Failed to create/acquire")],
            73,
            REMOTE,
            "`ssh mailkeep@backup.example.net borg break-lock /home/mailkeep/mail` removes it",
        ),
        (
            [("LockTimeout", "")],
            73,
            "ssh://mailkeep@[2001:db8::1]:2222/mail",
            "`ssh -p 2222 mailkeep@2001:db8::1 borg break-lock /mail`",
        ),
        (
            [
                (
                    "",
                    f'{TRACEBACK}  File "/borg/crypto/key.py", line 7\nTypeError: internal_dict must be a dict\n',
                )
            ],
            2,
            LOCAL,
            "its data are damaged, or its key was changed (TypeError: internal_dict must be a dict)",
        ),
        ([("", "Remote: @@@@@@@"), *[("", line) for line in CHANGED_HOST_KEY], CLOSED], 81, REMOTE, "SSH host key"),
        ([CLOSED], 81, REMOTE, "or was refused. After wrong keys, sshd there refuses this machine for some minutes"),
        ([], -9, LOCAL, "borg was killed (SIGKILL). The next run goes on"),
        ([], 2, LOCAL, "borg ended with exit code 2"),
    ],
)
def test_a_fault_is_one_sentence(messages: list[tuple[str, str]], code: int, repository: str, text: str) -> None:
    explanation = explain_failure(messages, code, repository)
    assert text in explanation
    assert "\n" not in explanation
    assert "Traceback" not in explanation
    assert len(explanation) < 400


def test_warnings_and_errors_are_read_among_progress_and_words_of_ssh() -> None:
    lines = [
        json.dumps({"type": "archive_progress", "nfiles": 7, "original_size": 2**21}),
        json.dumps({"type": "log_message", "levelname": "INFO", "message": "hello"}),
        "Connection timed out",
        json.dumps({"type": "log_message", "levelname": "ERROR", "message": "no\n", "msgid": "LockFailed"}),
    ]
    progress: list[str] = []
    messages = [*read_messages([f"{line}\n".encode() for line in lines], progress.append)]
    assert messages == [("", "Connection timed out"), ("LockFailed", "no")]
    assert progress == ["7 files, 2 MB"]
