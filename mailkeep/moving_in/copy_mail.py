"""`mailkeep import`: copies a mailbox of another server into an account, and compares.

Over SSH the operator's machine connects to both servers and carries the mail between them: neither needs a key to the
other. From an IMAP server, the new server fetches the mail itself.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mailkeep.host.remote import RemoteHost
from mailkeep.moving_in.compare_folders import Comparison, compare_messages
from mailkeep.moving_in.copy_address import SourceAddress
from mailkeep.moving_in.copy_host import OldHost
from mailkeep.moving_in.copy_imap import ALL, ImapSource, is_dbox, send_dbox
from mailkeep.moving_in.copy_maildir import MaildirSource, is_maildir
from mailkeep.moving_in.copy_mbox import MboxSource
from mailkeep.moving_in.copy_model import (
    NO_ROOM,
    SOURCE_FAILED,
    CopyError,
    FolderResult,
    Progress,
    Source,
    SourceFolder,
)
from mailkeep.moving_in.copy_report import FolderReport, ImportReport, describe_size
from mailkeep.moving_in.copy_server import ServerSession, open_server
from mailkeep_server.common.folder_names import find_purpose, place_folder
from mailkeep_server.common.mail_frames import FolderMessage

SPARE_DISK = 2**28  # bytes that the mail leaves free


class MailImport:
    """An import into one account. `session` has not been opened yet; `message_size` is the setting."""

    def __init__(
        self, session: ServerSession, address: str, source_address: SourceAddress, message_size: int = 0
    ) -> None:
        self._session, self._message_size = session, message_size
        self.report = ImportReport(address, source_address.label)
        self._state = session.ask("open", address=address, source=source_address.label)

    def open_imap(self, source: SourceAddress, password: str, certificate: str) -> Source:
        """Raises CopyError."""
        return ImapSource(
            self._session.ask(
                "connect",
                host=source.host,
                port=source.port,
                user=source.user,
                password=password,
                certificate=certificate,
            )
        )

    def open_ssh(self, host: OldHost, *, dry_run: bool) -> Source:
        """Finds out how the mail is kept there. Raises CopyError."""
        if host.probe() == "file":
            return MboxSource(host)
        entries = host.list_entries()
        if is_dbox(entries):
            if dry_run:
                raise CopyError(
                    "A dbox directory tells nothing of its messages before our Dovecot has read a copy of it: "
                    f"{describe_size(sum(entry.size for entry in entries))} below {host.address.path}. Run the import "
                    "without --dry-run."
                )
            return ImapSource(send_dbox(host, entries, self._session))
        if is_maildir(entries):
            paths = {entry.path for entry in entries}
            if b"./cur" not in paths and b"./Maildir/cur" in paths:
                raise CopyError(f"{host.address.path} holds a Maildir: give {host.address.path}/Maildir.")
            return MaildirSource(host, entries)
        source = MboxSource(host, entries)
        if not source.folders:
            raise CopyError(
                f"{host.address.path} on {host.address.host} holds no mail that Mailkeep knows: no Maildir (a "
                "directory with `cur`), no dbox (with `mailboxes`), no file that begins as an mbox does.",
                SOURCE_FAILED,
            )
        return source

    def plan_folders(self, source: Source) -> dict[str, list[SourceFolder]]:
        """The source's folders by the folder here that their messages go to."""
        places: dict[str, list[SourceFolder]] = defaultdict(list)
        for folder in source.folders:
            target = place_folder(folder.path, self._state["separator"], folder.attributes)
            purpose = find_purpose(folder.path, folder.attributes)
            if not purpose and target.split(self._state["separator"]) != list(folder.path) and target != "INBOX":
                self.report.notes.append(f"{folder.name}: is {target} here; the name cannot be the same.")
            places[target].append(folder)
            self.report.planned.append(
                {"folder": folder.name, "target": target, "messages": folder.messages, "size": folder.size}
            )
        return dict(places)

    def check_room(self, places: dict[str, list[SourceFolder]]) -> None:
        """Raises CopyError if quota or disk have no room for what is still to come."""
        folders = [folder for group in places.values() for folder in group if ALL not in folder.attributes]
        needed = max(sum(folder.size for folder in folders) - self._state["known_size"], 0)
        count = max(sum(max(folder.messages, 0) for folder in folders) - self._state["known"], 0)
        address = self.report.address
        used, limit = self._state["quota"].get("storage", (0, 0))
        if limit and used + needed > limit:
            raise CopyError(
                f"{address} has a quota of {describe_size(limit)}, of which {describe_size(used)} are used. The mail "
                f"there has {describe_size(needed)}. Nothing was copied.\nSet `quota: {_round_up(used + needed)}` or "
                "more for the account in mail.yml, deploy, and run this again.",
                NO_ROOM,
            )
        used, limit = self._state["quota"].get("message", (0, 0))
        if limit and used + count > limit:
            raise CopyError(
                f"{address} may have {limit:,} messages by its quota, and has {used:,}. There are {count:,} more to "
                f"come. Nothing was copied.\nSet `quota: {_round_up((used + count) * 8192)}` or more for the account "
                "in mail.yml (it has a message for each 8 KiB), deploy, and run this again.",
                NO_ROOM,
            )
        if needed + SPARE_DISK > self._state["free"]:
            raise CopyError(
                f"The disk of the server has {describe_size(self._state['free'])} free, and the mail there has "
                f"{describe_size(needed)}. Nothing was copied. Free space or enlarge the disk, and run this again.",
                NO_ROOM,
            )

    def copy_folders(self, source: Source, places: dict[str, list[SourceFolder]], progress: Progress) -> None:
        """Copies folder by folder, and compares each when it is there. Raises CopyError."""
        begin = time.monotonic()
        for target, folders in places.items():
            results = [
                source.copy_folder(folder, target, self._session, len(folders) == 1, progress) for folder in folders
            ]
            together = FolderResult([message for result in results for message in result.messages])
            for result in results:
                together.refused.update(result.refused)
            comparison = self._compare(target, together)
            if comparison.changed:
                self._session.ask("store", folder=target, flags=comparison.changed)
                comparison = self._compare(target, together)
            self.report.differences += comparison.differences
            self._note_large_messages(together)
            self._note_nul_bytes(together)
            for folder, result in zip(folders, results, strict=True):
                self.report.folders.append(self._report_folder(folder, target, result, comparison, len(folders) == 1))
        self.report.notes += source.notes
        self.report.planned = []
        self.report.seconds = time.monotonic() - begin

    def _compare(self, target: str, result: FolderResult) -> Comparison:
        messages: list[FolderMessage] = []

        def take_messages(line: dict[str, Any]) -> None:
            messages.extend(FolderMessage(*values) for values in line["messages"])

        state = self._session.ask("list", take_messages, folder=target)
        return compare_messages(result, messages, state["uid_validity"])

    def _report_folder(
        self, folder: SourceFolder, target: str, result: FolderResult, comparison: Comparison, alone: bool
    ) -> FolderReport:
        with_uid = sum(bool(message.uid) for message in result.messages)
        uids = "new"
        if not with_uid:
            uids = "none there" if result.messages else "-"
        elif alone and comparison.kept_uids:
            uids = "kept" if comparison.kept_uids == with_uid else "partly"
        return FolderReport(
            folder.name,
            target,
            len(result.messages),
            result.added,
            result.known,
            result.duplicates,
            result.size,
            uids,
            comparison.others,
            sum(difference.folder == folder.name for difference in comparison.differences),
        )

    def _note_large_messages(self, result: FolderResult) -> None:
        if not self._message_size:
            return
        large = [
            message for message in result.messages if message.arrival and message.arrival.size > self._message_size
        ]
        if large:
            self.report.notes.append(
                f"{large[0].folder}: {len(large)} messages are larger than `message_size` "
                f"({describe_size(self._message_size)}). They are here all the same; new ones of that size are refused."
            )

    def _note_nul_bytes(self, result: FolderResult) -> None:
        if odd := [message for message in result.messages if message.arrival and message.arrival.nul_bytes]:
            self.report.notes.append(
                f"{odd[0].folder}: {len(odd)} messages have NUL bytes, which no message may have; the first is "
                f"{odd[0].message_id or odd[0].name}. Dovecot keeps them, and shows mail programs 0x80 instead."
            )


