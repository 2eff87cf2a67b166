"""mailkeepctl says what could not be done in a line, and exits 1."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from guard_samples import ANNA, settings

from mailkeep_server import ctl
from mailkeep_server.freezes import enforce, freeze_list


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "guard.json").write_text(json.dumps(settings()))
    monkeypatch.setattr(ctl, "CONFIG", tmp_path / "guard.json")
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def test_a_freeze_of_which_not_all_was_done_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(freeze_list, "freeze_account", lambda *_: True)
    monkeypatch.setattr(enforce, "enforce_freeze", lambda *_: enforce.Enforcement(2, 0, "", "TimeoutExpired: doveadm"))
    assert ctl.main(["freeze", ANNA]) == 1
    said = capsys.readouterr()
    assert said.out.endswith("is frozen: no mail, no login.\n2 messages put on hold, 0 sessions cut.\n")
    assert said.err == "NOT ALL was done, and the watch tries again: TimeoutExpired: doveadm\n"


def test_a_file_that_cannot_be_written_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> bool:
        raise PermissionError(13, "Permission denied", "/var/lib/mailkeep-guard/frozen/lock")

    monkeypatch.setattr(freeze_list, "freeze_account", refuse)
    assert ctl.main(["freeze", ANNA]) == 1
    assert capsys.readouterr().err == "[Errno 13] Permission denied: '/var/lib/mailkeep-guard/frozen/lock'\n"
