"""File trees of foreign servers, and what the collecting program sees in one."""

import os
import subprocess
from functools import partial
from pathlib import Path

from mailkeep.inventory.dkim_keys import generate_dkim_pem
from mailkeep.moving_in import remote_reader, weak_passwords
from mailkeep.moving_in.inspection import Inspection, inspect_observed
from mailkeep.moving_in.observed import Observed, parse_collection

GOOD_PASSWORD = "violet-kettle-9-orbit-lamp"  # noqa: S105
DKIM_PEM = generate_dkim_pem()
MESSAGE = "From: someone@example.com\nSubject: hello\nMessage-ID: <{0}@example.com>\n\nhello {0}\n"
POSTCONF = """\
alias_maps = hash:/etc/aliases
inet_interfaces = all
message_size_limit = 52428800
mydestination = $myhostname, example.org, example.net, localhost.localdomain, localhost
myhostname = mail.example.org
myorigin = /etc/mailname
virtual_alias_domains = example.com
virtual_alias_maps = hash:/etc/postfix/virtual
"""
DOVECONF = """\
# 2.3.19.1 (9b53102964): /etc/dovecot/dovecot.conf
mail_location = maildir:~/Maildir
passdb {
  driver = pam
}
userdb {
  driver = passwd
}
"""
ALIASES = """\
# See man 5 aliases for format
mailer-daemon: postmaster
postmaster: root
nobody: root
root: anna, "admin@elsewhere.example"
sales: anna,
   bert
support: "|/usr/bin/vacation anna, bert", bert
archive: /var/mail/archive
info: test
loop1: loop2
loop2: loop1
"""
VIRTUAL = """\
example.com anything
shop@example.com anna
anna@example.org anna@example.org, backup@elsewhere.example
@example.com bert
office@example.org sales@example.org
"""


def make_hash(password: str, setting: str) -> str:
    return weak_passwords.hash_like(password, setting)


def write_tree(root: Path, files: dict[str, str | bytes]) -> Path:
    """Files by path; a key that ends in a slash is a directory, with as many messages as its value says."""
    for path, content in files.items():
        target = root / path.lstrip("/")
        if path.endswith("/"):
            for name in ("cur", "new", "tmp"):
                (target / name).mkdir(parents=True, exist_ok=True)
            for number in range(int(content)):
                (target / "cur" / f"{number}.M1P1.mail:2,S").write_text(MESSAGE.format(number))
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def collect(root: Path) -> Observed:
    done = subprocess.run(
        ["sh", "-s"],
        input=remote_reader.PROGRAM.read_bytes(),
        env={**os.environ, "MAILKEEP_TREE": str(root)},
        capture_output=True,
        check=True,
    )
    assert done.stderr == b"", done.stderr
    return parse_collection(done.stdout)


def inspect_tree(root: Path) -> Inspection:
    return inspect_observed(collect(root), partial(weak_passwords.try_passwords, seconds_per_hash=0.3))


def mbox(*subjects: str) -> str:
    return "".join(f"From someone@example.com Mon Jan  5 10:00:00 2026\n{MESSAGE.format(s)}\n" for s in subjects)


