"""You are told within ten seconds of a spam filter that hangs, and of a proof that fails or is missing."""

import json
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from mailkeep_server.common.milter_server import OFFER
from mailkeep_server.watch import spam_sensors
from mailkeep_server.watch.alert_queue import BATCH_SECONDS
from mailkeep_server.watch.spam_sensors import CanarySensor, FilterSensor

ALERT_SECONDS = 10.0


def test_a_filter_that_answers_as_a_milter_is_no_trouble(tmp_path: Path) -> None:
    path = tmp_path / "milter.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer(reply: bytes) -> None:
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(64) == OFFER
                connection.sendall(reply)

        sensor = FilterSensor(path)
        for reply, troubles in ((OFFER, []), (b"HTTP/1.0 400 Bad request", ["silent"])):
            thread = threading.Thread(target=answer, args=(reply,))
            thread.start()
            assert [*sensor.find_troubles()] == troubles
            thread.join()


@pytest.mark.slow
def test_a_filter_that_hangs_is_told_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sensor = FilterSensor(tmp_path / "milter.sock")
    worst = sensor.CALM_INTERVAL + sensor.samples * sensor.TIMEOUT + (sensor.samples - 1) * sensor.DOUBT_INTERVAL
    assert worst + BATCH_SECONDS < ALERT_SECONDS
    monkeypatch.setattr(FilterSensor, "TIMEOUT", 0.2)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(sensor.path))
        listener.listen()
        text, _ = sensor.find_troubles()["silent"]
    assert text.startswith("mailkeep-spam.service does not answer")
    assert sensor.interval == sensor.DOUBT_INTERVAL


def test_each_fault_of_the_last_proof_is_a_trouble(tmp_path: Path) -> None:
    file = tmp_path / "proof.json"
    sensor = CanarySensor(file)
    file.write_text(json.dumps({"faults": dict.fromkeys(spam_sensors.CONSEQUENCES, "landed in INBOX, not in Junk")}))
    troubles = sensor.find_troubles()
    assert [*troubles] == [*spam_sensors.CONSEQUENCES]
    assert troubles["junk"][0].startswith("What is probably spam does not reach Junk: the server's test message landed")
    file.write_text('{"faults": {}}')
    assert sensor.find_troubles() == {}


@pytest.mark.parametrize("exists", [True, False])
def test_silence_is_a_trouble(tmp_path: Path, exists: bool) -> None:
    file, long_ago = tmp_path / "proof.json", time.time() - CanarySensor.MAX_AGE - 60
    sensor = CanarySensor(file)
    if exists:
        file.write_text('{"faults": {}}')
        os.utime(file, (long_ago, long_ago))
    assert sensor.find_troubles() == {}, "the watch has just started"
    sensor.start = long_ago
    assert [*sensor.find_troubles()] == ["silent"]
