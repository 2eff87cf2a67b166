"""Dovecot: IMAP, delivery, and the accounts, which Postfix uses too. Linux accounts are not among them."""

from collections.abc import Iterator
from pathlib import Path

from mailkeep.parts import certificates, postfix, server_package
from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit, User
from mailkeep.settings.fields import strip_extension
from mailkeep.settings.models import Settings
from mailkeep.settings.numbers import PROXY_PORTS
from mailkeep.settings.sections import Account
from mailkeep.templating import render_template
from mailkeep_server.common import paths, spam_canary
from mailkeep_server.common.alias_patterns import STAR
from mailkeep_server.common.bulk_folders import BULK_HEADER

CONF = "/etc/dovecot/dovecot.conf"
USERS = paths.DOVECOT_USERS
ALIASES = "/etc/dovecot/aliases"
REPEATS = "/etc/dovecot/repeated_passwords.lua"
"""A program in Dovecot's auth process that knows wrong passwords again."""
SIEVE = "/etc/dovecot/sieve"
"""Scripts for all accounts."""
MAIL = "/var/vmail"
COMPILED_SIEVE = f"{MAIL}/.sieve"
"""vmail keeps them compiled there."""
SIEVE_PROGRAMS = "/usr/local/lib/mailkeep-sieve"
CANARY_USERS = "/etc/dovecot/canary"
DROP_IN = f"{SYSTEMD}/dovecot.service.d"
DEFAULT_QUOTA = 2**30  # bytes
# Quota bytes for each message. However small, a message takes a block and an inode: on ext4, a block has 4 KiB, and
# there is one inode for 16 KiB.
BYTES_PER_MESSAGE = 8 * 2**10
TRASH_MESSAGES = 2  # of the largest size, for which Trash has room beyond the quota
LIMIT_SESSIONS = "/usr/local/sbin/mailkeep-limit-sessions"
MAX_SESSIONS = 40  # of IMAP, for each account: some eight devices, with five connections each
MAX_SCRIPT_SIZE = 64 * 2**10  # bytes
MAX_SCRIPTS = 30  # of Sieve, for each account
MAX_REDIRECTS = 10  # by one script, of one message
CANARY_QUOTA = 2**20  # bytes
MAX_FOLDERS = 1000  # for each account; a folder takes some eight inodes


