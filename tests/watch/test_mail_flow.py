"""Mail that does not flow is a trouble: none that leaves, a mailbox that takes none, a message that waits too long."""

import time
from pathlib import Path

import pytest
from watch_samples import compose_record, write_queue_file

from mailkeep_server.watch.mail_flow import MIN_FAILING, WINDOW, DeliverySensor, QueueSensor, read_queue_file

TIMED_OUT = "connect to mx.{domain}[192.0.2.27]:25: Connection timed out"


def log_line(recipient: str, status: str, reason: str, relay: str = "none") -> str:
    """As Postfix writes it."""
    return (
        f"4XyZ1bcd: to=<{recipient}>, orig_to=<info@example.org>, relay={relay}, conn_use=2, delay=30, "
        f"delays=0.03/0/30/0, dsn=4.4.1, status={status} ({reason})"
    )


def fail(sensor: DeliverySensor, domain: str) -> None:
    sensor.read_message(log_line(f"x@{domain}", "deferred", TIMED_OUT.format(domain=domain)))


def send(sensor: DeliverySensor, domain: str) -> None:
    sensor.read_message(log_line(f"x@{domain}", "sent", "250 2.0.0 Ok", f"mx.{domain}[192.0.2.27]:25"))


def test_when_no_delivery_succeeds_it_is_a_trouble_until_one_does() -> None:
    sensor = DeliverySensor()
    for _ in range(3):
        fail(sensor, "example.net")
    assert sensor.find_troubles() == {}, "it may be this domain's server that is down"
    fail(sensor, "example.com")
    text, end_text = sensor.find_troubles()["stalled"]
    assert text.startswith("No mail leaves this server; all deliveries fail: connect to mx.example.com[192.0.2.27]:25:")
    assert end_text == "Mail leaves again"
    restarted = DeliverySensor(sensor.export_state())
    assert "stalled" in restarted.find_troubles()
    restarted.recent.clear()
    assert "stalled" in restarted.find_troubles(), "silence is no proof that mail leaves"
    send(restarted, "example.net")
    assert restarted.find_troubles() == {}


def test_a_server_that_answers_shows_that_mail_leaves() -> None:
    """As three recipients at two servers with greylisting."""
    sensor = DeliverySensor()
    for domain in ("example.net", "example.net", "example.com"):
        answer = f"host mx.{domain}[192.0.2.27] said: 450 4.2.0 Greylisted (in reply to RCPT TO command)"
        sensor.read_message(log_line(f"x@{domain}", "deferred", answer, f"mx.{domain}[192.0.2.27]:25"))
    assert sensor.find_troubles() == {}
    relayed = DeliverySensor(relay=True)
    for _ in range(3):
        relayed.read_message(
            log_line("x@example.net", "deferred", "host smtp.example.net[192.0.2.9] said: 450 4.7.1 x")
        )
    assert "stalled" in relayed.find_troubles(), "a relay host that refuses takes nothing"


def test_a_domain_that_failed_while_others_took_mail_is_its_own_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    sensor, later = DeliverySensor(), time.time() + WINDOW + 1
    fail(sensor, "dead.example")
    send(sensor, "example.net")
    sensor = DeliverySensor(sensor.export_state())
    monkeypatch.setattr(time, "time", lambda: later)
    for domain in ("dead.example", "example.com", "example.com", "example.com"):
        fail(sensor, domain)
    assert sensor.find_troubles() == {}
    fail(sensor, "example.edu")
    assert "stalled" in sensor.find_troubles()
    send(sensor, "dead.example")
    assert sensor.dead_domains == ["example.com", "example.edu"]


