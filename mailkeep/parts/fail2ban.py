"""fail2ban: the firewall bans addresses that guess passwords or abuse SMTP, for longer each time."""

from mailkeep.errors import UserError
from mailkeep.parts import firewall, server_package
from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit
from mailkeep.settings.models import Settings
from mailkeep.settings.numbers import SERVICES
from mailkeep.templating import render_template
from mailkeep_server.common.ban_proof import JailRules

LOGINS = ("submissions", "submission", "imap", "imaps", "sieve")
MAIL = ("smtp", *LOGINS)
MAXRETRY = 5
FINDTIME, BANTIME = 3600, 900  # seconds
RECIDIVE_MAXRETRY, RECIDIVE_FINDTIME, RECIDIVE_BANTIME = 3, 86400, 7 * 86400
MAX_BAN = "4w"
# Longer than the longest ban, so that an address that returns after it is still known.
BAN_MEMORY = "8w"

JAILS = ("sshd", "postfix", "dovecot", "managesieve", "recidive")
FILTERS = {
    # A log line that each filter must match. `fail2ban-client --test` compiles no pattern, and with a broken one
    # fail2ban starts without the jail.
    "sshd": "sshd-session[1]: Invalid user test from 192.0.2.1 port 1",
    "dovecot": "dovecot[1]: auth(a@example.org,192.0.2.1,sasl:plain): lua: db-lua: another wrong password",
    "managesieve": (
        "dovecot[1]: auth(a@example.org,192.0.2.1,sasl:plain): lua: db-lua: another wrong password, for sieve"
    ),
    "postfix": "postfix/smtpd[1]: NOQUEUE: too many errors after AUTH from unknown[192.0.2.1]",
    "recidive": "fail2ban-server[1]: fail2ban.actions [1]: NOTICE  [sshd] Ban 2001:db8:1:2::/64",
}
DATABASE = "/var/lib/fail2ban/fail2ban.sqlite3"
ACTION = "/etc/fail2ban/action.d/mailkeep-nftables.conf"
DROP_IN = f"{SYSTEMD}/fail2ban.service.d"
PROGRAM = tuple(
    f"{server_package.DIRECTORY}/mailkeep_server/{module}" for module in ("ban_networks.py", "common/networks.py")
)
"""What fail2ban runs of Mailkeep's."""
CAPABILITIES = ("cap_net_admin", "cap_dac_read_search")
"""Of fail2ban's process, as its drop-in says: to change the firewall, and to read logs of other users and groups."""
LOG_GROUP = "adm"
"""Debian's group for logs. In a container, the second capability may be missing."""


def port_list(jail: str, names: tuple[str, ...]) -> str:
    """The jail's ports, for its option `port`. Raises UserError for an unknown name: nft would refuse the rule, and
    fail2ban would look healthy without banning anyone."""
    unknown = [name for name in names if name not in SERVICES]
    if unknown:
        raise UserError(
            f"fail2ban jail {jail}: no service is called {', '.join(map(repr, unknown))}. "
            f"Use one of {', '.join(SERVICES)}."
        )
    return ",".join(str(SERVICES[name]) for name in names)


def banned_ports_by_jail(settings: Settings) -> dict[str, tuple[int, ...] | None]:
    """The ports from which each jail bans an address; None: all ports.

    Port 25 belongs to other mail servers. Only what a client does there closes it: a guesser may sit behind the webmail
    or the web server of an honest provider, whose mail must arrive all the same.
    """
    mail, logins = (tuple(sorted({SERVICES[name] for name in names})) for names in (MAIL, LOGINS))
    others = list_ports_but_smtp(settings)
    return {"sshd": (settings.ssh.port,), "postfix": mail, "dovecot": logins, "managesieve": logins, "recidive": others}


def list_ports_but_smtp(settings: Settings) -> tuple[int, ...]:
    """The open ports of logins and of the web. Those of forwarded connections are open to one machine, which is never
    banned."""
    ports = {port for protocol, port, _ in firewall.list_doors(settings) if protocol == "tcp"}
    return tuple(sorted(ports - {SERVICES["smtp"], *firewall.forwarded_ports(settings)}))


