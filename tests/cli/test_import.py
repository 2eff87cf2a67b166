"""`mailkeep import` refuses what it cannot do before it connects, and never takes a password as an argument."""

from pathlib import Path

import pytest
from cli_samples import Run

from mailkeep.errors import UserError
from mailkeep.moving_in.copy_address import SourceAddress, parse_source


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ssh://old.example.org/home/anna/Maildir/", ("ssh", "", "old.example.org", 0, "/home/anna/Maildir")),
        ("ssh://root@old.example.org:2222/~/Maildir", ("ssh", "root", "old.example.org", 2222, "~/Maildir")),
        ("ssh://root@[2001:db8::1]/var/mail/a%20b", ("ssh", "root", "2001:db8::1", 0, "/var/mail/a b")),
        ("imaps://anna@example.org@imap.example.net", ("imaps", "anna@example.org", "imap.example.net", 993, "")),
    ],
)
def test_sources(text: str, expected: tuple[str, str, str, int, str]) -> None:
    assert parse_source(text) == SourceAddress(*expected)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ssh://old.example.org", "the path of the mailbox is missing"),
        ("ssh://old.example.org/~/", "the path of the mailbox is missing"),
        ("imaps://imap.example.net", "the login's name is missing"),
        ("imap://anna@imap.example.net", "neither ssh:// nor imaps://"),
        ("/home/anna/Maildir", "neither ssh:// nor imaps://"),
        ("ssh://old.example.org:ssh/x", "Port could not be cast"),
    ],
)
def test_other_sources_are_refused(text: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        parse_source(text)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(UserError, match="every user of this machine can read") as raised:
        parse_source("imaps://anna:open-sesame@imap.example.net")
    assert "open-sesame" not in str(raised.value)


@pytest.mark.usefixtures("home")
def test_an_address_without_an_account_is_refused(mailkeep: Run) -> None:
    result = mailkeep("import", "home", "nobody@example.org", "--from", "ssh://old.example.org/var/mail/x")
    assert (result.code, "nobody@example.org is no account" in result.err) == (1, True)


@pytest.mark.usefixtures("home")
def test_an_empty_file_of_a_password_is_told(mailkeep: Run, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("\n")
    address = _read_account(mailkeep)
    result = mailkeep("import", "home", address, "--from", "imaps://a@imap.example.net", "--password-file", str(file))
    assert (result.code, "there is no password" in result.err) == (1, True)


@pytest.mark.usefixtures("home")
def test_a_host_that_is_not_in_the_inventory_is_told(mailkeep: Run) -> None:
    address = _read_account(mailkeep)
    result = mailkeep("import", "home", address, "--from", "ssh://old.example.org/x", "--host", "elsewhere")
    assert (result.code, "the inventory has no such host" in result.err) == (1, True)


def _read_account(mailkeep: Run) -> str:
    return mailkeep("account", "list", "home").out.splitlines()[1].split()[0]