def test_a_domain_that_fails_right_after_another_took_mail_is_its_own_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one message to three: two of their servers time out half a minute after the third has taken it."""
    sensor, begin = DeliverySensor(), time.time()
    send(sensor, "example.net")
    monkeypatch.setattr(time, "time", lambda: begin + 30)
    fail(sensor, "dead.example")
    fail(sensor, "deaf.example")
    for minutes in (17, 23, 29):
        monkeypatch.setattr(time, "time", lambda minutes=minutes: begin + minutes * 60)
        fail(sensor, "dead.example")
        fail(sensor, "deaf.example")
        assert sensor.find_troubles() == {}
    for _ in range(2):
        fail(sensor, "example.com")
        fail(sensor, "example.edu")
    assert "stalled" in sensor.find_troubles()


def test_a_server_that_refuses_ends_the_standstill() -> None:
    sensor = DeliverySensor()
    for domain in ("example.net", "example.com", "example.com"):
        fail(sensor, domain)
    assert "stalled" in sensor.find_troubles()
    refusal = "host mx.example.net[192.0.2.27] said: 550 5.1.1 Unknown (in reply to RCPT TO command)"
    sensor.read_message(log_line("x@example.net", "bounced", refusal, "mx.example.net[192.0.2.27]:25"))
    assert sensor.find_troubles() == {}


def test_a_relay_host_that_refuses_mistyped_domains_takes_mail() -> None:
    def refuse(sensor: DeliverySensor, domain: str) -> None:
        long = f"450 4.1.2 <x@{domain}>: Recipient address rejected: Domain not found, {'and so on ' * 20}"
        reason = f"host smtp.example.net[192.0.2.9] said: {long} (in reply to RCPT TO command)"
        sensor.read_message(log_line(f"x@{domain}", "deferred", reason))

    sensor = DeliverySensor(relay=True)
    for domain in ("exmaple.net", "exampel.net") * 3:
        refuse(sensor, domain)
    assert sensor.find_troubles() == {}
    refuse(sensor, "example.edu")
    assert "stalled" in sensor.find_troubles(), "it refuses everybody"
    sensor = DeliverySensor(relay=True)
    send(sensor, "example.org")
    for domain in ("exmaple.net", "exampel.net", "example.con"):
        refuse(sensor, domain)
    assert len(sensor.dead_domains) == 3
    sensor.recent.clear()
    for domain in ("exmaple.net", "exampel.net", "example.con"):
        refuse(sensor, domain)
    assert sensor.find_troubles() == {}


def test_failures_beside_successes_are_others_troubles() -> None:
    sensor = DeliverySensor()
    send(sensor, "example.org")
    for domain in ("example.net", "example.com", "example.edu"):
        fail(sensor, domain)
    assert sensor.find_troubles() == {}


def test_with_a_relay_host_one_domain_is_enough() -> None:
    sensor = DeliverySensor(relay=True)
    for count in range(3):
        assert sensor.find_troubles() == {}, count
        fail(sensor, "example.net")
    assert "stalled" in sensor.find_troubles()


def test_a_large_share_of_failures_is_a_trouble_whatever_they_are() -> None:
    """As for an address on a blocklist, or a taken-over account whose recipients do not exist."""
    sensor = DeliverySensor()
    for number in range(4):
        send(sensor, f"s{number}.example")
    for number in range(MIN_FAILING):
        answer = f"host mx.d{number % 7}.example[192.0.2.27] said: 550 5.7.1 192.0.2.1 is on a blocklist"
        sensor.read_message(log_line(f"x@d{number % 7}.example", ("deferred", "bounced")[number % 2], answer))
    assert f"{MIN_FAILING} of {MIN_FAILING + 4} deliveries in 15 minutes failed" in sensor.find_troubles()["failing"][0]
    send(sensor, "example.org")
    send(sensor, "example.org")
    assert sensor.find_troubles() == {}


def test_old_messages_and_dead_domains_are_no_large_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """At night, nearly all deliveries are of messages that were deferred long ago."""
    sensor, begin = DeliverySensor(), time.time()
    for number in range(MIN_FAILING):
        reason = f"host mx.d{number % 7}.example[192.0.2.27] said: 452 4.2.2 Mailbox full"
        sensor.read_message(
            log_line(f"x@d{number % 7}.example", "deferred", reason).replace("delay=30,", "delay=7200,")
        )
    assert sensor.find_troubles() == {}
    sensor = DeliverySensor()
    for number in range(MIN_FAILING):
        fail(sensor, f"d{number % 7}.example")
    send(sensor, "example.org")
    monkeypatch.setattr(time, "time", lambda: begin + WINDOW + 1)
    send(sensor, "example.org")
    for number in range(MIN_FAILING):
        fail(sensor, f"d{number % 7}.example")
    assert sensor.find_troubles() == {}


def test_the_state_changes_once_a_minute_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change has the whole file written, and on a busy server each delivery is one."""
    sensor, begin = DeliverySensor(), time.monotonic()
    states = []
    for second in range(0, 180, 2):
        monkeypatch.setattr(time, "monotonic", lambda second=second: begin + second)
        send(sensor, f"d{second}.example")
        states.append(len(sensor.export_state()["deliveries"]["recent"]))
    assert sorted({*states}) == [1, 31, 61]


