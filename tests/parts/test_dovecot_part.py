"""Mailboxes have quotas, and Dovecot applies them to every alias of one account."""

import pytest

from mailkeep.inventory import passwords
from mailkeep.parts import dovecot
from mailkeep.settings.models import Settings

ANNA, BEN = "anna@example.org", "ben@example.org"
HASH = passwords.hash_password("violet-kettle-9-orbit-lamp")


@pytest.fixture
def account_lines(declared: dict[str, object]) -> dict[str, dict[str, str]]:
    """The lines of the accounts' and aliases' files, by file and address."""
    accounts = [{"address": ANNA, "password": HASH, "quota": "8M"}, {"address": BEN, "password": HASH}]
    aliases = {
        "info@example.org": ANNA,
        "help@example.org": "info+help@example.org",
        "list@example.org": "anna+list@example.org",
        "team@example.org": [ANNA, BEN],
        "gone@example.org": "ann@example.net",
        "postmaster@example.org": ANNA,
        "abuse@example.org": ANNA,
    }
    settings = Settings.model_validate(declared | {"accounts": accounts, "aliases": aliases})
    files = {file.path: file.content.decode() for file in dovecot.build_part(settings).files}
    return {
        path: dict(line.split(":", 1) for line in files[path].splitlines()) for path in (dovecot.USERS, dovecot.ALIASES)
    }


def test_a_quota_bounds_bytes_and_messages(account_lines: dict[str, dict[str, str]]) -> None:
    assert account_lines[dovecot.USERS][ANNA].endswith(
        "::::::userdb_quota_storage_size=8388608B userdb_quota_message_count=1024"
    )
    assert account_lines[dovecot.USERS][BEN] == f"{HASH}::::::"


def test_an_alias_of_one_account_has_its_quota_and_no_password(account_lines: dict[str, dict[str, str]]) -> None:
    quota = "userdb_quota_storage_size=8388608B userdb_quota_message_count=1024"
    aliases = account_lines[dovecot.ALIASES]
    assert {aliases[f"{name}@example.org"] for name in ("info", "help", "list")} == {
        f"::::::userdb_user={ANNA} {quota}"
    }


def test_an_alias_of_several_accounts_or_outside_is_not_looked_up(
    account_lines: dict[str, dict[str, str]],
) -> None:
    assert not {"team@example.org", "gone@example.org", "root@mail.example.org"} & {*account_lines[dovecot.ALIASES]}


@pytest.mark.parametrize(("addresses", "listen"), [(["192.0.2.1"], "*"), (["192.0.2.1", "2001:db8::1"], "*, ::")])
def test_dovecot_listens_on_ipv6_where_it_is_declared(
    declared: dict[str, object], addresses: list[str], listen: str
) -> None:
    """Where the kernel has no IPv6, Dovecot does not start with `::`."""
    settings = Settings.model_validate(declared | {"host": {"name": "mail.example.org", "addresses": addresses}})
    conf = next(file.content for file in dovecot.build_part(settings).files if file.path == dovecot.CONF)
    assert f"\nlisten = {listen}\n" in conf.decode()
