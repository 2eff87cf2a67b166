"""A server to be verified: what was declared of it, how it is reached, and what the probe saw there."""

import base64
import io
import json
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from getpass import getpass
from pathlib import Path
from shlex import join
from typing import Any, TypeVar

from testinfra.backend.base import CommandResult
from testinfra.backend.ssh import SshBackend
from testinfra.host import Host

from mailkeep.errors import UserError
from mailkeep.host import preflight
from mailkeep.inventory import hosts as inventories
from mailkeep.inventory import secrets
from mailkeep.inventory.secrets import Secrets
from mailkeep.parts import dovecot, fail2ban, mail_server, postfix, server_package, web
from mailkeep.parts.model import Part
from mailkeep.settings import models
from mailkeep.settings.models import Settings
from mailkeep.verify import probe
from mailkeep.verify.probe.config import Given

Found = TypeVar("Found")

JAILS = fail2ban.JAILS
PRIVATE_SOCKETS = (
    "/run/opendkim/opendkim.sock",
    "/var/spool/postfix/private/auth",
    "/var/spool/postfix/private/dovecot-lmtp",
    "/var/spool/postfix/private/quota-status",
    postfix.ALERTS,
)
SAMPLE = 50  # accounts that the probe hears of; all are in the same tables
# The probe is a zip file, which Python runs from a file only; what it is given to know comes on standard input.
SCRIPT = """\
set -eu
program=$(mktemp)
trap 'rm -f "$program"' EXIT
base64 -d >"$program" <<'PROGRAM'
{program}PROGRAM
python3 -I "$program" <<'GIVEN'
{given}
GIVEN
"""
# pyinfra's host data (mailkeep.inventory.hosts), as options of ssh(1).
OPTIONS = {
    "ssh_hostname": "HostName",
    "ssh_port": "Port",
    "ssh_user": "User",
    "ssh_known_hosts_file": "UserKnownHostsFile",
    "ssh_strict_host_key_checking": "StrictHostKeyChecking",
}


class UnreachableError(Exception):
    """The host cannot be asked; the message is what ssh, sudo or Python said, `remedy` what would help."""

    def __init__(self, said: str, remedy: str) -> None:
        super().__init__(said)
        self.remedy = remedy


class Ssh(SshBackend):  # type: ignore[misc]
    """testinfra's way to a host. sudo gets its password on standard input, where nobody else there sees it; `typed` is
    what gets the user to the same place."""

    def __init__(self, name: str, typed: str, password: str | None = None, **options: Any) -> None:
        super().__init__(name, **options)
        self.typed, self.password = typed, password

    def get_sudo_command(self, command: str, sudo_user: str | None) -> str:
        if self.password is None:
            return str(super().get_sudo_command(command, sudo_user))
        # -k: it asks even if it has not forgotten, or the command would find the password on its standard input.
        return str(self.quote("sudo -k -S -p '' /bin/sh -c %s", command))

    def run_local(self, command: str, *args: str) -> CommandResult:
        line = self.encode(self.quote(command, *args))
        given = f"{self.password}\n".encode() if self.sudo and self.password is not None else b""
        done = subprocess.run(line, shell=True, input=given, capture_output=True, check=False)  # noqa: S602
        return self.result(done.returncode, line, done.stdout, done.stderr)


