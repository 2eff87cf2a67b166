"""Servers of well-known kinds, by their documented layout: accounts, aliases, quotas, mailboxes and DKIM keys."""

import json
import sqlite3
from datetime import date
from pathlib import Path

import pytest
from moving_in_samples import DKIM_PEM, GOOD_PASSWORD, inspect_tree, make_hash, mbox, write_tree

from mailkeep.moving_in import new_inventory, report
from mailkeep.moving_in.inspection import Inspection
from mailkeep.settings.load import parse_settings
from mailkeep.settings.models import Settings

SHA512 = make_hash(GOOD_PASSWORD, "$6$rounds=1000$saltsalt")
BCRYPT = make_hash(GOOD_PASSWORD, "$2y$05$abcdefghijklmnopqrstuu")
WEAK = make_hash("info", "$2y$05$abcdefghijklmnopqrstuu")
GIB = 2**30


def read_settings(inspection: Inspection) -> Settings:
    text = new_inventory.make_draft(inspection, "old", date(2026, 11, 29), ["203.0.113.25"], is_same_machine=False)
    if not inspection.new_aliases.root:
        text = text.replace("addresses: [TODO]", "addresses: [you@elsewhere.example]")
    return parse_settings(Path("mail.yml"), text)


def refused(inspection: Inspection) -> dict[str, str]:
    return {verdict.candidate.address: verdict.reason for verdict in inspection.verdicts if not verdict.becomes_account}


def batch(*rows: dict[str, object]) -> str:
    """As `mysql --batch` prints a table."""
    return "".join("\t".join(map(str, line)) + "\n" for line in (rows[0].keys(), *(row.values() for row in rows)))


@pytest.mark.slow
def test_mail_in_a_box(tmp_path: Path) -> None:
    database = tmp_path / "users.sqlite"
    with sqlite3.connect(database) as connection:
        connection.executescript(
            "CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT, password TEXT, extra, privileges TEXT);"
            "CREATE TABLE aliases (id INTEGER PRIMARY KEY, source TEXT, destination TEXT, permitted_senders TEXT);"
            "INSERT INTO aliases VALUES (1, 'sales@example.org', 'anna@example.org,x@elsewhere.example', NULL);"
            "INSERT INTO aliases VALUES (2, '@example.net', '@example.org', NULL);"
        )
        for number, (name, password_hash) in enumerate({"anna": SHA512, "info": make_hash("info", "$6$salt")}.items()):
            row = (number, f"{name}@example.org", f"{{SHA512-CRYPT}}{password_hash}", None, "")
            connection.execute("INSERT INTO users VALUES (?, ?, ?, ?, ?)", row)
    connection.close()
    root = write_tree(
        tmp_path / "tree",
        {
            "/etc/hostname": "box.example.org\n",
            "/home/user-data/mail/users.sqlite": database.read_bytes(),
            "/home/user-data/mail/mailboxes/example.org/anna/": "2",
            "/home/user-data/mail/mailboxes/example.org/anna/.Archive.2025/": "1",
            "/home/user-data/mail/mailboxes/example.org/info/": "1",
            "/home/user-data/mail/sieve/example.org/anna.sieve": "keep;\n",
            "/etc/opendkim.conf": "KeyTable refile:/etc/opendkim/KeyTable\n"
            "SigningTable refile:/etc/opendkim/SigningTable\n",
            "/etc/opendkim/KeyTable": "example.org example.org:mail:/home/user-data/mail/dkim/mail.private\n",
            "/etc/opendkim/SigningTable": "*@example.org example.org\n",
            "/home/user-data/mail/dkim/mail.private": DKIM_PEM,
            "/commands/hostname": "box.example.org\n",
            "/commands/postconf": "myhostname = box.example.org\nmydestination = localhost\n"
            "virtual_alias_maps = sqlite:/etc/postfix/virtual-alias-maps.cf\n",
            "/commands/doveconf": "passdb {\n  args = /etc/dovecot/dovecot-sql.conf.ext\n  driver = sql\n}\n",
            "/etc/dovecot/dovecot-sql.conf.ext": "driver = sqlite\nconnect = /home/user-data/mail/users.sqlite\n",
        },
    )
    inspection = inspect_tree(root)
    settings = read_settings(inspection)
    assert [account.address for account in settings.accounts] == ["anna@example.org"]
    assert inspection.verdicts[0].candidate.messages == 3
    assert "own name" in refused(inspection)["info@example.org"]
    assert settings.aliases["sales@example.org"] == ("anna@example.org", "x@elsewhere.example")
    assert settings.aliases["anna@example.net"] == ("anna@example.org",)
    assert [(key.domain, key.selector, key.pem) for key in inspection.keys] == [("example.org", "mail", DKIM_PEM)]


