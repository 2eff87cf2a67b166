"""Whoever sent it, what leaves is counted by Postfix's log, and beyond the bound the queue is put on hold."""

import json
import time
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from mailkeep_server.watch import leaving, refused_connections
from mailkeep_server.watch.leaving import DAY, HOUR, STEP, LeavingSensor, hold_leaving
from mailkeep_server.watch.refused_connections import RefusedConnections

SENT = (
    "4dGk0001: to=<{to}>, relay=mx.outside.test[192.0.2.9]:25, delay=0.1, delays=0/0/0/0.1, dsn=2.0.0, status={status}"
)
OWN = ("example.org", "mail.example.org")


def build_sensor(state: dict[str, Any] | None = None, held: int = 3) -> LeavingSensor:
    return LeavingSensor(max_per_hour=5, max_per_day=8, own_domains=OWN, state=state, hold_leaving=lambda: held)


def deliver(sensor: LeavingSensor, number: int = 1, to: str = "x@outside.test", status: str = "sent (250 ok)") -> None:
    for _ in range(number):
        sensor.read_message(SENT.format(to=to, status=status))


def test_more_than_the_bound_is_stopped_told_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    sensor, now = build_sensor(), time.time()
    deliver(sensor, 5)
    assert sensor.find_troubles() == {}
    deliver(sensor)
    for held in (3, 6):
        text, _ = sensor.find_troubles()["bound"]
        assert "Mail to 6 recipients elsewhere has left in an hour, and guard.leaving allows 5" in text
        assert f"on hold, {held} messages so far" in text
    monkeypatch.setattr(time, "time", lambda: now + HOUR + STEP)
    assert sensor.find_troubles() == {}
    deliver(sensor, 3)
    assert "in a day" in sensor.find_troubles()["bound"][0]
    monkeypatch.setattr(time, "time", lambda: now + HOUR + DAY + 3 * STEP)
    assert sensor.find_troubles() == {}
    assert not sensor.steps


def test_only_what_has_left_counts() -> None:
    sensor = build_sensor()
    deliver(sensor, 9, status="deferred (connect to mx.outside.test[192.0.2.9]:25: Connection timed out)")
    deliver(sensor, 9, status="bounced (host mx.outside.test[192.0.2.9] said: 550 no)")
    deliver(sensor, 9, to="Anna@Example.ORG")
    mailbox = (
        "4dGk0001: to=<anna@example.org>, relay=mail.example.org[private/dovecot-lmtp], delay=0.1, status=sent (250 x)"
    )
    sensor.read_message(mailbox)
    assert sensor.find_troubles() == {}


def test_the_count_survives_a_restart() -> None:
    sensor = build_sensor()
    deliver(sensor, 6)
    again = build_sensor(json.loads(json.dumps(sensor.export_state())))
    assert "bound" in again.find_troubles()


def test_mail_to_others_is_put_on_hold_and_listed_but_alerts_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def row(queue_id: str, queue: str, *to: str) -> bytes:
        recipients = [{"address": address} for address in to]
        return json.dumps({"queue_id": queue_id, "queue_name": queue, "recipients": recipients}).encode() + b"\n"

    queue = [
        row("OUT", "active", "anna@example.org", "x@outside.test"),
        row("HERE", "deferred", "anna@example.org"),
        row("HELD", "hold", "x@outside.test"),
        row("ALERT", "deferred", "You@example.net"),
        row("BOTH", "deferred", "you@example.net", "x@outside.test"),
    ]
    commands: list[tuple[Any, ...]] = []

    @contextmanager
    def stream(*_: str, **__: float) -> Any:
        yield BytesIO(b"".join(queue))

    monkeypatch.setattr(leaving, "stream_output", stream)
    monkeypatch.setattr(leaving, "run", lambda *command, stdin, **_: commands.append((*command, stdin)))
    monkeypatch.setattr(leaving, "HELD_LIST", tmp_path / "stopped")
    assert hold_leaving(OWN, {"you@example.net"}) == 2
    assert commands == [("postsuper", "-h", "-", "OUT\nBOTH\n")]
    assert (tmp_path / "stopped").read_text() == "OUT\nBOTH\n"


# --- connections that the firewall refuses ----------------------------------------------------------------------------


def list_chain(packets: int, comment: str = "leaving") -> str:
    expressions = [{"match": {}}, {"counter": {"packets": packets, "bytes": 60 * packets}}, {"reject": {}}]
    other = {"rule": {"expr": [{"counter": {"packets": 7, "bytes": 420}}]}}
    rule = {"rule": {"comment": comment, "expr": expressions}}
    return json.dumps({"nftables": [{"metainfo": {}}, {"chain": {"name": "output"}}, other, rule]})


def test_connections_that_the_firewall_refuses_are_a_trouble_while_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    listings = iter(
        [list_chain(3), list_chain(3), list_chain(10), list_chain(10), list_chain(0), list_chain(5, "other")]
    )
    monkeypatch.setattr(refused_connections, "run", lambda *_: next(listings))
    sensor = RefusedConnections()
    texts = [[text for text, _ in sensor.find_troubles().values()] for _ in range(6)]
    assert [len(sample) for sample in texts] == [0, 0, 1, 0, 0, 0]
    assert "port 25 elsewhere: 7 in 30 seconds" in texts[2][0]
