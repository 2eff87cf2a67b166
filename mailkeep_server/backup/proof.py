"""Proves that mail comes back: restores a random mailbox from the last and from an older archive, and compares.

Each message is compared with the archive's manifest (bytes, flags in its name) and with the live mailbox where it is
unchanged; the lists of UIDs, keywords, subscriptions and scripts with the manifest. The weekly proof also has borg read
the whole repository where it lies, so that a flipped byte or a missing segment shows. That check uses checksums, which
somebody with rights at the target could forge. The restored messages are authenticated by the key, which is not there.
"""

import json
import random
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from mailkeep_server.backup import mail_snapshot
from mailkeep_server.backup.borg import BackupError, Repository
from mailkeep_server.backup.config import STATE, BackupConfig
from mailkeep_server.backup.mail_snapshot import StoredMessage
from mailkeep_server.backup.run import ShowProgress, hold_lock, list_mailboxes
from mailkeep_server.common.backup_archives import Archive, describe_lack, select_archives
from mailkeep_server.common.backup_status import load_status, save_status
from mailkeep_server.common.wording import count_noun, describe_error

SCRATCH = STATE / "scratch"
STAGE = str(mail_snapshot.STAGE).lstrip("/")
WAIT, QUICK_WAIT = 6 * 3600.0, 100.0  # seconds, for a backup that runs
QUICK_MESSAGES = 100
"""That a quick proof restores; the weekly one restores the whole mailbox."""


def prove_backups(config: BackupConfig, *, quick: bool, show_progress: ShowProgress | None = None) -> dict[str, str]:
    """By target, what is wrong; empty if the proof holds. Raises BackupError if another run holds the lock."""
    with hold_lock(QUICK_WAIT if quick else WAIT):
        faults = {}
        for target in config.targets:
            if show_progress:
                show_progress(f"{target.name}: reading the repository")
            try:
                fault = "; ".join(
                    _find_faults(config, Repository(target), load_status().of(target.name).archive, quick)
                )
            except BackupError as error:
                fault = str(error)
            except (OSError, ValueError) as error:
                fault = f"the restored mail cannot be read: {describe_error(error)}"
            finally:
                shutil.rmtree(SCRATCH, ignore_errors=True)
            faults[target.name] = fault
            status = load_status()
            status.of(target.name).proof_fault = fault
            if not fault:
                status.of(target.name).proved = time.time()
            save_status(status)
        return faults


def _find_faults(config: BackupConfig, repository: Repository, last_archive: str, quick: bool) -> Iterator[str]:
    if not quick:
        repository.check()
    everything = repository.list_archives()
    archives = {archive.name: archive for archive in select_archives(everything, config.host)}
    if not archives:
        yield describe_lack(everything, config.host)
        return
    if last_archive and last_archive not in archives:
        yield f"the last archive, {last_archive}, is gone from it"
        return
    # By the dates another one may be the newest: the clock may have been wrong.
    newest = archives.pop(last_archive or [*archives][-1])
    others = [*archives.values()]
    yield from _compare_archive(repository, newest, () if newest.is_future else list_mailboxes(config), quick)
    if others:
        yield from _compare_archive(repository, random.choice(others), (), quick)  # noqa: S311 - no secret


def _compare_archive(
    repository: Repository, archive: Archive, live_accounts: Collection[str], quick: bool
) -> Iterator[str]:
    """Restores one mailbox. With `live_accounts`, none of them that has mail may lack it in the archive."""
    repository.extract(archive.name, [f"{STAGE}/manifest"], SCRATCH)
    manifests = {path.stem: path for path in sorted((SCRATCH / STAGE / "manifest").glob("*.jsonl"))}
    contents = {account: [*mail_snapshot.read_messages(manifest)] for account, manifest in manifests.items()}
    for account in live_accounts:
        if not contents.get(account) and (lacking := _count_older(account, archive)):
            yield f"{archive.name} has no mail of {account}, who had {count_noun(lacking, 'message')} by then"
    accounts = [account for account, messages in contents.items() if messages]
    if not accounts:
        return
    account = random.choice(accounts)  # noqa: S311 - no secret
    messages = contents[account]
    if quick:
        messages = random.sample(messages, min(QUICK_MESSAGES, len(messages)))
    home = str(mail_snapshot.find_home(account, Path(STAGE, "mail")))
    others = mail_snapshot.read_others(manifests[account])
    paths = [f"{home}/{path}" for path in (*(message.path for message in messages), *others)] if quick else [home]
    repository.extract(archive.name, paths, SCRATCH)
    for fault in _compare_mailbox(account, SCRATCH / home, messages, others):
        yield f"{archive.name}: {fault}"
        return
    shutil.rmtree(SCRATCH)


def _compare_mailbox(
    account: str, restored: Path, messages: list[StoredMessage], others: dict[str, str]
) -> Iterator[str]:
    live = mail_snapshot.list_messages(mail_snapshot.find_home(account))
    for message in messages:
        file = restored / message.path
        if not file.is_file():
            yield f"a message of {account} is missing: {message.path}"
        elif mail_snapshot.hash_file(file) != message.sha256:
            yield f"a message of {account} comes back with other bytes: {message.path}"
        elif fault := _compare_live(account, message, live):
            yield fault
    for path, sha256 in others.items():
        if not (restored / path).is_file() or mail_snapshot.hash_file(restored / path) != sha256:
            yield f"{path} of {account} does not come back as it was"


def _compare_live(account: str, message: StoredMessage, live: dict[str, str]) -> str:
    """A message never changes, whatever its flags; empty too where it has gone meanwhile."""
    path = live.get(message.key)
    if path is None:
        return ""
    try:
        sha256 = mail_snapshot.hash_file(mail_snapshot.find_home(account) / path)
    except FileNotFoundError:
        return ""
    return "" if sha256 == message.sha256 else f"a message of {account} differs from the live one: {path}"


def _count_older(account: str, archive: Archive) -> int:
    """The account's messages on this machine that were there when the archive was made. The name of a message begins
    with the second in which it was stored here (maildir)."""
    paths = mail_snapshot.list_messages(mail_snapshot.find_home(account)).values()
    seconds = (path.rpartition("/")[2].partition(".")[0] for path in paths)
    return sum(text.isdigit() and int(text) < archive.time.timestamp() for text in seconds)


def print_proof(faults: dict[str, str], as_json: bool) -> int:
    """Returns the exit code."""
    if as_json:
        print(json.dumps(faults))
    else:
        for target, fault in faults.items():
            print(f"{target}: {fault or 'a mailbox was restored, and is as it was'}")
    return 1 if any(faults.values()) else 0