def test_old_failures_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    sensor = DeliverySensor()
    fail(sensor, "example.net")
    fail(sensor, "example.com")
    now = time.time() + WINDOW + 1
    monkeypatch.setattr(time, "time", lambda: now)
    fail(sensor, "example.net")
    assert sensor.find_troubles() == {}


def test_a_mailbox_that_takes_no_mail_is_a_trouble_until_it_does() -> None:
    sensor = DeliverySensor()
    dovecot = "mail.example.org[private/dovecot-lmtp]"
    answer = f"host {dovecot} said: 451 4.2.0 <ben@example.org> Internal error occurred"
    sensor.read_message(log_line("ben@example.org", "deferred", answer, dovecot))
    assert (
        "Mail to ben@example.org cannot be stored, and waits in the queue: host" in sensor.find_troubles()["mailbox"][0]
    )
    sensor.read_message(log_line("anna@example.org", "deferred", answer, dovecot))
    sensor.read_message(log_line("bea@example.org", "deferred", answer, dovecot))
    assert "Mail to bea@example.org and 2 other addresses cannot" in sensor.find_troubles()["mailbox"][0]
    assert "mailbox" in DeliverySensor(sensor.export_state()).find_troubles()
    for name in ("anna", "ben", "bea"):
        sensor.read_message(log_line(f"{name}@example.org", "sent", "250 2.0.0 Saved", dovecot))
    assert sensor.find_troubles() == {}


def test_a_dovecot_that_is_down_is_not_the_mailboxes_trouble() -> None:
    """Then Postfix logs no relay; that is no failure of mail to others either."""
    sensor = DeliverySensor()
    dovecot = "mail.example.org[private/dovecot-lmtp]"
    refused = f"connect to {dovecot}: Connection refused"
    for domain in ("example.org", "example.org", "club.example.net"):
        sensor.read_message(log_line(f"ben@{domain}", "deferred", refused))
        sensor.read_message(log_line(f"ben@{domain}", "deferred", f"delivery temporarily suspended: {refused}"))
    ending = f"host {dovecot} said: 421 4.3.2 Shutting down (in reply to MAIL FROM command)"
    sensor.read_message(log_line("ben@example.org", "deferred", ending, dovecot))
    assert sensor.find_troubles() == {}
    assert not sensor.recent


def test_another_server_cannot_pass_for_dovecot() -> None:
    sensor = DeliverySensor()
    answer = "host mx.example.net[192.0.2.27] said: 450 connect to mx[private/dovecot-lmtp]: Connection refused"
    sensor.read_message(log_line("x@example.net", "deferred", answer))
    assert len(sensor.recent) == 1


@pytest.mark.parametrize(
    "line",
    ["", "4XyZ: removed", "4XyZ: to=<a@b>, relay=none, status=deferred", "imap-login: x: to=<a@b>, relay=none, x (y)"],
)
def test_other_lines_are_ignored(line: str) -> None:
    sensor = DeliverySensor()
    sensor.read_message(line)
    assert not sensor.recent


# --- the queue


def test_the_queue_is_counted_without_held_messages_and_reported_with_slack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QueueSensor, "SPOOL", tmp_path)
    sensor = QueueSensor(4)
    assert sensor.find_troubles() == {}

    def add_messages(*names: str) -> None:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()

    held = [f"hold/{n}" for n in range(9)]
    add_messages("deferred/A/A1", "deferred/B/B1", "active/C1", "incoming/D1", *held)
    assert sensor.find_troubles() == {}
    add_messages("maildrop/E1")
    assert "1 maildrop, 1 incoming, 1 active, 2 deferred" in sensor.find_troubles()["long"][0]
    (tmp_path / "maildrop/E1").unlink()
    assert sensor.find_troubles(), "only at half its length is it short again"
    (tmp_path / "active/C1").unlink()
    (tmp_path / "incoming/D1").unlink()
    assert sensor.find_troubles() == {}


