"""A drill does harm to one account: on a live server only to one that was made for it, and only when it is meant."""

from pathlib import Path

import pytest
import yaml
from cli_samples import Run

MEANT = ("--inventory", "home", "--i-mean-it", "--account", "drill@example.org", "--to", "you@example.net")


@pytest.fixture
def throwaway(home: Path, mailkeep: Run) -> Path:
    assert mailkeep("account", "add", "home", "drill@example.org", "--generate").code == 0
    return home / "mail.yml"


@pytest.mark.parametrize("without", ["--i-mean-it", "--account", "--to"])
@pytest.mark.usefixtures("throwaway")
def test_a_live_server_is_not_drilled_unless_it_is_meant(without: str, mailkeep: Run) -> None:
    at = MEANT.index(without)
    given = MEANT[:at] + MEANT[at + (1 if without == "--i-mean-it" else 2) :]
    said = mailkeep("drill", "A", *given, stdin="password\n")
    assert said.code == 1
    assert "mailkeep account add home" in said.err


@pytest.mark.usefixtures("throwaway")
def test_only_drills_that_hurt_nobody_else_take_place_there(mailkeep: Run) -> None:
    assert "only in the lab" in mailkeep("drill", "F", *MEANT, stdin="password\n").err


@pytest.mark.parametrize(
    ("account", "to", "why"),
    [
        ("nobody@example.org", "you@example.net", "no such account"),
        ("anna@example.org", "you@example.net", "in use"),
        ("drill@example.org", "anna@example.org", "elsewhere"),
    ],
)
def test_an_account_of_somebodys_is_not_to_throw_away(
    account: str, to: str, why: str, throwaway: Path, mailkeep: Run
) -> None:
    declared = yaml.safe_load(throwaway.read_text())
    declared["aliases"]["info@example.org"] = "anna@example.org"
    throwaway.write_text(yaml.safe_dump(declared))
    given = ("--inventory", "home", "--i-mean-it", "--account", account, "--to", to)
    said = mailkeep("drill", "A", *given, stdin="password\n")
    assert (said.code, why in said.err) == (1, True)


def test_an_unknown_drill_is_told_which_there_are(mailkeep: Run) -> None:
    said = mailkeep("drill", "Z")
    assert (said.code, "A, B, C, D, E, F, week" in said.err) == (1, True)
