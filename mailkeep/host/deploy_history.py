"""Which inventories a server was deployed from. So an older one is noticed: of an administrator who has not pulled, or
from a backup.

The server keeps the last states as items: a name for people, such as `the account anna@example.org`, and a value. What
a deploy would set back to a value of an earlier state, it would undo. A new value is an edit, and undoes nothing.
"""

import hashlib
import json
import socket
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from getpass import getuser
from pathlib import Path

from mailkeep.parts import dovecot
from mailkeep.parts.model import Part
from mailkeep.settings.models import Settings
from mailkeep_server.common.paths import DEPLOY_HISTORY

Items = Mapping[str, str]
MAX_STATES = 50
MAX_NAMES = 8  # of undone items in a message
VAULT = "secrets"
_DIGITS = 12
_PASSWORD = "the password of "  # noqa: S105

_SHALLOW = "This clone is shallow, and may lack what was deployed last: `git fetch --unshallow`. "


@dataclass(frozen=True, slots=True)
class DeployedState:
    """One deploy: `blob` is git's name of the mail.yml, `origin` that of this copy of the inventory. `key_blobs` are
    git's names of the vault's files, and of the certificate. `changed` has the items that differ from the state before;
    None: gone. In the first state, it has all."""

    time: str
    by: str
    blob: str
    origin: str
    changed: dict[str, str | None]
    key_blobs: tuple[str, ...] = ()


History = tuple[DeployedState, ...]
"""From the oldest to the last."""


@dataclass(frozen=True, slots=True)
class DeclaredState:
    """The inventory that is about to be deployed."""

    settings_file: Path
    items: Items
    certificate: str | None = None
    """Its path in the inventory, as `tls.certificate` has it."""


def declare_state(settings_file: Path, settings: Settings, parts: Iterable[Part]) -> DeclaredState:
    certificate = str(settings.tls.certificate) if settings.tls.certificate else None
    return DeclaredState(settings_file.resolve(), _describe_items(settings, parts), certificate)


def _describe_items(settings: Settings, parts: Iterable[Part]) -> Items:
    items: dict[str, str] = {f"the domain {domain}": "" for domain in settings.domains}
    for account in settings.accounts:
        items[f"the account {account.address}"] = ""
        items[f"{_PASSWORD}{account.address}"] = _digest(account.password)
    items |= {f"the alias {alias}": _digest(" ".join(targets)) for alias, targets in settings.aliases.items()}
    items |= {f"the catch-all of {domain}": _digest(target) for domain, target in settings.catch_all.items()}
    items |= {f"the block of {network}": "" for network in settings.firewall.block}
    # Keys and passwords. Dovecot's file has the hashes of all accounts.
    secret_files = (file for part in parts for file in part.files if file.secret and not file.create_only)
    items |= {file.path: _digest(file.content) for file in secret_files if file.path != dovecot.USERS}
    return items


def _digest(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:_DIGITS]


def parse_history(text: str) -> History:
    """The history in the server's file. Nothing of one that is damaged: the next deploy begins a new one."""
    with suppress(ValueError, TypeError, KeyError):
        return tuple(DeployedState(**state) for state in json.loads(text))
    return ()


def _list_items(history: History) -> list[dict[str, str]]:
    """All items of each state."""
    states, items = list[dict[str, str]](), dict[str, str]()
    for state in history:
        items = {name: value for name, value in (items | state.changed).items() if value is not None}
        states.append(items)
    return states


def refuse_if_changed(text: str | None) -> str:
    """Shell lines that end a script if the server's history is no longer this text, as the preflight read it. None: it
    has not read any."""
    if text is None or (text and not parse_history(text)):
        return ":"  # the next deploy begins a new one
    digest = hashlib.sha256(text.rstrip("\n").encode()).hexdigest()
    now = f'printf %s "$(cat {DEPLOY_HISTORY} 2> /dev/null)" | sha256sum'
    return f"""[ "$({now})" = "{digest}  -" ] || {{
  echo "Another deploy to this host has ended since this one began. Deploy again: it names what it would undo." >&2
  exit 1
}}"""


def is_recorded(history: History, declared: DeclaredState) -> bool:
    """Whether the last state is this one."""
    return bool(history) and _list_items(history)[-1] == declared.items


