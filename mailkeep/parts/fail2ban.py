"""fail2ban: the firewall bans addresses that guess passwords or abuse SMTP, for longer each time."""

from mailkeep.errors import UserError
from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit
from mailkeep.settings.models import Settings
from mailkeep.settings.numbers import SERVICES
from mailkeep.templating import render_template

MAIL = ("smtp", "submissions", "submission", "imap", "imaps")
MAXRETRY = 5
MAX_BAN = "4w"
# Longer than the longest ban, so that an address that returns after it is still known.
BAN_MEMORY = "8w"

JAILS = ("sshd", "postfix", "dovecot", "recidive")
FILTERS = {
    # A log line that each filter must match. `fail2ban-client --test` compiles no pattern, and with a broken one
    # fail2ban starts without the jail.
    "dovecot": "dovecot[1]: auth(a@example.org,192.0.2.1,sasl:plain): passwd-file: unknown user",
    "postfix": "postfix/smtpd[1]: NOQUEUE: too many errors after AUTH from unknown[192.0.2.1]",
}
DROP_IN = f"{SYSTEMD}/fail2ban.service.d"


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
    """The ports from which each jail bans an address; None: all ports."""
    mail = tuple(sorted({SERVICES[name] for name in MAIL}))
    return {"sshd": (settings.ssh.port,), "postfix": mail, "dovecot": mail, "recidive": None}


def _filter_path(name: str) -> str:
    return f"/etc/fail2ban/filter.d/mailkeep-{name}.conf"


def _filter_test(filter_file: str, message: str) -> str:
    """A command that fails, with fail2ban's output, unless the filter finds an address in this log message."""
    line = f"2026-01-01T00:00:00+00:00 mail {message}"
    return (
        f"out=$(fail2ban-regex '{line}' {filter_file}) && echo \"$out\" | grep -q ' 1 matched' || "
        '{ echo "$out" >&2; exit 1; }'
    )


def build_part(settings: Settings) -> Part:
    jails = render_template(
        "fail2ban/jail.d/mailkeep.local",
        never_banned=("127.0.0.0/8", "::1", *settings.host.addresses, *settings.admin.networks),
        ports={
            "sshd": settings.ssh.port,
            "postfix": port_list("postfix", MAIL),
            "dovecot": port_list("dovecot", MAIL),
        },
        maxretry=MAXRETRY,
        max_ban=MAX_BAN,
    )
    return Part(
        name="fail2ban",
        # Bans need nftables, which fail2ban only recommends.
        packages=("fail2ban", "nftables"),
        directories=(Directory(DROP_IN),),
        files=(
            File(
                "/etc/fail2ban/fail2ban.d/mailkeep.local",
                render_template("fail2ban/fail2ban.d/mailkeep.local", ban_memory=BAN_MEMORY),
            ),
            File("/etc/fail2ban/jail.d/mailkeep.local", jails),
            *(
                File(_filter_path(name), render_template("fail2ban/filter.d/mailkeep-" + name + ".conf"))
                for name in FILTERS
            ),
            File(f"{DROP_IN}/mailkeep.conf", render_template("fail2ban/service.d/mailkeep.conf")),
        ),
        units=(Unit("fail2ban.service", restart_on=("/etc/fail2ban/", DROP_IN)),),
        checks=(
            Check("fail2ban-client --test", reads=("/etc/fail2ban/",)),
            *(
                Check(_filter_test(_filter_path(name), line), reads=(_filter_path(name),))
                for name, line in FILTERS.items()
            ),
        ),
    )
