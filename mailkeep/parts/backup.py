"""Backups of all mail, and of what the server has learned: by borg, encrypted, to a disk or to other machines."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from mailkeep.inventory.backup_keys import BackupKeys
from mailkeep.parts import server_package
from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit, unit_check
from mailkeep.settings.models import Settings
from mailkeep.settings.sections import Backup, BackupTarget
from mailkeep.templating import render_template
from mailkeep_server.common import paths

DIRECTORY = paths.BACKUP_ETC
CONFIG, PASSPHRASE, SSH_KEY = (f"{DIRECTORY}/{name}" for name in ("config.json", "passphrase", "ssh_key"))
KNOWN_HOSTS, SSH_CONFIG = (f"{DIRECTORY}/{name}" for name in ("known_hosts", "ssh_config"))
SERVICE, PROOF = "mailkeep-backup.service", "mailkeep-backup-proof.service"
TIMERS = ("mailkeep-backup.timer", "mailkeep-backup-proof.timer")
UNIT_FILES = tuple(f"{SYSTEMD}/{name}" for name in (SERVICE, PROOF, *TIMERS))
FIRST_HOUR = 1
"""Local time. Most people sleep, and the hour is there on each day (but where clocks change at 1 o'clock)."""


def build_part(settings: Settings, keys: BackupKeys | None, services: Iterable[Part]) -> Part:
    """`keys` are needed when `settings.backup` is set. Backs up the mail, and what the `services` keep."""
    if settings.backup is None or keys is None:
        return Part(name="backup", absent=(*UNIT_FILES, DIRECTORY))
    backup = settings.backup
    kept = [path for service in services for path in service.kept]
    units = dict(zip(UNIT_FILES, _render_units(settings, backup), strict=True))
    return Part(
        name="backup",
        packages=("borgbackup", "openssh-client", "python3"),
        directories=(Directory(paths.ETC), Directory(DIRECTORY, mode=0o700)),
        files=(
            File(CONFIG, _build_config(settings, backup, kept), mode=0o600),
            File(PASSPHRASE, keys.passphrase.encode(), mode=0o600, secret=True),
            File(SSH_KEY, keys.ssh_key.encode(), mode=0o600, secret=True),
            File(KNOWN_HOSTS, _list_known_hosts(backup), mode=0o600),
            File(SSH_CONFIG, render_template("backup/ssh_config", key=SSH_KEY, known_hosts=KNOWN_HOSTS), mode=0o600),
            *(File(path, content) for path, content in units.items()),
        ),
        units=tuple(Unit(timer, restart_on=(f"{SYSTEMD}/{timer}",)) for timer in TIMERS),
        checks=(
            *(unit_check(path, path) for path in UNIT_FILES[:2]),
            Check(f"ssh -F {SSH_CONFIG} -G target", reads=(SSH_CONFIG,)),
        ),
    )


def build_repository_url(target: BackupTarget) -> str:
    """A path, or borg's URL."""
    if target.host is None:
        return target.path
    host = f"[{target.host}]" if ":" in target.host else target.host
    return f"ssh://{target.user}@{host}:{target.port}{target.path}"


def build_authorized_key(target: BackupTarget, keys: BackupKeys) -> str:
    """The line of authorized_keys at the target: the server may add archives there, and nothing else.

    borg serve(1): with `--append-only`, what a client deletes is still there.
    """
    command = f"borg serve --append-only --restrict-to-repository {target.path}"
    return f'command="{command}",restrict {keys.public_key}'


def _build_config(settings: Settings, backup: Backup, kept: list[str]) -> bytes:
    """`mailkeep_server.backup.config.BackupConfig`."""
    config = {
        "host": settings.host.name,
        "targets": {target.name: build_repository_url(target) for target in backup.targets},
        "every_hours": backup.every_hours,
        "accounts": [account.address for account in settings.accounts],
        "kept": kept,
    }
    return f"{json.dumps(config, indent=1)}\n".encode()


def _list_known_hosts(backup: Backup) -> bytes:
    """known_hosts of sshd(8); a port other than 22 stands with the host, in brackets."""
    lines = []
    for target in backup.targets:
        if target.host:
            host = target.host if target.port == 22 else f"[{target.host}]:{target.port}"
            lines.append(f"{host} {target.host_key}\n")
    return "".join(lines).encode()


def _render_units(settings: Settings, backup: Backup) -> Iterable[bytes]:
    """The minutes depend on the host name: not all servers of one target come at the same time."""
    minute, second = divmod(int.from_bytes(hashlib.sha256(settings.host.name.encode()).digest()) % 3600, 60)
    hours = ",".join(f"{hour:02}" for hour in sorted({h % 24 for h in range(FIRST_HOUR, 25, backup.every_hours)}))
    for path in UNIT_FILES:
        yield render_template(
            f"backup/{Path(path).name}",
            python=server_package.PYTHON,
            config=CONFIG,
            state=Path(paths.BACKUP_STATE).name,
            hours=hours,
            minute=minute,
            second=second,
            local_targets=[str(Path(target.path).parent) for target in backup.targets if target.host is None],
        )
