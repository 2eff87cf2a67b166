"""Postfix: receives mail for our domains from anyone, sends mail of our accounts, and relays for nobody else."""

from collections.abc import Iterable, Iterator

from mailkeep.parts import certificates
from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit
from mailkeep.parts.server_package import PYTHON
from mailkeep.settings.fields import Network, strip_extension
from mailkeep.settings.models import Settings
from mailkeep.settings.numbers import PROXY_PORTS, SERVICES
from mailkeep.templating import render_template
from mailkeep_server.common import paths, spam_canary
from mailkeep_server.common.alias_patterns import STAR, to_regexp
from mailkeep_server.common.alias_reach import AliasReach
from mailkeep_server.common.bulk_folders import BULK_HEADER
from mailkeep_server.common.sender_kinds import ANSWER, BOUNCE, FORWARD, STRANGERS
from mailkeep_server.common.spam_header import OUTGOING_HEADER, VERDICT_HEADER

DIRECTORY = "/etc/postfix"
DROP_IN = f"{SYSTEMD}/postfix.service.d"
QUEUE_MINFREE = 512 * 2**20  # bytes; a tenth of the smallest disk that Mailkeep supports
ADMINISTRATIVE = ("root", "postmaster", "abuse", "mailer-daemon", "hostmaster", "webmaster")
TABLES = (
    *("mailboxes", "aliases", "lists", "sender_login", "own_domains", "alert_recipients", "report_copies"),
    "members_only",
)
REGEXPS = ("submission_headers", "alias_patterns", "list_patterns", "refused_recipients")
MEMBERS = f"{DIRECTORY}/members"
"""A table for each list to which only its members may write."""
REFUSED = "550 5.1.1 User unknown"
RELAY_PASSWORD = f"{DIRECTORY}/relay_password"
PORTS = {name: SERVICES[name] for name in ("smtp", "submission", "submissions")}
PROBE = "192.0.2.1"  # a key of any kind of table
NO_IPV6 = "inet_protocols: disabling IPv6"
ALERTS = "/var/spool/postfix/private/alerts"
UNSIGNED_ALERTS = f"{ALERTS}-unsigned"
FORWARDS = "/var/spool/postfix/private/forwards"
SPAM_SECONDS = 10
"""After which the spam filter gives up on a message."""
UNEXAMINED = "nobody looked: the spam filter was down"

REPORT_COPY = f"{paths.REPORTS_USER}@localhost"
"""Strangers cannot write to it: it is no address that Postfix accepts at RCPT."""
RELEASED = "released@localhost"
"""Where a reply that ends a hold goes, to be discarded."""

Rows = Iterator[tuple[str, str]]


