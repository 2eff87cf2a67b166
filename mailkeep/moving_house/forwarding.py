"""The old machine forwards its mail ports to the new server, until clients and other servers ask the new addresses.

haproxy does it. It tells the new server the address of each client (PROXY protocol, version 2). So logs, limits and
rules there go by that. systemd-socket-proxyd cannot, and with translated addresses (NAT) answers would need a way back.

Until `start_forwarding`, the old machine serves as before. Its firewall with all bans stays as it is, then too.
"""

from collections.abc import Iterable, Iterator
from shlex import quote
from typing import NamedTuple

from testinfra.backend.base import CommandResult

from mailkeep.errors import UserError
from mailkeep.host.remote import RemoteHost, last_line
from mailkeep.parts import firewall
from mailkeep.parts.model import SYSTEMD
from mailkeep.settings.fields import Address
from mailkeep.settings.models import Settings
from mailkeep.settings.numbers import PROXY_PORTS, SERVICES
from mailkeep.templating import render_template

UNIT = "mailkeep-forward.service"
UNIT_FILE = f"{SYSTEMD}/{UNIT}"
DIRECTORY = "/etc/mailkeep-forward"
CONFIG = f"{DIRECTORY}/haproxy.cfg"
INSTALLED = f"{DIRECTORY}/installed"
"""Exists if haproxy was installed for this, and no other program uses it."""
PROGRAM = "/usr/sbin/haproxy"
MAX_CONNECTIONS = 2000
LOCK_SECONDS = 300
"""For another program to end its work with dpkg."""
CONNECT_TIMEOUT = 5  # seconds


class ForwardedService(NamedTuple):
    """One port, and its port on the new server. `options` are those of a `server` line of haproxy's."""

    name: str
    port: int
    target_port: int
    options: str


def list_forwarded_services(settings: Settings, *, web: bool) -> Iterator[ForwardedService]:
    """The mail ports, and with `web` those on which pages and the certificate authority are answered. No rule of the
    new server goes by the client's address there."""
    for name, target_port in PROXY_PORTS.items():
        yield ForwardedService(name, SERVICES[name], target_port, " send-proxy-v2")
    ports = {firewall.HTTP: settings.tls.answers_on_port_80, firewall.HTTPS: bool(settings.https_names)}
    for port, is_served in ports.items():
        if web and is_served:
            yield ForwardedService(f"web-{port}", port, port, "")


def render_config(
    settings: Settings, new_addresses: Iterable[Address], local_addresses: Iterable[str], *, web: bool = True
) -> bytes:
    """haproxy's configuration. `settings` are those with the old machine's addresses, and `local_addresses` those that
    the machine has itself: all but these are translated on the way (NAT). UserError if the two machines have no kind of
    address in common."""
    old, new_addresses = settings.host.addresses, [*new_addresses]
    versions = sorted({address.version for address in old})
    target = next((new for version in versions for new in new_addresses if new.version == version), None)
    if target is None:
        raise UserError(
            "The two machines have no kind of address in common: one has IPv4 alone, the other IPv6 alone. The old one "
            "cannot forward to the new one."
        )
    local = {*local_addresses}
    # The new server lets in the declared addresses only, and the kernel might choose another one.
    source = next((address for address in old if address.version == target.version and str(address) in local), None)
    return render_template(
        "moving_house/haproxy.cfg",
        max_connections=MAX_CONNECTIONS,
        services=list(list_forwarded_services(settings, web=web)),
        versions=versions,
        target=_format_address(target),
        source=_format_address(source) if source else "",
    )


def _format_address(address: Address) -> str:
    """haproxy takes the last part of a bare IPv6 address for a port."""
    return f"[{address}]" if address.version == 6 else str(address)


def render_unit() -> bytes:
    """The unit that runs haproxy."""
    return render_template(f"moving_house/{UNIT}", program=PROGRAM, config=CONFIG, max_files=2 * MAX_CONNECTIONS + 1000)


def prepare_forwarding(
    remote: RemoteHost, settings: Settings, new_addresses: Iterable[Address], *, web: bool = True
) -> None:
    """Install what forwards, on the old machine, and start nothing. `settings` are those with its own addresses.

    Without `web`, ports 80 and 443 stay with the programs that have them. Repeated with another new address, it changes
    the forwarding that runs. Raises UserError, UnreachableError.
    """
    output = _run(remote, "ip -o address show", "its addresses cannot be read")
    local_addresses = [line.split()[3].partition("/")[0] for line in output.splitlines() if len(line.split()) > 3]
    config = render_config(settings, new_addresses, local_addresses, web=web)
    _run(remote, _INSTALL, "haproxy, which forwards the ports, cannot be installed")
    _run(remote, _build_write_script(config), "haproxy refuses the configuration, or it cannot be written")


