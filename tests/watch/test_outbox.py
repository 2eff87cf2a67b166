"""No channel waits for another, an unsent notification is tried again, and a dead channel is reported by the other."""

import threading
from dataclasses import replace

import pytest
from watch_samples import NOTIFICATION, Clock

from mailkeep.lab.podman import poll
from mailkeep_server.watch import outbox as outbox_module
from mailkeep_server.watch.alert_queue import AlertQueue, Notification
from mailkeep_server.watch.channels import NotSentError
from mailkeep_server.watch.outbox import MAX_NOTIFICATIONS, Outbox, Send

CHANNELS = ("mail", "webhook")


@pytest.fixture(autouse=True)
def retry_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "RETRY_SECONDS", (0.01,))


def start_outbox(alerts: AlertQueue, send: Send, state: dict[str, object] | None = None) -> Outbox:
    outbox = Outbox(CHANNELS, send, alerts, state)
    outbox.start()
    return outbox


def fail_to_send(_channel: str, _notification: Notification) -> str:
    raise NotSentError("HTTP 500")


def build_notification(number: int) -> Notification:
    return replace(NOTIFICATION, id=number, time=9e9, pending_channels=[])


@pytest.mark.slow
def test_a_channel_that_hangs_holds_up_neither_the_other_nor_the_watch(alerts: AlertQueue) -> None:
    released, sent = threading.Event(), list[int]()

    def send(channel: str, notification: Notification) -> None:
        if channel == "webhook":
            released.wait()
        else:
            sent.append(notification.id)

    outbox = start_outbox(alerts, send)
    for number in range(1000):
        outbox.add_notification(build_notification(number))
    poll(lambda: sent[-1:] == [999], 5, "not sent by mail")
    assert len(outbox.export_state()["notifications"]) <= MAX_NOTIFICATIONS
    released.set()
    poll(lambda: not outbox.export_state()["notifications"], 5, "notifications are left")


@pytest.mark.slow
def test_a_dead_channel_is_reported_and_its_notifications_arrive_when_it_is_back(
    alerts: AlertQueue, clock: Clock
) -> None:
    is_broken, sent = True, list[tuple[str, int]]()

    def send(channel: str, notification: Notification) -> None:
        if is_broken and channel == "webhook":
            raise NotSentError("HTTP 500")
        sent.append((channel, notification.id))

    outbox = start_outbox(alerts, send)
    outbox.add_notification(build_notification(1))
    poll(lambda: "channel:webhook" in alerts.open_troubles, 5, "nothing is reported")
    clock.now += 5
    notification = alerts.next_notification()
    assert notification
    assert "Alerts cannot be sent by webhook: HTTP 500" in notification.text
    is_broken = False
    poll(lambda: ("webhook", 1) in sent, 5, "not sent by the webhook")
    poll(lambda: "channel:webhook" not in alerts.open_troubles, 5, "still a trouble")
    assert sent.count(("mail", 1)) == 1


@pytest.mark.slow
def test_a_notification_that_could_not_be_sent_for_too_long_is_given_up(alerts: AlertQueue) -> None:
    outbox = start_outbox(alerts, fail_to_send)
    outbox.add_notification(replace(build_notification(1), time=0.0))
    poll(lambda: not outbox.export_state()["notifications"], 5, "notifications are left")


def test_notifications_outlive_a_restart(alerts: AlertQueue) -> None:
    outbox = start_outbox(alerts, fail_to_send)
    outbox.add_notification(build_notification(7))
    sent: list[tuple[str, int]] = []

    def send(channel: str, notification: Notification) -> None:
        sent.append((channel, notification.id))

    start_outbox(alerts, send, outbox.export_state())
    poll(lambda: sorted(sent) == [("mail", 7), ("webhook", 7)], 5, "not sent")
