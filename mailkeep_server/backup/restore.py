"""Restores mail of one account from an archive: all of it, a folder, or single messages.

Messages are appended through Dovecot's own IMAP. So the account may be used meanwhile, and a message that is there is
not there twice after a second run.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from email.header import decode_header, make_header
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import NamedTuple

from mailkeep_server.backup import mail_snapshot, maildir, restore_room
from mailkeep_server.backup.borg import BackupError, Repository
from mailkeep_server.backup.config import STATE, BackupConfig
from mailkeep_server.backup.run import ShowProgress, hold_lock
from mailkeep_server.common.backup_archives import Archive, describe_lack, find_host, find_newest, select_archives
from mailkeep_server.common.wording import count_noun, describe_error
from mailkeep_server.mail_import.append import Counts, QuotaExceededError, append_messages
from mailkeep_server.mail_import.imap_session import ImapError, SessionEndedError, open_account
from mailkeep_server.mail_import.messages import Message

SCRATCH = STATE / "restore"
QUOTA_REMEDY = "Raise `quota` in mail.yml and deploy, or restore less by --folder or --since. Then run this again"


@dataclass(frozen=True)
class Selection:
    """What to restore. Empty texts and 0 restrict nothing; `since` is in seconds since the epoch."""

    folder: str = ""
    since: float = 0
    subject: str = ""
    message_id: str = ""
    into: str = ""
    """The folder below which all is put; empty: each message into its own folder."""

    def covers(self, message: Message) -> bool:
        if message.date < self.since:
            return False
        if not self.subject and not self.message_id:
            return True
        with Path(str(message.content)).open("rb") as file:
            headers = BytesHeaderParser().parse(file)
        if self.message_id and str(headers.get("Message-ID", "")).strip(" <>\r\n") != self.message_id.strip(" <>"):
            return False
        return self.subject.lower() in _decode_header(str(headers.get("Subject", ""))).lower()


@dataclass
class RestoreReport:
    """Numbers of messages by folder: restored now, there before. `refused` has reasons by message."""

    archive: str
    folders: dict[str, dict[str, int]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)


def choose_archive(repository: Repository, host: str, name: str = "") -> Archive:
    """The archive of this name, or the newest of this server. Raises BackupError."""
    place, everything = repository.target.name, repository.list_archives()
    archives = {archive.name: archive for archive in select_archives(everything, host)}
    if name in archives:
        return archives[name]
    if any(archive.name == name for archive in everything):
        raise BackupError(f"{place}: {name} is of another server, {find_host(name)}. This one is {host}")
    if name:
        known = ", ".join([*archives][-3:]) or "none"
        raise BackupError(f"{place}: it has no archive {name}. The last ones are: {known}")
    try:
        return find_newest([*archives.values()])
    except ValueError as error:
        raise BackupError(f"{place}: {error}") from None
    except LookupError:
        raise BackupError(f"{place}: {describe_lack(everything, host)}") from None


def restore_mail(
    config: BackupConfig,
    account: str,
    selection: Selection,
    *,
    target: str = "",
    archive: str = "",
    show_progress: ShowProgress = lambda _: None,
) -> RestoreReport:
    """Raises BackupError, and ValueError for an unknown account or target."""
    if account not in config.accounts:
        raise ValueError(f"{account} is no account of mail.yml. Add it, deploy, then restore its mail")
    repository = Repository(config.find_target(target))
    with hold_lock():
        chosen = choose_archive(repository, config.host, archive)
        report = RestoreReport(chosen.name)
        shutil.rmtree(SCRATCH, ignore_errors=True)
        try:
            show_progress(f"reading {chosen.name}")
            home = extract_mailbox(repository, chosen.name, account, SCRATCH)
            _append_all(account, home / "Maildir", selection, report, show_progress)
        except (ImapError, SessionEndedError, OSError) as error:
            raise BackupError(f"{account}: {describe_error(error)}. Run it again: it goes on where it ended") from error
        finally:
            shutil.rmtree(SCRATCH, ignore_errors=True)
    return report


def extract_mailbox(repository: Repository, archive: str, account: str, scratch: Path) -> Path:
    """Restores one home into a scratch directory, and compares it with the manifest. Returns it. Raises BackupError."""
    stage = str(mail_snapshot.STAGE).lstrip("/")
    repository.extract(archive, [f"{stage}/manifest"], scratch)
    manifest = scratch / stage / "manifest" / f"{account}.jsonl"
    messages = {message.path: message for message in mail_snapshot.read_messages(manifest)}
    if not messages:
        raise BackupError(f"{archive} has no mail of {account}")
    size = sum(message.size for message in messages.values())
    if lack := restore_room.find_lack_on_disk(size, restore_room.list_places(scratch)):
        raise BackupError(f"there is no room for the mail of {account}: {lack}")
    home = mail_snapshot.find_home(account, Path(stage, "mail"))
    repository.extract(archive, [str(home)], scratch)
    for path, message in messages.items():
        if not (scratch / home / path).is_file():
            raise BackupError(f"{archive}: a message of {account} is missing: {path}")
        if mail_snapshot.hash_file(scratch / home / path) != message.sha256:
            raise BackupError(f"{archive}: a message of {account} comes back with other bytes: {path}")
    return scratch / home


def _append_all(
    account: str, directory: Path, selection: Selection, report: RestoreReport, show_progress: ShowProgress
) -> None:
    names = [name for name, _ in maildir.list_folders(directory)]
    if selection.folder and selection.folder not in names:
        raise BackupError(f"{report.archive} has no folder {selection.folder} of {account}: it has {', '.join(names)}")
    folders = [*_select_folders(directory, selection)]
    session = open_account(account)
    try:
        if lack := restore_room.find_lack_of_quota(session, [(folder.name, folder.messages) for folder in folders]):
            raise BackupError(f"{account}: {lack}, so nothing was restored. {QUOTA_REMEDY}")
        for folder in folders:
            show_progress(f"{folder.name}: {count_noun(len(folder.messages), 'message')}")
            iterator = _iterate(folder.messages, folder.name, show_progress)
            counts = append_messages(account, folder.name, iterator, session=session, uid_validity=folder.uid_validity)
            _note_counts(report, folder.name, counts)
    except QuotaExceededError as error:  # mail has come in meanwhile
        raise BackupError(f"the quota of {account} is used up: {error}. {QUOTA_REMEDY}") from error
    finally:
        session.close()


class SelectedFolder(NamedTuple):
    """Where messages go. `uid_validity` is 0 if they get new UIDs."""

    name: str
    messages: list[Message]
    uid_validity: int


def _select_folders(directory: Path, selection: Selection) -> Iterator[SelectedFolder]:
    for name, path in maildir.list_folders(directory):
        if selection.folder not in ("", name):
            continue
        messages = [message for message in maildir.read_folder(path) if selection.covers(message)]
        if messages or not (selection.subject or selection.message_id or selection.since):
            target = f"{selection.into}.{name}" if selection.into else name
            yield SelectedFolder(target, messages, 0 if selection.into else maildir.read_uid_list(path).validity)


def _iterate(messages: list[Message], folder: str, show_progress: ShowProgress) -> Iterator[Message]:
    for number, message in enumerate(messages):
        if number % 500 == 499:
            show_progress(f"{folder}: {number + 1} of {len(messages)}")
        yield message


def _note_counts(report: RestoreReport, folder: str, counts: Counts) -> None:
    report.folders[folder] = {"restored": counts.added, "present": counts.duplicates}
    report.refused += [f"{folder}: {reason}" for _, reason in counts.refused]


def parse_since(text: str) -> float:
    """Seconds since the epoch of a day, YYYY-MM-DD, in the server's time. Raises ValueError."""
    try:
        return datetime.strptime(text, "%Y-%m-%d").astimezone().timestamp()
    except ValueError:
        raise ValueError(f"--since {text}: a day is written as 2026-11-29") from None


def _decode_header(text: str) -> str:
    """RFC 2047. A header that is not right stays as it is."""
    try:
        return str(make_header(decode_header(text)))
    except (ValueError, LookupError):
        return text
