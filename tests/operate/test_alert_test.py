"""The report of `mailkeep alert-test`, from what a server answers."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from mailkeep.errors import UserError
from mailkeep.operate import alert_test


def run_test(stdout: str, stderr: str = "") -> list[alert_test.AlertTest]:
    done = SimpleNamespace(stdout=stdout, stderr=stderr, rc=0)
    host: Any = SimpleNamespace(name="mail", inventory_label="acme", run_mailkeep=lambda _: done)
    return alert_test._send_from(host)


def test_each_channel_is_reported_with_its_answer() -> None:
    fields = {"channel": "mail", "recipient": "you@example.com", "arrived": True, "answer": "sent (250 ok)"}
    assert run_test(json.dumps([fields])) == [alert_test.AlertTest(host="mail", **fields)]  # type: ignore[arg-type]


def test_a_server_that_sends_nothing_says_why() -> None:
    with pytest.raises(UserError, match=r"no alert was sent: watch.json: no such file. `mailkeep deploy acme`"):
        run_test("", "Traceback\nwatch.json: no such file")


def test_of_a_server_of_version_0_1_0_nobody_claims_that_it_sent_nothing() -> None:
    fields = {"way": "mail", "to": "you@example.com", "arrived": True, "said": "sent (250 ok)"}
    with pytest.raises(UserError, match=r"tried to send alerts, .* too old .*`mailkeep deploy acme` upgrades it"):
        run_test(json.dumps([fields]))
