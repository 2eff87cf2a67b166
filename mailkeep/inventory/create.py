"""`mailkeep init`: a new inventory, complete or not at all."""

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date
from ipaddress import ip_address
from pathlib import Path

import yaml

from mailkeep.errors import UserError
from mailkeep.inventory import passwords, secrets, vault
from mailkeep.inventory.hosts import HOSTS_FILE, INVENTORIES, SETTINGS_FILE, inventory_label
from mailkeep.locations import HOME_VARIABLE, find_clone
from mailkeep.settings.load import parse_settings
from mailkeep.settings.models import Settings
from mailkeep.templating import render_template

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SSH_HOST = re.compile(r"(?:(?P<user>[a-z_][a-z0-9_.-]*)@)?(?P<host>[A-Za-z0-9:][A-Za-z0-9.:_-]*)")


@dataclass(frozen=True, slots=True)
class NewInventory:
    """Its directory, the private key of its vault, its first account, a line for each key, and what to do next. The
    passphrase is stored nowhere: show it once."""

    directory: Path
    identity: Path
    account: str
    passphrase: str = field(repr=False)
    keys: tuple[str, ...]
    next_steps: tuple[str, ...]


def create_inventory(
    target: Path,
    *,
    host: str,
    addresses: Sequence[str],
    admin: Sequence[str],
    domains: Sequence[str] = (),
    networks: Sequence[str] = (),
    account: str | None = None,
    ssh_host: str | None = None,
    today: date | None = None,
) -> NewInventory:
    """Creates the inventory directory `target`: settings, hosts, keys, and one account.

    `addresses` are the server's public ones, `admin` the mail addresses of its administrators, `networks` theirs.
    `domains` defaults to the host name less its first label. `account` defaults to the first of `admin` in one of the
    domains, else to the postmaster of the first domain. `ssh_host` is `[USER@]HOST` (default: the host name).
    UserError if `target` exists or an argument will not do. After that, as after any other failure, nothing remains.
    """
    identity = vault.identity_path(target)
    check_target(target, identity)
    if not domains and "." not in host:  # else each text that is made from the domain would be an error, too
        raise UserError(f"--host (host.name) is {host!r}. Expected a full name such as mail.example.org.")
    domains = tuple(domains) or (host.partition(".")[2],)
    address = account or _choose_first_account(admin, domains)
    passphrase = passwords.generate_password()
    text = render_settings(
        host=host,
        addresses=addresses,
        domains=domains,
        address=address,
        password=passwords.hash_password(passphrase),
        admin=admin,
        networks=networks,
    )
    settings = parse_new_settings(text)
    hosts = render_hosts(ssh_host or host)
    keys = write_inventory(
        target, text, hosts, lambda stage: create_vault_and_keys(stage, settings, today or date.today())
    )
    return NewInventory(target, identity, address, passphrase, tuple(keys), _list_next_steps(target, identity))


def write_inventory(target: Path, text: bytes, hosts: bytes, fill_vault: Callable[[Path], list[str]]) -> list[str]:
    """Writes the inventory, complete or not at all: its mail.yml, its inventory.py, and its vault, whose identity goes
    where it will be used. `fill_vault` makes the vault and its identity in the directory that it gets; returns its
    result."""
    identity = vault.identity_path(target)
    check_target(target, identity)
    with staging_directory(target) as stage:
        vault.write_private_file(stage / SETTINGS_FILE, text)
        (stage / HOSTS_FILE).write_bytes(hosts)
        lines = fill_vault(stage)
        with _identity_moved_out(stage / vault.IDENTITY, identity):
            stage.rename(target)
    return lines


def render_settings(**values: str | Sequence[str]) -> bytes:
    """The commented mail.yml. No value can become YAML syntax: each is quoted where YAML needs it."""
    quoted = {name: quote_yaml(value) for name, value in values.items()}
    domains = values["domains"]
    roles = (f"{role}@{domain}" for domain in dict.fromkeys(domains) for role in ("postmaster", "abuse"))
    return render_template(
        "inventory/mail.yml",
        **quoted,
        domain=quote_yaml(domains[0]),
        sales=quote_yaml(f"sales@{domains[0]}"),
        roles=[quote_yaml(role) for role in roles if role != values["address"]],
    )


def render_hosts(ssh_host: str) -> bytes:
    """The inventory.py for one host, `[USER@]HOST`; a user other than root becomes root by sudo."""
    user, host = parse_ssh_host(ssh_host)
    data = {"ssh_user": json.dumps(user)} if user else {}
    if user not in (None, "root"):
        data["_sudo"] = "True"
    return render_template("inventory/inventory.py", host=json.dumps(host), data=data)


