"""A source that our server reads itself: an IMAP server elsewhere, or the copy of a dbox directory.

The mail goes from the old server to the new one, and not over the operator's line.
"""

from typing import Any

from mailkeep.moving_in.copy_host import Entry, OldHost
from mailkeep.moving_in.copy_model import CopiedMessage, FolderResult, Progress, Server, SourceFolder
from mailkeep_server.common.folder_names import read_name
from mailkeep_server.common.mail_frames import Arrival

ALL = "\\All"
"""The attribute of a folder that has the messages of all others; only those come that no other has."""
_VIRTUAL = {"\\flagged", "\\important"}
"""Folders whose messages are all in another (RFC 6154, RFC 8457), as Gmail has them."""


class ImapSource:
    """`answer` is the server's to `connect` or `unpack`."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.notes: list[str] = []
        self.folders: list[SourceFolder] = []
        self._names: dict[str, str] = {}
        self._digests: set[str] = set()
        has_all = any(_has(values, "\\all") for values in answer["folders"])
        for values in sorted(answer["folders"], key=lambda values: (_has(values, "\\all"), values["name"])):
            folder = self._describe_folder(values)
            if has_all and {attribute.lower() for attribute in folder.attributes} & _VIRTUAL:
                self.notes.append(f"{folder.name}: a view of messages that are in other folders too; not copied.")
            else:
                self.folders.append(folder)

    def copy_folder(
        self, folder: SourceFolder, target: str, server: Server, keep_uids: bool, progress: Progress
    ) -> FolderResult:
        scanned: list[list[Any]] = []
        state = server.ask("scan", lambda line: scanned.extend(line["messages"]), name=self._names[folder.name])
        prefix = f"{folder.name}/"
        known = server.read_known(target)
        keys = {uid: f"{prefix}{state['uid_validity']}.{uid}" for uid, *_ in scanned}
        wanted = [uid for uid, *_ in scanned if keys[uid] not in known]
        result = FolderResult(known=len(scanned) - len(wanted))
        arrivals: dict[str, Arrival] = {}

        def take_arrivals(line: dict[str, Any]) -> None:
            arrivals.update({values[0]: Arrival(*values) for values in line["arrivals"]})
            progress(folder.name, len(arrivals), len(wanted), line["bytes"])

        counts = server.ask(
            "pull",
            take_arrivals,
            name=self._names[folder.name],
            uids=wanted,
            prefix=prefix,
            folder=target,
            uid_validity=state["uid_validity"] if keep_uids else 0,
            subscribe=folder.is_subscribed,
            elsewhere=sorted(self._digests) if ALL in folder.attributes else [],
        )
        result.added, result.duplicates, result.size = counts["added"], counts["duplicates"], counts["bytes"]
        result.refused = dict(counts["refused"])
        for uid, flags, date, _ in scanned:
            arrival = known.get(keys[uid]) or arrivals.get(keys[uid])
            digest, message_id = (arrival.digest, arrival.message_id) if arrival else ("", "")
            if ALL in folder.attributes and digest in self._digests:
                continue
            result.messages.append(
                CopiedMessage(keys[uid], folder.name, f"UID {uid}", digest, message_id, flags, date, uid, arrival)
            )
        self._digests |= {message.digest for message in result.messages}
        return result

    def _describe_folder(self, values: dict[str, Any]) -> SourceFolder:
        separator = values["separator"]
        encoded = values["short"].encode("latin-1")
        levels = [read_name(level) for level in (encoded.split(separator.encode()) if separator else [encoded])]
        path = tuple(level for level, _ in levels)
        name = "/".join(path)
        if name in self._names:
            name = f"{name} ({values['name']})"
        if not all(is_decoded for _, is_decoded in levels):
            self.notes.append(f"{name}: the name is not in modified UTF-7; it is taken as it is written.")
        self._names[name] = values["name"]
        return SourceFolder(
            name,
            path,
            values["messages"],
            values["size"],
            frozenset(values["attributes"]),
            values["subscribed"] or path == ("INBOX",),
        )


def is_dbox(entries: list[Entry]) -> bool:
    """Whether the path is Dovecot's sdbox or mdbox directory."""
    directories = {entry.path for entry in entries if entry.kind == "d"}
    return b"./mailboxes" in directories


def send_dbox(host: OldHost, entries: list[Entry], server: Any) -> dict[str, Any]:
    """Copies the directory to the server, which opens it with its own Dovecot. Returns the server's answer. Raises
    CopyError."""
    server.send({"do": "unpack", "size": sum(entry.size for entry in entries)})
    script = 'cd "$1" && exec tar -h -cf - --exclude=dovecot.index.cache --exclude=.dovecot.sieve . 2>/dev/null'
    with host.stream_output(script) as output:
        while chunk := output.read(2**18):
            server.send_bytes(chunk)
    server.send({"end": True})
    answer: dict[str, Any] = server.wait(lambda _: None)
    return answer


def _has(values: dict[str, Any], attribute: str) -> bool:
    return attribute in {text.lower() for text in values["attributes"]}