def describe_undone(history: History, declared: DeclaredState) -> str:
    """What a deploy would undo, and what to do; nothing if the inventory goes on from the last state."""
    undone = list_undone(history, declared.items)
    if not undone or history[-1].origin == _name_origin(declared.settings_file):
        return ""
    blobs, is_shallow = _list_blobs(declared)
    if history[-1].blob in blobs:
        has_keys = set(history[-1].key_blobs) <= blobs
        undone = [] if has_keys else [text for text in undone if _names_key(text)]
    if not undone:
        return ""
    last, more = history[-1], len(undone) - MAX_NAMES
    names = f"{', '.join(undone[:MAX_NAMES])}{f' and {more} more' if more > 0 else ''}"
    return (
        f"This inventory is older than the last one, which was deployed on {last.time} by {last.by}. It would undo: "
        f"{names}. Get that inventory first, such as by `git pull` where it is kept, and plan again. "
        f"{_SHALLOW if is_shallow else ''}If you mean it: "
        "`mailkeep deploy --allow-older` (pyinfra: --data allow_older=true)."
    )


def list_undone(history: History, items: Items) -> list[str]:
    """What a deploy of these items would set back to an earlier state, in words."""
    if len(history) < 2:
        return []
    *earlier, last = _list_items(history)
    differing = [name for name in sorted({*last, *items}) if last.get(name) != items.get(name)]
    undone = [name for name in differing if any(state.get(name) == items.get(name) for state in earlier)]
    return [
        f"remove {name}" if name not in items else f"bring back {name}" if name not in last else f"set back {name}"
        for name in undone
        # A password comes and goes with its account.
        if not (name.startswith(_PASSWORD) and (name not in items or name not in last))
    ]


def _names_key(text: str) -> bool:
    """Whether a line of `list_undone` is about a file of keys or passwords, not about mail.yml."""
    return " /" in text


def _list_blobs(declared: DeclaredState) -> tuple[set[str], bool]:
    """Git's names of all versions of mail.yml, the vault's files and the certificate in the history of this inventory;
    and whether the clone is shallow, so that older ones are not known."""
    directory = declared.settings_file.parent
    paths = [declared.settings_file.name, VAULT, *([declared.certificate] if declared.certificate else [])]
    # -m: an inventory may come by a merge alone, of which git shows no differences by default.
    log = ["-c", "log.showRoot=true", "log", "-m", "--raw", "--no-abbrev", "--no-renames", "--format=", "--", *paths]
    blobs = {line.split()[3] for line in _ask_git(directory, *log).splitlines() if line.startswith(":")}
    return blobs, _ask_git(directory, "rev-parse", "--is-shallow-repository").strip() == "true"


def _ask_git(directory: Path, *words: str) -> str:
    """Nothing without git, or outside of its repositories."""
    with suppress(OSError, subprocess.TimeoutExpired):
        command = ["git", *words]
        done = subprocess.run(command, cwd=directory, capture_output=True, check=False, timeout=60)
        return "" if done.returncode else done.stdout.decode(errors="replace")
    return ""


def _name_origin(settings_file: Path) -> str:
    try:
        machine = Path("/etc/machine-id").read_text()
    except OSError:
        machine = socket.gethostname()
    return _digest(f"{machine.strip()} {settings_file}")


def add_state(history: History, declared: DeclaredState) -> str:
    """The text of the history with this state as the last."""
    states = _list_items(history)
    before = states[-1] if states else {}
    changed: dict[str, str | None] = {name: None for name in before if name not in declared.items}
    changed |= {name: value for name, value in declared.items.items() if before.get(name) != value}
    state = DeployedState(
        time=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        by=f"{getuser()}@{socket.gethostname()}",
        blob=_name_blob(declared.settings_file),
        origin=_name_origin(declared.settings_file),
        changed=changed,
        key_blobs=tuple(sorted({_name_blob(file) for file in _list_key_files(declared)})),
    )
    kept = _shorten((*history, state))
    return json.dumps([asdict(state) for state in kept], indent=0)


def _name_blob(file: Path) -> str:
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _list_key_files(declared: DeclaredState) -> list[Path]:
    directory = declared.settings_file.parent
    certificate = [directory / declared.certificate] if declared.certificate else []
    return [file for file in (*(directory / VAULT).rglob("*.age"), *certificate) if file.is_file()]


def _shorten(history: History) -> History:
    """The last MAX_STATES states; the first has all items then."""
    surplus = len(history) - MAX_STATES
    if surplus <= 0:
        return history
    first = history[surplus]
    items: dict[str, str | None] = {**_list_items(history)[surplus]}
    return (
        DeployedState(first.time, first.by, first.blob, first.origin, items, first.key_blobs),
        *history[surplus + 1 :],
    )