def linux_server() -> dict[str, str | bytes]:
    """A server as a guide's reader makes it: Linux accounts, configured by hand."""
    passwd = {
        "root": (0, "/root", ""),
        "mail": (8, "/var/mail", ""),
        "www-data": (33, "/var/www", ""),
        "systemd-network": (998, "/", ""),
        "anna": (1000, "/home/anna", "Anna Example,,,"),
        "bert": (1001, "/home/bert", "Bert"),
        "test": (1002, "/home/test", ""),
        "steam": (1003, "/home/steam", ""),
        "alarm": (1004, "/home/alarm", ""),
        "dora": (1005, "/home/dora", ""),
        "empty": (1006, "/home/empty", ""),
        "locked": (1007, "/home/locked", ""),
        "old": (1008, "/home/old", ""),
        "android": (1009, "/home/android", ""),
        "nobody": (65534, "/nonexistent", ""),
    }
    shadow = {
        "root": "*",
        "mail": "*",
        "www-data": "*",
        "systemd-network": "!*",
        "anna": make_hash(GOOD_PASSWORD, "$6$rounds=1000$saltsalt"),
        "bert": make_hash(GOOD_PASSWORD, "$y$j75$saltsalt"),
        "test": make_hash("test", "$y$j75$saltsalt"),
        "steam": make_hash("steam", "$6$rounds=1000$saltsalt"),
        "alarm": make_hash("alarm", "$1$saltsalt"),
        "dora": make_hash(GOOD_PASSWORD, "$6$rounds=1000$saltsalt"),
        "empty": "",
        "locked": "!" + make_hash(GOOD_PASSWORD, "$6$rounds=1000$saltsalt"),
        "old": make_hash(GOOD_PASSWORD, "$1$saltsalt"),
        "android": make_hash(GOOD_PASSWORD, "$6$rounds=1000$saltsalt"),
        "nobody": "*",
    }
    return {
        "/etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
        "/etc/hostname": "mail\n",
        "/etc/mailname": "example.org\n",
        "/etc/passwd": "".join(
            f"{name}:x:{uid}:{uid}:{gecos}:{home}:/bin/bash\n" for name, (uid, home, gecos) in passwd.items()
        ),
        "/etc/shadow": "".join(f"{name}:{password}:20000:0:99999:7:::\n" for name, password in shadow.items()),
        "/etc/login.defs": "UID_MIN\t\t\t 1000\nUID_MAX\t\t\t60000\n",
        "/etc/aliases": ALIASES,
        "/etc/postfix/main.cf": POSTCONF,
        "/etc/postfix/virtual": VIRTUAL,
        "/etc/postfix/sasl_passwd": "[smtp.example.net]:587 anna:secret\n",
        "/etc/postfix/virtual.db": b"\0\0",
        "/etc/opendkim.conf": "Domain example.org\nSelector mail\nKeyFile /etc/dkimkeys/mail.private\nMode sv\n",
        "/etc/dkimkeys/mail.private": DKIM_PEM,
        "/etc/cron.d/report": "MAILTO=anna\n# a comment\n0 5 * * * backup /usr/local/bin/report\n",
        "/etc/cron.d/quiet": "0 5 * * * root /usr/local/bin/quiet\n",
        "/var/spool/cron/crontabs/bert": "@daily df -h | mail -s disk anna\n",
        "/home/anna/Maildir/": "3",
        "/home/anna/Maildir/.Sent/": "2",
        "/home/anna/Maildir/.Entw&APw-rfe/": "0",
        "/home/anna/.forward": "\\anna, anna@elsewhere.example\n",
        "/home/bert/.dovecot.sieve": 'require "fileinto";\n',
        "/home/bert/mail/Sent": mbox("sent"),
        "/var/mail/bert": mbox("one", "two"),
        "/var/mail/test": mbox("spam"),
        "/var/mail/old": mbox("old"),
        "/var/mail/locked": mbox("locked"),
        "/var/mail/android": mbox("bounce"),
        "/var/mail/root": mbox("cron"),
        "/var/log/mail.log": (
            "Jan  5 10:00:00 mail dovecot: imap-login: Login: user=<anna>, method=PLAIN\n"
            "Jan  6 10:00:00 mail dovecot: imap-login: Logged in: user=<anna>, method=PLAIN\n"
            "Jan  6 10:00:00 mail postfix/submission/smtpd[1]: AB: client=x[192.0.2.1], sasl_method=PLAIN, "
            "sasl_username=bert\n"
            "Jan  6 10:00:01 mail postfix/submission/smtpd[1]: warning: x[192.0.2.1]: SASL PLAIN authentication failed:"
            " sasl_username=dora\n"
        ),
        "/commands/postconf": POSTCONF,
        "/commands/doveconf": DOVECONF,
        "/commands/hostname": "mail.example.org\n",
        "/commands/addresses": "2: eth0    inet 203.0.113.25/24 brd x scope global eth0\n",
        "/commands/lastlog": "Username         Port     From             Latest\nanna  pts/0  192.0.2.1  Mon Jan  5\n",
        "/commands/listening": (
            'tcp   LISTEN 0      100          0.0.0.0:25         0.0.0.0:*    users:(("master",pid=1,fd=13))\n'
            'tcp   LISTEN 0      511             [::]:443           [::]:*    users:(("nginx",pid=2,fd=6))\n'
            'tcp   LISTEN 0      511             *:110           *:*    users:(("dovecot",pid=3,fd=6))\n'
            'tcp   LISTEN 0      80         127.0.0.1:3306       0.0.0.0:*    users:(("mariadbd",pid=4,fd=6))\n'
            "udp   UNCONN 0      0            0.0.0.0:51820      0.0.0.0:*\n"
            'udp   UNCONN 0      0            0.0.0.0%eth0:68    0.0.0.0:*    users:(("dhclient",pid=5,fd=6))\n'
        ),
    }
