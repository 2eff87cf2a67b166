"""A server to verify: its settings, secrets and parts, its SSH connection, and the result of the probe."""

import ast
import base64
import io
import json
import lzma
import time
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mailkeep_server
from mailkeep.host.preflight_facts import outbound_peer
from mailkeep.host.remote import RemoteHost, UnreachableError, last_line
from mailkeep.inventory import secrets
from mailkeep.inventory.secrets import Secrets
from mailkeep.parts import dovecot, fail2ban, firewall, mail_server, postfix, web
from mailkeep.parts.model import File, Part
from mailkeep.settings.load import load_settings
from mailkeep.settings.models import Settings
from mailkeep.verify import probe
from mailkeep.verify.knock import Knock, knock_at
from mailkeep.verify.probe.config import ProbeConfig
from mailkeep_server import common
from mailkeep_server.common import paths

PRIVATE_SOCKETS = (
    "/run/opendkim/opendkim.sock",
    "/var/spool/postfix/private/auth",
    "/var/spool/postfix/private/dovecot-lmtp",
    "/var/spool/postfix/private/quota-status",
    postfix.ALERTS,
    postfix.UNSIGNED_ALERTS,
)
SOCKET_DIRECTORIES = (
    *("/run/dovecot/", "/run/opendkim/", "/run/mailkeep", "/run/fail2ban/", "/run/unbound", "/var/spool/postfix/"),
    f"{paths.SPAM_RUN}/",
)
PACKAGES = {
    "probe": (probe, "*.py"),
    "mailkeep_server": (mailkeep_server, "__init__.py"),
    "mailkeep_server/common": (common, "*.py"),
}
"""What the probe is made of: by its name, each package and which of its files."""
MAX_ACCOUNTS = 50  # that the probe tries; all accounts are in the same tables
# Python runs a zip file only from disk. The probe's configuration comes on standard input.
SCRIPT = """\
set -eu
program=$(mktemp)
trap 'rm -f "$program"' EXIT
unpack='import lzma, sys; sys.stdout.buffer.write(lzma.decompress(sys.stdin.buffer.read()))'
base64 -d <<'PROGRAM' | python3 -Ic "$unpack" >"$program"
{program}PROGRAM
base64 -d <<'CONFIG' | python3 -Ic "$unpack" | python3 -I "$program"
{config}CONFIG
"""


class NotProbedError(Exception):
    """The probe failed in an area; the message is the probe's error."""


@dataclass(frozen=True)
class ProbeResult:
    """The probe's observations by area (mailkeep.verify.probe.main), and its start in seconds since the epoch."""

    areas: Mapping[str, Mapping[str, Any]]
    start: float

    def __getitem__(self, area: str) -> Any:
        """Raises NotProbedError."""
        entry = self.areas[area]
        if "error" in entry:
            raise NotProbedError(entry["error"])
        return entry["result"]


