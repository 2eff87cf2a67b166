"""A service that runs and does not answer, or answers wrongly, is a trouble within a minute."""

import pickle
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailkeep_server.common import fail2ban_socket, unit_states
from mailkeep_server.common.dns_query import DnsReply, parse_reply, read_nameservers
from mailkeep_server.watch import answer_sensors
from mailkeep_server.watch.alert_queue import BATCH_SECONDS
from mailkeep_server.watch.answer_sensors import (
    ANSWER_TIMEOUT,
    AnswerSensor,
    AskingSensor,
    Fail2banSensor,
    MilterSensor,
    ResolverSensor,
    SigningSensor,
    build_answer_sensors,
)

Serve = Callable[[Callable[[socket.socket], None]], Path]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Answers each connection to a Unix-domain socket by a function."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "service"))
    listener.listen()

    def start(answer: Callable[[socket.socket], None]) -> Path:
        def loop() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    answer(connection)

        threading.Thread(target=loop, daemon=True).start()
        return tmp_path / "service"

    yield start
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def packet(command: bytes, data: bytes = b"") -> bytes:
    return struct.pack("!I", 1 + len(data)) + command + data


class Milter:
    """OpenDKIM as far as the sensor asks: signs each domain of `keys`, and answers others with `verdict`."""

    def __init__(self, keys: set[str], verdict: bytes = b"t") -> None:
        self.keys, self.verdict = keys, verdict

    def __call__(self, connection: socket.socket) -> None:
        stream, domain = connection.makefile("rb"), ""
        while header := stream.read(4):
            data = stream.read(*struct.unpack("!I", header))
            if data[:1] == b"M":
                domain = data.partition(b"@")[2].rstrip(b">\0").decode()
            if data[:1] == b"O":
                connection.sendall(packet(b"O", data[1:]))
            elif data[:1] == b"E" and domain in self.keys:
                connection.sendall(packet(b"i", b"\0\0\0\1DKIM-Signature\0v=1; d=" + domain.encode() + b"; b=x\0"))
                connection.sendall(packet(b"a"))
            elif data[:1] == b"E":
                connection.sendall(packet(self.verdict))
            elif data[:1] == b"Q":
                return
            elif data[:1] != b"D":
                connection.sendall(packet(b"c"))


def test_mail_of_a_domain_that_is_not_signed_is_a_trouble_until_it_is(serve: Serve) -> None:
    milter = Milter({"example.org", "club.example.net"})
    sensor = SigningSensor(["example.org", "club.example.net"], str(serve(milter)))
    assert sensor.find_troubles() == {}
    milter.keys.remove("club.example.net")
    text, end_text = sensor.find_troubles()["unsigned"]
    assert text.startswith(
        "Mail from club.example.net is not signed, and cannot be sent: OpenDKIM refuses it for now. "
    )
    assert end_text == "OpenDKIM signs again"
    milter.verdict = b"a"
    assert "OpenDKIM lets it pass without a signature" in sensor.find_troubles()["unsigned"][0]
    milter.keys.add("club.example.net")
    assert sensor.find_troubles() == {}


def test_every_domain_is_asked_in_turn_and_a_faulty_one_each_time(serve: Serve) -> None:
    domains = [f"d{number}.example.org" for number in range(12)]
    milter = Milter({*domains} - {"d7.example.org"})
    sensor = SigningSensor(domains, str(serve(milter)))
    assert [len(sensor.find_troubles()) for _ in range(4)] == [0, 1, 1, 1]
    milter.keys.add("d7.example.org")
    assert sensor.find_troubles() == {}


@pytest.mark.slow
def test_an_opendkim_that_hangs_is_a_trouble_and_so_is_none(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_sensors, "ANSWER_TIMEOUT", 0.2)
    hung = threading.Event()
    path = serve(lambda _: hung.wait() and None)
    assert "OpenDKIM does not answer within" in SigningSensor(["example.org"], str(path)).find_troubles()["unsigned"][0]
    hung.set()
    text = SigningSensor(["example.org"], str(tmp_path / "none")).find_troubles()["unsigned"][0]
    assert "OpenDKIM cannot be asked: No such file or directory" in text


