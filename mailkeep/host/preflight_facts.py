"""What the preflight reads: the login, the host's state, and whether the host can reach other mail servers.

One remote command reads the whole state. A second tries one outbound connection, on hosts that Mailkeep has not built
yet.
"""

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from shlex import quote

import dns.exception
import dns.resolver
from pyinfra.api import FactBase

from mailkeep.parts import firewall, web
from mailkeep.settings.models import Settings
from mailkeep_server.common.paths import DEPLOY_HISTORY, GONE_BACK, MOVE_RECORD, REPLACED_PASSWORDS, STOPPED_UNITS

FILE_MARK = "Written by Mailkeep"
"""In the first line of each of our configuration files."""
PASSED_MARK = "/var/lib/mailkeep"
"""A directory, created when a host passes for the first time. An interrupted first run leaves Debian's own
configuration; this directory tells it from a foreign one."""
CONNECT_TIMEOUT = 5  # seconds


@dataclass(frozen=True, slots=True)
class Login:
    """The SSH login. `sudo` is the complaint of `sudo -n true`, empty if it works or is not needed. `port` is the port
    of sshd, `client` the address of the client; both are unknown without SSH_CONNECTION (sshd(8), ENVIRONMENT)."""

    uid: int
    user: str
    sudo: str = ""
    port: int | None = None
    client: str = ""


class LoginFact(FactBase[Login | None]):
    """Reads the login; needs no root."""

    def command(self) -> str:
        return (
            'echo "uid $(id -u)"; echo "user ${SUDO_USER:-$(id -un)}"; echo "port ${SSH_CONNECTION##* }"; '
            'echo "client ${SSH_CONNECTION%% *}"; '
            "[ \"$(id -u)\" = 0 ] || LC_ALL=C sudo -n true 2>&1 </dev/null | sed 's/^/sudo /'"
        )

    def process(self, output: list[str]) -> Login:
        values = _values_by_key(output)
        port = values["port"][0]
        return Login(
            uid=int(values["uid"][0]),
            user=values["user"][0],
            sudo=" ".join(values.get("sudo", ())),
            port=int(port) if port else None,
            client=values.get("client", [""])[0].partition("%")[0],  # %INTERFACE follows a link-local address
        )


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket: `address` as ss(8) prints it, `programs` by name."""

    protocol: str
    address: str
    port: int
    programs: tuple[str, ...]

    def __str__(self) -> str:
        unknown = "a program" if self.protocol == "tcp" else "the kernel, such as WireGuard"
        return f"{' and '.join(self.programs) or unknown} ({self.protocol} {self.address}:{self.port})"


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system: free MiB, and free inodes (None if their number is not fixed)."""

    mount: str
    free: int
    inodes: int | None


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The state of a host.

    `clock_offset` is in seconds, positive when the host's clock is ahead; `memory` in MiB. `foreign_files` are main
    configuration files of mail servers that Mailkeep did not write, `other_mtas` the packages of other mail servers.
    `other_timekeepers` are packages that APT replaces by systemd-timesyncd.
    `passed_before`: PASSED_MARK exists. `is_built`: Postfix has our configuration. `has_our_web`: our web
    server's unit exists. `has_our_resolver`: /etc/resolv.conf is ours. `has_key`: the login can come back without a
    password. `has_ipv6`: programs may open sockets of IPv6. `listeners` is None without ss(8). `nft_ruleset` is nft's
    in JSON, empty without nft, and `iptables_rules` has the lines of each iptables-save program. `interface` is that of
    the default route. `jail_files` are fail2ban's files that Mailkeep did not write, by path and text.
    `replaced_passwords` are lines `DIGEST TIME ACCOUNT` of hashes that `mailkeepctl passwd` has replaced.
    `stopped_units` are those that a deploy has stopped to replace their packages, and that has not ended.
    `has_left`: `mailkeep move` has handed its mail over. `deploy_history` is the text of the file of that name.
    """

    system: str
    is_supported: bool
    hostname: str
    clock_offset: float = 0.0
    memory: int | None = None
    disks: tuple[Disk, ...] = ()
    has_systemd: bool = True
    can_overlay: bool = True
    passed_before: bool = False
    is_built: bool = False
    has_our_web: bool = False
    has_our_resolver: bool = False
    foreign_files: tuple[str, ...] = ()
    other_mtas: tuple[str, ...] = ()
    other_timekeepers: tuple[str, ...] = ()
    listeners: tuple[Listener, ...] | None = ()
    has_key: bool = True
    nft_ruleset: str = ""
    iptables_rules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    running_firewalls: tuple[str, ...] = ()
    interface: str = ""
    has_ipv6: bool = True
    jail_files: tuple[tuple[str, str], ...] = ()
    stopped_units: tuple[str, ...] = ()
    replaced_passwords: tuple[str, ...] = ()
    has_left: bool = False
    deploy_history: str = field(repr=False, default="")


_READ_STATE = f"""
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"
echo "time $(date +%s)"
(. /etc/os-release && echo "os $ID $VERSION_ID" && echo "system $PRETTY_NAME")
name=$(uname -n)
case $name in *.*) ;; *) name=$(timeout 5 hostname -f || uname -n) ;; esac
echo "name $name"
sed -n 's/^MemTotal: *\\([0-9]*\\) kB/memory \\1/p' /proc/meminfo
df -k --output=target,avail,iavail,itotal / /var | sed '1d; s/^/disk /'
dpkg-query -W -f='${{db:Status-Abbrev}} ${{Package}} ${{Provides}}\\n' |
  sed -n '/^ii  *postfix /d; s/^ii  *\\([^ ]*\\) .*mail-transport-agent.*/mta \\1/p
    /^ii  *systemd-timesyncd /d; s/^ii  *\\([^ ]*\\) .*time-daemon.*/timekeeper \\1/p'
