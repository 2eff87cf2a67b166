"""The preflight's judgement: whether a host can become, or stay, a mail server. Pure: it needs the facts alone."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from mailkeep.host import foreign_firewalls
from mailkeep.host.adoption import BACKUPS
from mailkeep.host.preflight_facts import CONNECT_TIMEOUT, HostFacts, Listener, Login, OutboundPeer
from mailkeep.parts import firewall
from mailkeep.settings.models import Settings
from mailkeep_server.common.password_digest import digest_hash
from mailkeep_server.common.paths import MOVE_STATE

MIN_MEMORY = 900  # MiB; a machine of 1 GB has that much left for programs
MIN_DISK, MIN_DISK_RERUN = 2048, 256  # MiB; for the packages and their download, and for a rerun
MIN_INODES = 20_000
MAX_CLOCK_OFFSET = 60.0  # seconds
RESOLVER_PORT = 53
DHCP_CLIENT_PORTS = (68, 546)  # the answers to DHCP clients are let in

OUR_DAEMONS = {"master", "dovecot", "imap-login", "unbound", "lego"}
WEB_SERVER = "nginx"  # ours only if our unit exists: it may as well be the operator's own web server
OTHER_DAEMONS = {"exim4", "sendmail-mta", "smtpd", "nullmailer-send", "couriertcpd"}  # removed with their package
DOCKER_PROXY = "docker-proxy"
"""It listens where docker's rules of nat forward packets to a container: no chain of `input` sees them."""
OTHER_RESOLVER = "systemd-resolve"
_ALTERNATIVES = {
    RESOLVER_PORT: ", or set `resolver: system`",
    firewall.HTTP: ", or set `tls.acme.challenge: dns-01`",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A host with `problems` is refused; `warnings` are only printed."""

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def refusal(self, name: str, *, has_stopped: bool = False) -> str:
        """`has_stopped`: services that an earlier deploy had stopped are started again."""
        items = "\n".join(f"- {problem}" for problem in self.problems)
        effect = "only what an earlier deploy had stopped is started again" if has_stopped else "nothing was changed"
        return f"{name}: Mailkeep does not deploy to this host; {effect}.\n{items}"


def judge_host(settings: Settings, login: Login, facts: HostFacts, *, adopt: bool = False) -> Verdict:
    """All reasons against building this server on this host. `adopt`: another mail server may be replaced."""
    problems = (
        *_system_problems(facts),
        *_resource_problems(facts),
        *_clock_problems(facts),
        *_hostname_problems(settings, facts),
        *_address_problems(settings, facts),
        *_move_problems(settings, facts),
        *(() if adopt else _other_mail_servers(facts)),
        *_port_problems(settings, facts),
        *_resolver_problems(settings, facts),
        *_lockout_problems(settings, login, facts),
        *_password_problems(settings, facts),
    )
    return Verdict(problems, tuple(_warnings(settings, facts)))


def _system_problems(facts: HostFacts) -> Iterator[str]:
    if not facts.is_supported:
        yield f"It runs {facts.system}. Mailkeep needs Debian 13 (trixie): install it, or upgrade to it."
    if not facts.has_systemd:
        yield "systemd is not running. Use a machine, virtual machine or container that boots with systemd."
    elif not facts.can_overlay:
        yield (
            "It cannot mount an overlay file system (mount -t overlay in unshare --mount). Mailkeep checks new "
            "configuration there before it goes live. In an unprivileged container: allow this mount, or use a virtual "
            "machine."
        )


def _move_problems(settings: Settings, facts: HostFacts) -> Iterator[str]:
    if facts.has_left and not settings.host.forwarded_from:
        yield (
            "`mailkeep move` has handed its mail over to another machine, and what is here is an old copy. Does SSH "
            f"lead to the wrong machine? If this one is to be a server of its own, remove {MOVE_STATE} there, and its "
            "mail in /var/vmail."
        )


def _resource_problems(facts: HostFacts) -> Iterator[str]:
    if facts.memory is not None and facts.memory < MIN_MEMORY and not facts.is_built:
        yield f"It has {facts.memory} MiB of memory; {MIN_MEMORY} MiB are needed. A machine with 1 GB has enough."
    min_disk = MIN_DISK_RERUN if facts.is_built else MIN_DISK
    for disk in facts.disks:
        if disk.free < min_disk:
            yield (
                f"Only {disk.free} MiB are free on {disk.mount}; {min_disk} MiB are needed. Delete old logs, or run "
                "`apt-get clean`."
            )
        if disk.inodes is not None and disk.inodes < MIN_INODES and not facts.is_built:
            yield (
                f"Only {disk.inodes} inodes are free on {disk.mount} (`df -i`); {MIN_INODES} are needed. Delete small "
                "files."
            )


def _clock_problems(facts: HostFacts) -> Iterator[str]:
    if abs(facts.clock_offset) > MAX_CLOCK_OFFSET:
        direction = "ahead of" if facts.clock_offset > 0 else "behind"
        yield (
            f"Its clock is {abs(facts.clock_offset):.0f} s {direction} this machine's. Certificates, signatures and "
            "bans need the right time. Set the wrong clock: `timedatectl set-ntp true`, or `date -s`."
        )


def _hostname_problems(settings: Settings, facts: HostFacts) -> Iterator[str]:
    if "." not in facts.hostname:
        yield (
            f"Its hostname {facts.hostname!r} is not fully qualified. Run "
            f"`hostnamectl set-hostname {settings.host.name}`."
        )


def _address_problems(settings: Settings, facts: HostFacts) -> Iterator[str]:
    if not facts.has_ipv6 and (addresses := [str(ip) for ip in settings.host.addresses if ip.version == 6]):
        yield (
            f"Its kernel has no IPv6, but mail.yml declares {', '.join(addresses)}. Boot it without `ipv6.disable=1`, "
            "or take that out of host.addresses, and the AAAA record out of the DNS."
        )


def _other_mail_servers(facts: HostFacts) -> Iterator[str]:
    adopting = f"or deploy with --adopt (pyinfra: --data adopt=true), which first saves its files in {BACKUPS}"
    for package in facts.other_mtas:
        yield f"{package}, another mail server, is installed. Run `apt-get purge {package}`, {adopting}."
    if not facts.passed_before:
        for file in facts.foreign_files:
            if file.startswith("/etc/postfix"):
                yield (
                    f"{file} exists and Mailkeep did not write it; a deploy would replace it. Use another machine, run "
                    f"`apt-get purge postfix` if nobody needs it, {adopting}."
                )


def _port_problems(settings: Settings, facts: HostFacts) -> Iterator[str]:
    allowed = set(OUR_DAEMONS)
    if facts.other_mtas:
        allowed |= OTHER_DAEMONS
    if facts.has_our_web:
        allowed.add(WEB_SERVER)
    for listener in facts.listeners or ():
        if _is_needed(settings, listener) and not set(listener.programs) & allowed:
            alternative = _ALTERNATIVES.get(listener.port, "")
            yield f"Port {listener.port} is taken by {listener}. Stop and disable that program{alternative}."
        elif _is_other_web_server(settings, facts, listener):
            yield (
                f"{listener} is another web server, and a deploy would stop it. Remove it, or turn off the settings "
                "that need a web server: `web.autoconfig`, and `dns.mta_sts` or `web.mta_sts`."
            )


def _is_needed(settings: Settings, listener: Listener) -> bool:
    if listener.port == RESOLVER_PORT:
        return settings.resolver == "local" and listener.address in ("127.0.0.1", "0.0.0.0", "*")  # noqa: S104
    return listener.protocol == "tcp" and listener.port in firewall.owned_ports(settings)


def _is_other_web_server(settings: Settings, facts: HostFacts, listener: Listener) -> bool:
    serves_https = firewall.HTTPS in firewall.published_ports(settings)
    return WEB_SERVER in listener.programs and serves_https and not facts.has_our_web


def _resolver_problems(settings: Settings, facts: HostFacts) -> Iterator[str]:
    if settings.resolver == "system" and facts.has_our_resolver:
        yield (
            "Its /etc/resolv.conf still names Mailkeep's own resolver (`resolver: local`), and its earlier content is "
            "not known. Write your provider's `nameserver` lines into it, run `systemctl disable --now unbound`, then "
            "deploy again."
        )


def _password_problems(settings: Settings, facts: HostFacts) -> Iterator[str]:
    """A stolen password must not come back by a deploy, nor under another address of its account."""
    lines = [line.split(" ") for line in facts.replaced_passwords if line.count(" ") == 2]
    replaced = {(account, digest): time for digest, time, account in lines}  # another account may have the same hash
    renamed = {digest: (account, time) for digest, time, account in lines if account not in settings.account_addresses}
    for account in settings.accounts if replaced else ():
        digest = digest_hash(account.password)
        if time := replaced.get((account.address, digest)):
            yield (
                f"{account.address} got a new password on this server by `mailkeepctl passwd`, at {time}. mail.yml has "
                "the one before, and a deploy would bring it back. Run "
                f"`mailkeep account passwd NAME {account.address} --from-host` to take over the new one, then deploy."
            )
        elif digest in renamed:
            former, time = renamed[digest]
            yield (
                f"{account.address} has the password that {former} had until `mailkeepctl passwd` replaced it on this "
                f"server, at {time}. A deploy would bring it back. Run `mailkeep account passwd NAME "
                f"{account.address}` to set a new one, then deploy."
            )


def _lockout_problems(settings: Settings, login: Login, facts: HostFacts) -> Iterator[str]:
    if login.port is not None and login.port != settings.ssh.port:
        yield (
            f"You logged in on SSH port {login.port}, but mail.yml says ssh.port: {settings.ssh.port}. The firewall "
            f"would lock you out. Set ssh.port: {login.port}."
        )
    for network in settings.firewall.block:
        if login.client and ip_address(login.client) in network:
            yield (
                f"You logged in from {login.client}, but mail.yml blocks {network} (firewall.block). The firewall "
                "would cut you off. Remove that network from the list, or deploy from elsewhere."
            )
    if not facts.has_key and (login.user == "root" or not settings.ssh.passwords):
        alternative = "" if login.user == "root" else ", or set ssh.passwords: true"
        yield (
            f"{login.user} has no SSH key on the host, and cannot log in with a password after the deploy. Add a key "
            f"with `ssh-copy-id`{alternative}."
        )


def _warnings(settings: Settings, facts: HostFacts) -> Iterator[str]:
    if "." in facts.hostname and facts.hostname.lower() != settings.host.name:
        yield (
            f"Its hostname is {facts.hostname}, but mail.yml says {settings.host.name}. If this is the right machine, "
            f"run `hostnamectl set-hostname {settings.host.name}`."
        )
    if facts.stopped_units:
        yield (
            f"An earlier deploy stopped {', '.join(facts.stopped_units)}, to replace their packages, and has not "
            "ended: nothing may take mail until one does. A deploy goes on where that one ended; one that is refused "
            "starts them again."
        )
    yield from _cut_off_warnings(settings, facts)
    for package in facts.other_timekeepers:
        yield (
            f"{package} sets the clock. The deploy installs systemd-timesyncd, and APT removes {package} with it. If "
            "you need a certain time server, name it in /etc/systemd/timesyncd.conf afterwards."
        )
    if facts.listeners is None:
        yield "Mailkeep cannot tell whether the mail ports are free: ss is missing (`apt-get install iproute2`)."
    yield from foreign_firewalls.describe_firewalls(
        settings, facts.nft_ruleset, facts.iptables_rules, facts.running_firewalls, facts.interface
    )
    yield from foreign_firewalls.describe_jails(facts.jail_files)
    if not facts.passed_before:
        for file in facts.foreign_files:
            if file.startswith("/etc/dovecot"):
                yield (
                    f"{file} will be replaced; a copy goes to {BACKUPS}. The mailboxes of that Dovecot stay where they "
                    "are, but the new one does not read them."
                )


def list_listeners_cut_off(settings: Settings, facts: HostFacts) -> list[Listener]:
    """Those that strangers reach until the first deploy, and that its firewall or configuration does not let in."""
    if facts.is_built:
        return []
    return [listener for listener in facts.listeners or () if _is_cut_off(settings, listener)]


def _is_cut_off(settings: Settings, listener: Listener) -> bool:
    if _is_loopback(listener.address) or set(listener.programs) & OTHER_DAEMONS:
        return False
    if settings.resolver == "local" and OTHER_RESOLVER in listener.programs:
        return False  # for names of the local network; the deploy stops it
    doors = {(protocol, port) for protocol, port, _ in firewall.list_doors(settings)}
    if listener.protocol == "udp":
        return listener.port not in DHCP_CLIENT_PORTS and ("udp", listener.port) not in doors
    return ("tcp", listener.port) not in doors or _loses_service(listener)


def _loses_service(listener: Listener) -> bool:
    """A Dovecot's POP3: Mailkeep's configuration serves IMAP and ManageSieve only, whatever the firewall lets in."""
    return "dovecot" in listener.programs and listener.port not in firewall.MAIL_PORTS


def _is_loopback(address: str) -> bool:
    name, _, interface = address.strip("[]").partition("%")
    return name == "::1" or name.startswith("127.") or interface.rstrip("]") == "lo"


def _cut_off_warnings(settings: Settings, facts: HostFacts) -> Iterator[str]:
    if not facts.is_built:
        yield from foreign_firewalls.describe_forwarding(settings, facts.nft_ruleset, facts.iptables_rules)
    listeners = list_listeners_cut_off(settings, facts)
    if forwarded := [listener for listener in listeners if DOCKER_PROXY in listener.programs]:
        yield (
            f"After the deploy, strangers still reach: {_join(forwarded)}. The reason: docker forwards these packets "
            "past Mailkeep's firewall. Publish the port on 127.0.0.1, or name it under `firewall.open` in mail.yml."
        )
    listeners = [listener for listener in listeners if listener not in forwarded]
    for reason, remedy, group in (
        (
            "Mailkeep's Dovecot serves IMAP and ManageSieve only",
            "Tell its users to change to IMAP before you deploy.",
            [listener for listener in listeners if _loses_service(listener)],
        ),
        (
            "the firewall lets in SSH, mail and the ports of `firewall.open` only",
            "To keep one, name its port under `firewall.open` in mail.yml before you deploy; else stop it.",
            [listener for listener in listeners if listener.protocol == "tcp" and not _loses_service(listener)],
        ),
        (
            "the firewall lets in no UDP but the ports of `firewall.open`",
            "To keep one, name it there as `PORT/udp` before you deploy; else stop it.",
            [listener for listener in listeners if listener.protocol == "udp"],
        ),
    ):
        if group:
            yield f"After the deploy, nobody reaches from outside: {_join(group)}. The reason: {reason}. {remedy}"


def _join(listeners: Iterable[Listener]) -> str:
    return ", ".join(dict.fromkeys(map(str, listeners)))


def closed_port_warning(peer: OutboundPeer) -> str:
    """The warning that the host could not connect to `peer`."""
    if peer.is_relay:
        return (
            f"{peer.name} does not answer this host on port {peer.port} within {CONNECT_TIMEOUT} seconds: mail will "
            "wait in the queue. Check `relay` in mail.yml, and the provider's firewall."
        )
    return (
        f"Outbound port {peer.port} seems to be closed: {peer.name} does not answer this host within {CONNECT_TIMEOUT} "
        "seconds. Most providers open it on request. Otherwise send all mail through a relay host: set "
        "`relay: {host: …, port: 587, user: …}` in mail.yml."
    )


def sudo_problem(login: Login, can_ask: bool) -> tuple[str, str] | None:
    """Why the login cannot become root, and the remedy. `can_ask`: a password is known, or can be asked for."""
    if not login.sudo or ("password is required" in login.sudo and can_ask):
        return None
    return (
        f"{login.user} is not root, and sudo says: {login.sudo}",
        f"Log in as root, or let {login.user} use sudo without a password (visudo: `{login.user} ALL=(ALL) NOPASSWD: "
        "ALL`), or run this at a terminal, where it asks for the password.",
    )


def is_takeover(facts: HostFacts) -> bool:
    """Whether the deploy takes the host over: for the first time, or from another mail server."""
    return not facts.passed_before or bool(facts.other_mtas)
