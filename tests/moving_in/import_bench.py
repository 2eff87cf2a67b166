"""An import without a network: the old server is a directory here, behind a program `ssh` that runs sh; the new one is
an `ImapStore`, behind the server's own `mail-import`."""

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "server"))

from imap_store import ImapStore

from mailkeep.moving_in import copy_mail
from mailkeep.moving_in.copy_address import parse_source
from mailkeep.moving_in.copy_host import OldHost
from mailkeep.moving_in.copy_report import ImportReport
from mailkeep.moving_in.copy_server import ServerSession
from mailkeep_server.mail_import import append, import_session
from mailkeep_server.mail_import.import_session import ImportSession

ADDRESS = "anna@example.org"
SSH = """#!/bin/sh
for command; do :; done
exec sh -c "$command"
"""


@dataclass
class Bench:
    """`store` is the new server's mail, `directory` the old server's path."""

    directory: Path
    journals: Path
    store: ImapStore
    progress: list[tuple[str, int, int, int]] = field(default_factory=list)

    @contextmanager
    def connect(self) -> Iterator[ServerSession]:
        ours, theirs = socket.socketpair()
        session = ImportSession(
            theirs.makefile("rb"), theirs.makefile("wb"), lambda _: self.store.connect(), str(self.journals)
        )

        def serve() -> None:
            session.serve()
            theirs.shutdown(socket.SHUT_RDWR)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield ServerSession(ours.makefile("rb"), ours.makefile("wb"), "home")
        finally:
            ours.shutdown(socket.SHUT_WR)
            thread.join()

    def run(self, path: Path | None = None, *, dry_run: bool = False, **options: Any) -> ImportReport:
        address = parse_source(f"ssh://old.example.org{path or self.directory}")
        with self.connect() as session:
            work = copy_mail.MailImport(session, ADDRESS, address, **options)
            return copy_mail.run_import(
                work, lambda: work.open_ssh(OldHost(address), dry_run=dry_run), self._progress, dry_run
            )

    def _progress(self, *values: Any) -> None:
        self.progress.append(values)


def make_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ssh").write_text(SSH)
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (tmp_path / "old").mkdir()
    (tmp_path / "journals").mkdir()
    store = ImapStore()
    store.max_bytes = 10**9
    monkeypatch.setattr(append, "update_folder", lambda _, folder, *options: store.update(folder, *options))
    monkeypatch.setattr(import_session.mailboxes, "ROOT", str(tmp_path))
    monkeypatch.setattr(import_session, "LOCK_TIMEOUT", 0.1)
    return Bench(tmp_path / "old", tmp_path / "journals", store)
