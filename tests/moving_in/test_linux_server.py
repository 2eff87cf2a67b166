"""A server of Linux accounts, configured by hand, becomes an inventory that `check` accepts once it is answered."""

import json
import re
from datetime import date
from pathlib import Path

import pytest
from moving_in_samples import DKIM_PEM, GOOD_PASSWORD, collect, inspect_tree, linux_server, make_hash, write_tree

from mailkeep.errors import UserError
from mailkeep.inventory import hosts, secrets
from mailkeep.inventory.vault import open_vault
from mailkeep.moving_in import new_inventory, report
from mailkeep.moving_in.inspection import Inspection
from mailkeep.moving_in.observed import parse_collection
from mailkeep.settings.load import load_settings, parse_settings
from mailkeep.settings.models import Settings
from mailkeep.settings.yaml_reader import SettingsError

TODAY = date(2026, 11, 29)
ADDRESS = ["203.0.113.25"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("old"), linux_server())


@pytest.fixture(scope="module")
def inspection(tree: Path) -> Inspection:
    return inspect_tree(tree)


def draft(inspection: Inspection, addresses: list[str], *, is_same_machine: bool = False) -> str:
    return new_inventory.make_draft(inspection, "old.example.org", TODAY, addresses, is_same_machine=is_same_machine)


@pytest.fixture(scope="module")
def settings(inspection: Inspection) -> Settings:
    return parse_settings(Path("mail.yml"), draft(inspection, ADDRESS))


def reasons(inspection: Inspection) -> dict[str, str]:
    return {verdict.candidate.login: verdict.reason for verdict in inspection.verdicts if not verdict.becomes_account}


@pytest.mark.slow
def test_accounts_are_those_with_mail_or_logins_and_they_keep_their_passwords(settings: Settings) -> None:
    passwords = {account.address: account.password for account in settings.accounts}
    assert passwords == {
        "anna@example.org": "{SHA512-CRYPT}" + make_hash(GOOD_PASSWORD, "$6$rounds=1000$saltsalt"),
        "bert@example.org": "{CRYPT}" + make_hash(GOOD_PASSWORD, "$y$j75$saltsalt"),
    }


@pytest.mark.slow
def test_accounts_that_should_not_be_are_refused_with_the_reason(inspection: Inspection) -> None:
    refused = reasons(inspection)
    for login in ("test", "steam", "alarm"):
        assert refused.pop(login) == "its password is its own name, or nearly so"
    assert {login: reason.split(":")[0] for login, reason in refused.items()} == {
        "root": "a system account (uid 0)",
        "dora": "no mail, and no login that the logs know",
        "empty": "its password is empty",
        "locked": "its password is locked",
        "android": "its name is that of a program or a distribution, and no mail program logs in",
        "old": "its hash (md5-crypt) cannot come along",
    }


def test_no_hash_of_a_guessed_password_and_no_clear_text_is_in_the_draft(inspection: Inspection) -> None:
    text = draft(inspection, ADDRESS)
    for secret in (make_hash("test", "$y$j75$saltsalt"), make_hash("steam", "$6$rounds=1000$saltsalt"), "secret"):
        assert secret not in text
    assert "TODO: which of these does a person use?" in text
    assert "# - test@example.org: its password is its own name" in text


def test_aliases_and_virtual_maps_come_along_and_what_has_no_counterpart_is_named(
    inspection: Inspection, settings: Settings
) -> None:
    administrators = ("anna@example.org", "admin@elsewhere.example")
    roles = {f"{role}@{domain}" for role in ("postmaster", "abuse") for domain in settings.domains}
    assert {name: targets for name, targets in settings.aliases.items() if name not in roles} == {
        "sales@example.org": ("anna@example.org", "bert@example.org"),
        "support@example.org": ("bert@example.org",),
        "shop@example.com": ("anna@example.org",),
        "office@example.org": ("sales@example.org",),
        "anna@example.net": ("anna@example.org",),
        "bert@example.net": ("bert@example.org",),
    }
    assert {settings.aliases[role] for role in roles} == {administrators}
    assert settings.catch_all == {"example.com": "bert@example.org"}
    assert settings.admin.addresses == administrators
    left_out = {row.line.partition(":")[0]: row.reason for row in inspection.new_aliases.left_out}
    assert left_out.keys() == {
        "support",
        "archive",
        "info@example.org",
        "loop1@example.org",
        "loop2@example.org",
        "anna@example.org",
    }
    assert "Sieve script" in left_out["anna@example.org"]
    assert left_out["info@example.org"] == "it leads to no account of this file", "test is none"


def test_the_rest_of_the_draft_is_the_servers(settings: Settings) -> None:
    assert settings.host.name == "mail.example.org"
    assert settings.domains == ("example.org", "example.net", "example.com")
    assert settings.message_size == 50 * 2**20
    assert settings.dns.dmarc == "none"


def test_check_refuses_the_draft_until_the_questions_are_answered_and_says_which(inspection: Inspection) -> None:
    text = draft(inspection, [])
    assert [(problem.field, problem.actual) for problem in new_inventory.find_unanswered(text)] == [
        ("host.addresses[0]", '"TODO"')
    ]
    [line] = [problem.line for problem in new_inventory.find_unanswered(text)]
    assert "TODO: the public addresses" in text.splitlines()[line - 1]
    assert new_inventory.find_unanswered(text.replace("[TODO]", "[203.0.113.25]")) == []
    assert {question.split(" ")[0] for _, question in new_inventory.list_questions(text)} == {
        "the",  # host.addresses
        "which",  # accounts
        "these",  # aliases
        "your",  # admin.networks
        "mail",  # tls
        "if",  # ports and cron jobs
    }
    assert new_inventory.find_unanswered(draft(inspection, [], is_same_machine=True)) == [], "its own address is known"