def parse_ssh_host(ssh_host: str) -> tuple[str | None, str]:
    """User and host. UserError unless it is `[USER@]HOST`."""
    match = _SSH_HOST.fullmatch(ssh_host)
    if not match or (":" in match["host"] and not _is_address(match["host"])):
        raise UserError(
            f"{ssh_host!r}: no host for SSH. Expected HOST or USER@HOST, where HOST is a name, an address, or a "
            "Host of ~/.ssh/config; a port or a jump host belongs there."
        )
    return match["user"], match["host"]


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


@contextmanager
def staging_directory(target: Path) -> Iterator[Path]:
    """A private directory beside `target`, to be filled and renamed to it. After a failure nothing of it is left, nor
    of the directory around it where that was missing."""
    try:
        with ExitStack() as undo:
            if not target.parent.exists():
                target.parent.mkdir()
                undo.callback(target.parent.rmdir)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as temporary:
                stage = Path(temporary) / target.name
                stage.mkdir()
                yield stage
            undo.pop_all()
    except OSError as error:
        raise UserError(f"{target}: cannot be created: {error.strerror}.") from error


def parse_new_settings(text: bytes) -> Settings:
    """The settings that a mail.yml of this text will hold; SettingsError if they will not do."""
    return parse_settings(Path(f"the {SETTINGS_FILE} to be written"), text.decode())


def create_vault_and_keys(directory: Path, settings: Settings, today: date) -> list[str]:
    """Gives a new inventory its vault, with the identity in the inventory, and all keys; returns a line for each."""
    vault.create_vault(directory / "secrets", directory / vault.IDENTITY)
    return secrets.create_missing_keys(settings, directory, today)


def check_target(target: Path, identity: Path) -> None:
    """UserError unless an inventory may be created there."""
    if not _NAME.fullmatch(target.name) or ".." in target.parts:
        raise UserError(f"{target}: not a name for an inventory. Use letters, digits, '-', '_' and '.'.")
    if target.exists() or target.is_symlink():
        raise UserError(f"{target}: exists already, and nothing is overwritten. Choose another NAME.")
    around = target.parent
    if not (around.is_dir() or (around.name == INVENTORIES and around.parent.is_dir())):
        raise UserError(
            f"{around}: no such directory. Run this where your inventories/ should be, or name that directory: "
            f"`--in DIR`, or {HOME_VARIABLE}."
        )
    if identity.exists():
        raise UserError(
            f"{identity}: exists already, perhaps as the only key to another inventory's vault. Choose "
            "another NAME, or set MAILKEEP_IDENTITY to a path for the new one."
        )


def _choose_first_account(admin: Sequence[str], domains: Sequence[str]) -> str:
    in_domains = (address for address in admin if address.rpartition("@")[2].lower() in domains)
    return next(in_domains, f"postmaster@{domains[0]}")


def quote_yaml(value: str | Sequence[str]) -> str:
    """On one line, in the flow style, with quotes only where YAML would read the text as something else."""
    if not isinstance(value, str):
        return f"[{', '.join(quote_yaml(item) for item in value)}]"
    style = None if value.isprintable() else '"'
    text = yaml.safe_dump([value], default_flow_style=True, default_style=style, width=float("inf"))
    return text.strip()[1:-1]


@contextmanager
def _identity_moved_out(staged: Path, identity: Path) -> Iterator[None]:
    """Moves the identity out of the inventory to the path where it will be used; undone if the body fails."""
    missing = [parent for parent in identity.parents if not parent.exists()]
    with ExitStack() as undo:
        undo.callback(_remove_directories, missing)
        vault.write_identity(identity, staged.read_bytes())
        undo.callback(identity.unlink)
        staged.unlink()
        yield
        undo.pop_all()


def _remove_directories(empty: Sequence[Path]) -> None:
    for directory in empty:
        if directory.exists():
            directory.rmdir()


def _list_next_steps(target: Path, identity: Path) -> tuple[str, ...]:
    label = inventory_label(target)
    return (
        f"Back up {identity}: it alone opens the keys in {target / 'secrets'}. {_advise_on_git(target)}",
        f"`mailkeep dns {label}` prints the DNS records to publish. Your hosting provider sets reverse DNS.",
        f"`mailkeep plan {label}` says what would change on the server, and changes nothing.",
        f"`mailkeep deploy {label}` builds it, and ends with the checks of `mailkeep verify {label}`.",
    )


def _advise_on_git(target: Path) -> str:
    clone = find_clone()
    if clone and target.resolve().is_relative_to(clone / INVENTORIES):
        return (
            f"`git init {target}` makes it a repository of its own: it holds no secret in clear text, and this clone "
            "of Mailkeep ignores it."
        )
    return f"Commit {target}: it holds no secret in clear text."
