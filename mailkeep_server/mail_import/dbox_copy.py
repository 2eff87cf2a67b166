"""A copy of a dbox directory of another server, which our own Dovecot reads: nobody else knows its format and flags."""

import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import IO

from mailkeep_server.common import mailboxes
from mailkeep_server.mail_import.imap_session import ImapSession, LocalSession, SessionEndedError
from mailkeep_server.mail_import.imap_source import SourceError


class DboxCopy:
    """A directory beside the mailboxes, which ends with this object's user. `size` is what must fit into it."""

    def __init__(self, address: str, size: int) -> None:
        self._address = address
        free = shutil.disk_usage(mailboxes.ROOT).free
        if size * 2 > free:
            raise SourceError(
                f"A copy of the dbox directory and the mail out of it need {2 * size // 2**20} MiB below "
                f"{mailboxes.ROOT}, and {free // 2**20} MiB are free.",
                step="room",
            )
        self._directory = Path(tempfile.mkdtemp(prefix=".import-", dir=mailboxes.ROOT))
        shutil.chown(self._directory, mailboxes.USER, mailboxes.USER)

    def unpack(self, reader: IO[bytes]) -> None:
        """Takes a tar archive from the stream, and no link or device out of it. Raises SourceError."""
        try:
            with tarfile.open(fileobj=reader, mode="r|") as archive:
                for member in archive:
                    if member.isfile() or member.isdir():
                        archive.extract(member, self._directory, set_attrs=False, filter="data")
        except tarfile.TarError as error:
            raise SourceError(f"The archive of the dbox directory is cut: {error}", step="read") from None
        for path in self._directory.rglob("*"):
            shutil.chown(path, mailboxes.USER, mailboxes.USER)

    def open(self) -> ImapSession:
        """A session in which the copy is the account's mail. Raises SourceError."""
        driver = "mdbox" if (self._directory / "storage").is_dir() else "sdbox"
        options = {
            "mail_driver": driver,
            "mail_path": str(self._directory),
            "mailbox_list_layout": "fs",
            "mail_index_path": "",
        }
        words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        try:
            session = LocalSession(["doveadm", "exec", "imap", "-u", self._address, *words])
            session.read_capabilities()
        except SessionEndedError as error:
            raise SourceError(f"Dovecot cannot open the copy: {error}", step="read") from None
        return session

    def remove(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)
