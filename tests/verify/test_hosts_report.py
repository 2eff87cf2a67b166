"""The report of many hosts."""

import json
from dataclasses import replace

import pytest

from mailkeep.host.deployment import Deployment
from mailkeep.host.preflight import OPERATION as PREFLIGHT
from mailkeep.verify import hosts_report
from mailkeep.verify.hosts_report import REACHABLE, HostReport
from mailkeep.verify.outcome import Outcome
from mailkeep.verify.rollout import describe_reports

PASSED = Outcome("mail1", "a", "Nobody relays", "passed")
FAILED = Outcome("mail2", "b", "No login on port 25", "failed", "no AUTH", "250 AUTH", "Run `mailkeep deploy home`.")
WARNING = Outcome("mail4", "c", "No reboot is due", "warning", "none", "due for 3 days", "`systemctl reboot`.")
UNREACHED = Outcome(
    "mail5", REACHABLE, "The server can be reached", "failed", "a shell", "ssh: timed\nout", "Is it up?"
)
VERIFIED = (
    HostReport("mail1", 1.26, outcomes=(PASSED,)),
    HostReport("mail2", 2, outcomes=(replace(PASSED, host="mail2"), FAILED)),
    HostReport("mail3", 2, outcomes=(replace(FAILED, host="mail3"), replace(FAILED, host="mail3", check="d"))),
    HostReport("mail4", 3, outcomes=(replace(PASSED, host="mail4"), WARNING)),
    HostReport("mail5", 10, outcomes=(UNREACHED,)),
)
OPERATIONS = (("Packages", "success"), ("postfix: services", "no_change"))


def print_reports(capsys: pytest.CaptureFixture[str], *reports: HostReport) -> list[str]:
    for report in reports:
        hosts_report.print_line(report)
    hosts_report.print_broken(reports)
    hosts_report.print_summary(reports, 10.04)
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_each_host_has_a_line_and_what_is_broken_is_printed_once_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_reports(capsys, *VERIFIED) == [
        "✓ mail1: 1 check passed; 1.3 s",
        "✗ mail2: 1 check passed, 1 failed; 2.0 s",
        "✗ mail3: 0 checks passed, 2 failed; 2.0 s",
        "! mail4: 1 check passed, 1 warning; 3.0 s",
        "✗ mail5: not reached: ssh: timed out. Is it up?",
        "  ✗ mail2, mail3: No login on port 25",
        "    expected  no AUTH",
        "    observed  250 AUTH",
        "    to do     Run `mailkeep deploy home`.",
        "  ✗ mail3: No login on port 25",
        "    expected  no AUTH",
        "    observed  250 AUTH",
        "    to do     Run `mailkeep deploy home`.",
        "  ! mail4: No reboot is due",
        "    expected  none",
        "    observed  due for 3 days",
        "    to do     `systemctl reboot`.",
        "5 hosts: 1 without fault, 1 with warnings (mail4), 2 with failed checks (mail2, mail3), 1 not reached "
        "(mail5); 10.0 s",
    ]


def test_deploys_say_what_they_did_and_a_failed_one_shows_its_output(capsys: pytest.CaptureFixture[str]) -> None:
    failed = Deployment((*OPERATIONS, ("Files", "error")), log=("line 3: wrong", "\x1b[2J"))
    refused = Deployment(((PREFLIGHT, "error"),), log=("mail4: Mailkeep does not deploy", "- too old"))
    lines = print_reports(
        capsys,
        HostReport("mail1", 2, Deployment((("Packages", "no_change"),)), (PASSED,)),
        HostReport("mail2", 3, Deployment(OPERATIONS, warnings=("little memory",))),
        HostReport("mail3", 4, failed),
        HostReport("mail4", 5, refused),
        HostReport("mail5", 6, Deployment(error="Could not connect. Is it up?")),
        HostReport("mail6", 7, None, (), "no answer within 9 seconds."),
    )
    assert lines == [
        "✓ mail1: nothing to do; 1 check passed; 2.0 s",
        "✓ mail2: deployed, 1 of 2 operations changed something; 3.0 s",
        "✗ mail3: the deploy failed at: Files; 4.0 s",
        "✗ mail4: refused; nothing was changed; 5.0 s",
        "✗ mail5: not reached: Could not connect. Is it up?",
        "✗ mail6: not reached: no answer within 9 seconds.",
        "! mail2: little memory",
        "✗ mail3: the deploy failed at: Files",
        "    line 3: wrong",
        "    \N{REPLACEMENT CHARACTER}[2J",
        "✗ mail4: the deploy failed at: Preflight",
        "    mail4: Mailkeep does not deploy",
        "    - too old",
        "6 hosts: 2 without fault, 2 where the deploy failed (mail3, mail4), 2 not reached (mail5, mail6); 10.0 s",
    ]


def test_twenty_hosts_without_fault_are_twenty_one_lines(capsys: pytest.CaptureFixture[str]) -> None:
    reports = [HostReport(f"mail{n}", 9, outcomes=(replace(PASSED, host=f"mail{n}"),) * 60) for n in range(20)]
    lines = print_reports(capsys, *reports)
    assert (len(lines), lines[-1]) == (21, "20 hosts: 20 without fault; 10.0 s")


def test_the_json_has_the_operations_as_pyinfra_has_them_and_everything_of_each_host() -> None:
    report = json.loads(
        json.dumps(
            describe_reports(
                [
                    HostReport("mail1", 2, Deployment(OPERATIONS), (PASSED,)),
                    HostReport("mail2", 2, Deployment((("Packages", "error"),), log=("no space",))),
                    HostReport("mail3", 2, None, (), "no answer"),
                ]
            )
        )
    )
    assert report["results"]["operations"] == [
        {"name": "Packages", "hosts": 2, "success": ["mail1"], "error": ["mail2"], "no_change": []},
        {"name": "postfix: services", "hosts": 1, "success": [], "error": [], "no_change": ["mail1"]},
    ]
    assert report["results"]["totals"] == {"hosts": 3, "success": 1, "error": 1, "no_change": 1}
    assert report["results"]["failed_hosts"] == ["mail2", "mail3"]
    assert report["hosts"]["mail1"]["outcomes"] == [PASSED.asdict()]
    assert (report["hosts"]["mail2"]["failed"], report["hosts"]["mail2"]["log"]) == ("Packages", ["no space"])
    assert report["hosts"]["mail3"]["error"] == "no answer"
