"""Dovecot: IMAP, delivery, and the accounts that both it and Postfix know; no Linux account is one of them."""

from mailkeep.part import SYSTEMD, Check, Directory, File, Part, Unit, User
from mailkeep.parts import certificates, guard
from mailkeep.settings import Settings
from mailkeep.templates import render

CONF = "/etc/dovecot/dovecot.conf"
USERS = "/etc/dovecot/users"
MAIL = "/var/vmail"
DROP_IN = f"{SYSTEMD}/dovecot.service.d"
DEFAULT_QUOTA = "1G"


def part(settings: Settings) -> Part:
    conf = render(
        "dovecot/dovecot.conf",
        tls=certificates.PEM,
        trash_days=settings.retention.trash_days,
        default_quota=DEFAULT_QUOTA,
        frozen=guard.FROZEN,
    )
    return Part(
        name="dovecot",
        packages=("dovecot-imapd", "dovecot-lmtpd", "dovecot-sieve"),
        users=(User("vmail", home=MAIL),),
        directories=(Directory(MAIL, "vmail", "vmail", 0o700), Directory(DROP_IN)),
        files=(
            File(CONF, conf),
            # Dovecot looks at its time of change and reads it anew by itself.
            File(USERS, render("dovecot/users", accounts=settings.accounts), "root", "dovecot", 0o640, secret=True),
            File(f"{DROP_IN}/mailkeep.conf", render("dovecot/service.d/mailkeep.conf")),
        ),
        units=(Unit("dovecot.service", restart_on=(DROP_IN,), reload_on=(CONF, certificates.DIRECTORY)),),
        checks=(Check(f"doveconf -c {CONF} -n", reads=("/etc/dovecot", certificates.DIRECTORY)),),
    )