def start_forwarding(remote: RemoteHost) -> None:
    """Forward from now on, also after a reboot. Raises UserError, as when another program has one of the ports, and
    UnreachableError. Nothing is forwarded then."""
    done = remote.run(_START)
    if not done.rc:
        return
    busy = [line.removeprefix("busy ") for line in done.stdout.splitlines() if line.startswith("busy ")]
    if busy:
        raise UserError(
            f"{remote.name}: other programs still have the ports to forward: {', '.join(busy)}. Stop and disable these."
        )
    raise _explain(remote, done, "it does not forward its ports")


def stop_forwarding(remote: RemoteHost) -> None:
    """Forward nothing, also after a reboot; open connections end. Raises UserError, UnreachableError."""
    _run(remote, _STOP, f"{UNIT} cannot be stopped")


def remove_forwarding(remote: RemoteHost) -> None:
    """Stop, and remove all that `prepare_forwarding` has brought. Raises UserError, UnreachableError."""
    _run(remote, _REMOVE, "what forwarded its ports cannot be removed")


def find_unreachable_ports(remote: RemoteHost) -> list[int]:
    """The ports of the new server to which a connection from the old machine fails; call it before the old services
    stop. Raises UserError, UnreachableError."""
    output = _run(remote, _TRY_PORTS, "the ports of the new server cannot be tried")
    return sorted({int(line) for line in output.splitlines()})


def _run(remote: RemoteHost, script: str, trouble: str) -> str:
    done = remote.run(script)
    if done.rc:
        raise _explain(remote, done, trouble)
    return str(done.stdout)


def _explain(remote: RemoteHost, done: CommandResult, trouble: str) -> UserError:
    return UserError(f"{remote.name}: {trouble}: {last_line(done).rstrip('.')}.")


_INSTALL = f"""\
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
mkdir -p {DIRECTORY}
if [ ! -x {PROGRAM} ]; then
  # Masked: Debian's package starts its own service.
  systemctl --quiet mask haproxy.service
  touch {INSTALLED}
  apt-get -qq update || true
  apt-get -qq -y -o DPkg::Lock::Timeout={LOCK_SECONDS} install --no-install-recommends haproxy > /dev/null
fi
"""


def _build_write_script(config: bytes) -> str:
    """A change restarts what forwards already; nothing else starts."""
    return f"""\
set -eu
printf %s {quote(config.decode())} > {CONFIG}.new
printf %s {quote(render_unit().decode())} > {DIRECTORY}/unit.new
output=$({PROGRAM} -c -q -f {CONFIG}.new 2>&1) || {{ printf '%s\\n' "$output" | grep -m 1 ALERT >&2; exit 1; }}
if cmp -s {CONFIG}.new {CONFIG} && cmp -s {DIRECTORY}/unit.new {UNIT_FILE}; then
  rm {CONFIG}.new {DIRECTORY}/unit.new
else
  mv {CONFIG}.new {CONFIG}
  mv {DIRECTORY}/unit.new {UNIT_FILE}
  systemctl daemon-reload
  systemctl try-restart {UNIT}
fi
"""


_START = f"""\
set -eu
[ -s {UNIT_FILE} ] || {{ echo 'nothing is prepared to forward them' >&2; exit 1; }}
if ! systemctl --quiet is-active {UNIT}; then
  systemctl --quiet reset-failed {UNIT} 2> /dev/null || true
  busy=
  for port in $(sed -n 's/^\\tbind .*:\\([0-9]*\\).*/\\1/p' {CONFIG} | sort -nu); do
    holders=$(ss -Hltnp "sport = :$port")
    [ -n "$holders" ] || continue
    programs=$(printf '%s\\n' "$holders" | grep -o '("[^"]*"' | tr -d '("' | sort -u | xargs | sed 's/ /, /g')
    echo "busy $port (${{programs:-unknown}})"
    busy=yes
  done
  [ -z "$busy" ] || exit 1
fi
systemctl --quiet enable {UNIT}
systemctl start {UNIT} || {{
  systemctl --quiet disable --now {UNIT}
  journalctl --quiet --unit {UNIT} --output cat --lines 30 | grep -F ALERT | head -n 1 >&2
  exit 1
}}
"""

_STOP = f"""\
[ ! -e {UNIT_FILE} ] || systemctl --quiet disable --now {UNIT}
"""

_REMOVE = f"""\
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
{_STOP}rm -f {UNIT_FILE}
systemctl daemon-reload
if [ -e {INSTALLED} ]; then
  apt-get -qq -y -o DPkg::Lock::Timeout={LOCK_SECONDS} purge haproxy > /dev/null
  systemctl --quiet unmask haproxy.service
fi
rm -rf {DIRECTORY}
"""

# The lines are `server new ADDRESS:PORT [send-proxy-v2] [source ADDRESS]`. Every Debian has perl-base.
_TRY_PORTS = f"""\
perl -MIO::Socket::IP -ne '
  next unless /^\\tserver new \\[?([^\\s\\]]+)\\]?:(\\d+)/;
  my @end = (PeerHost => $1, PeerPort => $2, Timeout => {CONNECT_TIMEOUT});
  push @end, LocalHost => $1 if / source \\[?([^\\s\\]]+)/;
  print "$end[3]\\n" unless IO::Socket::IP->new(@end);
' {CONFIG}
"""