def import_mail(
    remote: RemoteHost,
    address: str,
    source_address: SourceAddress,
    *,
    password: str = "",
    certificate: str = "",
    ssh_config: str = "",
    message_size: int = 0,
    dry_run: bool = False,
    progress: Progress,
) -> ImportReport:
    """Copies and compares, or with `dry_run` counts. Raises CopyError."""
    with _open_session(remote) as session:
        work = MailImport(session, address, source_address, message_size)

        def open_source() -> Source:
            if source_address.scheme == "imaps":
                return work.open_imap(source_address, password, certificate)
            return work.open_ssh(OldHost(source_address, ssh_config), dry_run=dry_run)

        return run_import(work, open_source, progress, dry_run)


def run_import(
    work: MailImport, open_source: Callable[[], Source], progress: Progress, dry_run: bool = False
) -> ImportReport:
    """All steps on an open session. Raises CopyError."""
    source = open_source()
    places = work.plan_folders(source)
    work.check_room(places)
    if dry_run:
        work.report.notes += source.notes
    else:
        work.copy_folders(source, places, progress)
    return work.report


@contextmanager
def _open_session(remote: RemoteHost) -> Iterator[ServerSession]:
    process = open_server(remote)
    try:
        yield process.session
    finally:
        process.close()


def _round_up(size: int) -> str:
    """A quota with a tenth more, in whole gibibytes."""
    return f"{-(-size * 11 // 10 // 2**30)}G"