def build_part(settings: Settings) -> Part:
    has_filter = settings.spam.is_on
    scripts = _build_scripts(settings)
    learning = _build_learning(settings)
    conf = render_template(
        "dovecot/dovecot.conf",
        # Where the kernel has no IPv6, Dovecot would not start with `::`; Postfix goes on with a warning.
        listen="*, ::" if any(address.version == 6 for address in settings.host.addresses) else "*",
        tls=certificates.PEM,
        trash_days=settings.retention.trash_days,
        trash_extra=TRASH_MESSAGES * settings.message_size,
        default_quota=DEFAULT_QUOTA,
        default_messages=DEFAULT_QUOTA // BYTES_PER_MESSAGE,
        max_folders=MAX_FOLDERS,
        frozen=paths.FREEZE_LIST,
        repeats=REPEATS,
        limit_sessions=LIMIT_SESSIONS,
        max_script_size=MAX_SCRIPT_SIZE,
        max_scripts=MAX_SCRIPTS,
        max_redirects=MAX_REDIRECTS,
        sieve_directory=SIEVE,
        sieve_programs=SIEVE_PROGRAMS,
        compiled=COMPILED_SIEVE,
        global_scripts=list(scripts),
        spam=has_filter,
        canary_users=CANARY_USERS,
        canary_mailbox=paths.CANARY_MAILBOX,
        python=server_package.PYTHON,
        aliases=ALIASES,
        forwarded_from=settings.host.forwarded_from,
        forwarded_ports=PROXY_PORTS,
    )
    users = [(account.address, account.password, _quota_fields(account)) for account in settings.accounts]
    aliases = [
        (alias, "", [f"userdb_user={account.address}", *_quota_fields(account)])
        for alias, account in single_account_aliases(settings)
    ]
    canary = [(spam_canary.ADDRESS, "", [f"userdb_quota_storage_size={CANARY_QUOTA}B"])]
    return Part(
        name="dovecot",
        packages=(
            "dovecot-auth-lua",
            "dovecot-imapd",
            "dovecot-lmtpd",
            "dovecot-managesieved",
            "dovecot-sieve",
            "lua5.4",
        ),
        users=(User("vmail", home=MAIL),),
        directories=(
            Directory(MAIL, "vmail", "vmail", 0o700),
            Directory(COMPILED_SIEVE, "vmail", "vmail", 0o700),
            Directory(str(Path(CONF).parent)),
            Directory(SIEVE, purge_unmanaged=True),
            Directory(DROP_IN),
        ),
        absent=() if has_filter else (CANARY_USERS,),
        files=(
            File(CONF, conf),
            File(LIMIT_SESSIONS, render_template("dovecot/limit_sessions", max_sessions=MAX_SESSIONS), mode=0o755),
            File(REPEATS, render_template("dovecot/repeated_passwords.lua")),
            # Dovecot reads them for each message, so vmail does.
            *(File(f"{SIEVE}/{name}.sieve", content) for name, content in (scripts | learning).items()),
            *([File(CANARY_USERS, render_template("dovecot/users", rows=canary))] if has_filter else ()),
            # Dovecot rereads both by itself when their time of change differs.
            File(USERS, render_template("dovecot/users", rows=users), "root", "dovecot", 0o640, secret=True),
            File(ALIASES, render_template("dovecot/users", rows=aliases), "root", "dovecot", 0o640),
            File(f"{DROP_IN}/mailkeep.conf", _render_drop_in(settings)),
        ),
        units=(Unit("dovecot.service", restart_on=(DROP_IN,), reload_on=(CONF, REPEATS, certificates.DIRECTORY)),),
        checks=(
            Check(f"doveconf -c {CONF} -n", reads=("/etc/dovecot", certificates.DIRECTORY)),
            # Without `-`, sievec would replace the file that it is told to write: even /dev/null.
            *(
                Check(
                    f"sievec -c {CONF} -d {SIEVE}/{name}.sieve - >/dev/null",
                    reads=("/etc/dovecot", certificates.DIRECTORY),
                )
                for name in (*scripts, *learning)
            ),
            Check(f"luac5.4 -p {REPEATS}", reads=(REPEATS,)),  # with a broken one, Dovecot lets nobody in
            Check(f"sh -n {LIMIT_SESSIONS}", reads=(LIMIT_SESSIONS,)),
        ),
    )


def _build_scripts(settings: Settings) -> dict[str, bytes]:
    """For all accounts, by name, in the order in which Dovecot runs them."""
    notices = f"{paths.NOTICE_SENDER}@{settings.host.name}"
    judge = {"judge": render_template("dovecot/sieve/judge.sieve")} if settings.spam.is_on else {}
    scripts = judge | {
        "junk": render_template("dovecot/sieve/junk.sieve", notices=notices),
        "bulk": render_template("dovecot/sieve/bulk.sieve", bulk_header=BULK_HEADER),
    }
    if forwards := [(account.address, account.forward) for account in settings.accounts if account.forward]:
        scripts["forwards"] = render_template("dovecot/sieve/forwards.sieve", forwards=forwards)
    return scripts


def _build_learning(settings: Settings) -> dict[str, bytes]:
    """By name, what Dovecot runs when somebody moves a message into or out of Junk."""
    names = ("learn-spam", "learn-ham") if settings.spam.is_on else ()
    return {name: render_template(f"dovecot/sieve/{name}.sieve") for name in names}


def _render_drop_in(settings: Settings) -> bytes:
    writable = (paths.LEARN_SPOOL, paths.CANARY_MAILBOX, paths.SPAM_WORDS) if settings.spam.is_on else ()
    return render_template("dovecot/service.d/mailkeep.conf", mail=MAIL, spam=writable)


def _quota_fields(account: Account) -> list[str]:
    if not account.quota:
        return []
    messages = account.quota // BYTES_PER_MESSAGE
    return [f"userdb_quota_storage_size={account.quota}B", f"userdb_quota_message_count={messages}"]


def single_account_aliases(settings: Settings) -> Iterator[tuple[str, Account]]:
    """The aliases that lead to exactly one account, through any number of other aliases; each with its account."""
    accounts = {account.address: account for account in settings.accounts}
    aliases = postfix.list_aliases(settings)
    for alias in aliases:
        if STAR in alias:  # Dovecot finds single addresses only
            continue
        target = alias
        while len(targets := aliases.get(target, ())) == 1:
            target = strip_extension(targets[0])
        if account := accounts.get(target):
            yield alias, account