for file in /etc/postfix/main.cf /etc/dovecot/dovecot.conf; do
  [ ! -e $file ] || grep -q '{FILE_MARK}' $file || echo "foreign $file"
done
ss -Hlntup >/dev/null && {{ echo 'has listeners'; ss -Hlntup | sed 's/^/listener /'; }}
[ -d /run/systemd/system ] && echo 'has systemd'
bash -c 'exec 3<>/dev/udp/::1/9' 2>&1 | grep -q 'family not supported' && echo 'has no-ipv6'
[ -d {PASSED_MARK} ] && [ ! -e {GONE_BACK} ] && echo 'has passed'
sed 's/^/stopped /' {STOPPED_UNITS}
sed 's/^/replaced /' {REPLACED_PASSWORDS}
sed 's/^/history =/' {DEPLOY_HISTORY}
[ -e {web.UNIT} ] && echo 'has web'
grep -qs '"has_left": true' {MOVE_RECORD} && echo 'has left'
grep -qs '{FILE_MARK}' /etc/resolv.conf && echo 'has resolver'
nft -j -t list ruleset | sed 's/^/nft /'
for program in iptables-nft-save ip6tables-nft-save; do $program | sed "s/^/$program /"; done
if [ -s /proc/net/ip_tables_names ] || [ -s /proc/net/ip6_tables_names ]; then
  for program in iptables-legacy-save ip6tables-legacy-save; do $program | sed "s/^/$program /"; done
fi
for unit in ufw firewalld csf shorewall; do
  case $unit in
    ufw) grep -qsx 'ENABLED=yes' /etc/ufw/ufw.conf && systemctl --quiet is-active ufw && echo "firewall ufw" ;;
    *) systemctl --quiet is-active $unit && echo "firewall $unit" ;;
  esac
done
echo "interface $(ip route show default | sed -n 's/.* dev \\([^ ]*\\).*/\\1/p' | head -n 1)"
for file in /etc/fail2ban/jail.local /etc/fail2ban/jail.d/*.conf /etc/fail2ban/jail.d/*.local; do
  case $file in */mailkeep.local | */defaults-debian.conf) continue ;; esac
  [ ! -f "$file" ] || {{ echo "jailfile $file"; sed 's/^/jailline =/' "$file"; }}
done
home=$(getent passwd "$user" | cut -d: -f6)
if grep -qs '^ *[^# ]' "$home/.ssh/authorized_keys" ||
  sshd -T | grep -Eq '^(authorizedkeyscommand|trustedusercakeys) /'; then echo 'has key'; fi
if grep -qs '{FILE_MARK}' /etc/postfix/main.cf; then echo 'has built'
else unshare --mount --propagation private sh -euc '
  mount -t tmpfs tmpfs /run
  mkdir /run/upper /run/work
  mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work /etc' && echo 'has overlay'
