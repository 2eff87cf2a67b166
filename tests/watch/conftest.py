from collections.abc import Callable
from pathlib import Path

import pytest
from watch_samples import Clock

from mailkeep_server.watch.alert_queue import AlertQueue, Notification
from mailkeep_server.watch.config import WatchConfig


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def alerts(clock: Clock) -> AlertQueue:
    return AlertQueue("mail.example.org", clock=clock)


@pytest.fixture
def wait(alerts: AlertQueue, clock: Clock) -> Callable[[float], list[Notification]]:
    """The notifications of the next seconds, in each of which the watch takes one twice."""

    def take_notifications(seconds: float) -> list[Notification]:
        taken = []
        for _ in range(int(seconds * 2) + 1):
            taken.append(alerts.next_notification())
            clock.now += 0.5
        return [notification for notification in taken if notification]

    return take_notifications


@pytest.fixture
def config(tmp_path: Path) -> WatchConfig:
    return WatchConfig(
        host="mail.example.org",
        admins=["ann@example.net", "bob@example.net"],
        accounts={"anna@example.org": ["anna@example.org", "info@example.org"]},
        confirm_at={"anna@example.org": "anna.elsewhere@example.net"},
        units=["postfix.service"],
        on_demand=[],
        jails={"sshd": [22], "recidive": None},
        jail_rules={},
        open_ports=[22, 25],
        never_ban=["192.0.2.1", "198.51.100.0/24"],
        certificate_file=str(tmp_path / "certificate.pem"),
        min_certificate_days=14,
        max_queued_messages=10,
        max_disk_percent=85,
        max_failed_logins=100,
        max_leaving={"max_per_hour": 4000, "max_per_day": 20_000},
        domains=["example.org", "mail.example.org"],
        control_socket=str(tmp_path / "control"),
        freeze_list=str(tmp_path / "accounts"),
        smtp_socket=str(tmp_path / "smtp"),
        unsigned_smtp_socket=str(tmp_path / "unsigned-smtp"),
        signing_domains=["example.org", "mail.example.org"],
        local_resolver=True,
        addresses=["192.0.2.1"],
        dns_troubles_file=str(tmp_path / "dns.json"),
        renewal_troubles_file="",
        report_announcements_file=str(tmp_path / "announcements.json"),
    )
