"""Plans of many hosts: a line each, and equal changes once."""

import pytest

from mailkeep.host import plan_report
from mailkeep.host.plan_report import Change, HostPlan

CHANGES = (Change("Packages", "install postfix"), Change("Files", "/etc/x: content differs", "-a\n+b"))
PLANS = {
    "mail1": HostPlan(),
    "mail2": HostPlan(changes=CHANGES, warnings=("little memory",)),
    "mail3": HostPlan(changes=CHANGES, warnings=("little memory",)),
    "mail4": HostPlan(error="Could not connect. Is it up?"),
    "mail5": HostPlan(problems=("It runs Debian 11.",)),
}


def test_many_plans_are_a_line_each_and_equal_changes_are_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    for name, plan in PLANS.items():
        plan_report.print_line(name, plan)
    plan_report.print_broken_and_changes(PLANS)
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "mail1: nothing to do",
        "mail2: 2 changes; nothing was touched",
        "mail3: 2 changes; nothing was touched",
        "Changes on mail2, mail3:",
        "  Packages",
        "    install postfix",
        "  Files",
        "    /etc/x: content differs",
        "      -a",
        "      +b",
        "5 hosts: 1 with nothing to do, 2 with changes (mail2, mail3), 1 that a deploy refuses (mail5), "
        "1 not reached (mail4); nothing was touched",
    ]
    assert printed.err.splitlines() == [
        "mail4: not reached: Could not connect. Is it up?",
        "mail5: a deploy would refuse it; the reasons are below",
        "mail2, mail3: warning: little memory",
        "mail5: Mailkeep does not deploy to this host; nothing was changed.",
        "- It runs Debian 11.",
    ]
