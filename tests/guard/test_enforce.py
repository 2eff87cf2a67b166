"""A frozen account's mail is held first, whatever is in it and whatever else fails.

Stand-ins for the programs of Postfix and Dovecot note their calls in order.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mailkeep_server.common import commands, mail_queue
from mailkeep_server.common.commands import run, stream_output
from mailkeep_server.freezes import enforce

ANNA, BERT = "anna@example.org", "bert@example.org"
PROGRAMS = {
    "postqueue": 'cat "$HERE/queue"',
    "postcat": """test "$1" != -q || exec cat "$HERE/message"
shift; for id; do
    test -e "$HERE/$id" || exit 1
    printf '*** ENVELOPE RECORDS deferred/%s ***\\nnamed_attribute: sasl_username=%s\\n' "$id" "$(cat "$HERE/$id")"
done""",
    "postsuper": 'cat >>"$HERE/calls"',
    "doveadm": "printf 'count\\n2\\n'",
}


class FakeQueue:
    """Postfix's queue. `calls` are the programs called, in order, and the ids that postsuper read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name, program in PROGRAMS.items():
            self.install_program(name, program)
        (directory / "queue").touch()
        (directory / "message").write_text("Subject: x\n")

    def install_program(self, name: str, script: str) -> None:
        file = self.directory / name
        file.write_text(f'#!/bin/sh\nHERE={self.directory}\necho {name} "$@" >>"$HERE/calls"\n{script}\n')
        file.chmod(0o755)

    def add_message(self, queue_id: str, login: str = ANNA, queue: str = "deferred", sender: str = ANNA) -> None:
        (self.directory / queue_id).write_text(login)
        row = {"queue_id": queue_id, "queue_name": queue, "sender": sender, "message_size": 1, "arrival_time": 1}
        with (self.directory / "queue").open("a") as rows:
            rows.write(json.dumps(row | {"recipients": [{"address": "r@example.net"}]}) + "\n")

    @property
    def calls(self) -> list[str]:
        return (self.directory / "calls").read_text().splitlines()


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeQueue:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(enforce, "SAMPLE_DIRECTORY", tmp_path / "samples")
    return FakeQueue(tmp_path / "bin")


def test_mail_is_held_first_then_sessions_are_cut_and_a_sample_is_kept(queue: FakeQueue) -> None:
    queue.add_message("A1")
    queue.add_message("A2", login="ANNA@example.org", sender="info@example.org")
    enforcement = enforce.enforce_freeze(ANNA, [ANNA, "info@example.org"])
    assert enforcement == enforce.Enforcement(2, 2, str(enforce.SAMPLE_DIRECTORY / ANNA), "")
    assert [call.split()[0] for call in queue.calls] == [
        *("postqueue", "postcat", "postsuper", "A1", "A2", "doveadm", "postcat", "postcat")
    ]


def test_receipts_of_the_account_are_held_though_they_have_no_sender(queue: FakeQueue) -> None:
    queue.add_message("A1", sender="MAILER-DAEMON")
    queue.add_message("B1", login=BERT, sender="MAILER-DAEMON")
    queue.add_message("C1", login="", sender="MAILER-DAEMON")
    queue.add_message("A2")
    assert enforce.enforce_freeze(ANNA, [ANNA]).messages_held == 2
    assert [message.queue_id for message in enforce.read_queue(ANNA, [ANNA])] == ["A2", "A1"]


def test_only_the_login_s_mail_is_held_and_held_mail_is_not_read_again(queue: FakeQueue) -> None:
    queue.add_message("A1", queue="hold")
    queue.add_message("B1", login=BERT, sender="info@example.org")
    queue.add_message("B2", login=BERT, sender=BERT)
    assert enforce.enforce_freeze(ANNA, [ANNA, "info@example.org"]).messages_held == 0
    assert queue.calls == ["postqueue -j", "postcat -eq B1", f"doveadm -f tab kick {ANNA}"]
    assert [message.queue_id for message in enforce.read_queue(ANNA, [ANNA])] == ["A1"]