def test_the_inventory_has_the_dkim_key_under_its_selector(
    inspection: Inspection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILKEEP_IDENTITY", str(tmp_path / "identity"))
    target = tmp_path / "inventories" / "home"
    target.parent.mkdir()
    text = draft(inspection, ADDRESS)
    keys = new_inventory.write_new_inventory(target, text, "root@new.example.org", inspection, TODAY)
    assert keys[0] == "DKIM key for example.org, selector mail, of the old server (RSA 2048)"
    loaded = secrets.load_secrets(load_settings(target / "mail.yml"), target)
    selectors = {key.domain: key.selector for key in loaded.dkim}
    assert selectors == dict.fromkeys(("example.net", "example.com", "mail.example.org"), "s20261129") | {
        "example.org": "mail"
    }
    assert loaded.dkim[0].private_pem == DKIM_PEM
    assert hosts.read_hosts(target).keys() == {"new.example.org"}
    assert DKIM_PEM not in b"".join(path.read_bytes() for path in target.rglob("*") if path.is_file())
    with pytest.raises(UserError, match="exists already"):
        new_inventory.write_new_inventory(target, text, "", inspection, TODAY)


def test_an_unanswered_draft_has_a_vault_and_names_no_host(
    inspection: Inspection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILKEEP_IDENTITY", str(tmp_path / "identity"))
    target = tmp_path / "inventories" / "home"
    target.parent.mkdir()
    text = draft(inspection, [])
    keys = new_inventory.write_new_inventory(target, text, "", inspection, TODAY)
    assert open_vault(target).names() == ["dkim/example.org/mail"]
    with pytest.raises(UserError, match="in place of TODO"):
        hosts.read_hosts(target)
    with pytest.raises(SettingsError):
        load_settings(target / "mail.yml")
    outcome = "\n".join(new_inventory.describe_outcome(target, text, keys, inspection, "root@old", is_host_known=False))
    assert re.search(r"mail\.yml:[0-9]+: host\.addresses\[0\]: expected an IPv4", outcome)
    assert f"`mailkeep import {target} anna@example.org --from ssh://root@old/home/anna/Maildir`" in outcome
    assert "inventory.py: how SSH reaches the new server, in place of TODO" in outcome


def test_the_report_names_all_that_else_is_there_and_no_secret(inspection: Inspection) -> None:
    text = "\n".join(report.format_inspection(inspection, "old.example.org"))
    for line in (
        "maildir /home/anna/Maildir, with Entw&APw-rfe, Sent",
        "mbox /var/mail/bert",
        "DKIM: example.org keeps its key, selector mail (OpenDKIM, /etc/dkimkeys/mail.private)",
        "Also listens: 443/tcp a web server (nginx)",
        "Also listens: 51820/udp a VPN",
        "Cron job that sends mail: /etc/cron.d/report, as backup",
        "Cron job that sends mail: /var/spool/cron/crontabs/bert, as bert",
        "Sieve script: /home/bert/.dovecot.sieve",
        "/home/anna/.forward forwards to",
        "POP3 is open",
        "mail.example.org, the host's own name",
    ):
        assert line in text, line
    assert not re.search("3306|dhclient|quiet", text), "of this machine alone, or no mail"
    data = json.dumps(report.describe_as_data(inspection, "old.example.org"))
    for secret in ("PRIVATE KEY", make_hash(GOOD_PASSWORD, "$6$rounds=1000$saltsalt"), "rounds=1000"):
        assert secret not in text + data


def test_sizes_and_folders_are_counted(inspection: Inspection) -> None:
    [anna] = [verdict.candidate for verdict in inspection.verdicts if verdict.candidate.login == "anna"]
    [mailbox] = anna.mailboxes
    assert {folder.path.removeprefix("/home/anna/"): folder.messages for folder in mailbox.folders} == {
        "Maildir": 3,
        "Maildir/.Sent": 2,
        "Maildir/.Entw&APw-rfe": 0,
    }
    assert (anna.logins, anna.last_login, anna.has_shell_login) == (2, "Jan  6 10:00:00", True)
    [bert] = [verdict.candidate for verdict in inspection.verdicts if verdict.candidate.login == "bert"]
    assert {mailbox.path: mailbox.messages for mailbox in bert.mailboxes} == {"/home/bert/mail": 1, "/var/mail/bert": 2}
    assert bert.logins == 1


@pytest.mark.slow
def test_reading_changes_nothing_and_leaves_passwords_for_other_servers_there(tree: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tree.rglob("*") if path.is_file()}
    observed = collect(tree)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tree.rglob("*") if path.is_file()} == before
    assert "/etc/postfix/virtual" in observed.files
    assert not {"/etc/postfix/sasl_passwd", "/etc/postfix/virtual.db"} & observed.files.keys()


def test_an_answer_that_is_cut_off_is_refused() -> None:
    for output in (b"", b'{"format":1,"items":[{"kind":"start","name":"","data":""}', b"Last login: yesterday\n{}"):
        with pytest.raises(UserError, match="Run it again"):
            parse_collection(output)
