"""Dovecot: IMAP, delivery, and the accounts that both it and Postfix know; no Linux account is one of them."""

from collections.abc import Iterator

from mailkeep.parts import certificates, guard, postfix
from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit, User
from mailkeep.settings.fields import strip_extension
from mailkeep.settings.models import Settings
from mailkeep.settings.sections import Account
from mailkeep.templating import render_template

CONF = "/etc/dovecot/dovecot.conf"
USERS = "/etc/dovecot/users"
ALIASES = "/etc/dovecot/aliases"
MAIL = "/var/vmail"
DROP_IN = f"{SYSTEMD}/dovecot.service.d"
DEFAULT_QUOTA = 2**30  # bytes
# Of quota for each message, which takes a block of the disk and an inode, however small it is: ext4 has blocks of 4 KiB
# and an inode for 16.
BYTES_PER_MESSAGE = 8 * 2**10
MAX_FOLDERS = 1000  # a folder takes some eight inodes


def build_part(settings: Settings) -> Part:
    conf = render_template(
        "dovecot/dovecot.conf",
        tls=certificates.PEM,
        trash_days=settings.retention.trash_days,
        default_quota=DEFAULT_QUOTA,
        default_messages=DEFAULT_QUOTA // BYTES_PER_MESSAGE,
        most_folders=MAX_FOLDERS,
        frozen=guard.FROZEN,
        aliases=ALIASES,
    )
    users = [(account.address, account.password, _quota(account)) for account in settings.accounts]
    aliases = [(alias, "", [f"userdb_user={one.address}", *_quota(one)]) for alias, one in _lead_to_one(settings)]
    return Part(
        name="dovecot",
        packages=("dovecot-imapd", "dovecot-lmtpd", "dovecot-sieve"),
        users=(User("vmail", home=MAIL),),
        directories=(Directory(MAIL, "vmail", "vmail", 0o700), Directory(DROP_IN)),
        files=(
            File(CONF, conf),
            # Dovecot looks at the time of change of both and reads them anew by itself.
            File(USERS, render_template("dovecot/users", rows=users), "root", "dovecot", 0o640, secret=True),
            File(ALIASES, render_template("dovecot/users", rows=aliases), "root", "dovecot", 0o640),
            File(f"{DROP_IN}/mailkeep.conf", render_template("dovecot/service.d/mailkeep.conf")),
        ),
        units=(Unit("dovecot.service", restart_on=(DROP_IN,), reload_on=(CONF, certificates.DIRECTORY)),),
        checks=(Check(f"doveconf -c {CONF} -n", reads=("/etc/dovecot", certificates.DIRECTORY)),),
    )


def _quota(account: Account) -> list[str]:
    if not account.quota:
        return []
    messages = account.quota // BYTES_PER_MESSAGE
    return [f"userdb_quota_storage_size={account.quota}B", f"userdb_quota_message_count={messages}"]


def _lead_to_one(settings: Settings) -> Iterator[tuple[str, Account]]:
    """Aliases with the account that each leads to, by however many others, where it is the only one."""
    accounts = {account.address: account for account in settings.accounts}
    aliases = postfix.list_aliases(settings)
    for alias in aliases:
        target = alias
        while len(targets := aliases.get(target, ())) == 1:
            target = strip_extension(targets[0])
        if account := accounts.get(target):
            yield alias, account
