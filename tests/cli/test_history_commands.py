"""`mailkeep report` and `trace` ask the servers, or read files without any."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from cli_samples import Run, write_program

JOURNAL = Path(__file__).parents[1] / "docs" / "journal.txt"


@pytest.fixture
def arguments(home: Path, programs: Path, tmp_path: Path) -> Path:
    """One host. Its `mailkeepctl` prints JSON, and writes down its arguments in this file."""
    (home / "inventory.py").write_text(f"hosts = [('first', {{'mailkeep': {str(home / 'mail.yml')!r}}})]\n")
    write_program(programs / "id", "#!/bin/sh\necho 0\n")
    path = tmp_path / "arguments"
    write_program(programs / "mailkeepctl", f'#!/bin/sh\necho "$*" > {path}\necho \'{{"rows": []}}\'\n')
    return path


def test_the_servers_get_the_options_and_their_answers_are_shown(arguments: Path, mailkeep: Run) -> None:
    done = mailkeep("report", "home", "--since", "3 days ago", "--by", "account", "--account", "anna@example.org")
    assert (done.code, done.err) == (0, "")
    assert done.out == 'first:\n{"rows": []}\n'
    assert arguments.read_text() == "report --since=3 days ago --account=anna@example.org --by=account\n"
    done = mailkeep("trace", "home", "friend@example.net", "--from", "anna@example.org", "--json")
    assert json.loads(done.out) == [{"host": "first", "rows": []}]
    assert arguments.read_text() == "trace --from=anna@example.org --inventory=home --json -- friend@example.net\n"


@pytest.mark.slow
def test_files_need_no_server(mailkeep: Run) -> None:
    done = mailkeep("report", "--file", str(JOURNAL), "--by", "account")
    assert done.code == 0
    assert "delivered              6  another server, or a mailbox here, has it" in done.out
    done = mailkeep("trace", "--file", str(JOURNAL), "F0DF922E07F")
    assert "friend@bogus.test: waits, and is tried again; 2 tries" in done.out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["report"], "Name an inventory, or logs by --file."),
        (["report", "home", "--file", str(JOURNAL)], "Name an inventory, or logs by --file."),
        (["report", "--file", "/none"], "/none: No such file or directory"),
        (["report", "--file", str(JOURNAL), "--since", "someday"], "argument --since: expected a time"),
        (["report", "--file", str(JOURNAL), "--picture", "x"], "A picture needs --by."),
        (["trace", "home"], "Expected an inventory and what to find; with --file, only what to find."),
    ],
)
def test_a_mistake_is_one_line(mailkeep: Run, command: list[str], message: str) -> None:
    done = mailkeep(*command)
    assert done.code == 1
    assert done.err.startswith(message), done.err
    assert done.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("matplotlib"), reason="needs matplotlib")
def test_a_picture_is_drawn(mailkeep: Run, tmp_path: Path) -> None:
    done = mailkeep("report", "--file", str(JOURNAL), "--by", "account", "--picture", str(tmp_path / "picture"))
    assert done.code == 0, done.err
    assert (tmp_path / "picture.svg").read_text().startswith("<?xml")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
