"""Whether a host can become, or stay, a mail server: judged before anything on it changes, in one message.

One remote command looks at everything; a second tries the way out to other mail servers, on hosts that Mailkeep has
not built yet. `judge` decides from what they saw alone, and `plan` and `deploy` go by the same verdict.
"""

import re
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from shlex import quote
from typing import Any, cast

import dns.exception
import dns.resolver
from pyinfra import host, logger
from pyinfra.api import FactBase, StringCommand, operation

from mailkeep.parts import firewall, web
from mailkeep.parts.model import Part
from mailkeep.settings.models import Settings

NAME = "Preflight"  # the operation
MARK = "Written by Mailkeep"  # the first line of each of our configuration files says so
BEGUN = "/var/lib/mailkeep"
"""Made once a host has passed: the Debian configuration that an interrupted first run leaves is not a foreign one."""
BACKUPS = "/var/backups/mailkeep"

MEMORY = 900  # MiB; what a machine of 1 GB has left for programs
DISK, DISK_BUILT = 2048, 256  # MiB; the packages with their download, and what a rerun may need
INODES = 20_000
CLOCK_SECONDS = 60.0
CONNECT_SECONDS = 5
RESOLVER_PORT = 53

OURS = {"master", "dovecot", "imap-login", "unbound", "lego"}
WEB_SERVER = "nginx"  # only where our own unit is: it may well be somebody's web server
OTHER_DAEMONS = {"exim4", "sendmail-mta", "smtpd", "nullmailer-send", "couriertcpd"}  # they go with their package
OTHER_CONFIGURATIONS = (
    *("/etc/aliases", "/etc/courier", "/etc/dovecot", "/etc/exim4", "/etc/mail", "/etc/msmtprc", "/etc/nullmailer"),
    *("/etc/opendkim", "/etc/postfix", "/etc/smtpd.conf", "/etc/ssmtp"),
)


@dataclass(frozen=True, slots=True)
class Login:
    """Who we come in as. `sudo` is what `sudo -n true` complained about, empty where it works or is not needed;
    `port` the one of sshd that the connection came to and `client` the address it came from, if it did."""

    uid: int
    user: str
    sudo: str = ""
    port: int | None = None
    client: str = ""


class LoginFact(FactBase[Login | None]):
    def command(self) -> str:
        return (
            'echo "uid $(id -u)"; echo "user ${SUDO_USER:-$(id -un)}"; echo "port ${SSH_CONNECTION##* }"; '
            'echo "client ${SSH_CONNECTION%% *}"; '
            "[ \"$(id -u)\" = 0 ] || LC_ALL=C sudo -n true 2>&1 </dev/null | sed 's/^/sudo /'"
        )

    def process(self, output: list[str]) -> Login:
        found = _by_key(output)
        port = found["port"][0]
        return Login(
            uid=int(found["uid"][0]),
            user=found["user"][0],
            sudo=" ".join(found.get("sudo", ())),
            port=int(port) if port else None,
            client=found.get("client", [""])[0].partition("%")[0],  # a link-local address comes with its interface
        )


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that waits for clients: `address` as ss(8) prints it, `programs` by name."""

    protocol: str
    address: str
    port: int
    programs: tuple[str, ...]

    def __str__(self) -> str:
        return f"{' and '.join(self.programs) or 'a program'} ({self.protocol} {self.address}:{self.port})"


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system: free MiB, free inodes (None where it has no fixed number of them)."""

    mount: str
    free: int
    inodes: int | None


@dataclass(frozen=True, slots=True)
class Seen:
    """What a host is. `clock` is by how many seconds it is ahead; `foreign` are mail servers' configuration files that
    Mailkeep did not write; `mtas` the packages of other mail servers; `built` says that Postfix is already ours, `web`
    that our web server is there, `resolver` that /etc/resolv.conf is ours."""

    system: str
    supported: bool
    name: str
    clock: float = 0.0
    memory: int | None = None
    disks: tuple[Disk, ...] = ()
    systemd: bool = True
    overlay: bool = True
    begun: bool = False
    built: bool = False
    web: bool = False
    resolver: bool = False
    foreign: tuple[str, ...] = ()
    mtas: tuple[str, ...] = ()
    listeners: tuple[Listener, ...] | None = ()
    key: bool = True


@dataclass(frozen=True, slots=True)
class Target:
    """Where mail goes out: `name` is a relay host, or an exchanger of somebody whom the host will write to."""

    name: str
    address: str
    port: int
    relay: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def refusal(self, name: str) -> str:
        listed = "\n".join(f"- {problem}" for problem in self.problems)
        return f"{name}: it cannot be deployed to as it is; nothing was changed.\n{listed}"