@pytest.mark.slow
def test_docker_mailserver(tmp_path: Path) -> None:
    config = "/opt/mail/docker-data/dms/config"
    root = write_tree(
        tmp_path,
        {
            f"{config}/postfix-accounts.cf": f"anna@example.org|{{SHA512-CRYPT}}{SHA512}\n"
            f"old@example.org|{{SHA512-CRYPT}}{SHA512}\n",
            f"{config}/postfix-virtual.cf": "sales@example.org anna@example.org\n@example.org anna@example.org\n",
            f"{config}/dovecot-quotas.cf": "anna@example.org:5G\n",
            f"{config}/opendkim/KeyTable": "mail._domainkey.example.org "
            "example.org:mail:/etc/opendkim/keys/example.org/mail.private\n",
            f"{config}/opendkim/SigningTable": "*@example.org mail._domainkey.example.org\n",
            f"{config}/opendkim/keys/example.org/mail.private": DKIM_PEM,
            "/opt/mail/docker-data/dms/mail-data/example.org/anna/": "2",
            "/opt/mail/docker-data/dms/mail-data/example.org/anna/.Sent/": "1",
            "/commands/hostname": "mail.example.org\n",
        },
    )
    inspection = inspect_tree(root)
    settings = read_settings(inspection)
    assert [(account.address, account.quota) for account in settings.accounts] == [("anna@example.org", 5 * GIB)]
    assert refused(inspection) == {"old@example.org": "no mail, and no login that the logs know"}
    assert settings.catch_all == {"example.org": "anna@example.org"}
    assert settings.aliases["sales@example.org"] == ("anna@example.org",)
    assert [(key.selector, key.pem) for key in inspection.keys] == [("mail", DKIM_PEM)]


@pytest.mark.slow
def test_docker_mailserver_with_rspamd(tmp_path: Path) -> None:
    config = "/srv/dms/config"
    key = "/tmp/docker-mailserver/rspamd/dkim/rsa-2048-mail-example.org.private.txt"  # noqa: S108
    root = write_tree(
        tmp_path,
        {
            f"{config}/postfix-accounts.cf": f"anna@example.org|{{SHA512-CRYPT}}{SHA512}\n",
            f"{config}/rspamd/override.d/dkim_signing.conf": "enabled = true;\n\ndomain {\n    example.org {\n"
            f'        path = "{key}";\n        selector = "mail";\n    }}\n}}\n',
            f"{config}/rspamd/dkim/rsa-2048-mail-example.org.private.txt": DKIM_PEM,
            "/commands/hostname": "mail.example.org\n",
        },
    )
    assert [(key.domain, key.selector, key.pem) for key in inspect_tree(root).keys] == [
        ("example.org", "mail", DKIM_PEM)
    ]


@pytest.mark.slow
def test_mailcow(tmp_path: Path) -> None:
    mailbox = {"local_part": "anna", "domain": "example.org", "mailbox_path_prefix": "/var/vmail/", "kind": ""}
    anna = {"username": "anna@example.org", "password": "{BLF-CRYPT}" + BCRYPT, "name": "Anna", "quota": 3 * GIB}
    tables = "/commands/tables/mailcowdockerized-mysql-mailcow-1/mailcow"
    vmail = "/var/lib/docker/volumes/mailcowdockerized_vmail-vol-1/_data"
    root = write_tree(
        tmp_path,
        {
            f"{tables}/mailbox": batch(
                {**anna, **mailbox, "active": 1},
                {**anna, "username": "info@example.org", "password": "{BLF-CRYPT}" + WEAK, **mailbox, "active": 1},
                {**anna, "username": "off@example.org", **mailbox, "active": 0},
                {**anna, "username": "room@example.org", **mailbox, "kind": "location", "active": 1},
            ),
            f"{tables}/alias": batch(
                {"address": "anna@example.org", "goto": "anna@example.org", "domain": "example.org", "active": 1},
                {"address": "sales@example.org", "goto": "anna@example.org,x@elsewhere.example", "active": 1},
                {"address": "@example.org", "goto": "anna@example.org", "domain": "example.org", "active": 1},
                {"address": "gone@example.org", "goto": "anna@example.org", "domain": "example.org", "active": 0},
            ),
            f"{tables}/alias_domain": batch(
                {"alias_domain": "example.net", "target_domain": "example.org", "active": 1}
            ),
            f"{vmail}/example.org/anna/Maildir/": "2",
            f"{vmail}/example.org/anna/Maildir/.Sent/": "2",
            f"{vmail}/example.org/info/Maildir/": "1",
            "/commands/redis-DKIM_SELECTORS": json.dumps({"example.org": "dkim"}),
            "/commands/redis-DKIM_PRIV_KEYS": json.dumps({"dkim.example.org": DKIM_PEM.decode()}),
            "/commands/hostname": "mail.example.org\n",
        },
    )
    inspection = inspect_tree(root)
    settings = read_settings(inspection)
    [account] = settings.accounts
    assert (account.address, account.name, account.quota) == ("anna@example.org", "Anna", 3 * GIB)
    assert account.password == "{BLF-CRYPT}" + BCRYPT
    assert inspection.verdicts[0].candidate.messages == 4
    reasons = refused(inspection)
    assert reasons["off@example.org"] == "it is switched off"
    assert "own name" in reasons["info@example.org"]
    assert "room@example.org" not in reasons
    assert settings.catch_all == {"example.org": "anna@example.org"}
    assert settings.aliases["sales@example.org"] == ("anna@example.org", "x@elsewhere.example")
    assert settings.aliases["anna@example.net"] == ("anna@example.org",)
    assert "gone@example.org" not in settings.aliases
    assert [(key.domain, key.selector, key.pem) for key in inspection.keys] == [("example.org", "dkim", DKIM_PEM)]