@dataclass(frozen=True)
class Target:
    """`name` is the inventory's; `data` what it says of the host."""

    name: str
    data: Mapping[str, Any]

    @property
    def file(self) -> Path:
        """Its mail.yml."""
        return inventories.settings_file(self.name, self.data)

    def load(self) -> None:
        """Reads all that was declared; raises UserError."""
        assert self.given

    @cached_property
    def settings(self) -> Settings:
        return models.load(self.file)

    @cached_property
    def secrets(self) -> Secrets:
        return secrets.load(self.settings, self.file.parent)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        return mail_server.build_parts(self.settings, self.secrets)

    @cached_property
    def host(self) -> Host:
        """Reached as pyinfra reaches it, as root; a password for sudo is asked for. Raises UnreachableError."""
        direct = self._host()
        login = _login(direct)
        if login.uid == 0:
            return direct
        if trouble := preflight.sudo_trouble(login, preflight.can_ask(self.data)):
            raise UnreachableError(*trouble)
        if not login.sudo:
            return self._host(sudo=True)
        asked = self._host(sudo=True, password=str(self.data.get("_sudo_password") or _sudo_password(self.name)))
        if (done := run(asked, "true")).rc:
            raise UnreachableError(f"sudo: {_last(done, 'sudo')}", "Run it again, with the right password.")
        return asked

    def _host(self, *, sudo: bool = False, password: str | None = None) -> Host:
        extra = [f"-o {option}={self.data[key]}" for key, option in OPTIONS.items() if self.data.get(key)]
        backend = Ssh(
            self.name.removeprefix("@ssh/"),
            typed=inventories.ssh(self.name, self.data),
            password=password,
            ssh_config=self.data.get("ssh_config_file"),
            ssh_identity_file=self.data.get("ssh_key"),
            ssh_extra_args=" ".join(("-o BatchMode=yes", *extra)),
            sudo=sudo,
        )
        host = Host(backend)
        backend.set_host(host)
        return host

    def run(self, command: str) -> CommandResult:
        """As root. Raises UnreachableError, and that too when Mailkeep, which it needs there, has not come yet."""
        done = run(self.host, command)
        if done.rc and run(self.host, f"test -e {server_package.DIRECTORY}").rc:
            deploy = f"`mailkeep deploy {inventories.label(self.file.parent)}` brings it."
            raise UnreachableError("Mailkeep is not on this host yet", deploy)
        return done

    def probe(self) -> "Seen":
        """Attacks the server, in one command; raises UnreachableError."""
        given = json.dumps(asdict(self.given))
        script = SCRIPT.format(program=base64.encodebytes(_program()).decode(), given=given)
        host, start = self.host, time.time()
        done = self.run(script)
        try:
            areas = json.loads(done.stdout)
        except ValueError:
            shell = f"See that `{host.backend.typed}` gives you a shell there, as root or with sudo."
            raise UnreachableError(f"the probe did not run: {_last(done)}", shell) from None
        return Seen(areas, start)

    @cached_property
    def given(self) -> Given:
        declared = self.settings
        return Given(
            host=declared.host.name,
            addresses=[str(address) for address in declared.host.addresses],
            domains=list(declared.domains),
            catch_all=list(declared.catch_all),
            accounts=[account.address for account in declared.accounts[:SAMPLE]],
            ssh_port=declared.ssh.port,
            jails=list(JAILS),
            units=[unit.name for part in self.parts for unit in part.units],
            secret_paths=[*(file.path for part in self.parts for file in part.files if file.secret), dovecot.MAIL],
            sockets=list(PRIVATE_SOCKETS),
            dkim=[[key.domain, key.selector] for key in self.secrets.dkim],
            outside=list(_outside(declared)),
            local_resolver=declared.resolver == "local",
            alerts=postfix.ALERTS,
            admins=list(declared.admin.addresses),
            web=[[page.name, page.path, "POST" if page.accepts_post else "GET"] for page in web.list_pages(declared)],
        )


def _outside(declared: Settings) -> Iterator[str]:
    """What posttls-finger(1) is to connect to: the relay host, or the mail server of a correspondent elsewhere."""
    if relay := declared.relay:
        yield from ("-w",) if relay.port == 465 else ()
        yield f"[{relay.host}]:{relay.port}"
        return
    targets = [target for targets in declared.aliases.values() for target in targets]
    domains = (address.rpartition("@")[2] for address in (*declared.admin.addresses, *targets))
    yield from [domain for domain in domains if domain not in (*declared.domains, declared.host.name)][:1]


def _program() -> bytes:
    """The probe as a Python zip application (PEP 441)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__main__.py", "from probe.main import main\nmain()\n")
        for file in sorted(Path(probe.__file__).parent.glob("*.py")):
            archive.writestr(f"probe/{file.name}", file.read_bytes())
    return buffer.getvalue()


def run(host: Host, command: str) -> CommandResult:
    """Raises UnreachableError."""
    try:
        return host.run(command)
    except RuntimeError as error:  # testinfra's word for ssh's exit code 255; its argument is the result
        said = f"ssh: {_last(error.args[0], 'ssh')}"
        raise UnreachableError(said, f"`{host.backend.typed}` must get in without a question.") from None


def each(inventory: Path, ask: Callable[[Target], Found]) -> Iterator[Found]:
    """What `ask` finds on each host; after the last, a UserError with all that went wrong on any."""
    wrong = []
    for name, data in inventories.hosts(inventory).items():
        try:
            found = ask(Target(name, data))
        except UnreachableError as error:
            wrong.append(f"{name}: {error}. {error.remedy}")
        except UserError as error:
            wrong.append(f"{name}: {error}")
        else:
            yield found
    if wrong:
        raise UserError("\n".join(wrong))


def _login(host: Host) -> preflight.Login:
    """Who ssh gets in as. Raises UnreachableError."""
    fact = preflight.LoginFact()
    done = run(host, join(["sh", "-c", fact.command()]))
    try:
        return fact.process(done.stdout.splitlines())
    except (KeyError, ValueError):
        raise UnreachableError(f"no shell: {_last(done)}", f"`{host.backend.typed}` must give one.") from None


@cache
def _sudo_password(name: str) -> str:
    """Asked for once, and known to this process alone."""
    try:
        return getpass(f"[{name}] sudo password: ")
    except EOFError:
        return ""


def _last(done: CommandResult, program: str = "") -> str:
    """What a command that failed said at last, without the name of the program if it began with that."""
    said = (done.stderr or done.stdout).strip().splitlines()
    return str(said[-1]).removeprefix(f"{program}: ") if said else f"exit {done.rc}"


class UnseenError(Exception):
    """The probe could not look at an area; the message says why."""


@dataclass(frozen=True)
class Seen:
    """What the probe saw, by area (mailkeep.verify.probe.main), and when it was sent (seconds since the epoch)."""

    areas: Mapping[str, Mapping[str, Any]]
    start: float

    def __getitem__(self, area: str) -> Any:
        """Raises UnseenError."""
        if "error" in (found := self.areas[area]):
            raise UnseenError(found["error"])
        return found["saw"]
