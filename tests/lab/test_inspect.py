"""A server of Linux accounts, set up by hand, is inspected over SSH. Its users' passwords open a Mailkeep server.

One is a Debian 13; another a Debian 12, with Dovecot 2.3 and Postfix 3.7, whose mail is imported, too.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from clients import IMAPS, SUBMISSIONS, is_accepted, log_in

from mailkeep.inventory import secrets
from mailkeep.inventory.dkim_keys import generate_dkim_pem
from mailkeep.lab import Internet, Lab, Server
from mailkeep.lab.images import OLDER_SUITE
from mailkeep.lab.site import Site
from mailkeep.moving_in.weak_passwords import hash_like
from mailkeep.settings import edit_accounts
from mailkeep.settings.load import load_settings

PASSWORD = "violet-kettle-9-orbit-lamp"  # noqa: S105
ALIASES = (
    'postmaster: root\nroot: anna, admin@elsewhere.example\nsales: anna, bert\nsupport: "|/usr/bin/vacation anna"\n'
)
VIRTUAL = "shop@moving-two.test anna\n@moving-two.test bert\n"
DOVECOT = "mail_driver = maildir\nmail_path = ~/Maildir\n"
DOVECOT_23 = "mail_location = maildir:~/Maildir\n"
SET_UP = f"""set -eu
export DEBIAN_FRONTEND=noninteractive
echo postfix postfix/main_mailer_type select Internet Site | debconf-set-selections
echo postfix postfix/mailname string moving.test | debconf-set-selections
apt-get -qq update
apt-get -qq install -y --no-install-recommends postfix dovecot-imapd cron >/dev/null 2>&1
for user in anna bert test steam dora; do useradd --create-home --shell /bin/bash $user; done
usermod --comment 'Anna Example' anna
echo 'anna:{PASSWORD}' | chpasswd --crypt-method SHA512
printf '%s\\n' 'bert:{PASSWORD}' test:test steam:steam 'dora:{PASSWORD}' | chpasswd
postconf -e myhostname=mail.moving.test 'mydestination=$myhostname, moving.test, localhost' \\
    virtual_alias_domains=moving-two.test virtual_alias_maps=hash:/etc/postfix/virtual message_size_limit=52428800
printf '{VIRTUAL}' >/etc/postfix/virtual
printf '%s' '{ALIASES}' >/etc/aliases
newaliases; postmap /etc/postfix/virtual
printf '{DOVECOT}' >/etc/dovecot/conf.d/99-by-hand.conf
for folder in Maildir Maildir/.Sent; do
    runuser -u anna -- mkdir -p /home/anna/$folder/cur /home/anna/$folder/new /home/anna/$folder/tmp
done
for number in 1 2 3; do printf 'Subject: %s\\n\\nhello\\n' $number >/home/anna/Maildir/cur/$number.M1P1.old:2,S; done
printf 'Subject: sent\\n\\nhello\\n' >/home/anna/Maildir/.Sent/cur/1.M1P1.old:2,S
chown -R anna: /home/anna/Maildir
for user in bert test; do
    printf 'From x@y.test Mon Jan  5 10:00:00 2026\\nSubject: one\\n\\nhello\\n\\n' >/var/mail/$user
    chown $user:mail /var/mail/$user
