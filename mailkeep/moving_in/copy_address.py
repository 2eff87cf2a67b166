"""Where mail comes from, as the operator types it: `ssh://[USER@]HOST[:PORT]/PATH` or `imaps://USER@HOST[:PORT]`."""

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from mailkeep.errors import UserError

IMAPS_PORT = 993
FORMS = "Give ssh://[USER@]HOST[:PORT]/PATH or imaps://USER@HOST[:PORT]."


@dataclass(frozen=True)
class SourceAddress:
    """`port` is 0 where ssh's configuration decides; `path` begins with `/`, or with `~/` for the login's home."""

    scheme: str
    user: str
    host: str
    port: int
    path: str

    @property
    def label(self) -> str:
        """The same for the same mail: the server notes by it what has arrived."""
        user = f"{self.user}@" if self.scheme == "imaps" or self.path.startswith("~") else ""
        return f"{self.scheme}://{user}{self.host.lower()}:{self.port}{self.path}"


def parse_source(text: str) -> SourceAddress:
    """Raises UserError."""
    try:
        parts = urlsplit(text)
        port = parts.port or 0
    except ValueError as error:
        raise UserError(f"--from {text}: {error}. {FORMS}") from None
    if parts.scheme not in ("ssh", "imaps") or not parts.hostname:
        raise UserError(f"--from {text}: this is neither ssh:// nor imaps:// with a host. {FORMS}")
    if parts.password is not None:
        raise UserError(
            "--from has a password in it, which every user of this machine can read in the process list. Change that "
            "password, and give the address without it: it is asked for, or read from standard input."
        )
    user, path = unquote(parts.username or ""), unquote(parts.path)
    if parts.scheme == "imaps":
        if not user:
            raise UserError(f"--from {text}: the login's name is missing. Give imaps://USER@HOST.")
        return SourceAddress("imaps", user, parts.hostname, port or IMAPS_PORT, "")
    if path.startswith("/~/"):
        path = path[1:]
    path = path.rstrip("/") or path
    if not path.strip("/~") or "\0" in path or "\n" in path:
        raise UserError(
            f"--from {text}: the path of the mailbox is missing, such as /home/anna/Maildir, /var/mail/anna or "
            f"/~/Maildir for the login's own. {FORMS}"
        )
    return SourceAddress("ssh", user, parts.hostname, port, path)