_LOOK = f"""
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"
echo "time $(date +%s)"
(. /etc/os-release && echo "os $ID $VERSION_ID" && echo "system $PRETTY_NAME")
name=$(uname -n)
case $name in *.*) ;; *) name=$(timeout 5 hostname -f || uname -n) ;; esac
echo "name $name"
sed -n 's/^MemTotal: *\\([0-9]*\\) kB/memory \\1/p' /proc/meminfo
df -k --output=target,avail,iavail,itotal / /var | sed '1d; s/^/disk /'
dpkg-query -W -f='${{db:Status-Abbrev}} ${{Package}} ${{Provides}}\\n' |
  sed -n '/^ii  *postfix /d; s/^ii  *\\([^ ]*\\) .*mail-transport-agent.*/mta \\1/p'
for file in /etc/postfix/main.cf /etc/dovecot/dovecot.conf; do
  [ ! -e $file ] || grep -q '{MARK}' $file || echo "foreign $file"
done
ss -Hlntup >/dev/null && {{ echo 'has listeners'; ss -Hlntup | sed 's/^/listener /'; }}
[ -d /run/systemd/system ] && echo 'has systemd'
[ -d {BEGUN} ] && echo 'has begun'
[ -e {web.UNIT} ] && echo 'has web'
grep -qs '{MARK}' /etc/resolv.conf && echo 'has resolver'
home=$(getent passwd "$user" | cut -d: -f6)
if grep -qs '^ *[^# ]' "$home/.ssh/authorized_keys" ||
  sshd -T | grep -Eq '^(authorizedkeyscommand|trustedusercakeys) /'; then echo 'has key'; fi
if grep -qs '{MARK}' /etc/postfix/main.cf; then echo 'has built'
else unshare --mount --propagation private sh -euc '
  mount -t tmpfs tmpfs /run
  mkdir /run/upper /run/work
  mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work /etc' && echo 'has overlay'
fi
true"""


class SeenFact(FactBase[Seen | None]):
    """Reads all of `Seen` and changes nothing; `user` is the login name whose SSH key is looked for."""

    def command(self, user: str) -> str:
        self._asked = time.time()
        return f"user={quote(user)}\nexec 2>/dev/null{_LOOK}"

    def process(self, output: list[str]) -> Seen:
        return parse(output, self._asked, time.time())


def parse(lines: Iterable[str], asked: float, answered: float) -> Seen:
    """Reads what `_LOOK` printed between these two times (seconds since the epoch) of this machine's clock."""
    found = _by_key(lines)
    has = set(found.get("has", ()))

    def first(key: str) -> str:
        return found.get(key, [""])[0]

    return Seen(
        system=first("system") or "an unknown system",
        supported=first("os") == "debian 13",
        name=first("name"),
        clock=_ahead(float(first("time") or asked), asked, answered),
        memory=int(first("memory")) >> 10 if first("memory") else None,
        disks=tuple(dict.fromkeys(map(_disk, found.get("disk", ())))),
        systemd="systemd" in has,
        overlay=bool(has & {"overlay", "built"}),
        begun="begun" in has,
        built="built" in has,
        web="web" in has,
        resolver="resolver" in has,
        foreign=tuple(found.get("foreign", ())),
        mtas=tuple(found.get("mta", ())),
        listeners=tuple(map(_listener, found.get("listener", ()))) if "listeners" in has else None,
        key="key" in has,
    )


def _by_key(lines: Iterable[str]) -> dict[str, list[str]]:
    """Lines `KEY VALUE` by key; what a login script may print besides does no harm."""
    found: dict[str, list[str]] = {}
    for line in lines:
        key, _, value = line.partition(" ")
        found.setdefault(key, []).append(value.strip())
    return found


def _ahead(there: float, asked: float, answered: float) -> float:
    """The host read its clock at some moment between the two: only what lies outside of them is certain."""
    return max(there - answered, 0.0) + min(there - asked, 0.0)


def _disk(line: str) -> Disk:
    mount, free, inodes, all_inodes = line.rsplit(maxsplit=3)
    return Disk(mount, int(free) >> 10, int(inodes) if all_inodes not in ("0", "-") else None)


def _listener(line: str) -> Listener:
    protocol, _state, _received, _sent, local, *_ = line.split()
    address, _, port = local.rpartition(":")
    return Listener(protocol, address, int(port), tuple(dict.fromkeys(re.findall(r'\("([^"]*)"', line))))


