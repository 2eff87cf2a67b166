"""A drill harms one account: on a live server only an account created for it, and only with `--i-mean-it`."""

from pathlib import Path

import pytest
import yaml
from cli_samples import Run

DRILL_OPTIONS = ("--inventory", "home", "--i-mean-it", "--account", "drill@example.org", "--to", "you@example.net")


@pytest.fixture
def throwaway_account(home: Path, mailkeep: Run) -> Path:
    assert mailkeep("account", "add", "home", "drill@example.org", "--generate").code == 0
    return home / "mail.yml"


@pytest.mark.parametrize("without", ["--i-mean-it", "--account", "--to"])
@pytest.mark.usefixtures("throwaway_account")
def test_a_live_server_is_not_drilled_without_each_confirmation(without: str, mailkeep: Run) -> None:
    index = DRILL_OPTIONS.index(without)
    options = DRILL_OPTIONS[:index] + DRILL_OPTIONS[index + (1 if without == "--i-mean-it" else 2) :]
    result = mailkeep("drill", "A", *options, stdin="password\n")
    assert result.code == 1
    assert "mailkeep account add home" in result.err


@pytest.mark.usefixtures("throwaway_account")
def test_a_drill_that_harms_other_accounts_runs_in_the_lab_only(mailkeep: Run) -> None:
    assert "only in the lab" in mailkeep("drill", "F", *DRILL_OPTIONS, stdin="password\n").err


@pytest.mark.parametrize(
    ("account", "to", "reason"),
    [
        ("nobody@example.org", "you@example.net", "no such account"),
        ("anna@example.org", "you@example.net", "in use"),
        ("drill@example.org", "anna@example.org", "elsewhere"),
    ],
)
def test_an_account_in_use_is_not_drilled(
    account: str, to: str, reason: str, throwaway_account: Path, mailkeep: Run
) -> None:
    settings = yaml.safe_load(throwaway_account.read_text())
    settings["aliases"]["info@example.org"] = "anna@example.org"
    throwaway_account.write_text(yaml.safe_dump(settings))
    options = ("--inventory", "home", "--i-mean-it", "--account", account, "--to", to)
    result = mailkeep("drill", "A", *options, stdin="password\n")
    assert (result.code, reason in result.err) == (1, True)


def test_an_unknown_drill_is_refused_with_the_list_of_drills(mailkeep: Run) -> None:
    result = mailkeep("drill", "Z")
    assert (result.code, "A, B, C, D, E, F, week" in result.err) == (1, True)
