"""`mailkeep check` names the lists that are longer than their writers' limits."""

import pytest
from settings_samples import HASH

from mailkeep.settings.list_notes import MAX_NOTES, describe_short_limits
from mailkeep.settings.models import Settings

MEMBERS = [f"m{number}@example.com" for number in range(61)]
HIGH = {"recipients_per_10_minutes": 61, "recipients_per_hour": 150}


def build_settings(**changes: object) -> Settings:
    return Settings.model_validate(
        {
            "host": {"name": "mail.example.org", "addresses": ["203.0.113.25"]},
            "domains": ["example.org"],
            "accounts": [
                {"address": "anna@example.org", "password": HASH},
                {"address": "bert@example.org", "password": HASH},
            ],
            "aliases": {"members@example.org": MEMBERS},
            "admin": {"addresses": ["you@example.net"]},
        }
        | changes
    )


def test_a_list_that_nobody_may_write_to_in_full_is_noted() -> None:
    assert describe_short_limits(build_settings()) == [
        "aliases.members@example.org: 61 recipients, and no account may write to all at once "
        "(recipients_per_10_minutes of anna@example.org: 60). Its writer needs `limits`: docs/guard.md"
    ]


@pytest.mark.parametrize("owner_is_anna", [True, False])
def test_an_account_that_sends_as_the_list_needs_the_limit_itself(owner_is_anna: bool) -> None:
    accounts = [
        {"address": "anna@example.org", "password": HASH, "limits": HIGH},
        {"address": "bert@example.org", "password": HASH},
    ]
    accounts[0 if owner_is_anna else 1]["send_as"] = ["members@example.org"]
    notes = describe_short_limits(build_settings(accounts=accounts))
    assert len(notes) == (0 if owner_is_anna else 1)
    if notes:
        assert "and bert@example.org, which sends as it, may not write to all at once" in notes[0]


def test_aliases_of_aliases_count_with_all_their_members() -> None:
    aliases = {"members@example.org": MEMBERS[:60], "all@example.org": ["members@example.org", "x@example.com"]}
    assert [note.split(":")[0] for note in describe_short_limits(build_settings(aliases=aliases))] == [
        "aliases.all@example.org"
    ]


def test_many_long_lists_are_a_few_lines() -> None:
    aliases = {f"l{number}@example.org": MEMBERS for number in range(30)}
    assert len(describe_short_limits(build_settings(aliases=aliases))) == MAX_NOTES + 1