fi
true"""


class PreflightFact(FactBase[HostFacts | None]):
    """Reads HostFacts as root and changes nothing. `user` is the login name whose SSH key is looked for."""

    def command(self, user: str) -> str:
        self._start = time.time()
        return f"user={quote(user)}\nexec 2>/dev/null{_READ_STATE}"

    def process(self, output: list[str]) -> HostFacts:
        return parse_facts(output, self._start, time.time())


def parse_facts(lines: Iterable[str], start: float, end: float) -> HostFacts:
    """Parse the output of _READ_STATE, run between `start` and `end` (seconds since the epoch, this machine's
    clock)."""
    lines = list(lines)
    values = _values_by_key(lines)
    flags = set(values.get("has", ()))

    def first(key: str) -> str:
        return values.get(key, [""])[0]

    return HostFacts(
        system=first("system") or "an unknown system",
        is_supported=first("os") == "debian 13",
        hostname=first("name"),
        clock_offset=_clock_offset(float(first("time") or start), start, end),
        memory=int(first("memory")) >> 10 if first("memory") else None,
        disks=tuple(dict.fromkeys(map(_parse_disk, values.get("disk", ())))),
        has_systemd="systemd" in flags,
        can_overlay=bool(flags & {"overlay", "built"}),
        passed_before="passed" in flags,
        is_built="built" in flags,
        has_our_web="web" in flags,
        has_left="left" in flags,
        has_our_resolver="resolver" in flags,
        foreign_files=tuple(values.get("foreign", ())),
        other_mtas=tuple(values.get("mta", ())),
        other_timekeepers=tuple(values.get("timekeeper", ())),
        listeners=tuple(map(_parse_listener, values.get("listener", ()))) if "listeners" in flags else None,
        has_key="key" in flags,
        nft_ruleset=first("nft"),
        iptables_rules={
            program: tuple(values[program])
            for kind in ("nft", "legacy")
            for family in ("ip", "ip6")
            if (program := f"{family}tables-{kind}-save") in values
        },
        running_firewalls=tuple(values.get("firewall", ())),
        interface=first("interface"),
        has_ipv6="no-ipv6" not in flags,
        jail_files=tuple(_read_jail_files(lines)),
        replaced_passwords=tuple(values.get("replaced", ())),
        deploy_history="\n".join(line.removeprefix("=") for line in values.get("history", ())),
        stopped_units=tuple(
            line.removeprefix("unit ") for line in values.get("stopped", ()) if line.startswith("unit ")
        ),
    )


def _read_jail_files(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(path, text) of each file, from lines `jailfile PATH` and `jailline =TEXT`."""
    path, text = "", list[str]()
    for line in (*lines, "jailfile "):
        key, _, value = line.partition(" ")
        if key == "jailfile":
            if path:
                yield path, "\n".join(text)
            path, text = value, []
        elif key == "jailline":
            text.append(value.removeprefix("="))


def _values_by_key(lines: Iterable[str]) -> dict[str, list[str]]:
    """Group lines `KEY VALUE` by key. Other output, as of a login script, does no harm."""
    values: dict[str, list[str]] = {}
    for line in lines:
        key, _, value = line.partition(" ")
        values.setdefault(key, []).append(value.strip())
    return values


def _clock_offset(host_time: float, start: float, end: float) -> float:
    """The host read its clock at some moment from `start` to `end`, so only a time outside of them is an offset."""
    return max(host_time - end, 0.0) + min(host_time - start, 0.0)


def _parse_disk(line: str) -> Disk:
    mount, free, inodes, all_inodes = line.rsplit(maxsplit=3)
    return Disk(mount, int(free) >> 10, int(inodes) if all_inodes not in ("0", "-") else None)


def _parse_listener(line: str) -> Listener:
    protocol, _state, _received, _sent, local, *_ = line.split()
    address, _, port = local.rpartition(":")
    return Listener(protocol, address, int(port), tuple(dict.fromkeys(re.findall(r'\("([^"]*)"', line))))


class ConnectFact(FactBase[bool]):
    """Whether the host can open a connection to `address`:`port` within CONNECT_TIMEOUT."""

    def command(self, address: str, port: int) -> str:
        connect = quote(f"exec 3<>/dev/tcp/{address}/{port}")  # bash(1), REDIRECTION: Debian has it everywhere
        return f"timeout {CONNECT_TIMEOUT} bash -c {connect} 2>/dev/null && echo yes || echo no"

    def process(self, output: list[str]) -> bool:
        return output == ["yes"]


@dataclass(frozen=True, slots=True)
class OutboundPeer:
    """A server to try the outbound port with: the relay host, or a mail exchanger outside."""

    name: str
    address: str
    port: int
    is_relay: bool


def outbound_peer(settings: Settings, resolver: dns.resolver.Resolver | None = None) -> OutboundPeer | None:
    """The relay host, or else the exchanger of the first outside domain among administrators and alias targets.

    None if there is no such domain, or if this machine's DNS finds no exchanger within CONNECT_TIMEOUT.
    """
    if settings.relay:
        return OutboundPeer(settings.relay.host, settings.relay.host, settings.relay.port, is_relay=True)
    local = {*settings.domains, settings.host.name}
    addresses = (*settings.admin.addresses, *(target for targets in settings.aliases.values() for target in targets))
    outside = [domain for address in addresses if (domain := address.rpartition("@")[2]) not in local]
    return _find_exchanger(outside[0], resolver) if outside else None


def _find_exchanger(domain: str, resolver: dns.resolver.Resolver | None) -> OutboundPeer | None:
    try:
        resolver = resolver or dns.resolver.get_default_resolver()
        records = resolver.resolve(domain, "MX", lifetime=CONNECT_TIMEOUT)
        name = min(records, key=lambda record: record.preference).exchange
        address = resolver.resolve(name, "A", lifetime=CONNECT_TIMEOUT)[0].address
    except dns.exception.DNSException:  # this machine's DNS fails; that says nothing about the host
        return None
    return OutboundPeer(name.to_text(omit_final_dot=True), address, firewall.MAIL_PORTS[0], is_relay=False)