class ReachesFact(FactBase[bool]):
    """Whether the host gets a connection to `address`:`port` within CONNECT_SECONDS."""

    def command(self, address: str, port: int) -> str:
        connect = quote(f"exec 3<>/dev/tcp/{address}/{port}")  # bash(1), REDIRECTION: Debian has it everywhere
        return f"timeout {CONNECT_SECONDS} bash -c {connect} 2>/dev/null && echo yes || echo no"

    def process(self, output: list[str]) -> bool:
        return output == ["yes"]


def judge(settings: Settings, login: Login, seen: Seen, *, adopt: bool = False) -> Verdict:
    """All that stands against building this server on that host. `adopt`: another mail server may be replaced."""
    problems = (
        *_system(seen),
        *_resources(seen),
        *_clock(seen),
        *_name(settings, seen),
        *(() if adopt else _other_mail_servers(seen)),
        *_ports(settings, seen),
        *_resolver(settings, seen),
        *_lockout(settings, login, seen),
    )
    return Verdict(problems, tuple(_warnings(settings, seen)))


def _system(seen: Seen) -> Iterator[str]:
    if not seen.supported:
        yield f"It runs {seen.system}. Mailkeep builds on Debian 13 (trixie): install that, or upgrade to it."
    if not seen.systemd:
        yield "systemd does not run on it. Take a machine, virtual machine or container that boots with systemd."
    elif not seen.overlay:
        yield (
            "It cannot mount an overlay file system (mount -t overlay in unshare --mount), in which new configuration "
            "is checked before it goes live. In an unprivileged container: have it allow that, or take a virtual "
            "machine."
        )


def _resources(seen: Seen) -> Iterator[str]:
    if seen.memory is not None and seen.memory < MEMORY and not seen.built:
        yield f"It has {seen.memory} MiB of memory; {MEMORY} are needed. A machine of 1 GB has them."
    least = DISK_BUILT if seen.built else DISK
    for disk in seen.disks:
        if disk.free < least:
            yield f"{disk.free} MiB are free on {disk.mount}; {least} are needed. Old logs and `apt-get clean` help."
        if disk.inodes is not None and disk.inodes < INODES and not seen.built:
            yield f"{disk.inodes} inodes are free on {disk.mount} (`df -i`); {INODES} are needed. Remove small files."


def _clock(seen: Seen) -> Iterator[str]:
    if abs(seen.clock) > CLOCK_SECONDS:
        direction = "ahead of" if seen.clock > 0 else "behind"
        yield (
            f"Its clock is {abs(seen.clock):.0f} s {direction} this machine's; certificates, signatures and bans go by "
            "it. Set whichever is wrong: `timedatectl set-ntp true`, or `date -s`."
        )


def _name(settings: Settings, seen: Seen) -> Iterator[str]:
    if "." not in seen.name:
        yield (
            f"Its hostname is {seen.name!r}, which is not fully qualified. `hostnamectl set-hostname "
            f"{settings.host.name}` makes it so."
        )


def _other_mail_servers(seen: Seen) -> Iterator[str]:
    adopting = f"or deploy with --adopt (pyinfra: --data adopt=true), which first saves its files in {BACKUPS}"
    for package in seen.mtas:
        yield f"{package}, another mail server, is installed. `apt-get purge {package}` removes it; {adopting}."
    if not seen.begun:
        for file in seen.foreign:
            if file.startswith("/etc/postfix"):
                yield (
                    f"{file} is there and Mailkeep did not write it; a deploy would replace it. Take another machine, "
                    f"`apt-get purge postfix` where nobody needs it, {adopting}."
                )


def _ports(settings: Settings, seen: Seen) -> Iterator[str]:
    allowed = OURS | (OTHER_DAEMONS if seen.mtas else set()) | ({WEB_SERVER} if seen.web else set())
    for listener in seen.listeners or ():
        if _wanted(settings, listener) and not set(listener.programs) & allowed:
            advice = _INSTEAD.get(listener.port, "")
            yield f"Port {listener.port} is taken by {listener}. Stop and disable what listens there{advice}."
        elif WEB_SERVER in listener.programs and firewall.HTTPS in firewall.published_ports(settings) and not seen.web:
            yield f"{listener} is somebody's web server, and would be stopped: see `web` and `dns.mta_sts`."


def _resolver(settings: Settings, seen: Seen) -> Iterator[str]:
    if settings.resolver == "system" and seen.resolver:
        yield (
            "Its /etc/resolv.conf is that of `resolver: local`, and what it was before is not known. Write your "
            "provider's `nameserver` lines into it, `systemctl disable --now unbound`, then deploy."
        )


