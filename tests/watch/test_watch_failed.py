"""The end of the watch is reported by each channel, and at most twice an hour."""

from dataclasses import replace
from pathlib import Path

import pytest

from mailkeep_server.watch import watch_failed
from mailkeep_server.watch.alert_queue import Notification
from mailkeep_server.watch.channels import NotSentError
from mailkeep_server.watch.config import WatchConfig, WebhookConfig


def test_it_is_reported_by_each_channel_and_at_most_twice_an_hour(
    config: WatchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent: list[tuple[str, str]] = []
    now = 5000.0

    def send(channel: str, notification: Notification, _: WatchConfig) -> str:
        sent.append((channel, notification.subject))
        if channel == "mail":
            raise NotSentError("Connection refused")
        return "HTTP 200"

    config = replace(config, webhook=WebhookConfig("ntfy", "", "https://ntfy.example/topic", ""))
    monkeypatch.setattr(watch_failed, "load_config", lambda: config)
    monkeypatch.setattr(watch_failed, "send_notification", send)
    monkeypatch.setattr(watch_failed, "REPORT_TIMES", tmp_path / "report-times")
    monkeypatch.setattr(watch_failed.time, "monotonic", lambda: now)
    monkeypatch.setenv("MONITOR_SERVICE_RESULT", "signal")
    for _ in range(5):
        assert watch_failed.main([]) == 0
    subject = "[mail.example.org] The watch has ended (signal), and systemd restarts it"
    assert sent == [("mail", subject), ("webhook", subject)] * 2
    output = capsys.readouterr().out
    assert "mail: Connection refused\nwebhook: HTTP 200\n" in output
    assert output.count("that was reported 2 times within the hour") == 3
    now += 3600
    watch_failed.main([])
    assert len(sent) == 6
