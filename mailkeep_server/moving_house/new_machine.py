"""The new machine's side of a move: it takes mail, state and queue, and puts them in place.

What comes is staged beside its place. Only `place` touches what the services use, after the old machine has left.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from mailkeep_server.backup import mail_snapshot, placing
from mailkeep_server.common import mailboxes
from mailkeep_server.common.commands import run
from mailkeep_server.common.files import atomic_write
from mailkeep_server.common.wording import count_noun
from mailkeep_server.moving_house.old_machine import COMPLETE, QUEUE, list_other_units, open_door
from mailkeep_server.moving_house.record import STATE, MoveError, change_record, read_record, save_record

STAGE = Path(mailboxes.ROOT, ".moving")
"""On the disk of the mailboxes, so that they can be renamed into place."""
FILES = STATE / "incoming"
RESULT = STATE / "received.json"
# Deliveries that are not complete, other scratch places, and what no mailbox is.
EXCLUDED = ("/.*", "/lost+found", "/*/*/Maildir/tmp/*", "/*/*/Maildir/*/tmp/*")
# cat, which talks to the old machine, cannot write to a pipe that does not block.
RSYNC = ("rsync", "-rlptH", "--delete", "--partial", "--blocking-io", *(f"--exclude={pattern}" for pattern in EXCLUDED))
VANISHED = 24  # rsync(1), EXIT VALUES: a file was renamed or deleted meanwhile
NO_ROOM = "No space left on device"


def receive_mail(*, compare: bool) -> None:
    """One pass of rsync from the old machine. Standard input and output lead to its end there; the first line that goes
    out has the call of that end. `compare` changes nothing, and finds what differs. The result lies in RESULT: `fault`,
    empty if there is none, and `differences`, as rsync's --itemize-changes prints them."""
    with change_record() as record:
        record.phase = ""
    _prepare_stage()
    reader, writer = os.dup(0), os.dup(1)
    # The words after `sh`: the host's name, which nobody uses, then `rsync --server --sender OPTIONS . PATH`.
    # It ends when the old machine's end does: rsync waits for it before it closes its own.
    talk = f"shift; echo $* >&{writer}; exec 9<&0; cat <&9 >&{writer} & exec cat <&{reader}"
    words = (*(("--dry-run", "--itemize-changes") if compare else ()), "-e", f"/bin/sh -c '{talk}' sh")
    done = subprocess.run(
        (*mailboxes.AS_USER, *RSYNC, *words, f"old:{mailboxes.ROOT}/", f"{STAGE}/"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        pass_fds=(reader, writer),
    )
    fault = "" if done.returncode == 0 or (done.returncode == VANISHED and not compare) else done.stderr.strip()
    if NO_ROOM in fault:
        fault = f"{mailboxes.ROOT} has no more room for the mail: use a machine with a larger disk"
    atomic_write(RESULT, json.dumps({"fault": fault, "differences": done.stdout.split("\n")[:-1]}), 0o600)


def _prepare_stage() -> None:
    if not STAGE.is_dir():
        STAGE.mkdir(mode=0o700)
        shutil.chown(STAGE, mailboxes.USER, mailboxes.USER)


def receive_files() -> None:
    """State and queue, from standard input. Raises MoveError unless they are complete."""
    shutil.rmtree(FILES, ignore_errors=True)
    FILES.mkdir(mode=0o700, parents=True)
    names = []
    try:
        with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
            for member in archive:
                archive.extract(member, FILES, filter="tar")
                names.append(member.name)
    except tarfile.TarError as error:
        raise MoveError(f"the old machine's state did not arrive whole ({error})") from None
    if names[-1:] != [COMPLETE]:
        raise MoveError("the old machine's state did not arrive whole")


def check_room(needed: int) -> None:
    """Raises MoveError if so many bytes of mail have no room here."""
    staged = int(run("du", "-sB1", str(STAGE), timeout=600).split()[0]) if STAGE.exists() else 0
    free = shutil.disk_usage(mailboxes.ROOT).free
    if needed - staged > free:
        raise MoveError(
            f"the mail takes {needed / 2**20:.0f} MB, and {mailboxes.ROOT} has {free / 2**20:.0f} MB free: use a "
            "machine with a larger disk"
        )


def refuse_used_mailboxes() -> None:
    """Raises MoveError if mail of the old machine is in a mailbox here, too: it would come twice. What a former machine
    has is replaced."""
    if read_record().has_left:
        return
    for home in list_homes(STAGE):
        own = mail_snapshot.list_messages(Path(mailboxes.ROOT) / home.relative_to(STAGE))
        shared = own.keys() & mail_snapshot.list_messages(home).keys()
        if shared:
            raise MoveError(
                f"this machine has {count_noun(len(shared), 'message')} of {home.name}@{home.parent.name} already: it "
                "is no new one. Take another, or remove the mailboxes here"
            )


def list_homes(root: Path) -> Iterator[Path]:
    yield from sorted(home for home in root.glob("[!.]*/*") if home.is_dir() and not home.is_symlink())


def confirm_ready(token: str) -> None:
    """What is staged is the old machine's mail of this stop."""
    with change_record() as record:
        record.phase, record.token = "ready", token


def place(token: str, kept: Iterable[str]) -> int:
    """Puts all in place, and starts the services. Returns the number of messages. May be run again after it was
    killed. Raises MoveError, OSError or RuntimeError."""
    with change_record() as record:
        if record.phase == "arrived" and record.token == token:
            return record.messages
        if record.phase not in ("ready", "placing") or record.token != token:
            raise MoveError("what is here is not what the old machine has handed over")
        record.phase = "placing"
        save_record(record)
        root = Path(mailboxes.ROOT)
        services, others = placing.list_services(), list_other_units()
        # After a fault they stay stopped: mail would come into a mailbox that is not in place.
        run("systemctl", "stop", *services, timeout=placing.SERVICE_TIMEOUT)
        placed = {home.relative_to(root) for home in list_homes(root) if placing.is_placed(home, token)}
        for home in sorted(placed | {home.relative_to(STAGE) for home in list_homes(STAGE)}):
            # What a former machine has is an older copy of the same mailbox.
            placing.place_mailbox(STAGE / home, root / home, token, keeps_mail=not record.has_left)
        placing.place_state(FILES / "state", kept)
        _place_queue()
        record.messages = sum(len(mail_snapshot.list_messages(home)) for home in list_homes(root))
        run("systemctl", "enable", "--quiet", *services, *others, timeout=placing.SERVICE_TIMEOUT)
        run("systemctl", "start", *reversed(services), *others, timeout=placing.SERVICE_TIMEOUT)
        open_door()
        record.phase, record.has_left = "arrived", False
    shutil.rmtree(STAGE, ignore_errors=True)
    shutil.rmtree(FILES, ignore_errors=True)
    return record.messages


def _place_queue() -> None:
    """Each file by one step: Postfix takes a file only when its mode says that it is complete. `postfix start` gives
    names that fit this disk."""
    for source in sorted(path for path in (FILES / "queue").rglob("*") if path.is_file()):
        target = QUEUE / source.relative_to(FILES / "queue")
        if not target.parent.exists():
            target.parent.mkdir(mode=0o700)
            shutil.chown(target.parent, "postfix")
        status = source.stat()
        copy = target.with_name(f"{target.name}.moving")
        shutil.copyfile(source, copy)
        os.chown(copy, status.st_uid, status.st_gid)
        os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
        copy.rename(target)
        target.chmod(status.st_mode & 0o7777)
        source.unlink()