def build_part(settings: Settings, relay_password: str | None) -> Part:
    """`relay_password` is needed when `settings.relay` names a user."""
    relay_rows = tuple(_relay_password_file(settings, relay_password))
    return Part(
        name="postfix",
        packages=("postfix", "libsasl2-modules") if settings.relay else ("postfix",),
        directories=(Directory(DIRECTORY), Directory(MEMBERS, purge_unmanaged=True), Directory(DROP_IN)),
        files=(
            File(f"{DIRECTORY}/main.cf", _render_main_cf(settings)),
            File(
                f"{DIRECTORY}/master.cf",
                render_template(
                    "postfix/master.cf",
                    spf_lookups=settings.own_sender_lookups,
                    forward=FORWARD,
                    answer=ANSWER,
                    bounce=BOUNCE,
                    reports_user=paths.REPORTS_USER if settings.reads_reports else "",
                    python=PYTHON,
                    forwarded_ports=PROXY_PORTS if settings.host.forwarded_from else {},
                    marks_unexamined=settings.spam.filter == "full" and settings.spam.when_down == "pass",
                ),
            ),
            File(
                f"{DIRECTORY}/submission_headers",
                render_template(
                    "postfix/submission_headers",
                    bulk_header=BULK_HEADER,
                    spam_header=VERDICT_HEADER,
                    outgoing_header=OUTGOING_HEADER,
                ),
            ),
            _table_file("mailboxes", _mailbox_rows(settings)),
            _table_file("aliases", _alias_rows(settings)),
            _table_file("alias_patterns", _pattern_rows(settings)),
            _table_file("lists", _list_rows(settings)),
            _table_file("list_patterns", _list_pattern_rows(settings)),
            _table_file("refused_recipients", ((_to_key(name), REFUSED) for name in settings.catch_all_except)),
            _table_file("members_only", _members_only_rows(settings)),
            *(
                _table_file(f"members/{name}", ((member, "OK") for member in _list_members(settings, name)))
                for name in settings.members_only
            ),
            _table_file("sender_login", _login_map_rows(settings)),
            _table_file("own_domains", _own_domain_rows(settings)),
            _table_file("own_senders", ((str(network), "OK") for network in _list_own_senders(settings))),
            _table_file("alert_recipients", ((address, "OK") for address in _list_alert_recipients(settings))),
            _table_file("report_copies", _report_copy_rows(settings)),
            *relay_rows,
            File("/etc/mailname", f"{settings.host.name}\n".encode()),
            File(f"{DROP_IN}/mailkeep.conf", render_template("postfix/service.d/mailkeep.conf")),
        ),
        absent=() if relay_rows else (RELAY_PASSWORD,),
        # Postfix reads texthash tables when a process starts, and a reload starts new processes.
        units=(Unit("postfix.service", restart_on=(DROP_IN,), reload_on=(DIRECTORY, certificates.DIRECTORY)),),
        checks=(
            Check("postfix check", reads=(DIRECTORY, certificates.DIRECTORY)),
            Check(_fail_on_output("{ postconf -n; postconf -M; } 2>&1 >/dev/null"), reads=(DIRECTORY,)),
            *(
                Check(_fail_on_output(f"postmap -q {PROBE} {table} 2>&1 >/dev/null | sort -u"), reads=(DIRECTORY,))
                for table in _list_lookup_tables()
            ),
        ),
    )


def list_declared_sockets(parts: Iterable[Part]) -> tuple[list[int], list[str]]:
    """What master listens on by the declared master.cf (master(5)): TCP ports, and stream sockets below its queue
    directory, such as `private/alerts`."""
    content = next(file.content for part in parts for file in part.files if file.path == f"{DIRECTORY}/master.cf")
    lines = [line for line in content.decode().splitlines() if line and not line.startswith(("#", " "))]
    services = [line.split() for line in lines]
    ports = [PORTS.get(name) or int(name) for name, kind, *_ in services if kind == "inet"]
    sockets = [
        f"{'public' if private == 'n' else 'private'}/{name}" for name, kind, private, *_ in services if kind == "unix"
    ]
    return ports, sockets


def _list_lookup_tables() -> Iterator[str]:
    yield from (f"texthash:{DIRECTORY}/{name}" for name in TABLES)
    yield from (f"regexp:{DIRECTORY}/{name}" for name in REGEXPS)
    yield f"cidr:{DIRECTORY}/own_senders"


def _fail_on_output(command: str) -> str:
    """A command that fails if `command` prints anything: of misspelt parameters and bad table lines, Postfix only
    warns. So it does of a kernel without IPv6, where `inet_protocols = all` is IPv4 alone."""
    return f'output=$({command} | sed "/{NO_IPV6}/d"); [ -z "$output" ] || {{ echo "$output"; exit 1; }}'