@pytest.mark.slow
def test_iredmail(tmp_path: Path) -> None:
    maildir = "example.org/a/n/n/anna-2020.01.31.12.00.00/"
    row = {"storagebasedirectory": "/var/vmail", "storagenode": "vmail1", "active": 1}
    root = write_tree(
        tmp_path,
        {
            "/commands/tables/local/vmail/mailbox": batch(
                {
                    "username": "anna@example.org",
                    "password": "{SSHA512}" + "A" * 96,
                    "name": "Anna",
                    "maildir": maildir,
                    "quota": 2048,
                    **row,
                },
                {
                    "username": "bert@example.org",
                    "password": "{BLF-CRYPT}" + BCRYPT,
                    "name": "Bert",
                    "maildir": maildir.replace("a/n/n/anna", "b/e/r/bert"),
                    "quota": 3072,
                    **row,
                },
            ),
            "/commands/tables/local/vmail/forwardings": batch(
                {"address": "anna@example.org", "forwarding": "anna@example.org", "is_forwarding": 1, "active": 1},
                {"address": "sales@example.org", "forwarding": "bert@example.org", "is_alias": 1, "active": 1},
            ),
            f"/var/vmail/vmail1/{maildir}Maildir/": "2",
            "/var/vmail/vmail1/example.org/b/e/r/bert-2020.01.31.12.00.00/Maildir/": "1",
            "/etc/amavis/conf.d/50-user": "dkim_key('example.org', 'dkim', '/var/lib/dkim/example.org.pem');\n",
            "/var/lib/dkim/example.org.pem": DKIM_PEM,
            "/commands/hostname": "mail.example.org\n",
        },
    )
    inspection = inspect_tree(root)
    settings = read_settings(inspection)
    assert [(account.address, account.quota) for account in settings.accounts] == [("bert@example.org", 3 * GIB)]
    [anna] = [verdict for verdict in inspection.verdicts if not verdict.becomes_account]
    assert (anna.candidate.messages, anna.needs_answer) == (2, True)
    assert "(SSHA512) cannot come along: it needs a new password" in anna.reason
    assert settings.aliases["sales@example.org"] == ("bert@example.org",)
    assert [(key.selector, key.program) for key in inspection.keys] == [("dkim", "Amavis")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "doveconf",
    [
        "passdb {\n  args = scheme=CRYPT username_format=%u /etc/mail/passwords\n  driver = passwd-file\n}\n"
        "mail_location = maildir:/srv/mailboxes/%d/%n\n",
        "passdb passwd-file {\n  passwd_file_path = /etc/mail/passwords\n}\n"
        "mail_path = /srv/mailboxes/%{user | domain}\n",
    ],
    ids=["Dovecot 2.3", "Dovecot 2.4"],
)
def test_dovecots_passwd_file_with_virtual_maps_and_rspamd(tmp_path: Path, doveconf: str) -> None:
    root = write_tree(
        tmp_path,
        {
            "/etc/passwd": "root:x:0:0::/root:/bin/sh\nsteam:x:1000:1000::/home/steam:/bin/sh\n",
            "/etc/shadow": f"root:*:1::::::\nsteam:{make_hash('steam', '$6$salt')}:1::::::\n",
            "/etc/mail/passwords": "# who\n"
            f"anna@example.org:{SHA512}::::::userdb_quota_rule=*:storage=4G\n"
            f"Bert@example.org:{{BLF-CRYPT}}{BCRYPT}:5000:5000::/srv/homes/bert::\n"
            "empty@example.org:::::::\n",
            "/srv/mailboxes/example.org/anna/": "1",
            "/srv/mailboxes/example.org/bert/": "1",
            "/etc/postfix/virtual": "sales@example.org\tanna@example.org, bert@example.org\n"
            "@example.org anna@example.org\n",
            "/etc/rspamd/local.d/dkim_signing.conf": 'path = "/var/lib/rspamd/dkim/$domain.$selector.key";\n'
            'selector = "2020";\n',
            "/var/lib/rspamd/dkim/example.org.2020.key": DKIM_PEM,
            "/commands/hostname": "mail.example.org\n",
            "/commands/postconf": "myhostname = mail.example.org\nmydestination = localhost\n"
            "virtual_mailbox_domains = example.org\nvirtual_alias_maps = hash:/etc/postfix/virtual,\n"
            "    pcre:/etc/postfix/patterns\nrelayhost = [smtp.example.net]:587\nsmtp_sasl_auth_enable = yes\n",
            "/commands/doveconf": doveconf,
        },
    )
    inspection = inspect_tree(root)
    text = new_inventory.make_draft(inspection, "old", date(2026, 11, 29), ["203.0.113.25"], is_same_machine=False)
    unanswered = new_inventory.find_unanswered(text)
    assert [problem.field for problem in unanswered] == ["admin.addresses[0]", "relay.user"]
    settings = parse_settings(
        Path("mail.yml"), text.replace("[TODO]", "[you@elsewhere.example]").replace("'TODO '", "anna")
    )
    assert [(account.address, account.quota) for account in settings.accounts] == [
        ("anna@example.org", 4 * GIB),
        ("bert@example.org", None),
    ]
    assert refused(inspection) == {"empty@example.org": "its password is empty: anybody may log in"}
    assert settings.aliases["sales@example.org"] == ("anna@example.org", "bert@example.org")
    assert settings.catch_all == {"example.org": "anna@example.org"}
    assert settings.relay
    assert (settings.relay.host, settings.relay.port) == ("smtp.example.net", 587)
    assert [(key.selector, key.program) for key in inspection.keys] == [("2020", "Rspamd")]
    assert "Not translated, so look yourself: virtual_alias_maps: pcre:/etc/postfix/patterns" in text


