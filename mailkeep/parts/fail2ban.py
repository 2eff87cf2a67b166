"""fail2ban: whoever guesses passwords or abuses SMTP is cut off by the firewall, for longer each time."""

from mailkeep.errors import UserError
from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit
from mailkeep.settings.fields import SERVICES
from mailkeep.settings.models import Settings
from mailkeep.templating import render_template

MAIL = ("smtp", "submissions", "submission", "imap", "imaps")
MAXRETRY = 5
MAX_BAN = "4w"
# Longer than the longest ban, so that who comes back after it is still known.
BAN_MEMORY = "8w"

JAILS = ("sshd", "postfix", "dovecot", "recidive")
FILTERS = {
    # What each must see: `fail2ban-client --test` compiles no pattern, and fail2ban starts without the jail.
    "dovecot": "dovecot[1]: auth(a@example.org,192.0.2.1,sasl:plain): passwd-file: unknown user",
    "postfix": "postfix/smtpd[1]: NOQUEUE: too many errors after AUTH from unknown[192.0.2.1]",
}
DROP_IN = f"{SYSTEMD}/fail2ban.service.d"


def port_list(jail: str, names: tuple[str, ...]) -> str:
    """The ports of a jail, as its `port` takes them. A name that no service has is an error: nft would refuse
    the rule, and fail2ban go on looking healthy without banning anyone."""
    unknown = [name for name in names if name not in SERVICES]
    if unknown:
        raise UserError(
            f"fail2ban jail {jail}: no service is called {', '.join(map(repr, unknown))}; "
            f"known are {', '.join(SERVICES)}"
        )
    return ",".join(str(SERVICES[name]) for name in names)


def banned_ports_by_jail(settings: Settings) -> dict[str, tuple[int, ...] | None]:
    """The ports that each jail closes to who it bans; None: all."""
    mail = tuple(sorted({SERVICES[name] for name in MAIL}))
    return {"sshd": (settings.ssh.port,), "postfix": mail, "dovecot": mail, "recidive": None}


def _filter(name: str) -> str:
    return f"/etc/fail2ban/filter.d/mailkeep-{name}.conf"


def _matches(filter_file: str, message: str) -> str:
    """Fails, with what fail2ban makes of it, when the filter finds no address in a log line with this message."""
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
        longest=MAX_BAN,
    )
    return Part(
        name="fail2ban",
        # fail2ban only recommends nftables, which its bans need.
        packages=("fail2ban", "nftables"),
        directories=(Directory(DROP_IN),),
        files=(
            File(
                "/etc/fail2ban/fail2ban.d/mailkeep.local",
                render_template("fail2ban/fail2ban.d/mailkeep.local", remembered=BAN_MEMORY),
            ),
            File("/etc/fail2ban/jail.d/mailkeep.local", jails),
            *(File(_filter(name), render_template("fail2ban/filter.d/mailkeep-" + name + ".conf")) for name in FILTERS),
            File(f"{DROP_IN}/mailkeep.conf", render_template("fail2ban/service.d/mailkeep.conf")),
        ),
        units=(Unit("fail2ban.service", restart_on=("/etc/fail2ban/", DROP_IN)),),
        checks=(
            Check("fail2ban-client --test", reads=("/etc/fail2ban/",)),
            *(Check(_matches(_filter(name), line), reads=(_filter(name),)) for name, line in FILTERS.items()),
        ),
    )