def test_a_message_that_leaves_meanwhile_does_not_keep_others_from_being_held(queue: FakeQueue) -> None:
    """postcat ends at a message that it cannot open."""
    for queue_id in ("A1", "A2", "A3", "A4", "A5"):
        queue.add_message(queue_id)
    for queue_id in ("A2", "A3", "A5"):
        (queue.directory / queue_id).unlink()
    assert enforce.enforce_freeze(ANNA, [ANNA]).messages_held == 2
    assert [call for call in queue.calls if call in ("A1", "A2", "A3", "A4", "A5")] == ["A1", "A4"]


@pytest.mark.slow
def test_of_a_large_message_only_the_beginning_is_ever_in_memory(queue: FakeQueue) -> None:
    """With the memory that the watch may use, neither an endless message nor a long queue kills it."""
    queue.install_program("postcat", PROGRAMS["postcat"].replace('cat "$HERE/message"', "yes 'Subject: \U0001f600'"))
    queue.add_message("A1")
    long = json.dumps({"sender": BERT, "recipients": "x" * 1000})
    queue.install_program("postqueue", f"{PROGRAMS['postqueue']}; yes '{long}' | head -n 150000")
    program = "from pathlib import Path; from mailkeep_server.freezes import enforce\n"
    program += f"enforce.SAMPLE_DIRECTORY = Path({str(enforce.SAMPLE_DIRECTORY)!r})\n"
    program += f"print(enforce.enforce_freeze({ANNA!r}, []))"
    memory = 100 << 20

    def limit_memory() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))

    process = subprocess.run([sys.executable, "-c", program], preexec_fn=limit_memory, capture_output=True, text=True)
    assert process.stdout.startswith("Enforcement(messages_held=1, sessions_cut=2,"), process
    assert "error=''" in process.stdout
    assert (enforce.SAMPLE_DIRECTORY / ANNA / "A1").stat().st_size == enforce.MAX_SAMPLE_BYTES


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "script", "error"),
    [
        ("doveadm", "echo; echo gibberish", "a number was expected, not"),
        ("doveadm", "exec sleep 60", "did not end within"),
        ("postcat", f'test "$1" = -eq || exit 1; {PROGRAMS["postcat"]}', "postcat -q A1: exit 1"),
    ],
)
def test_no_other_failure_keeps_mail_from_being_held(
    queue: FakeQueue, monkeypatch: pytest.MonkeyPatch, name: str, script: str, error: str
) -> None:
    monkeypatch.setattr(commands.run, "__kwdefaults__", commands.run.__kwdefaults__ | {"timeout": 0.5})
    queue.install_program(name, script)
    queue.add_message("A1")
    enforcement = enforce.enforce_freeze(ANNA, [])
    assert enforcement.messages_held == 1
    assert error in enforcement.error


def test_a_queue_that_cannot_be_listed_keeps_no_session_alive(queue: FakeQueue) -> None:
    queue.install_program("postqueue", "echo 'mail system is down' >&2; exit 69")
    enforcement = enforce.enforce_freeze(ANNA, [])
    assert (enforcement.sessions_cut, enforcement.error) == (
        2,
        "postqueue -j: exit 69: mail system is down",
    )


def test_a_long_queue_is_held_as_it_is_found(queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail_queue, "BATCH", 2)
    for number in range(5):
        queue.add_message(f"A{number}")
    assert enforce.enforce_freeze(ANNA, []).messages_held == 5
    assert queue.calls.count("postsuper -h -") == 3


@pytest.mark.slow
def test_no_command_is_waited_for_without_end() -> None:
    start = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        run("sleep", "60", timeout=0.1)
    with pytest.raises(subprocess.TimeoutExpired), stream_output("sleep", "60", timeout=0.1) as output:
        output.read()
    assert time.monotonic() - start < 5
