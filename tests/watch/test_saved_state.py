"""The state of the last run is read, also that of version 0.1.0; a damaged one costs nothing but itself."""

import json
from pathlib import Path

import pytest

from mailkeep_server.watch.alert_queue import AlertQueue
from mailkeep_server.watch.login_monitor import LoginMonitor
from mailkeep_server.watch.outbox import Outbox
from mailkeep_server.watch.saved_state import read_state

STATE_0_1_0 = {
    "open": {
        "unit:dovecot.service": {
            "text": "dovecot.service is down (failed, exit-code)",
            "over": "dovecot.service runs again",
            "since": 1764086400.0,
            "told": 1764086400.5,
        },
        "world:example.org MX": {"text": "a", "over": "No more: a", "since": 1.0, "told": 2.0},
        "way:webhook": {"text": "b", "over": "webhook works again", "since": 1.0, "told": 2.0},
        "freezes:carry_out": {"text": "c", "over": "d", "since": 1.0, "told": 2.0},
        "sensor:world": {"text": "e", "over": "f", "since": 1.0, "told": 2.0},
    },
    "lines": [{"at": 1764086401.0, "text": "anna@example.org is near her limit", "urgent": False}],
    "told": {"unit:dovecot.service": [1764086400.5], "world:example.org MX": [2.0]},
    "letters": [{"id": 7, "at": 3.0, "subject": "s", "text": "t", "urgent": True, "left": ["webhook"]}],
    "networks": {"anna@example.org": ["192.0.2.0/24"]},
    "event": 42,
}


def test_state_of_version_0_1_0_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(json.dumps(STATE_0_1_0))
    state = read_state(tmp_path / "state.json")
    alerts = AlertQueue("mail.example.org", state, lambda: 1764086500.0)
    outbox = Outbox(("mail", "webhook"), lambda *_: None, alerts, state)
    monitor = LoginMonitor(alerts, 100, state)
    assert {*alerts.open_troubles} == {
        "unit:dovecot.service",
        "dns:example.org MX",
        "channel:webhook",
        "freezes:enforce",
        "sensor:dns",
    }
    assert {*alerts.report_times} == {"unit:dovecot.service", "dns:example.org MX"}
    assert [alert.text for alert in alerts.alerts] == ["anna@example.org is near her limit"]
    assert [notification.pending_channels for notification in outbox.notifications] == [["webhook"]]
    assert monitor.networks == {"anna@example.org": ["192.0.2.0/24"]}
    assert state["last_event"] == 42
    alerts.report_trouble("unit:dovecot.service", "dovecot.service is down", "dovecot.service runs again")
    assert len(alerts.alerts) == 1, "it was reported before the upgrade"
    alerts.end_trouble("unit:dovecot.service")
    assert alerts.alerts[-1].text == "dovecot.service runs again (since 2025-11-25 16:00:00 UTC)"


def test_its_own_state_is_read_as_it_is(tmp_path: Path) -> None:
    state = {"open_troubles": {}, "alerts": [], "networks": {"a": []}, "last_event": 1}
    (tmp_path / "state.json").write_text(json.dumps(state))
    assert read_state(tmp_path / "state.json") == state


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"open": []}', '{"open": {"a": 1}}', '{"open": {}, "lines": 1}']
)
def test_a_damaged_state_is_no_state(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    assert read_state(tmp_path / "state.json") == {}
    assert read_state(tmp_path / "missing.json") == {}