done
mkdir -p /etc/dkimkeys
printf 'Domain moving.test\\nSelector mail\\nKeyFile /etc/dkimkeys/mail.private\\n' >/etc/opendkim.conf
printf 'MAILTO=anna\\n0 5 * * * bert /usr/local/bin/report\\n' >/etc/cron.d/report
systemctl restart dovecot postfix
systemd-run --quiet --unit=web python3 -c '
import socket, time
web = socket.socket(); web.bind(("", 80)); web.listen(); time.sleep(9999)'
"""
LOG_IN = f"""exec 3<>/dev/tcp/127.0.0.1/143; read -r _ <&3
printf 'a LOGIN anna {PASSWORD}\\r\\n' >&3; read -r answer <&3
echo "$answer"; printf 'b LOGOUT\\r\\n' >&3; cat <&3 >/dev/null"""
# By Dovecot itself: a folder with an umlaut, flags, and an mbox in which it keeps UIDs.
USE_DOVECOT_23 = r"""set -eu
doveadm mailbox create -u anna -s Köln
printf 'Subject: draft\n\nhello\n' | doveadm save -u anna -m Köln
doveadm flags add -u anna '\Flagged' mailbox INBOX 1
doveadm expunge -u anna mailbox INBOX 2
mbox=mail_location=mbox:/home/bert/mail:INBOX=/var/mail/bert
doveadm -o $mbox flags add -u bert '\Seen' mailbox INBOX 1
printf 'Subject: kept\n\nhello\n' | doveadm -o $mbox save -u bert -m INBOX
doveadm -o $mbox mailbox create -u bert -s Archiv
printf 'Subject: old\n\nhello\n' | doveadm -o $mbox save -u bert -m Archiv
dovecot --version; postconf -h mail_version"""
# doveconf has a temporary file in /tmp for a moment, which changes the directory's time.
FINGERPRINT = (
    "find /etc /home /root /var/mail /var/spool/cron /var/lib/dovecot /usr/local /opt /srv /tmp/ -xdev ! -path /tmp/ "
    "-printf '%p %y %m %s %T@ %C@\\n' | sort"
)


@dataclass
class Inspected:
    """The result of `mailkeep inspect`, and the inventory that it has written."""

    directory: Path
    output: str
    data: dict[str, Any]
    fingerprints: tuple[str, str]


def run_mailkeep(*arguments: str | Path, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mailkeep", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + (done.stderr if code else "")


def list_notes(inventory: Path) -> str:
    """What `mailkeep check` notes on standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "mailkeep", "check", str(inventory)], capture_output=True, text=True, check=True
    )
    return done.stderr


@pytest.fixture(scope="module")
def dkim_pem() -> bytes:
    return generate_dkim_pem()


@pytest.fixture(scope="module")
def old(lab: Lab, dkim_pem: bytes) -> Iterator[Server]:
    server = lab.boot_server("old", hostname="mail.moving.test")
    server.run("bash -s", stdin=SET_UP, timeout=300)
    server.write("/etc/dkimkeys/mail.private", dkim_pem, mode=0o600)
    assert "a OK" in server.run("bash -s", stdin=LOG_IN).stdout
    yield server
    server.remove()


@pytest.fixture(scope="module")
def inspected(old: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inspected]:
    home = tmp_path_factory.mktemp("moving")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAILKEEP_IDENTITY", str(home / "identity"))
        yield inspect(old, home)


def inspect(old: Server, home: Path, *, with_data: bool = True) -> Inspected:
    """Without the data, the hashes are tried once only."""
    (home / "inventories").mkdir()
    options = ("--ssh-config", old.ssh_config.resolve(), "--in", home)
    host, before = f"root@{old.name}", old.run(FINGERPRINT).stdout
    data = json.loads(run_mailkeep("inspect", host, *options, "--json")) if with_data else {}
    output = run_mailkeep("inspect", host, "--name", "moving", "--address", "203.0.113.25", *options)
    return Inspected(home / "inventories" / "moving", output, data, (before, old.run(FINGERPRINT).stdout))


@pytest.fixture(scope="module")
def new(lab: Lab, internet: Internet, built_site: Site, built_image: str) -> Iterator[Site]:
    """A copy of the built server, not deployed yet."""
    server = lab.boot_server("new", hostname="mail.example.test", image=built_image)
    internet.resolve_for(server)
    yield built_site.copy_for(server)
    server.remove()


def test_inspecting_changes_nothing_on_the_old_server(inspected: Inspected) -> None:
    before, after = inspected.fingerprints
    assert {*after.splitlines()} ^ {*before.splitlines()} == set()


