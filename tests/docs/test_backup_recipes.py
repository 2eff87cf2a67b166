"""The recipes for a backup and for one mailbox out of it, as the documentation has them, on files.

`ssh` runs the command here, on a directory that stands for /var/vmail. `test_server_commands.py` follows the recipes to
their end on a server, with Dovecot.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from documents import Command, read_prose, read_steps

BOTH, READ, MOVED, LOST = ("1.M1P1.mail,S=9,W=9", "2.M1P1.mail,S=9,W=9", "3.M1P1.mail,S=9,W=9", "4.M1P1.mail,S=9,W=9")
# What ssh does with the archive that tar made on the server.
FAILURES = {
    "the connection is cut": 'head -c 300 "$OUT"; exit 255',
    "the connection is cut, and ssh does not notice": 'head -c 300 "$OUT"',
    "the host is down": "exit 255",
    "tar fails": 'cat "$OUT"; exit 2',
}


@pytest.fixture
def vmail() -> Iterator[Path]:
    """As deep as /var/vmail, since a recipe reads the parts of paths."""
    with tempfile.TemporaryDirectory(prefix="vmail.", dir="/tmp") as directory:
        root = Path(directory)
        for user in ("anna", "bert"):
            for folder in ("cur", "new", ".Kept/cur"):
                (root / "example.org" / user / "Maildir" / folder).mkdir(parents=True)
        anna, bert = (root / "example.org" / user / "Maildir" for user in ("anna", "bert"))
        for name in (READ, MOVED, LOST):
            (anna / "new" / name).write_text(name)
        (anna / "new" / BOTH).write_text(BOTH)
        (bert / "new" / BOTH).hardlink_to(anna / "new" / BOTH)
        yield root


def find_command(text: str, document: str = "day-two.md") -> str:
    [command] = [step for step in read_steps(document) if isinstance(step, Command) and text in step.text]
    return command.text


def run_command(command: str, vmail: Path, directory: Path, failure: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a command of the operator's machine or of the server, in `directory`."""
    programs = directory / "bin"
    programs.mkdir(exist_ok=True)
    on_server = 'bash -c "$2"' if not failure else f'OUT={directory}/out; bash -c "$2" > "$OUT"; {failure}'
    (programs / "ssh").write_text(f"#!/bin/bash\n{on_server}\n")
    (programs / "ssh").chmod(0o755)
    text = command.replace("/var/vmail", str(vmail)).replace("mail-2026-11-22", f"mail-{date.today()}")
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", text], cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def list_messages(directory: Path) -> list[str]:
    return sorted(path.name.partition(":")[0] for path in directory.rglob("*") if path.parent.name in ("cur", "new"))


@pytest.mark.slow
@pytest.mark.parametrize("failure", FAILURES)
def test_no_failure_of_a_backup_costs_the_last_good_one(failure: str, vmail: Path, tmp_path: Path) -> None:
    backup = find_command("mv mail.part")
    made = run_command(backup, vmail, tmp_path)
    assert (made.returncode, made.stdout) == (0, "5\n"), made.stderr
    archive = tmp_path / f"mail-{date.today()}.tar.gz"
    content = archive.read_bytes()
    (vmail / "example.org/anna/Maildir/new" / LOST).unlink()
    assert run_command(backup, vmail, tmp_path, FAILURES[failure]).returncode != 0
    assert archive.read_bytes() == content


@pytest.mark.slow
def test_a_backup_without_mail_is_none(vmail: Path, tmp_path: Path) -> None:
    for name in list_messages(vmail):
        for path in vmail.rglob(name):
            path.unlink()
    assert run_command(find_command("mv mail.part"), vmail, tmp_path).returncode != 0
    assert not list(tmp_path.glob("mail-*"))


@pytest.mark.slow
def test_a_mailbox_gets_exactly_what_it_lost_from_a_backup(vmail: Path, tmp_path: Path) -> None:
    assert run_command(find_command("mv mail.part"), vmail, tmp_path).returncode == 0
    anna, restored = vmail / "example.org/anna/Maildir", vmail / "restore"
    (anna / "new" / READ).rename(anna / "cur" / f"{READ}:2,S")
    (anna / "new" / MOVED).rename(anna / ".Kept/cur" / f"{MOVED}:2,")
    for lost in (BOTH, LOST):
        (anna / "new" / lost).unlink()
    (anna / "new" / "5.M1P1.mail,S=9,W=9").write_text("arrived since")
    before = list_messages(anna)

    restored.mkdir()
    extracted = run_command(find_command("tar -C /var/vmail/restore"), vmail, tmp_path)
    assert (extracted.returncode, extracted.stderr) == (0, "")
    assert list_messages(restored) == [BOTH, READ, MOVED, LOST]
    removed = run_command(find_command("xargs -r"), vmail, tmp_path)
    assert removed.returncode == 0, removed.stderr
    assert list_messages(restored) == [BOTH, LOST]
    assert list_messages(anna) == before


@pytest.mark.slow
def test_a_mailbox_that_is_gone_gets_all_of_its_mail(vmail: Path, tmp_path: Path) -> None:
    assert run_command(find_command("mv mail.part"), vmail, tmp_path).returncode == 0
    (vmail / "example.org/anna").rename(vmail / "example.org/gone")
    (vmail / "restore").mkdir()
    for text in ("tar -C /var/vmail/restore", "xargs -r"):
        run_command(find_command(text), vmail, tmp_path)
    assert list_messages(vmail / "restore") == [BOTH, READ, MOVED, LOST]


@pytest.mark.slow
def test_a_backup_that_shares_messages_between_mailboxes_is_restored_as_well(vmail: Path, tmp_path: Path) -> None:
    """One made without --hard-dereference, as the documentation says in a sentence."""
    backup = find_command("mv mail.part").replace("--hard-dereference", "")
    assert run_command(backup, vmail, tmp_path).returncode == 0
    anna, bert = vmail / "example.org/anna", vmail / "example.org/bert"
    for user in (anna, bert):
        (user / "Maildir/new" / BOTH).unlink()
    extract = find_command("tar -C /var/vmail/restore")
    restored = []
    for user in ("anna", "bert"):
        (vmail / "restore").mkdir()
        one_mailbox = run_command(extract.replace("anna", user), vmail, tmp_path)
        assert one_mailbox.returncode == 0 or "Cannot hard link" in one_mailbox.stderr
        restored += list_messages(vmail / "restore")
        shutil.rmtree(vmail / "restore")
    assert restored.count(BOTH) == 1  # of two

    (vmail / "restore").mkdir()
    everything = extract.replace(" --strip-components=3", "").replace(" ./example.org/anna", "")
    assert run_command(everything, vmail, tmp_path).returncode == 0
    [move] = re.findall(r"`(mv /var/vmail/restore/[^`]+)`", " ".join(read_prose("day-two.md").split()))
    for command in (move, find_command("xargs -r")):
        assert run_command(command, vmail, tmp_path).returncode == 0
    assert list_messages(vmail / "restore/Maildir") == [BOTH]