_INSTEAD = {RESOLVER_PORT: ", or set `resolver: system`", firewall.HTTP: ", or set `tls.acme.challenge: dns-01`"}


def _wanted(settings: Settings, listener: Listener) -> bool:
    if listener.port == RESOLVER_PORT:
        return settings.resolver == "local" and listener.address in ("127.0.0.1", "0.0.0.0", "*")  # noqa: S104
    return listener.protocol == "tcp" and listener.port in firewall.owned_ports(settings)


def _lockout(settings: Settings, login: Login, seen: Seen) -> Iterator[str]:
    if login.port is not None and login.port != settings.ssh.port:
        yield (
            f"SSH came in on port {login.port}, and mail.yml says ssh.port: {settings.ssh.port}: the firewall would "
            f"lock you out. Set ssh.port: {login.port}."
        )
    for network in settings.firewall.block:
        if login.client and ip_address(login.client) in network:
            yield (
                f"SSH came in from {login.client}, and mail.yml blocks {network} (firewall.block): the firewall would "
                "cut you off. Take that network out of the list, or deploy from elsewhere."
            )
    if not seen.key and (login.user == "root" or not settings.ssh.passwords):
        instead = "" if login.user == "root" else ", or set ssh.passwords: true"
        yield (
            f"{login.user} has no SSH key there, and passwords will not do: you would be locked out. "
            f"`ssh-copy-id` adds one{instead}."
        )


def _warnings(settings: Settings, seen: Seen) -> Iterator[str]:
    if "." in seen.name and seen.name.lower() != settings.host.name:
        yield (
            f"It calls itself {seen.name}, and mail.yml calls it {settings.host.name}. If it is the right machine: "
            f"`hostnamectl set-hostname {settings.host.name}`."
        )
    if seen.listeners is None:
        yield "Whether the mail ports are free is not known: it has no ss (`apt-get install iproute2`)."
    if not seen.begun:
        for file in seen.foreign:
            if file.startswith("/etc/dovecot"):
                yield (
                    f"{file} will be replaced (it is saved in {BACKUPS}). Mailboxes of that Dovecot stay where they "
                    "are; the new one does not look there."
                )


def way_out(settings: Settings, resolver: dns.resolver.Resolver | None = None) -> Target | None:
    """What to try the outbound port with: the relay host, else the exchanger of the first administrator or alias
    target elsewhere. None where there is nobody, or the DNS of this machine finds no exchanger in 5 seconds."""
    if settings.relay:
        return Target(settings.relay.host, settings.relay.host, settings.relay.port, relay=True)
    ours = {*settings.domains, settings.host.name}
    addresses = (*settings.admin.addresses, *(a for targets in settings.aliases.values() for a in targets))
    elsewhere = [domain for address in addresses if (domain := address.rpartition("@")[2]) not in ours]
    return _exchanger(elsewhere[0], resolver) if elsewhere else None


def _exchanger(domain: str, resolver: dns.resolver.Resolver | None) -> Target | None:
    try:
        resolver = resolver or dns.resolver.get_default_resolver()
        records = resolver.resolve(domain, "MX", lifetime=CONNECT_SECONDS)
        name = min(records, key=lambda record: record.preference).exchange
        address = resolver.resolve(name, "A", lifetime=CONNECT_SECONDS)[0].address
    except dns.exception.DNSException:  # no answer is no verdict on the host
        return None
    return Target(name.to_text(omit_final_dot=True), address, firewall.MAIL_PORTS[0], relay=False)


def closed(target: Target) -> str:
    """The warning that `target` could not be reached."""
    tried = f"{target.name} does not answer it on port {target.port} within {CONNECT_SECONDS} seconds"
    if target.relay:
        return f"{tried}: mail will wait in the queue. See to `relay` in mail.yml, or to the provider's firewall."
    return (
        f"Outbound port 25 seems to be closed: {tried}. Most providers open it when asked; else all mail can go "
        "through a relay host: set `relay: {host: …, port: 587, user: …}` in mail.yml."
    )


def sudo_trouble(login: Login, can_ask: bool) -> tuple[str, str] | None:
    """Why the login cannot become root, and what would do. `can_ask`: a password can be asked for, or is known."""
    if not login.sudo or ("password is required" in login.sudo and can_ask):
        return None
    return (
        f"{login.user} is not root, and sudo says: {login.sudo}",
        f"Log in as root, let {login.user} use sudo without a password (by visudo: `{login.user} ALL=(ALL) NOPASSWD: "
        "ALL`), or run this at a terminal, which asks for it.",
    )