@pytest.mark.slow
def test_a_mailbox_that_is_larger_than_the_default_gets_twice_what_is_there(tmp_path: Path) -> None:
    observed_lines = "/home/anna/Maildir/cur\t10\t3221225472\t1700000000\n/home/bert/Maildir/cur\t100000\t5\t1\n"
    root = write_tree(
        tmp_path,
        {
            "/etc/passwd": "anna:x:1000:1000::/home/anna:/bin/sh\nbert:x:1001:1001::/home/bert:/bin/sh\n",
            "/etc/shadow": f"anna:{SHA512}:1::::::\nbert:{SHA512}:1::::::\n",
            "/commands/hostname": "mail.example.org\n",
        },
    )
    from moving_in_samples import collect

    from mailkeep.moving_in.inspection import inspect_observed

    observed = collect(root)
    observed.outputs["maildirs"] = observed_lines  # type: ignore[index]
    settings = read_settings(inspect_observed(observed, lambda _: {}))
    assert [account.quota for account in settings.accounts] == [6 * GIB, 2 * GIB]


@pytest.mark.slow
def test_hostile_texts_of_the_old_server_cannot_become_settings(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path,
        {
            "/etc/passwd": "anna:x:1000:1000:An'na: \x1b[31m,,,:/home/anna:/bin/sh\n"
            "bert:x:1001:1001:Bert',\\n:/home/bert:/bin/sh\n",
            "/etc/shadow": f"anna:{SHA512}:1::::::\nbert:{SHA512}:1::::::\n",
            "/etc/aliases": 'root: anna\nevil\x0b: anna\n"a: {b}": anna\nmulti: bert, "anna\n  x"\n',
            "/var/mail/anna": mbox("x"),
            "/var/mail/bert": mbox("x"),
            "/etc/cron.d/x": "* * * * * root mail -s 'a\x0bb' x\n",
            "/commands/tables/local/vmail/alias": batch(
                {"address": "x\\ntls: {mode: files}@example.org", "goto": "anna@example.org", "active": 1},
                {"address": "y@other.example\\naliases: {}", "goto": "anna@example.org", "active": 1},
            ),
            "/commands/redis-DKIM_SELECTORS": json.dumps({"example.org": "a\nresolver: system"}),
            "/commands/redis-DKIM_PRIV_KEYS": json.dumps({"a\nresolver: system.example.org": DKIM_PEM.decode()}),
            "/commands/hostname": "mail.example.org\n",
        },
    )
    inspection = inspect_tree(root)
    settings = read_settings(inspection)
    assert (settings.tls.mode, settings.resolver) == ("self-signed", "local")
    assert all(line.isprintable() for line in report.format_inspection(inspection, "old"))
    assert {account.address for account in settings.accounts} >= {"bert@example.org"}
    assert set(settings.aliases) <= {f"{name}@example.org" for name in ("postmaster", "abuse", "multi")}
