"""Puts mailboxes and state that came from elsewhere in their places, while the services that use them are stopped."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mailkeep_server.backup import mail_snapshot, state_copy
from mailkeep_server.common import mailboxes
from mailkeep_server.common.commands import run

ASIDE = ".before-restore"
MARKER = ".restored-from"
"""In a mailbox that is in place, until the one that was there is gone: where it came from."""
SERVICES = (
    *("mailkeep-backup.timer", "mailkeep-backup-proof.timer", "mailkeep-certificate.timer", "mailkeep-dns.timer"),
    "mailkeep-reports.timer",
    *("mailkeep-watch.service", "postfix.service", "dovecot.service", "fail2ban.service", "mailkeep-guard.service"),
)
"""Stopped in this order, and started in the other, where they exist: they use what is restored. The guard's sockets
stay; nothing asks them meanwhile."""
SERVICE_TIMEOUT = 300.0  # seconds


def is_placed(home: Path, origin: str) -> bool:
    """Whether a run was killed after this mailbox had been renamed into place."""
    marker = home / MARKER
    return marker.exists() and marker.read_text() == origin


def place_mailbox(new: Path, home: Path, origin: str, *, keeps_mail: bool = True) -> None:
    """Renames `new` to `home`. What was there is merged into it; or removed, with `keeps_mail` false: an older copy of
    the same mailbox. `origin` says what `new` is. After a killed run, the next one goes on."""
    if not is_placed(home, origin):
        (new / MARKER).write_text(origin)
        _make_parent(home.parent)
        if home.exists() and keeps_mail:
            home.rename(_find_free_name(home))
        elif home.exists():
            shutil.rmtree(home)
        new.rename(home)
    for aside in sorted(home.parent.glob(f"{home.name}{ASIDE}*")):
        _take_new_mail(aside, home)
        shutil.rmtree(aside)
    (home / MARKER).unlink()


def place_state(stage: Path, kept: Iterable[str]) -> None:
    """Puts the services' state in place, file by file, each by a rename."""
    for top in map(Path, kept):
        source = stage / top.relative_to("/")
        if source.suffix == ".pem" and source.exists() and top.exists() and _has_other_key(source, top):
            continue
        if source.exists():
            _place_tree(source, top.resolve())


def _find_free_name(home: Path) -> Path:
    names = (home.with_name(f"{home.name}{ASIDE}{number}") for number in range(1, 1000))
    return next(name for name in names if not name.exists())


def _make_parent(directory: Path) -> None:
    if not directory.exists():
        directory.mkdir(mode=0o700)
        shutil.chown(directory, mailboxes.USER, mailboxes.USER)


def _take_new_mail(aside: Path, home: Path) -> None:
    """Moves messages of the new machine's mailbox into the restored one. They are new to it, so Dovecot gives UIDs."""
    for directory in mail_snapshot.MESSAGE_DIRECTORIES:
        for message in sorted((aside / "Maildir").rglob(f"{directory}/*")):
            target = home / message.relative_to(aside)
            if not target.parent.exists():
                folder = target.parent.parent
                if not folder.exists():
                    (aside / folder.relative_to(home)).rename(folder)
                    continue
                target.parent.mkdir(mode=0o700)
                shutil.chown(target.parent, mailboxes.USER, mailboxes.USER)
            if message.exists():
                message.rename(target)


def _place_tree(source: Path, target: Path) -> None:
    if source.is_dir():
        if not target.exists():
            target.mkdir(parents=True)
            _copy_access(source, target)
        for child in sorted(source.iterdir()):
            _place_tree(child, target / child.name)
    else:
        for side_file in state_copy.SQLITE_SIDE_FILES:  # of the database that is replaced
            target.with_name(f"{target.name}{side_file}").unlink(missing_ok=True)
        new = target.with_name(f"{target.name}.restored")
        shutil.copy2(source, new)
        _copy_access(source, new)
        new.rename(target)


def _copy_access(source: Path, target: Path) -> None:
    status = source.stat()
    os.chown(target, status.st_uid, status.st_gid)
    target.chmod(status.st_mode & 0o7777)


def _has_other_key(source: Path, target: Path) -> bool:
    """Of two PEM files with a key and a chain. The key of the vault stays, whatever the archive has."""
    keys = [path.read_text().partition("-----BEGIN CERTIFICATE")[0] for path in (source, target)]
    return keys[0] != keys[1]


def list_services() -> list[str]:
    """Those of SERVICES that this machine has."""
    lines = run("systemctl", "list-unit-files", "--no-legend", "--plain", *SERVICES, check=False, timeout=60).split(
        "\n"
    )
    present = {line.split()[0] for line in lines if line.strip()}
    return [unit for unit in SERVICES if unit in present]


@contextmanager
def stopped_services() -> Iterator[None]:
    """They are started again whatever happens. Raises RuntimeError if one does not stop or start."""
    services = list_services()
    run("systemctl", "stop", *services, timeout=SERVICE_TIMEOUT)
    try:
        yield
    finally:
        run("systemctl", "start", *reversed(services), timeout=SERVICE_TIMEOUT)