def _render_main_cf(settings: Settings) -> bytes:
    versions = {address.version for address in settings.host.addresses}
    return render_template(
        "postfix/main.cf",
        host=settings.host.name,
        domains=[*settings.domains, *([spam_canary.DOMAIN] if settings.spam.is_on else ())],
        protocols={frozenset({4}): "ipv4", frozenset({6}): "ipv6"}.get(frozenset(versions), "all"),
        source_addresses={version: _find_outbound_address(settings, version) for version in (4, 6)},
        local_senders=settings.local_senders,
        admin_networks=settings.admin.networks,
        message_size=settings.message_size,
        queue_minfree=QUEUE_MINFREE,
        queue_days=settings.retention.queue_days,
        tls=certificates.PEM,
        validating_resolver=settings.resolver == "local",
        relay=settings.relay,
        spf_lookups=settings.own_sender_lookups,
        member_lists=[f"{MEMBERS}/{name}" for name in settings.members_only],
        guard_policy=paths.GUARD_POLICY_SOCKET,
        strangers=STRANGERS,
        lines_milter=paths.LINES_MILTER_SOCKET,
        guard_milter=paths.GUARD_MILTER_SOCKET,
        report_copy=REPORT_COPY if settings.reads_reports else "",
        release_address=settings.release_address,
        release_pattern=_build_release_pattern(settings.release_address),
        transports={
            **({REPORT_COPY: "reports:"} if settings.reads_reports else {}),
            **({RELEASED: "discard:"} if settings.release_address else {}),
        },
        inbound_milter=paths.INBOUND_MILTER_SOCKET,
        guard_incoming=paths.GUARD_INCOMING_SOCKET,
        bulk_header=BULK_HEADER,
        spam=settings.spam,
        spam_milter=paths.SPAM_MILTER_SOCKET if settings.spam.filter == "full" else "",
        spam_header=VERDICT_HEADER,
        unexamined=UNEXAMINED,
        spam_seconds=SPAM_SECONDS,
    )


def _find_outbound_address(settings: Settings, version: int) -> str:
    """The first declared address. Empty with a relay host: SPF judges the relay's address, and it may be in a private
    network, which a packet from the public address does not reach."""
    addresses = () if settings.relay else settings.host.addresses
    return str(next((address for address in addresses if address.version == version), ""))


def _table_file(name: str, rows: Iterable[tuple[str, str]]) -> File:
    """Other Linux users need no list of all addresses."""
    return File(f"{DIRECTORY}/{name}", render_template("postfix/table", rows=list(rows)), "root", "postfix", 0o640)


def list_aliases(settings: Settings) -> dict[str, tuple[str, ...]]:
    """The host's administrative addresses, that of replies, and the declared aliases, each with its direct targets."""
    administrative = (*(f"{name}@{settings.host.name}" for name in ADMINISTRATIVE), "root@localhost", "postmaster")
    replies = {settings.release_address: (RELEASED,)} if settings.release_address else {}
    return dict.fromkeys(administrative, settings.admin.addresses) | replies | settings.aliases


def _report_copy_rows(settings: Settings) -> Rows:
    if settings.reads_reports:
        for address in dict.fromkeys((settings.report_address, *settings.complaint_addresses)):
            yield address, REPORT_COPY


def _build_release_pattern(release_address: str) -> str:
    """Of an address with a code; "" without an address."""
    local_part, _, domain = release_address.replace(".", r"\.").partition("@")
    return rf"{local_part}\+[^@]+@{domain}" if release_address else ""


def _list_alert_recipients(settings: Settings) -> list[str]:
    """Those to whom the watch writes."""
    return list(dict.fromkeys((*settings.admin.addresses, *settings.confirmation_addresses.values())))


def build_reach(settings: Settings) -> AliasReach:
    """Who gets mail to each alias and catch-all."""
    own = frozenset((*settings.domains, settings.host.name, "localhost"))
    return AliasReach(list_aliases(settings), settings.catch_all, settings.account_addresses, own)


def _mailbox_rows(settings: Settings) -> Rows:
    yield from ((account.address, "mailbox") for account in settings.accounts)
    if settings.spam.is_on:
        yield spam_canary.ADDRESS, "mailbox"


def _list_rows(settings: Settings) -> Rows:
    """Aliases and catch-alls with members elsewhere: strangers' mail to these leaves the server again. An access(5)
    table finds a domain for each address of it, so accounts and other aliases beside a catch-all have rows, too."""
    if settings.spam.is_on:
        yield spam_canary.ADDRESS, "own_canary"
    reach = build_reach(settings)
    catch_all = {domain for domain in settings.catch_all if reach.count_elsewhere(f"@{domain}")}
    for alias in _list_exact_aliases(reach.aliases):
        if reach.count_elsewhere(alias):
            yield alias, "ask_about_list"
        elif alias.rpartition("@")[2] in catch_all:
            yield alias, "DUNNO"
    for account in settings.accounts if catch_all else ():
        if account.address.rpartition("@")[2] in catch_all:
            yield account.address, "DUNNO"
    yield from ((domain, "ask_about_list") for domain in catch_all)
    if catch_all:  # whose rows are found for the domains below them, too (parent_domain_matches_subdomains)
        yield from ((domain, "DUNNO") for domain in (*settings.domains, settings.host.name) if domain not in catch_all)


