"""All that matters is reported within seconds; nothing twice, and never as a flood."""

from collections.abc import Callable

import pytest
from watch_samples import Clock

from mailkeep_server.watch.alert_queue import (
    MAX_ALERT_CHARS,
    MAX_ALERTS,
    MAX_KEYS,
    URGENT,
    AlertQueue,
    Notification,
)

Wait = Callable[[float], list[Notification]]
HOUR, DAY = 3600.0, 86400.0


def lines(notifications: list[Notification]) -> list[str]:
    return [line for notification in notifications for line in notification.text.splitlines()]


def test_an_event_is_reported_after_a_second_and_once(alerts: AlertQueue, wait: Wait) -> None:
    alerts.report_event("near:anna", "anna is near her limit")
    assert wait(0) == []
    (notification,) = wait(2)
    assert notification.subject == "[mail.example.org] anna is near her limit"
    assert wait(HOUR) == []


def test_alerts_that_come_together_leave_as_one_notification_the_urgent_first(alerts: AlertQueue, wait: Wait) -> None:
    alerts.report_event("near:anna", "anna is near her limit")
    alerts.report_event("over:anna", "anna is over her limit", URGENT)
    (notification,) = wait(2)
    assert notification.urgent
    assert notification.subject == "[mail.example.org] anna is over her limit (and 1 more)"
    assert len(lines([notification])) == 2


def test_a_trouble_is_reported_when_it_begins_and_when_it_has_ended(alerts: AlertQueue, wait: Wait) -> None:
    notifications = []
    for troubles in ({"postfix": ("Postfix is down", "Postfix runs again")}, {}):
        for _ in range(100):
            alerts.update_troubles("unit", troubles)
            notifications += wait(1)
    assert [notification.subject.partition("] ")[2] for notification in notifications] == [
        "Postfix is down",
        "Postfix runs again (since 2025-11-25 16:00:00 UTC)",
    ]


def test_the_silence_of_one_sensor_does_not_end_the_troubles_of_another(alerts: AlertQueue, wait: Wait) -> None:
    alerts.update_troubles("unit", {"a": ("a is down", "a runs")})
    alerts.update_troubles("disk", {})
    assert len(lines(wait(60))) == 1


def test_a_trouble_that_lasts_is_reported_again_each_day(alerts: AlertQueue, wait: Wait, clock: Clock) -> None:
    for hour in range(49):
        text = f"The certificate ends in {14 - hour // 24} days"
        alerts.report_trouble("certificate:end", text, "It was renewed")
        clock.now += HOUR
    texts = lines(wait(1800))
    assert len(texts) == 3
    assert texts[-1].endswith("The certificate ends in 12 days (since 2025-11-25 16:00:00 UTC)")


def test_a_restart_reports_nothing_twice_and_forgets_nothing(alerts: AlertQueue, wait: Wait, clock: Clock) -> None:
    alerts.report_trouble("unit:a", "a is down", "a runs again")
    assert len(wait(5)) == 1
    alerts.report_event("x", "not yet sent")
    restarted = AlertQueue("mail.example.org", alerts.export_state(), clock)
    restarted.report_trouble("unit:a", "a is down", "a runs again")
    restarted.end_trouble("unit:a")
    clock.now += 2
    notification = restarted.next_notification()
    assert notification
    assert next(line.partition("  ")[2] for line in notification.text.splitlines()) == "not yet sent"
    assert "a runs again" in notification.text
    assert "a is down" not in notification.text


def test_a_trouble_that_flaps_is_reported_a_few_times_only(alerts: AlertQueue, wait: Wait) -> None:
    notifications = []
    for _ in range(500):
        alerts.report_trouble("unit:a", "a is down", "a runs again")
        notifications += wait(5)
        alerts.end_trouble("unit:a")
        notifications += wait(5)
    assert len([line for line in lines(notifications) if "a is down" in line]) == 4
    assert len([line for line in lines(notifications) if "a runs again" in line]) == 4


@pytest.mark.slow
def test_an_attack_of_70000_tries_makes_a_handful_of_notifications(alerts: AlertQueue, wait: Wait) -> None:
    """Nine hours of it, with an event of each kind for each try, and with invented names."""
    notifications: list[Notification] = []
    for second in range(0, 9 * 3600, 6):
        for n in range(13):
            alerts.report_event("over:anna", "anna is over her limit", URGENT)
            alerts.report_event(f"spoof:{second}-{n}", f"anna wrote as boss{second}-{n}@example.org")
            alerts.report_trouble("failures", "Somebody guesses passwords", "Few logins fail again")
        notifications += wait(5.5)
    assert len([notification for notification in notifications if notification.urgent]) <= 4
    assert len(notifications) <= 8 + 9 * 12
    for notification in notifications:
        assert len(notification.text) <= (MAX_ALERTS + 1) * (MAX_ALERT_CHARS + 30)
    assert len(alerts.report_times) <= MAX_KEYS


def test_routine_alerts_never_use_up_the_budget_of_urgent_ones(alerts: AlertQueue, wait: Wait) -> None:
    for n in range(10_000):
        alerts.report_event(f"network:{n}", f"account {n} sends from a new network")
        if n < 1000 and not n % 10:
            wait(1)
    alerts.report_event("frozen:anna", "anna is frozen", URGENT)
    (notification,) = wait(2)
    assert notification.subject.startswith("[mail.example.org] anna is frozen")
    assert "more alerts: `journalctl -u mailkeep-watch` has them all" in notification.text


def test_no_flood_of_urgent_alerts_loses_the_first_one(alerts: AlertQueue, wait: Wait) -> None:
    for n in range(MAX_ALERTS * 3):
        alerts.report_event(f"over:{n}", f"{n} is over its limit", URGENT)
    (notification,) = wait(2)
    assert "  0 is over its limit" in notification.text
    assert f"… and {MAX_ALERTS * 2} more alerts" in notification.text


@pytest.mark.parametrize("evil", ["a\nSubject: x", "a\x1b[2J", "a\u202eb", "x" * 10_000, "\r\n.\r\n"])
def test_text_of_an_attacker_stays_on_its_line(alerts: AlertQueue, wait: Wait, evil: str) -> None:
    alerts.report_event("spoof:anna", evil)
    (notification,) = wait(2)
    assert notification.text.count("\n") == 1
    text = notification.subject + notification.text
    assert all(character.isprintable() or character == "\n" for character in text)
    assert len(notification.subject) < 200
    assert len(notification.text) < MAX_ALERT_CHARS + 40


def test_a_clock_that_is_set_back_stops_nothing(alerts: AlertQueue, wait: Wait, clock: Clock) -> None:
    alerts.report_event("a", "first")
    assert wait(2)
    clock.now -= DAY
    alerts.report_event("b", "second")
    assert wait(2)
