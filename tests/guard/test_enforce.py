"""A frozen account's mail is held before all else, whatever is in it and whatever else fails; beside stand-ins for the
programs of Postfix and Dovecot, which note in which order they were asked for what."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mailkeep_server.common import commands
from mailkeep_server.common.commands import run, stream_output
from mailkeep_server.freezes import enforce

ANNA, BERT = "anna@example.org", "bert@example.org"
PROGRAMS = {
    "postqueue": 'cat "$HERE/queue"',
    "postcat": 'test "$1" != -q || exec cat "$HERE/message"; echo "named_attribute: sasl_username=$(cat "$HERE/$2")"',
    "postsuper": 'cat >>"$HERE/asked"',
    "doveadm": "printf 'count\\n2\\n'",
}


class Queue:
    """What Postfix has; `asked` is which programs were called, in order, with the ids that postsuper was given."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name, program in PROGRAMS.items():
            self.program(name, program)
        (directory / "queue").touch()
        (directory / "message").write_text("Subject: x\n")

    def program(self, name: str, does: str) -> None:
        file = self.directory / name
        file.write_text(f'#!/bin/sh\nHERE={self.directory}\necho {name} "$@" >>"$HERE/asked"\n{does}\n')
        file.chmod(0o755)

    def add(self, queue_id: str, login: str = ANNA, queue: str = "deferred", sender: str = ANNA) -> None:
        (self.directory / queue_id).write_text(login)
        row = {"queue_id": queue_id, "queue_name": queue, "sender": sender, "message_size": 1, "arrival_time": 1}
        with (self.directory / "queue").open("a") as listed:
            listed.write(json.dumps(row | {"recipients": [{"address": "r@example.net"}]}) + "\n")

    @property
    def asked(self) -> list[str]:
        return (self.directory / "asked").read_text().splitlines()


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(enforce, "SAMPLE_DIRECTORY", tmp_path / "samples")
    return Queue(tmp_path / "bin")


def test_mail_is_held_first_then_sessions_are_cut_and_a_sample_is_kept(queue: Queue) -> None:
    queue.add("A1")
    queue.add("A2", login="ANNA@example.org", sender="info@example.org")
    done = enforce.enforce_freeze(ANNA, [ANNA, "info@example.org"])
    assert done == enforce.Enforcement(2, 2, str(enforce.SAMPLE_DIRECTORY / ANNA), "")
    assert [one.split()[0] for one in queue.asked] == [
        *("postqueue", "postcat", "postcat", "postsuper", "A1", "A2", "doveadm", "postcat", "postcat")
    ]


def test_only_its_own_mail_is_held_and_what_is_held_is_not_read_again(queue: Queue) -> None:
    queue.add("A1", queue="hold")
    queue.add("B1", login=BERT, sender="info@example.org")
    queue.add("B2", login=BERT, sender=BERT)
    assert enforce.enforce_freeze(ANNA, [ANNA, "info@example.org"]).messages_held == 0
    assert queue.asked == ["postqueue -j", "postcat -eq B1", f"doveadm -f tab kick {ANNA}"]
    assert [one.queue_id for one in enforce.read_queue(ANNA, [ANNA])] == ["A1"]


def test_of_a_large_message_only_the_beginning_is_ever_in_memory(queue: Queue) -> None:
    """Under the bound that the watch has, neither a message without end nor a long queue ends it."""
    queue.program("postcat", PROGRAMS["postcat"].replace('cat "$HERE/message"', "yes 'Subject: \U0001f600'"))
    queue.add("A1")
    long = json.dumps({"sender": BERT, "recipients": "x" * 1000})
    queue.program("postqueue", f"{PROGRAMS['postqueue']}; yes '{long}' | head -n 150000")
    program = "from pathlib import Path; from mailkeep_server.freezes import enforce\n"
    program += f"enforce.SAMPLE_DIRECTORY = Path({str(enforce.SAMPLE_DIRECTORY)!r})\n"
    program += f"print(enforce.enforce_freeze({ANNA!r}, []))"
    memory = 100 << 20

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))

    said = subprocess.run([sys.executable, "-c", program], preexec_fn=bounded, capture_output=True, text=True)
    assert said.stdout.startswith("Enforcement(messages_held=1, sessions_cut=2,"), said
    assert "error=''" in said.stdout
    assert (enforce.SAMPLE_DIRECTORY / ANNA / "A1").stat().st_size == enforce.MAX_SAMPLE_BYTES


@pytest.mark.parametrize(
    ("name", "does", "error"),
    [
        ("doveadm", "echo; echo gibberish", "ValueError: invalid literal for int()"),
        ("doveadm", "exec sleep 60", "TimeoutExpired"),
        ("postcat", f'test "$1" = -eq || exit 1; {PROGRAMS["postcat"]}', "RuntimeError: postcat -q A1: exit 1"),
    ],
)
def test_what_else_fails_keeps_no_mail_from_being_held(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, name: str, does: str, error: str
) -> None:
    monkeypatch.setattr(commands.run, "__kwdefaults__", commands.run.__kwdefaults__ | {"timeout": 0.5})
    queue.program(name, does)
    queue.add("A1")
    done = enforce.enforce_freeze(ANNA, [])
    assert done.messages_held == 1
    assert error in done.error


def test_a_queue_that_cannot_be_listed_keeps_no_session_alive(queue: Queue) -> None:
    queue.program("postqueue", "echo 'mail system is down' >&2; exit 69")
    done = enforce.enforce_freeze(ANNA, [])
    assert (done.sessions_cut, done.error) == (2, "RuntimeError: postqueue -j: exit 69: mail system is down")


def test_a_long_queue_is_held_as_it_is_found(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enforce, "HOLD_BATCH", 2)
    for number in range(5):
        queue.add(f"A{number}")
    assert enforce.enforce_freeze(ANNA, []).messages_held == 5
    assert queue.asked.count("postsuper -h -") == 3


def test_no_command_is_waited_for_without_end() -> None:
    start = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        run("sleep", "60", timeout=0.1)
    with pytest.raises(subprocess.TimeoutExpired), stream_output("sleep", "60", timeout=0.1) as said:
        said.read()
    assert time.monotonic() - start < 5
