"""The old machine's side of a move: it stops, sends what has changed, and hands over.

Until `leave`, it starts again by itself: a timer of systemd's does it when the operator's machine goes silent. After
`leave`, its services are disabled, and its queue is set aside. So no message is delivered by both machines.
"""

import os
import re
import secrets
import shutil
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mailkeep_server.backup import state_copy
from mailkeep_server.backup.placing import SERVICE_TIMEOUT, list_services
from mailkeep_server.common import mailboxes
from mailkeep_server.common.commands import run
from mailkeep_server.moving_house.record import STATE, MoveError, change_record, read_record, save_record

PACKAGE = Path(__file__).resolve().parents[2]
RESUME_UNIT = "mailkeep-move-resume"
QUEUE = Path("/var/spool/postfix")
QUEUE_DIRECTORIES = ("maildrop", "incoming", "active", "deferred", "hold", "defer", "bounce", "trace", "corrupt")
SENT_QUEUE = STATE / "sent-queue"
"""Postfix's queue as it was handed over: nothing delivers it any more."""
COMPLETE = "complete"
"""The last member of the stream of files."""
DRAIN_SECONDS = 10.0
DRAIN_POLL_SECONDS = 0.2
RESUMED = "this machine has started its services again, since the last step took too long"
MAIL_SERVICES = ("postfix.service", "dovecot.service")
# A client that connects meanwhile tries again after a second (SYN), and reaches whoever answers then.
NO_DOOR = "table inet mailkeep_move\ndelete table inet mailkeep_move\n"
DOOR = """\
table inet mailkeep_move {
    chain input {
        type filter hook input priority filter - 5
        tcp dport { 25, 143, 465, 587, 993, 4190 } ct state new drop
    }
}
"""
_RSYNC_OPTIONS = re.compile(r"-[A-Za-z.]+")


def stop(resume_after: float) -> str:
    """Stops all services that use mail. Returns the stop's token. The machine resumes by itself after so many
    seconds. Raises MoveError or RuntimeError."""
    with change_record() as record:
        if record.has_left:
            raise MoveError("this machine has handed its mail over already")
        record.phase, record.token = "stopped", secrets.token_hex(8)
        save_record(record)
        run("systemctl", "stop", f"{RESUME_UNIT}.timer", check=False, timeout=60)
        timer = (f"--unit={RESUME_UNIT}", f"--on-active={resume_after:.0f}s", "--timer-property=AccuracySec=1s")
        program = (sys.executable, "-IB", str(PACKAGE), "move", "resume")
        run("systemd-run", "--quiet", "--collect", *timer, *program, timeout=60)
        run("nft", "-f", "-", stdin=NO_DOOR + DOOR)
        _wait_for_sessions()
        run("systemctl", "stop", *list_services(), timeout=SERVICE_TIMEOUT)
        return record.token


def _wait_for_sessions() -> None:
    """Postfix's processes end with it, and a message in one of them might be sent twice. An idle session is not waited
    for."""
    busy = "( sport = :25 or sport = :465 or sport = :587 or dport = :25 )"
    end = time.monotonic() + DRAIN_SECONDS
    while run("ss", "-Htn", "state", "established", busy) and time.monotonic() < end:
        time.sleep(DRAIN_POLL_SECONDS)


def resume() -> None:
    """Starts the services again. Raises MoveError if they have been handed over."""
    with change_record() as record:
        if record.has_left:
            raise MoveError("this machine has handed its mail over: its services must not start")
        record.phase = ""
        run("systemctl", "start", *reversed(list_services()), timeout=SERVICE_TIMEOUT)
        open_door()
        run("systemctl", "stop", f"{RESUME_UNIT}.timer", check=False, timeout=60)


def leave(token: str) -> None:
    """From here on, this machine never starts its services by itself. Raises MoveError if it has resumed. May be run
    again."""
    with change_record() as record:
        if not record.has_left or record.token != token:
            running = [unit for unit in MAIL_SERVICES if is_active(unit)]
            if record.phase != "stopped" or record.token != token or running:
                raise MoveError(RESUMED)
            record.phase, record.has_left = "", True
            save_record(record)
        # The jails still guard SSH, and the ports that are forwarded.
        services = [*(unit for unit in list_services() if unit != "fail2ban.service"), *list_other_units()]
        run("systemctl", "disable", "--quiet", "--now", *services, timeout=SERVICE_TIMEOUT)
        run("systemctl", "stop", f"{RESUME_UNIT}.timer", check=False, timeout=60)
        run("systemctl", "start", "fail2ban.service", timeout=SERVICE_TIMEOUT)
        _set_queue_aside()


def is_active(unit: str) -> bool:
    return run("systemctl", "is-active", unit, check=False, timeout=60).strip() not in ("inactive", "failed", "unknown")


def open_door() -> None:
    """New connections come in again, if they did not."""
    run("nft", "-f", "-", stdin=NO_DOOR)


def list_other_units() -> list[str]:
    """What the machine without mail has no need of, beside SERVICES: timers, and the pages on the forwarded ports."""
    patterns = ("mailkeep-*.timer", "mailkeep-web.service")
    lines = run("systemctl", "list-unit-files", "--no-legend", "--plain", *patterns, timeout=60).splitlines()
    return [line.split()[0] for line in lines if line.strip()]


def _set_queue_aside() -> None:
    shutil.rmtree(SENT_QUEUE, ignore_errors=True)
    for path in list_queue_files():
        target = SENT_QUEUE / path.relative_to(QUEUE)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.move(path, target)


def list_queue_files() -> Iterator[Path]:
    for directory in QUEUE_DIRECTORIES:
        for path in sorted((QUEUE / directory).rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield path


def send_mail(options: Sequence[str]) -> None:
    """Becomes the sending end of the new machine's rsync, as `vmail`, so that links in a mailbox lead nowhere. Raises
    MoveError for options that would do anything else."""
    if any(not _RSYNC_OPTIONS.fullmatch(option) for option in options):
        raise MoveError(f"the new machine's rsync asks for {' '.join(options)}, which is not known here")
    words = ("rsync", "--server", "--sender", *options, ".", f"{mailboxes.ROOT}/")
    os.execvp(mailboxes.AS_USER[0], (*mailboxes.AS_USER, *words))  # noqa: S606


def send_files(kept: Iterable[str]) -> None:
    """Writes the state and the queue to standard output, as a tar stream. The services must be stopped."""
    if read_record().phase != "stopped":
        raise MoveError(RESUMED)
    stage = STATE / "outgoing"
    state_copy.copy_state(kept, stage)
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        archive.add(stage, "state")
        for path in list_queue_files():
            archive.add(path, f"queue/{path.relative_to(QUEUE)}")
        archive.addfile(tarfile.TarInfo(COMPLETE))
    shutil.rmtree(stage)