def test_the_draft_is_complete_and_check_accepts_it_once_it_is_answered(inspected: Inspected, dkim_pem: bytes) -> None:
    settings = load_settings(inspected.directory / "mail.yml")
    assert (settings.host.name, settings.domains) == ("mail.moving.test", ("moving.test", "moving-two.test"))
    assert {account.address: account.password.partition("$")[0] for account in settings.accounts} == {
        "anna@moving.test": "{SHA512-CRYPT}",
        "bert@moving.test": "{CRYPT}",
    }
    assert settings.accounts[0].name == "Anna Example"
    assert settings.aliases["sales@moving.test"] == ("anna@moving.test", "bert@moving.test")
    assert settings.aliases["shop@moving-two.test"] == ("anna@moving.test",)
    assert settings.catch_all == {"moving-two.test": "bert@moving.test"}
    assert settings.admin.addresses == ("anna@moving.test", "admin@elsewhere.example")
    assert settings.message_size == 50 * 2**20
    [key] = [key for key in secrets.load_secrets(settings, inspected.directory).dkim if key.domain == "moving.test"]
    assert (key.selector, key.private_pem) == ("mail", dkim_pem)

    assert "in place of TODO" in run_mailkeep("check", inspected.directory, code=1)
    hosts = inspected.directory / "inventory.py"
    hosts.write_text(hosts.read_text().replace('"TODO"', '"mail.moving.test"'))
    assert "valid. 2 accounts, 2 domains" in run_mailkeep("check", inspected.directory)


def test_accounts_with_guessed_passwords_are_refused_and_named(inspected: Inspected) -> None:
    reasons = {row["login"]: row["reason"] for row in inspected.data["accounts"] if not row["becomes_account"]}
    assert reasons.keys() == {"test", "steam", "dora"}
    assert reasons["test"] == reasons["steam"] == "its password is its own name, or nearly so"
    assert reasons["dora"].startswith("no mail")
    assert "test@moving.test  its password is its own name" in inspected.output
    assert "# - test@moving.test: its password is its own name" in (inspected.directory / "mail.yml").read_text()


def test_mailboxes_logins_listeners_and_jobs_are_told(inspected: Inspected) -> None:
    rows = {row["login"]: row for row in inspected.data["accounts"]}
    assert (rows["anna"]["messages"], rows["anna"]["logins"]) == (4, 1)
    assert [mailbox["path"] for mailbox in rows["anna"]["mailboxes"]] == ["/home/anna/Maildir"]
    assert [mailbox["path"] for mailbox in rows["bert"]["mailboxes"]] == ["/var/mail/bert"]
    assert {(row["port"], row["kind"]) for row in inspected.data["listening"]} >= {(80, "a web server")}
    assert inspected.data["cron"] == [{"file": "/etc/cron.d/report", "user": "bert", "line": "/usr/local/bin/report"}]
    assert "without a counterpart: support: |/usr/bin/vacation anna" in inspected.output


def test_the_records_are_compared_and_ordered_and_the_dkim_record_stays(
    inspected: Inspected, internet: Internet, old: Server
) -> None:
    settings = load_settings(inspected.directory / "mail.yml")
    [key] = [key for key in secrets.load_secrets(settings, inspected.directory).dkim if key.selector == "mail"]
    internet.publish(
        f"mail.moving.test. 3600 A {old.ip}\nmoving.test. 3600 MX 10 mail.moving.test.\n"
        f'moving.test. 3600 TXT "v=spf1 ip4:{old.ip} -all"\n'
        f'mail._domainkey.moving.test. TXT "k=rsa; p={key.public[:200]}" "{key.public[200:]}"\n',
        name="moving",
    )
    hosts = inspected.directory / "inventory.py"
    hosts.write_text(hosts.read_text().replace('"TODO"', '"mail.moving.test"'))
    arguments = ("dns", inspected.directory, "--moving", "--resolver", internet.resolver)
    stages: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for change in json.loads(run_mailkeep(*arguments, "--json")):
        stages.setdefault((change["name"], change["type"]), []).append((change["stage"], change["value"]))
    assert stages["mail._domainkey.moving.test", "TXT"] == [("unchanged", "")]
    assert [stage for stage, _ in stages["mail.moving.test", "A"]] == ["days before", "switch"]
    assert stages["moving.test", "TXT"] == [
        ("before", f"v=spf1 ip4:203.0.113.25 ip4:{old.ip} -all"),
        ("after", "v=spf1 ip4:203.0.113.25 ~all"),
    ]
    text = run_mailkeep(*arguments)
    assert text.index("Before the switch") < text.index("The switch") < text.index("Afterwards")


