"""The report for people."""

import pytest

from mailkeep.verify import report
from mailkeep.verify.outcome import Outcome

PASSED = Outcome("mail", "a", "Nobody relays", "passed")
FAILED = Outcome("mail", "b", "No login on port 25", "failed", "no AUTH", "250 AUTH", "Run `mailkeep deploy home`.")
WARNING = Outcome("mail", "c", "No reboot is due", "warning", "none", "due for 3 days", "`systemctl reboot`.")
SKIPPED = Outcome("mail", "d", "The clock is kept", "skipped", observed="in a container")


def print_report(capsys: pytest.CaptureFixture[str], *outcomes: Outcome) -> str:
    report.print_outcomes(outcomes, 1.26)
    return capsys.readouterr().out


def test_each_check_has_a_line_and_a_failed_one_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.rstrip() for line in print_report(capsys, PASSED, FAILED, WARNING, SKIPPED).splitlines()]
    assert lines == [
        "mail",
        "  ✓ Nobody relays",
        "  ✗ No login on port 25",
        "    expected  no AUTH",
        "    observed  250 AUTH",
        "    to do     Run `mailkeep deploy home`.",
        "  ! No reboot is due",
        "    expected  none",
        "    observed  due for 3 days",
        "    to do     `systemctl reboot`.",
        "  - The clock is kept (in a container)",
        "1 check passed, 1 failed, 1 warning, 1 skipped; 1.3 s",
    ]


def test_only_terminals_get_colour(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in print_report(capsys, PASSED, FAILED)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b" in print_report(capsys, PASSED, FAILED)


def test_a_servers_output_neither_controls_the_terminal_nor_is_markup(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome("mail", "b", "p", "failed", "e", "250 [red]\x1b]0;owned\x07", "r")
    out = print_report(capsys, outcome)
    assert "250 [red]\N{REPLACEMENT CHARACTER}]0;owned\N{REPLACEMENT CHARACTER}" in out


def test_a_long_list_is_cut_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    out = print_report(
        capsys, Outcome("mail", "b", "p", "failed", "e", "\n".join(f"line {n}" for n in range(100)), "r")
    )
    assert "line 7" in out
    assert "line 8" not in out
    assert "… and 92 more" in out
