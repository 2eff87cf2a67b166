"""Puts an archive's mail and state on a machine that was just deployed: the end of `mailkeep rebuild`.

It may be killed anywhere, and goes on when it is run again. Each mailbox is restored beside its place, compared with
the archive's manifest, and moved into place by one rename. Mail that has come in meanwhile is moved into it.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mailkeep_server.backup import mail_snapshot, maildir, placing, state_copy
from mailkeep_server.backup.borg import BackupError, Repository
from mailkeep_server.backup.config import STATE, BackupConfig
from mailkeep_server.backup.restore import choose_archive
from mailkeep_server.backup.run import ShowProgress, hold_lock
from mailkeep_server.common import mailboxes
from mailkeep_server.common.backup_archives import Archive, select_archives
from mailkeep_server.common.files import atomic_write
from mailkeep_server.common.wording import count_noun

RECORD = STATE / "rebuild.json"
SCRATCH = Path(mailboxes.ROOT, ".restore")
"""On the disk of the mailboxes, so that they can be renamed into place."""
SKIPPED_UIDS = 100_000
"""More than a server gives in one folder between two backups."""
STAGE = str(mail_snapshot.STAGE).lstrip("/")
STATE_STAGE = str(state_copy.STAGE).lstrip("/")


@dataclass
class RebuildRecord:
    """What is done: the archive, the accounts whose mail is in place, and whether the state is."""

    target: str
    archive: str
    accounts: dict[str, int] = field(default_factory=dict)
    """The messages restored, by account."""
    state: bool = False
    finished: bool = False


def rebuild_mail(
    config: BackupConfig, *, target: str = "", archive: str = "", show_progress: ShowProgress = lambda _: None
) -> RebuildRecord:
    """Raises BackupError or OSError; then it may be run again."""
    with hold_lock():
        record = _read_record()
        if record is None or record.finished or (archive and archive != record.archive):
            chosen_target = config.find_target(target)
            chosen = choose_source(Repository(chosen_target), config.host, archive)
            _refuse_used_mailboxes(_extract_manifests(Repository(chosen_target), chosen.name))
            record = RebuildRecord(chosen_target.name, chosen.name)
            _save_record(record)
        repository = Repository(config.find_target(record.target))
        with placing.stopped_services():
            manifests = _extract_manifests(repository, record.archive)
            _check_room(manifests)
            for number, (account, manifest) in enumerate(manifests.items(), start=1):
                if account not in record.accounts:
                    show_progress(f"{account} ({number} of {len(manifests)})")
                    record.accounts[account] = _restore_mailbox(repository, record.archive, account, manifest)
                    _save_record(record)
            if not record.state:
                show_progress("counters, freezes, bans, certificate")
                _restore_state(repository, record.archive, config.kept)
                record.state = True
                _save_record(record)
            shutil.rmtree(SCRATCH, ignore_errors=True)
        record.finished = True
        _save_record(record)
    return record


def _refuse_used_mailboxes(manifests: dict[str, Path]) -> None:
    """Raises BackupError if this machine has mail of the archive: it is not lost, and deleted mail would come back."""
    for account, manifest in manifests.items():
        live = mail_snapshot.list_messages(mail_snapshot.find_home(account))
        if any(message.key in live for message in mail_snapshot.read_messages(manifest)):
            raise BackupError(
                f"this machine has mail of {account} that is in the archive too, so it is no new one. `mailkeep "
                "restore` brings back what is missing here"
            )


def choose_source(repository: Repository, host: str, archive: str) -> Archive:
    """The archive to rebuild from. Raises BackupError if the newest has far less mail than the one before.

    A new machine that has made a backup before it was rebuilt would have an empty mailbox's archive.
    """
    newest = choose_archive(repository, host, archive)
    if archive:
        return newest
    archives = select_archives(repository.list_archives(), host)
    if len(archives) > 1:
        counts = [_count_messages(repository, other.name) for other in archives[-2:]]
        if counts[1] < counts[0] / 2:
            raise BackupError(
                f"the newest archive, {newest.name}, has {count_noun(counts[1], 'message')}; the one before, "
                f"{archives[-2].name}, has {counts[0]}. Say which to take by --from-archive"
            )
    return newest


def _count_messages(repository: Repository, archive: str) -> int:
    manifests = _extract_manifests(repository, archive)
    return sum(len([*mail_snapshot.read_messages(manifest)]) for manifest in manifests.values())


def _extract_manifests(repository: Repository, archive: str) -> dict[str, Path]:
    """By account."""
    directory = STATE / "manifests"
    shutil.rmtree(directory, ignore_errors=True)
    repository.extract(archive, [f"{STAGE}/manifest"], directory)
    return {path.stem: path for path in sorted((directory / STAGE / "manifest").glob("*.jsonl"))}


def _check_room(manifests: dict[str, Path]) -> None:
    size = sum(message.size for manifest in manifests.values() for message in mail_snapshot.read_messages(manifest))
    free = shutil.disk_usage(mailboxes.ROOT).free
    placed = sum(path.stat().st_size for path in Path(mailboxes.ROOT).rglob("Maildir/*/*") if path.is_file())
    if size - placed > free:
        raise BackupError(
            f"the mail takes {size / 2**20:.0f} MB, and {mailboxes.ROOT} has {free / 2**20:.0f} MB free: use a machine "
            "with a larger disk"
        )


def _restore_mailbox(repository: Repository, archive: str, account: str, manifest: Path) -> int:
    """Returns the number of messages. Mail that the new mailbox has got is kept."""
    scratch_home = mail_snapshot.find_home(account, Path(STAGE, "mail"))
    home = mail_snapshot.find_home(account)
    if not placing.is_placed(home, archive):
        shutil.rmtree(SCRATCH, ignore_errors=True)
        repository.extract(archive, [str(scratch_home)], SCRATCH)
        _compare(archive, account, SCRATCH / scratch_home, manifest)
        for _, directory in maildir.list_folders(SCRATCH / scratch_home / "Maildir"):
            maildir.skip_uids(directory, SKIPPED_UIDS)
    placing.place_mailbox(SCRATCH / scratch_home, home, archive)
    return sum(1 for _ in mail_snapshot.read_messages(manifest))


def _compare(archive: str, account: str, home: Path, manifest: Path) -> None:
    """Raises BackupError unless each file is as the manifest says."""
    files = {message.path: message.sha256 for message in mail_snapshot.read_messages(manifest)}
    for path, sha256 in (files | mail_snapshot.read_others(manifest)).items():
        if not (home / path).is_file() or mail_snapshot.hash_file(home / path) != sha256:
            raise BackupError(f"{archive}: {path} of {account} does not come back as it was")


def _restore_state(repository: Repository, archive: str, kept: Sequence[str]) -> None:
    scratch = STATE / "state-restored"
    shutil.rmtree(scratch, ignore_errors=True)
    repository.extract(archive, [STATE_STAGE], scratch)
    placing.place_state(scratch / STATE_STAGE, kept)
    shutil.rmtree(scratch)


def _read_record() -> RebuildRecord | None:
    try:
        return RebuildRecord(**json.loads(RECORD.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise BackupError(f"{RECORD} is not as Mailkeep wrote it ({error}): remove it to begin anew") from None


def _save_record(record: RebuildRecord) -> None:
    atomic_write(RECORD, f"{json.dumps(asdict(record), indent=1)}\n", 0o600)