@dataclass(frozen=True)
class Target:
    """All that the inventory declares of a host, and the connection to it."""

    remote: RemoteHost
    settings: Settings
    secrets: Secrets
    parts: tuple[Part, ...]

    @classmethod
    def load(cls, name: str, data: Mapping[str, Any]) -> "Target":
        """Read the inventory; no host is touched. Raises UserError."""
        remote = RemoteHost(name, data)
        settings = load_settings(remote.settings_file)
        keys = secrets.load_secrets(settings, remote.settings_file.parent)
        return cls(remote, settings, keys, mail_server.build_parts(settings, keys))

    @property
    def name(self) -> str:
        return self.remote.name

    def find_file(self, path: str) -> File:
        """Raises StopIteration if no part declares it."""
        return next(file for part in self.parts for file in part.files if file.path == path)

    def run_probe(self) -> ProbeResult:
        """Attack the server, by one command over SSH, and knock at its addresses from here. Raises UnreachableError."""
        script = self.build_script()
        shell, start = self.remote.connect(), time.time()
        with ThreadPoolExecutor(1) as pool:
            knocks = pool.submit(self._knock)
            done = self.remote.run_mailkeep(script)
        try:
            areas = json.loads(done.stdout)
        except ValueError:
            remedy = f"`{shell.backend.typed_command}` must give you a shell on the server, as root or with sudo."
            raise UnreachableError(f"the probe did not run: {last_line(done)}", remedy) from None
        return ProbeResult(areas | {"knocks": {"result": knocks.result()}}, start)

    def build_script(self) -> str:
        """One argument of ssh, which has at most 128 KiB on Linux: of many domains the configuration is long, too."""
        config = json.dumps(asdict(self.build_probe_config()))
        return SCRIPT.format(program=encode_probe(), config=_pack(config.encode()))

    def _knock(self) -> list[Knock]:
        settings = self.settings
        addresses, ports = map(str, settings.host.addresses), firewall.published_ports(settings)
        return knock_at(addresses, ports, outbound_peer(settings), next(iter(settings.https_names), ""))

    def build_probe_config(self) -> ProbeConfig:
        settings = self.settings
        return ProbeConfig(
            host=settings.host.name,
            addresses=[str(address) for address in settings.host.addresses],
            domains=list(settings.domains),
            catch_all=list(settings.catch_all),
            accounts=[account.address for account in settings.accounts[:MAX_ACCOUNTS]],
            mailboxes=[account.address for account in settings.accounts],
            ssh_port=settings.ssh.port,
            jails={jail: asdict(rules) for jail, rules in fail2ban.rules_by_jail(settings).items()},
            never_ban=[str(network) for network in settings.never_banned],
            firewall_rules=firewall.build_rules(settings).decode(),
            open_ports=sorted(firewall.open_ports(settings)),
            units=[unit.name for part in self.parts for unit in part.units],
            on_demand={unit.name: unit.socket for part in self.parts for unit in part.units if unit.socket},
            secret_paths=[
                *(file.path for part in self.parts for file in part.files if file.secret or not file.mode & 0o004),
                *(file.path for part in self.parts for unit in part.units for file in unit.state),
                dovecot.MAIL,
            ],
            sockets=list(PRIVATE_SOCKETS),
            socket_directories=list(SOCKET_DIRECTORIES),
            dkim=[[key.domain, key.selector] for key in self.secrets.dkim],
            outbound_domain=_outbound_domain(settings),
            relay=[settings.relay.host, str(settings.relay.port)] if settings.relay else [],
            relay_password_file=postfix.RELAY_PASSWORD,
            local_resolver=settings.resolver == "local",
            alert_sockets=[postfix.ALERTS, postfix.UNSIGNED_ALERTS],
            admins=list(settings.admin.addresses),
            files={file.path: [file.owner, file.group, file.mode] for part in self.parts for file in part.files},
            directories={d.path: [d.owner, d.group, d.mode] for part in self.parts for d in part.directories},
            reads={
                unit.name: [list(unit.restart_on), list(unit.reload_on)]
                for part in self.parts
                for unit in part.units
                if unit.running and (unit.restart_on or unit.reload_on)
            },
            spam_filter=settings.spam.filter,
            backup_targets=[target.name for target in settings.backup_targets],
            web=[[page.name, page.path, "POST" if page.accepts_post else "GET"] for page in web.list_pages(settings)],
        )


def _outbound_domain(settings: Settings) -> str:
    """The domain of the first correspondent elsewhere; empty if mail.yml names none."""
    alias_targets = [target for targets in settings.aliases.values() for target in targets]
    domains = (address.rpartition("@")[2] for address in (*settings.admin.addresses, *alias_targets))
    return next((domain for domain in domains if domain not in (*settings.domains, settings.host.name)), "")


@cache
def encode_probe() -> str:
    """The probe, packed. Built once: it takes half a second."""
    return _pack(_build_zip_application())


def _pack(content: bytes) -> str:
    """Small, and nothing that a shell would quote."""
    return base64.encodebytes(lzma.compress(content)).decode()


def _build_zip_application() -> bytes:
    """The probe as a Python zip application (PEP 441). The server may have no or an older `mailkeep_server`: its common
    modules come along. Its files are not compressed one by one: all together take half as much."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("__main__.py", "from probe.main import main\nmain()\n")
        for name, (package, files) in PACKAGES.items():
            for file in sorted(Path(str(package.__file__)).parent.glob(files)):
                archive.writestr(f"{name}/{file.name}", _compact_source(file.read_text()))
    return buffer.getvalue()


def _compact_source(source: str) -> str:
    """The same program without comments and docstrings, which are half of it."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [line for line in body if not _is_text(line)] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _is_text(node: ast.AST) -> bool:
    """A docstring: a string that nothing uses."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
