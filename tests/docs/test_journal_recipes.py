"""The recipes that read the journal, as the documentation has them, on lines of Postfix 3.10 and Dovecot 2.4.

The lines are of one account that was broken into, of strangers, of `mailkeep verify` and of a freeze. Each recipe must
count what the account did, and nothing else. `test_server_commands.py` runs them on the journal of a server.
"""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from documents import Command, read_steps

JOURNAL = Path(__file__).parent / "journal.txt"
ANNA = "anna@example.org"
# Prints what journalctl(1) would: `--output cat` has neither time nor host nor program.
JOURNALCTL = f"""#!/bin/bash
case " $* " in
  *" --output cat "*) sed -E 's/^([^ ]+ ){{3}}//' {JOURNAL} ;;
  *) cat {JOURNAL} ;;
esac
"""


@pytest.fixture
def run_recipe(tmp_path: Path) -> Callable[[str, str], list[str]]:
    """Runs the command of a document that has this text, and returns the lines of its output."""
    (tmp_path / "journalctl").write_text(JOURNALCTL)
    (tmp_path / "journalctl").chmod(0o755)

    def run(document: str, text: str) -> list[str]:
        [command] = [step for step in read_steps(document) if isinstance(step, Command) and text in step.text]
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
        arguments = ["bash", "-o", "pipefail", "-ec", command.text]
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=60, check=True)
        assert not done.stderr
        return [" ".join(line.split()) for line in done.stdout.splitlines()]

    return run


@pytest.mark.slow
def test_mail_of_programs_is_counted_by_user(run_recipe: Callable[[str, str], list[str]]) -> None:
    [command] = [
        step.text
        for step in read_steps("after-a-break-in.md")
        if isinstance(step, Command) and "uid=[0-9]" in step.text
    ]
    assert run_recipe("after-a-break-in.md", command) == ["1 uid=0"]
