"""What a source of mail has, and what has come of it here."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from mailkeep.errors import UserError
from mailkeep_server.common.mail_frames import Arrival

DIFFERENT = 1
SOURCE_FAILED = 3
NO_ROOM = 4


class CopyError(UserError):
    """The import cannot go on. `exit_code` says why: 1, `SOURCE_FAILED` or `NO_ROOM`."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code


@dataclass(frozen=True)
class SourceFolder:
    """A folder of the source. `path` has a name for each level, `("INBOX",)` is the inbox. `size` and `messages` are
    as far as the source tells before it is read; `uid_validity` is 0 without UIDs to keep."""

    name: str
    path: tuple[str, ...]
    messages: int
    size: int
    attributes: frozenset[str] = frozenset()
    is_subscribed: bool = True
    uid_validity: int = 0


class CopiedMessage(NamedTuple):
    """A message of the source, as it is there. `digest` is empty if it could not be read; `arrival` is what the server
    noted. `key` is unique in the source, `name` is for people."""

    key: str
    folder: str
    name: str
    digest: str
    message_id: str
    flags: list[str]
    date: int
    uid: int
    arrival: Arrival | None


@dataclass
class FolderResult:
    """What became of one folder of the source."""

    messages: list[CopiedMessage] = field(default_factory=list)
    added: int = 0
    duplicates: int = 0
    known: int = 0
    size: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    """By the message's key, Dovecot's reason."""


class Progress(Protocol):
    """Told of each step of the work on a folder."""

    def __call__(self, folder: str, messages: int, total: int, size: int) -> None: ...


class Server(Protocol):
    """The server's end, as the sources need it."""

    def read_known(self, folder: str) -> dict[str, Arrival]: ...

    def begin_append(self, folder: str, uid_validity: int, *, subscribe: bool) -> "Appending": ...

    def ask(self, do: str, take: Callable[[dict[str, Any]], None], /, **values: Any) -> dict[str, Any]: ...


class Appending(Protocol):
    """Messages on their way into a folder."""

    arrivals: dict[str, Arrival]

    def send(self, values: dict[str, Any], content: Any, size: int) -> None: ...

    def finish(self) -> dict[str, Any]: ...


class Source(Protocol):
    """Somewhere mail is. `notes` are texts for the operator: files that are no mail, names that were changed."""

    folders: list[SourceFolder]
    notes: list[str]

    def copy_folder(
        self, folder: SourceFolder, target: str, server: Server, keep_uids: bool, progress: Progress
    ) -> FolderResult: ...
