"""An alias that Postfix would not expand is refused. Postfix accepts mail to it from nobody, and says 451 for ever."""

import pytest
from settings_samples import COMPLETE, Inventory

ALIASES = "aliases:\n"


def members(name: str, number: int) -> str:
    return f"[{', '.join(f'{name}{n}@elsewhere.example' for n in range(number))}]"


def declare(*rows: str) -> str:
    return COMPLETE.replace(ALIASES, ALIASES + "".join(f"  {row}\n" for row in rows))


def test_an_alias_reaches_at_most_a_thousand_addresses_through_other_aliases(mail_yml: Inventory) -> None:
    halves = f"a@example.org: {members('u', 700)}", f"b@example.org: {members('v', 301)}"
    problem = mail_yml.write(declare(*halves, "all@example.org: [a@example.org, b@example.org]")).problem()
    assert problem.field == "aliases[all@example.org]"
    assert problem.actual.startswith("1001 addresses")
    assert "at most 1000 addresses" in problem.expected
    mail_yml.write(
        declare(halves[0], f"b@example.org: {members('v', 300)}", "all@example.org: [a@example.org, b@example.org]")
    )
    mail_yml.load()


@pytest.mark.parametrize("target", ["a+x@example.org", "unknown@example.net"], ids=["plus address", "catch-all"])
def test_members_behind_a_plus_address_or_a_catch_all_count(mail_yml: Inventory, target: str) -> None:
    text = declare(f"a@example.org: {members('u', 700)}", f"all@example.org: [{target}, a@example.org]")
    caught = text.replace("  example.net: bert@example.net", "  example.net: a@example.org")
    assert mail_yml.write(caught).problem().actual.startswith("1400 addresses")


def test_members_that_are_reached_twice_count_twice(mail_yml: Inventory) -> None:
    """As cleanup(8) counts. Ten aliases that each name the next one twice have 1024 addresses."""
    rows = [f"d{n}@example.org: [d{n + 1}@example.org, d{n + 1}+x@example.org]" for n in range(10)]
    problem = mail_yml.write(declare(*rows, "d10@example.org: anna@example.org")).problem()
    assert (problem.field, problem.actual.split()[0]) == ("aliases[d0@example.org]", "1024")


def test_each_alias_is_measured_once(mail_yml: Inventory) -> None:
    """Sixty doublings are 10^18 addresses."""
    rows = [f"d{n}@example.org: [d{n + 1}@example.org, d{n + 1}+x@example.org]" for n in range(60)]
    assert len(mail_yml.write(declare(*rows, "d60@example.org: anna@example.org")).problems()) == 51


def test_aliases_lead_to_each_other_as_often_as_postfix_follows(mail_yml: Inventory) -> None:
    def chain(length: int) -> str:
        rows = [f"c{n}@example.org: c{n + 1}@example.org" for n in range(length - 1)]
        return declare(*rows, f"c{length - 1}@example.org: anna@example.org")

    assert mail_yml.write(chain(999)).load()
    problem = mail_yml.write(chain(1000)).problem()
    assert (problem.field, problem.actual) == (
        "aliases[c0@example.org]",
        "1000 aliases that lead to each other in a row",
    )


def test_extensions_do_not_add_up_to_an_impossible_address(mail_yml: Inventory) -> None:
    long = "x" * 40
    rows = f"e@example.org: f+{long}@example.org", f"f@example.org: anna+{long}@example.org"
    problem = mail_yml.write(declare(*rows)).problem()
    assert (problem.field, problem.actual) == (
        "aliases[e@example.org]",
        "targets whose +extensions add up to 82 characters",
    )


def test_the_administrators_are_an_alias_too(mail_yml: Inventory) -> None:
    """Of root and postmaster at the host's name."""
    text = declare(f"a@example.org: {members('u', 600)}", f"b@example.org: {members('v', 600)}")
    problem = mail_yml.write(
        text.replace("addresses: [you@example.com]", "addresses: [a@example.org, b@example.org]")
    ).problem()
    assert (problem.field, problem.actual.split()[0]) == ("admin.addresses", "1200")


def test_a_list_within_a_loop_is_no_second_problem(mail_yml: Inventory) -> None:
    rows = "g@example.org: [h@example.org, u@elsewhere.example]", "h@example.org: g@example.org"
    assert "a loop" in mail_yml.write(declare(*rows)).problem().actual