def no_root(login: Login, can_ask: bool) -> str | None:
    """`sudo_trouble` in a line."""
    trouble = sudo_trouble(login, can_ask)
    return ". ".join(trouble) if trouble else None


Read = Callable[..., Any]
"""Runs a fact on the host: the fact's class, then its arguments by name."""


def examine(
    settings: Settings, login: Login, read: Read, *, adopt: bool = False, can_ask: bool = False
) -> tuple[Seen | None, Verdict]:
    """Looks at the host and judges it; no `Seen` where it could not be looked at."""
    if trouble := no_root(login, can_ask):
        return None, Verdict((trouble,))
    seen = read(SeenFact, user=login.user)
    if seen is None:
        return None, Verdict(("It could not be looked at; see above.",))
    verdict = judge(settings, login, seen, adopt=adopt)
    target = None if seen.built else way_out(settings)
    if target and not read(ReachesFact, address=target.address, port=target.port):
        verdict = Verdict(verdict.problems, (*verdict.warnings, closed(target)))
    return seen, verdict


def can_ask(data: Any) -> bool:
    """Whether there is a password for sudo: from the user, or from the host's data."""
    at_terminal = sys.stdin is not None and sys.stdin.isatty()  # None where it was closed (`<&-`)
    return at_terminal or bool(data.get("_sudo_password"))


def login() -> Login | None:
    """Who ssh gets in as on the current host, whatever `_sudo` in its data makes of that; asked once."""
    known = host.connector_data
    if "mailkeep login" not in known:
        known["mailkeep login"] = host.get_fact(LoginFact, _sudo=False)
    return cast(Login | None, known["mailkeep login"])


def needs_sudo() -> bool:
    """Whether the SSH user is not root, and neither the inventory nor the command line says how to become it."""
    who = login()
    return who is not None and who.uid != 0


def preflight(settings: Settings, parts: tuple[Part, ...]) -> None:
    """Declares the operation that refuses the current host where it must not be built on."""
    who = login()
    if who is not None:  # else the connection is lost, and pyinfra has said so
        sudo = who.uid != 0 and not no_root(who, can_ask(host.data))
        _preflight(settings=settings, parts=parts, login=who, name=NAME, _sudo=sudo)


@operation()
def _preflight(settings: Settings, parts: tuple[Part, ...], login: Login) -> Generator[StringCommand, None, None]:
    adopt = bool(host.data.get("adopt"))
    seen, verdict = examine(settings, login, host.get_fact, adopt=adopt, can_ask=can_ask(host.data))
    for warning in verdict.warnings:
        host.log(warning, logger.warning)
    if verdict.problems or seen is None:
        yield StringCommand("cat >&2; exit 1", _stdin=verdict.refusal(host.name).splitlines())
    elif begins(seen):
        yield StringCommand(_begin(seen, parts))


def begins(seen: Seen) -> bool:
    """Whether the host is taken over: for the first time, or again from another mail server."""
    return not seen.begun or bool(seen.mtas)


def replaced(seen: Seen, parts: Iterable[Part]) -> list[str]:
    """What is saved before the first deploy, as far as it is there: nothing where no other mail server was set up."""
    if not seen.foreign and not seen.mtas:
        return []
    return sorted({*OTHER_CONFIGURATIONS, *(file.path for part in parts for file in part.files)})


def _begin(seen: Seen, parts: Iterable[Part]) -> str:
    saved = replaced(seen, parts)
    save = f"set -- {' '.join(map(quote, saved))}{_SAVE}" if saved else ":"
    stop = f"set -- {' '.join(map(quote, seen.mtas))}{_STOP}" if seen.mtas else ":"
    return f"set -eu\n{save}\n{stop}\nmkdir -p {BEGUN}"


_SAVE = f"""
umask 077
to={BACKUPS}/$(date -u +%Y%m%dT%H%M%SZ)
for path; do
  [ ! -e "$path" ] || {{ mkdir -p "$to" && cp -a --parents -- "$path" "$to"; }}
done
umask 022"""

# The services of these packages. apt replaces the packages, but policy-rc.d keeps it from stopping what they run.
_STOP = """
programs=$(dpkg -L "$@")
for process in /proc/[0-9]*; do
  program=$(readlink "$process/exe") && echo "$programs" | grep -qxF "$program" || continue
  unit=$(sed -n 's,.*/\\([^/]*[.]service\\)$,\\1,p' "$process/cgroup" | head -n 1)
  [ -z "$unit" ] || systemctl --quiet disable --now "$unit"
done"""
