"""Patterns, lists of members only, exceptions from a catch-all, and copies that go on."""

import re

import pytest
from pydantic import ValidationError

from mailkeep.inventory import passwords
from mailkeep.parts import dovecot, postfix
from mailkeep.parts.model import Part
from mailkeep.settings.models import Settings
from mailkeep_server.common.alias_patterns import AliasPatterns, can_overlap
from mailkeep_server.common.alias_reach import AliasReach

ANNA, BERT = "anna@example.org", "bert@example.org"
DOMAINS = ("example.org", "mail.example.org")
HASH = passwords.hash_password("violet-kettle-9-orbit-lamp")
ACCOUNTS = {"accounts": [{"address": ANNA, "password": HASH}, {"address": BERT, "password": HASH}]}


def read_table(part: Part, name: str) -> dict[str, str]:
    content = next(file.content for file in part.files if file.path == f"/etc/postfix/{name}").decode()
    rows = [line.split(" ", 1) for line in content.splitlines() if line and not line.startswith("#")]
    return dict(rows)


@pytest.mark.parametrize(
    ("address", "pattern"),
    [
        ("shop-a@example.org", "shop-*@example.org"),
        ("shop-a.b_c-9@example.org", "shop-*@example.org"),
        ("x-old@example.org", "*-old@example.org"),
        ("shop-@example.org", ""),
        ("shop-a@example.net", ""),
        ("myshop-a@example.org", ""),
        ("shop-a+b@example.org", ""),
    ],
)
def test_a_star_stands_for_some_letters(address: str, pattern: str) -> None:
    assert AliasPatterns(["shop-*@example.org", "*-old@example.org", ANNA]).find(address) == pattern


@pytest.mark.parametrize(
    ("name", "other", "overlaps"),
    [
        ("shop-*@example.org", "shop-x*@example.org", True),
        ("shop-*@example.org", "*-old@example.org", True),
        ("shop-*@example.org", "shopping*@example.org", False),
        ("shop-*@example.org", "shop-*@example.net", False),
        ("shop-*@example.org", "shop-1@example.org", True),
        (ANNA, ANNA, True),
        (ANNA, BERT, False),
    ],
)
def test_names_that_match_the_same_address_are_known(name: str, other: str, overlaps: bool) -> None:
    assert can_overlap(name, other) == can_overlap(other, name) == overlaps


def test_who_gets_mail_by_a_pattern_is_known_to_the_guard() -> None:
    aliases = {"shop-*@example.org": [BERT, "x@example.net"], "shop-anna@example.org": [ANNA]}
    reach = AliasReach(aliases, {"example.org": BERT}, {ANNA, BERT, "shop-keeper@example.org"}, {*DOMAINS})
    assert reach.expand("Shop-1+x@example.org") == (BERT, "x@example.net")
    assert reach.expand("shop-anna@example.org") == (ANNA,), "an exact alias comes first"
    assert reach.find_list("shop-keeper@example.org") == "", "and so does an account"
    assert reach.find_list("else@example.org") == "@example.org"


def test_postfix_asks_for_patterns_after_exact_aliases_and_accounts(declared: dict[str, object]) -> None:
    aliases = {"shop-*@example.org": ["x@example.net"], "team-*@example.org": [ANNA]}
    settings = Settings.model_validate(declared | ACCOUNTS | {"aliases": aliases})
    part = postfix.build_part(settings, None)
    assert read_table(part, "alias_patterns") == {
        r"/^shop-[a-z0-9._-]+(\+[^@]*)?@example\.org$/": "x@example.net",
        r"/^team-[a-z0-9._-]+(\+[^@]*)?@example\.org$/": ANNA,
    }
    assert [*read_table(part, "list_patterns").values()] == ["ask_about_list"]
    rows = read_table(part, "aliases")
    assert {account.address for account in settings.accounts} <= {*rows}, "else a pattern would take an account's mail"
    assert not [key for key in rows if "*" in key]
    assert not [row for row in dovecot.build_part(settings).files if b"shop-" in row.content]


def test_exceptions_from_a_catch_all_are_refused_with_and_without_an_extension(declared: dict[str, object]) -> None:
    changes = {"catch_all": {"example.org": ANNA}, "catch_all_except": ["old@example.org", "o-*@example.org"]}
    table = read_table(
        postfix.build_part(Settings.model_validate(declared | ACCOUNTS | changes), None), "refused_recipients"
    )
    refused = [re.compile(key.strip("/"), re.IGNORECASE) for key in table]
    assert {*table.values()} == {"550 5.1.1 User unknown"}
    for address in ("old@example.org", "OLD+x@example.org", "o-1@example.org", "o-1+x@example.org"):
        assert any(pattern.search(address) for pattern in refused), address
    for address in (
        "older@example.org",
        "old@example.org.net",
        "xold@example.org",
        "o-@example.org",
        "old@example-org",
    ):
        assert not any(pattern.search(address) for pattern in refused), address


def test_two_patterns_never_match_the_same_address(declared: dict[str, object]) -> None:
    aliases = {"shop-*@example.org": [ANNA], "*-x@example.org": [ANNA]}
    with pytest.raises(ValidationError, match="no two match the same address"):
        Settings.model_validate(declared | ACCOUNTS | {"aliases": aliases})
    many = {f"shop{number}-*@example.org": [ANNA] for number in range(101)}
    with pytest.raises(ValidationError, match="at most 100"):
        Settings.model_validate(declared | ACCOUNTS | {"aliases": many})


def test_a_list_of_members_knows_all_their_addresses(declared: dict[str, object]) -> None:
    accounts = [ACCOUNTS["accounts"][0] | {"send_as": ["sales@example.org"]}, ACCOUNTS["accounts"][1]]
    aliases = {"board@example.org": ["anna+b@example.org", "chair@example.net"]}
    changes = {"aliases": aliases, "members_only": ["board@example.org"], "accounts": accounts}
    part = postfix.build_part(Settings.model_validate(declared | changes), None)
    assert read_table(part, "members_only") == {"board@example.org": "members_0"}
    assert [*read_table(part, "members/board@example.org")] == [ANNA, "sales@example.org", "chair@example.net"]
    main_cf = next(file.content for file in part.files if file.path == "/etc/postfix/main.cf").decode()
    assert "smtpd_restriction_classes = own_sender, ask_about_list, ask_about_extension, members_0\n" in main_cf
    assert "members_0 = check_sender_access texthash:/etc/postfix/members/board@example.org,\n" in main_cf


def test_copies_go_on_by_a_script_for_all(declared: dict[str, object]) -> None:
    accounts = [ACCOUNTS["accounts"][0] | {"forward": ["copy@example.net"]}]
    part = dovecot.build_part(Settings.model_validate(declared | {"accounts": accounts}))
    scripts = {file.path: file.content.decode() for file in part.files if file.path.startswith(dovecot.SIEVE)}
    condition = f'if environment :is "vnd.dovecot.username" "{ANNA}" {{\n  redirect :copy "copy@example.net";\n}}'
    assert condition in scripts[f"{dovecot.SIEVE}/forwards.sieve"]
    conf = next(file.content for file in part.files if file.path == dovecot.CONF).decode()
    assert (
        conf.index("sieve_script junk {")
        < conf.index("sieve_script forwards {")
        < conf.index("sieve_script personal {")
    )
    without = dovecot.build_part(Settings.model_validate(declared | ACCOUNTS))
    assert f"{dovecot.SIEVE}/forwards.sieve" not in {file.path for file in without.files}
