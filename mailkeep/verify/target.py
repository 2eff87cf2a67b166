"""A server to be verified: what was declared of it, how it is reached, and what the probe saw there."""

import base64
import io
import json
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import testinfra
from testinfra.backend.base import CommandResult
from testinfra.host import Host

from mailkeep import inventory as inventories
from mailkeep import secrets, settings, web
from mailkeep.part import Part
from mailkeep.parts import dovecot, fail2ban, postfix, server
from mailkeep.secrets import Secrets
from mailkeep.settings import Settings
from mailkeep.verify import probe
from mailkeep.verify.probe.given import Given

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
    """The host cannot be looked at; the message says what ssh, sudo or Python said."""


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
        return settings.load(self.file)

    @cached_property
    def secrets(self) -> Secrets:
        return secrets.load(self.settings, self.file.parent)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        return server(self.settings, self.secrets)

    @cached_property
    def host(self) -> Host:
        """Reached as pyinfra reaches it; raises UnreachableError."""
        direct = self._host(sudo=bool(self.data.get("_sudo")))
        return direct if run(direct, "id -u").stdout.strip() == "0" else self._host(sudo=True)

    def _host(self, *, sudo: bool) -> Host:
        extra = [f"-o {option}={self.data[key]}" for key, option in OPTIONS.items() if self.data.get(key)]
        return testinfra.get_host(
            f"ssh://{self.name.removeprefix('@ssh/')}",
            ssh_config=self.data.get("ssh_config_file"),
            ssh_identity_file=self.data.get("ssh_key"),
            ssh_extra_args=" ".join(("-o BatchMode=yes", *extra)),
            sudo=sudo,
        )

    def probe(self) -> "Seen":
        """Attacks the server, in one command; raises UnreachableError."""
        given = json.dumps(asdict(self.given))
        script = SCRIPT.format(program=base64.encodebytes(_program()).decode(), given=given)
        host, start = self.host, time.time()
        done = run(host, script)
        try:
            areas = json.loads(done.stdout)
        except ValueError:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise UnreachableError(f"the probe did not run: {said[-1] if said else f'exit {done.rc}'}") from None
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
            web=[[page.name, page.path, "POST" if page.posted else "GET"] for page in web.pages(declared)],
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
        said = error.args[0].stderr.strip().splitlines()
        raise UnreachableError(f"ssh: {said[-1] if said else 'exit 255'}") from None


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