def _alias_rows(settings: Settings) -> Rows:
    """virtual_alias_maps: aliases and catch-alls. With a catch-all or a pattern, every account needs a row of its own,
    or its mail would fall through to these."""
    aliases = list_aliases(settings)
    yield from ((alias, ", ".join(aliases[alias])) for alias in _list_exact_aliases(aliases))
    if settings.catch_all or len(aliases) > len(_list_exact_aliases(aliases)):
        yield from ((account.address, account.address) for account in settings.accounts)
        yield from ((f"@{domain}", target) for domain, target in settings.catch_all.items())


def _list_exact_aliases(aliases: Iterable[str]) -> list[str]:
    return [alias for alias in aliases if STAR not in alias]


def _pattern_rows(settings: Settings) -> Rows:
    """virtual_alias_maps, after the exact aliases."""
    yield from ((_to_key(alias), ", ".join(targets)) for alias, targets in settings.aliases.items() if STAR in alias)


def _list_pattern_rows(settings: Settings) -> Rows:
    """As `_list_rows`: patterns with members elsewhere. The guard itself sees which alias an address is."""
    reach = build_reach(settings)
    yield from (
        (_to_key(alias), "ask_about_list") for alias in reach.aliases if STAR in alias and reach.count_elsewhere(alias)
    )


def _to_key(name: str) -> str:
    """Of a table of regular expressions (regexp_table(5)), for an address with or without an extension."""
    before, at, domain = to_regexp(name).rpartition("@")
    return rf"/^{before}(\+[^@]*)?{at}{domain}$/"


def _members_only_rows(settings: Settings) -> Rows:
    """Restriction classes by list (main.cf)."""
    yield from ((name, f"members_{number}") for number, name in enumerate(settings.members_only))


def _list_members(settings: Settings, name: str) -> list[str]:
    """Everybody whom the list reaches, and the addresses from which the accounts among them send."""
    senders = {account.address: account.send_as for account in settings.accounts}
    members = [*map(strip_extension, build_reach(settings).members_of(name))]
    return list(dict.fromkeys(address for member in members for address in (member, *senders.get(member, ()))))


def _login_map_rows(settings: Settings) -> Rows:
    """smtpd_sender_login_maps: each address with its logins; an address in `send_as` of several accounts has
    several."""
    owners: dict[str, list[str]] = {}
    for account in settings.accounts:
        for address in (account.address, *account.send_as):
            owners.setdefault(address, []).append(account.address)
    yield from ((address, ", ".join(logins)) for address, logins in owners.items())


def _own_domain_rows(settings: Settings) -> Rows:
    """`own_sender` (main.cf) asks who the client is; SPF records say nothing about names below a domain."""
    verdict = "REJECT 5.7.1 Log in on a submission port to send as this domain"
    for domain in (*settings.domains, settings.host.name):
        yield from ((domain, "own_sender"), (f".{domain}", verdict))
    for address in settings.host.addresses:  # as an address literal (RFC 5321 §4.1.3)
        yield f"[{'IPv6:' if address.version == 6 else ''}{address}]", verdict


def _list_own_senders(settings: Settings) -> Iterator[str | Network]:
    """Clients that may send as our domains without a login, and the forwarders, which bring our own mail back."""
    yield from settings.own_sender_networks
    yield from settings.forwarders


def _relay_password_file(settings: Settings, password: str | None) -> Iterator[File]:
    relay = settings.relay
    if relay and relay.user:
        row = f"[{relay.host}]:{relay.port} {relay.user}:{password}\n"
        yield File(RELAY_PASSWORD, row.encode(), mode=0o600, secret=True)