@pytest.fixture
def deferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(QueueSensor, "SPOOL", tmp_path)
    (tmp_path / "deferred/A").mkdir(parents=True)
    return tmp_path / "deferred/A"


def write_message(file: Path, age: float, sender: str = "anna@example.org", recipient: str = "x@example.net") -> None:
    write_queue_file(file, time.time() - age, sender, recipient)


def read_events(sensor: QueueSensor) -> list[str]:
    assert sensor.find_troubles() == {}
    return [text for _, text, _ in sensor.take_events()]


def test_each_message_that_waits_for_four_hours_is_reported_once(deferred: Path) -> None:
    deliveries = DeliverySensor()
    sensor = QueueSensor(100, deliveries)
    write_message(deferred / "A1", 4 * 3600 - 60)
    assert read_events(sensor) == []
    write_message(deferred / "A2", 4 * 3600 + 60)
    [text] = read_events(sensor)
    assert text.startswith("Mail waits: the oldest of 2 deferred messages came at")
    assert read_events(sensor) == []
    assert read_events(QueueSensor(100, DeliverySensor(deliveries.export_state()))) == [], "after a restart"
    write_message(deferred / "A3", 4 * 3600 + 30)
    assert len(read_events(sensor)) == 1, "the former one hides no later one"


def test_messages_that_wait_for_an_hour_are_a_trouble_if_nothing_has_left_meanwhile(deferred: Path) -> None:
    deliveries = DeliverySensor()
    sensor = QueueSensor(100, deliveries)
    write_message(deferred / "A1", 3700)
    write_message(deferred / "A2", 3620, recipient="x@example.com")
    assert sensor.find_troubles() == {}
    deliveries.last_sent = time.time() - 3650
    assert sensor.find_troubles() == {}, "the first one waits by its own fault"
    deliveries.last_sent = time.time() - 3750
    assert "and no other has left meanwhile" in sensor.find_troubles()["stalled"][0]
    deliveries.dead_domains = ["example.com"]
    assert sensor.find_troubles() == {}


def test_an_alert_that_leaves_ends_the_standstill_for_good(deferred: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would come again each hour, where the administrator's mailbox is elsewhere."""
    deliveries, later = DeliverySensor(), time.time() + 7200
    deliveries.last_sent = time.time() - 3750
    sensor = QueueSensor(100, deliveries)
    write_message(deferred / "A1", 3700)
    write_message(deferred / "A2", 3620, recipient="x@example.com")
    assert {*sensor.find_troubles()} == {"stalled"}
    send(deliveries, "example.edu")
    monkeypatch.setattr(time, "time", lambda: later)
    assert sensor.find_troubles() == {}


def test_messages_to_one_domain_may_wait_through_the_night_except_for_a_relay_host(deferred: Path) -> None:
    """Its server may be off, and nobody else sends."""
    for relay, troubles in ((False, set()), (True, {"stalled"})):
        deliveries = DeliverySensor(relay=relay)
        deliveries.last_sent = time.time() - 3750
        write_message(deferred / "A1", 3700)
        write_message(deferred / "A2", 3700)
        assert {*QueueSensor(100, deliveries).find_troubles()} == troubles


def test_a_notification_that_nobody_takes_is_none(deferred: Path) -> None:
    """As to the forged sender of spam."""
    write_message(deferred / "A1", 20 * 3600, sender="")
    assert QueueSensor(100).find_troubles() == {}


def test_files_that_are_no_messages_have_no_age(deferred: Path) -> None:
    for number, content in enumerate(
        (b"", b"C", b"T\xff", b"\0" * 5000, compose_record("T", b"x") + compose_record("S", b"a"))
    ):
        (deferred / str(number)).write_bytes(content)
        assert read_queue_file(str(deferred / str(number))).arrival == float("inf")
    assert read_queue_file(str(deferred / "none")).arrival == float("inf")