@pytest.mark.slow
def test_an_opendkim_that_hangs_or_trickles_costs_one_timeout_for_all_domains(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch's loop waits meanwhile, and systemd kills it after 30 seconds without a sign of life."""
    monkeypatch.setattr(answer_sensors, "ANSWER_TIMEOUT", 0.2)
    ended = threading.Event()

    def trickle(connection: socket.socket) -> None:
        while not ended.wait(0.05):
            connection.send(packet(b"p"))  # progress: the milter still works

    sensor = SigningSensor([f"d{number}.example.org" for number in range(12)], str(serve(trickle)))
    sensor.faults = dict.fromkeys(sensor.domains, "refuses it")
    begin = time.monotonic()
    text, _ = sensor.find_troubles()["unsigned"]
    assert time.monotonic() - begin < 0.4
    ended.set()
    assert text.startswith("Mail is not signed, and cannot be sent: OpenDKIM does not answer within")


@pytest.mark.slow
def test_a_service_must_give_its_usual_answer(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_sensors, "ANSWER_TIMEOUT", 0.2)
    answers = [b"1\tVERSION\tx", b"gibberish", None]
    hung = threading.Event()

    def answer_next(connection: socket.socket) -> None:
        answer = answers.pop(0)
        assert connection.recv(99) == b"hello"
        if answer is None:
            hung.wait()
        else:
            connection.sendall(answer)

    arguments = (b"hello", b"VERSION", "nobody can log in meanwhile")
    sensor = AnswerSensor("logins", "dovecot.service", serve(answer_next), *arguments)
    assert sensor.find_troubles() == {}
    assert "dovecot.service answers with something else than usual: nobody" in sensor.find_troubles()["silent"][0]
    assert "dovecot.service does not answer within" in sensor.find_troubles()["silent"][0]
    hung.set()
    sensor.path = tmp_path / "none"
    assert "cannot be asked (No such file or directory)" in sensor.find_troubles()["silent"][0]


def test_a_milter_that_has_ended_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The question would start it."""
    sensor = MilterSensor("inbound", "mailkeep-inbound.service", tmp_path / "none", b"", b"", "mail waits")
    states = {"mailkeep-inbound.service": "active"}
    monkeypatch.setattr(unit_states, "read_active_states", lambda *_: states)
    assert "cannot be asked (No such file or directory)" in sensor.find_troubles()["silent"][0]
    states["mailkeep-inbound.service"] = "inactive"
    assert sensor.find_troubles() == {}
    monkeypatch.undo()
    sensor.systemd = str(tmp_path / "no systemd")
    assert "cannot be asked (No such file or directory)" in sensor.find_troubles()["silent"][0]


@pytest.mark.slow
def test_a_fail2ban_that_is_busy_is_asked_again_until_the_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lets one client wait, and the kernel turns the next away."""
    monkeypatch.setattr(answer_sensors, "ANSWER_TIMEOUT", 0.3)
    sensor = Fail2banSensor(str(tmp_path / "fail2ban"))
    assert "cannot be asked (No such file or directory)" in sensor.find_troubles()["silent"][0]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sensor.path)
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(sensor.path)
            assert "does not answer within" in sensor.find_troubles()["silent"][0]
            monkeypatch.setattr(answer_sensors, "ANSWER_TIMEOUT", 5.0)

            def answer() -> None:
                listener.accept()[0].close()
                with listener.accept()[0] as client:
                    assert client.recv(999).endswith(fail2ban_socket.END)
                    client.sendall(pickle.dumps((0, "pong")) + fail2ban_socket.END)

            thread = threading.Timer(0.1, answer)
            thread.start()
            assert sensor.find_troubles() == {}
            thread.join()


def test_a_resolver_conf_of_others_and_a_resolver_that_does_not_validate_are_troubles(tmp_path: Path) -> None:
    file, reply = tmp_path / "resolv.conf", [DnsReply(0, True, [])]
    sensor = ResolverSensor(file, lambda *_: reply[0])
    ours = "nameserver 127.0.0.1\noptions edns0 trust-ad\n"
    file.write_text(ours)
    assert sensor.find_troubles() == {}
    file.write_text("search hoster.example\nnameserver 198.51.100.2\n")
    assert f"{file} names 198.51.100.2, not this machine's own resolver" in sensor.find_troubles()["file"][0]
    file.write_text("nameserver 127.0.0.53\noptions edns0 trust-ad\n")
    assert f"{file} names 127.0.0.53, not this" in sensor.find_troubles()["file"][0], "systemd-resolved"
    file.write_text("nameserver ::1\noptions trust-ad\n")
    assert sensor.find_troubles() == {}
    file.write_text("nameserver 127.0.0.1\n")
    assert "has no `options trust-ad`" in sensor.find_troubles()["file"][0]
    file.unlink()
    assert "cannot be read" in sensor.find_troubles()["file"][0]
    file.write_text(ours)
    reply[0] = DnsReply(0, False, [])
    assert "does not validate" in sensor.find_troubles()["answer"][0]
    reply[0] = DnsReply(2, False, [])
    assert "cannot look up the DNS root (error 2)" in sensor.find_troubles()["answer"][0]


@pytest.mark.parametrize("error", [TimeoutError("timed out"), ConnectionRefusedError(111, "refused"), ValueError("x")])
def test_a_resolver_that_does_not_answer_is_a_trouble(tmp_path: Path, error: Exception) -> None:
    def fail(*_: object) -> DnsReply:
        raise error

    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\noptions trust-ad\n")
    assert "does not answer" in ResolverSensor(tmp_path / "resolv.conf", fail).find_troubles()["answer"][0]


def test_any_bytes_are_an_answer_or_no_dns_message() -> None:
    """The errors that `query_server` turns into a sentence; a resolver once ended `verify` by an IndexError."""
    refusal_without_question = struct.pack("!HHHHHH", 7, 0x8085, 0, 0, 0, 0)
    assert parse_reply(refusal_without_question, 6) == DnsReply(5, False, [])
    whole = struct.pack("!HHHHHH", 7, 0x81A0, 1, 1, 0, 0) + b"\0\0\6\0\1" + b"\0\0\6\0\1\0\0\0\1\0\2ab"
    assert parse_reply(whole, 6) == DnsReply(0, True, [b"ab"])
    for end in range(12, len(whole) - 2):
        with pytest.raises((IndexError, struct.error)):
            parse_reply(whole[:end], 6)


def test_without_a_nameserver_line_the_c_library_asks_loopback(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("search example.org\n")
    assert read_nameservers(tmp_path / "resolv.conf") == ["127.0.0.1"]


def test_a_service_that_hangs_is_reported_within_a_minute() -> None:
    sensors = build_answer_sensors(["example.org"], local_resolver=True)
    slow = len(sensors) * ANSWER_TIMEOUT  # should all of them hang
    assert AskingSensor.CALM_INTERVAL + AskingSensor.DOUBT_INTERVAL + 2 * slow + BATCH_SECONDS < 60
    assert {sensor.samples for sensor in sensors} == {2}


def test_a_wrong_answer_is_asked_for_again_soon(tmp_path: Path) -> None:
    sensor = SigningSensor(["example.org"], str(tmp_path / "none"))
    assert sensor.interval == AskingSensor.CALM_INTERVAL
    sensor.find_troubles()
    assert sensor.interval == AskingSensor.DOUBT_INTERVAL