def test_users_log_in_on_a_mailkeep_server_with_the_passwords_that_came_along(new: Site, inspected: Inspected) -> None:
    """Those of the old server, and one of each kind that mail.yml takes: Dovecot verifies them all."""
    moved = load_settings(inspected.directory / "mail.yml")
    hashes = {f"{account.address.partition('@')[0]}-moved": account.password for account in moved.accounts}
    hashes |= {
        "sha256": hash_like(PASSWORD, "$5$saltsaltsaltsalt"),
        "bcrypt-y": hash_like(PASSWORD, "$2y$05$abcdefghijklmnopqrstuu"),
        "bcrypt-a": "{CRYPT}" + hash_like(PASSWORD, "$2a$05$abcdefghijklmnopqrstuu"),
        "bcrypt-b": hash_like(PASSWORD, "$2b$05$abcdefghijklmnopqrstuu"),
        "argon2i": "$argon2i$v=19$m=32768,t=4,p=1$c2FsdHNhbHRzYWx0c2FsdA$JjJfG6usoU4hQhH30UhEULArWdxytoff8XYGlfu/ZM0",
    }
    for name, password_hash in hashes.items():
        edit_accounts.add_account(new.settings_file, f"{name}@example.test", password_hash)
    deployed = new.deploy()
    assert deployed.code == 0, deployed.output
    answers = {name: log_in(str(new.server.ip), IMAPS, f"{name}@example.test", PASSWORD) for name in hashes}
    assert {name: answer for name, answer in answers.items() if not is_accepted(answer)} == {}
    assert is_accepted(log_in(str(new.server.ip), SUBMISSIONS, "bert-moved@example.test", PASSWORD))
    assert not is_accepted(log_in(str(new.server.ip), IMAPS, "anna-moved@example.test", f"{PASSWORD}x"))
    assert "anna-moved@example.test: the password's hash, sha512-crypt, is weaker" in list_notes(new.inventory)
    assert new.deploy().changed == []


def test_a_debian_12_is_inspected_and_its_users_keep_passwords_and_mail(
    lab: Lab, new: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = lab.boot_server("older", hostname="mail.moving.test", suite=OLDER_SUITE)
    monkeypatch.setenv("MAILKEEP_IDENTITY", str(tmp_path / "identity"))
    old.run("bash -s", stdin=SET_UP.replace(DOVECOT, DOVECOT_23), timeout=300)
    assert "a OK" in old.run("bash -s", stdin=LOG_IN).stdout
    versions = old.run("bash -s", stdin=USE_DOVECOT_23).stdout.split()
    assert (versions[0][:4], versions[-1][:4]) == ("2.3.", "3.7.")

    inspected = inspect(old, tmp_path, with_data=False)
    before, after = inspected.fingerprints
    assert {*after.splitlines()} ^ {*before.splitlines()} == set()
    settings = load_settings(inspected.directory / "mail.yml")
    passwords = {account.address.partition("@")[0]: account.password for account in settings.accounts}
    assert passwords.keys() == {"anna", "bert"}

    for name, password in passwords.items():
        edit_accounts.add_account(new.settings_file, f"{name}-older@example.test", password)
    deployed = new.deploy()
    assert deployed.code == 0, deployed.output
    config = ("--ssh-config", old.ssh_config.resolve(), "--json")
    for name, places in {"anna": ["home/anna/Maildir"], "bert": ["var/mail/bert", "home/bert/mail"]}.items():
        address = f"{name}-older@example.test"
        assert is_accepted(log_in(str(new.server.ip), IMAPS, address, PASSWORD))
        for place in places:
            text = run_mailkeep("import", new.inventory, address, "--from", f"ssh://root@{old.name}/{place}", *config)
            report = json.loads(text)
            assert report["differences"] == []
    fields = "mailbox flags hdr.subject"
    moved = new.server.run(f"doveadm -f tab fetch -u anna-older@example.test '{fields}' all").stdout
    assert sorted(moved.splitlines()[1:]) == sorted(
        old.run(f"doveadm -f tab fetch -u anna '{fields}' all").stdout.splitlines()[1:]
    )
    moved = new.server.run("doveadm -f tab fetch -u bert-older@example.test 'mailbox hdr.subject' all").stdout
    assert sorted(moved.splitlines()[1:]) == ["Archiv\told", "INBOX\tkept", "INBOX\tone"]
    old.remove()
