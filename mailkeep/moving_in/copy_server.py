"""The operator's end of the conversation with `mail-import` on our server (`mail_import/import_session.py`)."""

import queue
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

from mailkeep.host.remote import RemoteHost, UnreachableError
from mailkeep.moving_in.copy_model import NO_ROOM, SOURCE_FAILED, CopyError
from mailkeep.parts import server_package
from mailkeep_server.common.mail_frames import Arrival, CutError, read_line, write_content, write_line
from mailkeep_server.common.message_bytes import Content

END_TIMEOUT = 30.0  # seconds for Dovecot's session to end


class ServerSession:
    """`reader` and `writer` lead to `mail-import`; `label` is the inventory's name, for texts."""

    def __init__(self, reader: IO[bytes], writer: IO[bytes], label: str) -> None:
        self._writer, self._label = writer, label
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read_lines, args=(reader,), daemon=True).start()

    def ask(self, do: str, take: Callable[[dict[str, Any]], None] = lambda _: None, /, **values: Any) -> dict[str, Any]:
        """Sends a request, and returns the last line of its answer; `take` is called with the lines before. Raises
        CopyError."""
        self.send({"do": do, **values})
        return self.wait(take)

    def read_known(self, folder: str) -> dict[str, Arrival]:
        """The messages of this source that have arrived in a folder of the account, by their keys."""
        arrivals: dict[str, Arrival] = {}

        def take_arrivals(line: dict[str, Any]) -> None:
            arrivals.update({values[0]: Arrival(*values) for values in line["arrivals"]})

        self.ask("known", take_arrivals, folder=folder)
        return arrivals

    def begin_append(self, folder: str, uid_validity: int, *, subscribe: bool) -> "AppendingMessages":
        self.send({"do": "append", "folder": folder, "uid_validity": uid_validity, "subscribe": subscribe})
        return AppendingMessages(self)

    def send(self, values: dict[str, Any], content: Content | None = None, size: int = 0) -> None:
        """Raises CopyError."""
        try:
            if content is None:
                write_line(self._writer, values)
                self._writer.flush()
            else:
                write_content(self._writer, values, content, size)
        except OSError:
            self.wait(lambda _: None)
            raise self._end_error() from None

    def send_bytes(self, chunk: bytes) -> None:
        self.send({"chunk": True}, chunk, len(chunk))

    def take_waiting(self, take: Callable[[dict[str, Any]], None]) -> None:
        """Calls `take` with the lines that have come, without waiting for others. Raises CopyError for an error."""
        with suppress(queue.Empty):
            while True:
                line = self._lines.get_nowait()
                if line is None or "error" in line:
                    raise self._explain(line)
                take(line)

    def wait(self, take: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """The last line of an answer. Raises CopyError."""
        while True:
            line = self._lines.get()
            if line is None or "error" in line:
                raise self._explain(line)
            if line.get("done"):
                return line
            take(line)

    def _read_lines(self, reader: IO[bytes]) -> None:
        try:
            while True:
                self._lines.put(read_line(reader))
        except (CutError, OSError, ValueError):
            self._lines.put(None)

    def _explain(self, line: dict[str, Any] | None) -> CopyError:
        if line is None:
            return self._end_error()
        text = line["text"]
        match line["error"]:
            case "room":
                return CopyError(
                    f"There is no room for the next message: {text}\nWhat has arrived stays. Raise the account's "
                    f"`quota` in mail.yml or free space on the disk, run `mailkeep deploy {self._label}`, then the "
                    "same command again: it goes on from there.",
                    NO_ROOM,
                )
            case "source":
                return explain_source_failure(line)
            case "busy":
                return CopyError(text)
        return CopyError(f"On the server: {text}\nWhat has arrived stays; the same command goes on from there.")

    def _end_error(self) -> CopyError:
        return CopyError(
            "The connection to the server has ended, or its Mailkeep is older than this one (`mailkeep deploy "
            f"{self._label}` brings it up to date). What has arrived stays; the same command goes on from there."
        )


class AppendingMessages:
    """Messages on their way into a folder. `arrivals` are those that the server has confirmed, by their keys."""

    def __init__(self, session: ServerSession) -> None:
        self._session = session
        self.arrivals: dict[str, Arrival] = {}

    def send(self, values: dict[str, Any], content: Content, size: int) -> None:
        """Raises CopyError."""
        self._session.send(values, content, size)
        self._session.take_waiting(self._take)

    def finish(self) -> dict[str, Any]:
        """Waits until all are there, and returns the counts. Raises CopyError."""
        self._session.send({"end": True})
        return self._session.wait(self._take)

    def _take(self, line: dict[str, Any]) -> None:
        self.arrivals.update({values[0]: Arrival(*values) for values in line["arrivals"]})


class ServerProcess:
    """`mail-import` on the server, over the connection that all commands share."""

    def __init__(self, remote: RemoteHost) -> None:
        remote.run_mailkeep(f"test -e {server_package.DIRECTORY}/mailkeep_server")
        backend = remote.connect().backend
        self._process: subprocess.Popen[bytes] = backend.connection.start(
            backend.get_command(f"{server_package.PYTHON} mail-import")
        )
        assert self._process.stdin
        assert self._process.stdout
        if backend.sudo and backend.password is not None:
            self._process.stdin.write(f"{backend.password}\n".encode())
        self.session = ServerSession(self._process.stdout, self._process.stdin, remote.inventory_label)

    def close(self) -> None:
        assert self._process.stdin
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def open_server(remote: RemoteHost) -> ServerProcess:
    """Raises CopyError."""
    try:
        return ServerProcess(remote)
    except UnreachableError as error:
        raise CopyError(f"{remote.name}: {error}. {error.remedy}") from None


def explain_source_failure(line: dict[str, Any]) -> CopyError:
    """Why an IMAP server or a copy of a dbox cannot be read, and what helps."""
    text, step = str(line["text"]), line.get("step")
    if step == "login":
        return CopyError(
            f"The old server refuses the login: {text}\nTry name and password in a mail program. Some providers want a "
            "password for programs, or IMAP switched on in the account's settings.",
            SOURCE_FAILED,
        )
    if step == "certificate":
        pairs = ":".join(line["certificate"][position : position + 2] for position in range(0, 64, 2))
        return CopyError(
            f"The certificate of the old server is not valid: {text}\nIts SHA-256 is {pairs}.\nIf `openssl x509 "
            "-fingerprint -sha256 -noout -in CERTIFICATE` on the old server shows the same, add "
            f"--certificate {pairs}",
            SOURCE_FAILED,
        )
    if step == "room":
        return CopyError(text, NO_ROOM)
    if step == "connect":
        return CopyError(
            f"The old server cannot be reached from the new one: {text}\nIs that its name, and does IMAP over TLS "
            "listen at this port?",
            SOURCE_FAILED,
        )
    return CopyError(
        f"The old server stopped in between: {text}\nWhat has arrived stays; the same command goes on from there.",
        SOURCE_FAILED,
    )