def rules_by_jail(settings: Settings) -> dict[str, JailRules]:
    """What each jail does, and whom it never bans."""
    ignored = ("127.0.0.0/8", "::1", *map(str, settings.never_banned))
    numbers = dict.fromkeys(JAILS, (MAXRETRY, FINDTIME, BANTIME))
    numbers["recidive"] = (RECIDIVE_MAXRETRY, RECIDIVE_FINDTIME, RECIDIVE_BANTIME)
    ports = banned_ports_by_jail(settings)
    return {jail: JailRules(ports[jail], *numbers[jail], ignored) for jail in JAILS}


def _filter_path(name: str) -> str:
    return f"/etc/fail2ban/filter.d/mailkeep-{name}.conf"


def _filter_test(filter_file: str, message: str) -> str:
    """A command that fails, with fail2ban's output, unless the filter finds an address in this log message."""
    line = f"2026-01-01T00:00:00+00:00 mail {message}"
    return (
        f"out=$(fail2ban-regex '{line}' {filter_file}) && echo \"$out\" | grep -q ' 1 matched' || "
        '{ echo "$out" >&2; exit 1; }'
    )


def _start_test() -> str:
    """A command that fails unless fail2ban can start with all jails, the operator's own too: `fail2ban-client --test`
    opens no log and compiles no pattern, and with one such fault in one jail, fail2ban starts none.

    It runs with the rights that the service has, which sees files of its own in /tmp.
    """
    capabilities = ",".join(name.replace("cap_", "+") for name in CAPABILITIES)
    program = render_template("fail2ban/start_test.py").decode()
    rights = f"--bounding-set=-all,{capabilities} --groups root,{LOG_GROUP} --no-new-privs"
    return (
        f"unshare --mount sh -euc 'mount -t tmpfs tmpfs /tmp; mount -t tmpfs tmpfs /var/tmp; "
        f"exec setpriv {rights} python3 -I -' <<'PROGRAM'\n{program}PROGRAM"
    )


def build_part(settings: Settings) -> Part:
    jails = render_template(
        "fail2ban/jail.d/mailkeep.local",
        rules=rules_by_jail(settings),
        ports={
            "sshd": settings.ssh.port,
            "postfix": port_list("postfix", MAIL),
            "dovecot": port_list("dovecot", LOGINS),
            "managesieve": port_list("managesieve", LOGINS),
            "recidive": ",".join(map(str, list_ports_but_smtp(settings))),
        },
        max_ban=MAX_BAN,
    )
    return Part(
        name="fail2ban",
        # Bans need nftables, which fail2ban only recommends.
        packages=("fail2ban", "nftables"),
        directories=(Directory("/etc/fail2ban"), Directory("/etc/fail2ban/jail.d"), Directory(DROP_IN)),
        files=(
            File(
                "/etc/fail2ban/fail2ban.d/mailkeep.local",
                render_template("fail2ban/fail2ban.d/mailkeep.local", ban_memory=BAN_MEMORY),
            ),
            File("/etc/fail2ban/jail.d/mailkeep.local", jails),
            File(ACTION, render_template("fail2ban/action.d/mailkeep-nftables.conf")),
            *(
                File(_filter_path(name), render_template("fail2ban/filter.d/mailkeep-" + name + ".conf"))
                for name in FILTERS
            ),
            File(
                f"{DROP_IN}/mailkeep.conf",
                render_template(
                    "fail2ban/service.d/mailkeep.conf",
                    capabilities=CAPABILITIES,
                    group=LOG_GROUP,
                    python=server_package.PYTHON,
                ),
            ),
        ),
        kept=(DATABASE,),
        units=(Unit("fail2ban.service", restart_on=("/etc/fail2ban/", DROP_IN, *PROGRAM)),),
        checks=(
            Check("fail2ban-client --test", reads=("/etc/fail2ban/",)),
            Check(_start_test(), reads=("/etc/fail2ban/", DROP_IN)),
            *(
                Check(_filter_test(_filter_path(name), line), reads=(_filter_path(name),))
                for name, line in FILTERS.items()
            ),
        ),
    )
