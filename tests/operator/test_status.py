"""`mailkeepctl status` says what is wrong by the watch's own sensors, also when the watch is dead, and what nobody
could look at."""

import errno
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mailkeep_server import ctl
from mailkeep_server.common import unix_http
from mailkeep_server.freezes import freeze_list
from mailkeep_server.freezes.freeze_list import FrozenAccounts, parse_entry
from mailkeep_server.operator import findings, status_command
from mailkeep_server.operator.findings import Finding, Findings, collect_findings
from mailkeep_server.watch.alert_queue import Troubles
from mailkeep_server.watch.config import WatchConfig
from mailkeep_server.watch.sensor import Sensor

ANNA = "anna@example.org"
CONFIG = cast(WatchConfig, SimpleNamespace(host="mail.example.org", units=[], freeze_list="x", control_socket="x"))


class FakeSensor(Sensor):
    def __init__(self, name: str, look: Callable[[], Troubles] = dict) -> None:
        self.name, self.look, self.looks = name, look, 0

    def find_troubles(self) -> Troubles:
        self.looks += 1
        return self.look()


class Server:
    """The watch's files, and sensors that answer."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reports_file, self.state_file = directory / "looked.json", directory / "state.json"
        self.sensors: list[FakeSensor] = []
        self.frozen: FrozenAccounts = {}
        self.watch_state = "active"
        monkeypatch.setattr(findings, "read_active_states", lambda units: dict.fromkeys(units, self.watch_state))
        monkeypatch.setattr(findings, "build_sensors", lambda *_: self.sensors)
        monkeypatch.setattr(findings, "ASK_SECONDS", 0.3)
        monkeypatch.setattr(freeze_list, "read_freezes", lambda _: self.frozen)
        self.held: list[dict[str, Any]] | None = []
        monkeypatch.setattr(unix_http, "get_body", self.answer_for_guard)

    def answer_for_guard(self, socket: str, *_: object) -> bytes:
        if self.held is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused", socket)
        return json.dumps({"messages": self.held}).encode()

    def write_watch(
        self, reports: dict[str, dict[str, Any]], troubles: dict[str, tuple[str, float]] | None = None
    ) -> None:
        default = {"at": time.time() - 2, "interval": 5.0, "error": "", "troubles": []}
        self.reports_file.write_text(json.dumps({name: default | report for name, report in reports.items()}))
        fields = {key: {"text": text, "since": since} for key, (text, since) in (troubles or {}).items()}
        self.state_file.write_text(json.dumps({"open_troubles": fields}))

    def collect(self) -> Findings:
        return collect_findings(CONFIG, self.reports_file, self.state_file)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(tmp_path, monkeypatch)


def test_while_the_watch_is_alive_its_samples_count_and_no_sensor_is_asked(server: Server) -> None:
    server.sensors = [FakeSensor("unit"), FakeSensor("disk")]
    server.write_watch(
        {"unit": {"troubles": ["postfix.service is down"]}, "disk": {}},
        {"unit:postfix.service": ("postfix.service is down", 1000.0), "failures": ("Somebody guesses", 2000.0)},
    )
    result = server.collect()
    assert result.wrong == [
        Finding("unit:postfix.service", "postfix.service is down", 1000.0),
        Finding("failures", "Somebody guesses", 2000.0),
    ]
    assert sorted(result.looked_at) == ["disk", "unit"]
    assert result.not_looked_at == {}
    assert [sensor.looks for sensor in server.sensors] == [0, 0]


def test_a_trouble_that_the_watch_has_not_proven_yet_is_none(server: Server) -> None:
    server.sensors = [FakeSensor("unit")]
    server.write_watch({"unit": {}}, {"unit:ssh.service": ("ssh.service is down", 1000.0)})
    assert server.collect().wrong == []


def test_a_sensor_of_the_watch_that_fails_was_not_looked_at(server: Server) -> None:
    server.sensors = [FakeSensor("unit")]
    server.write_watch({"unit": {"error": "systemd does not answer"}})
    result = server.collect()
    assert (result.looked_at, result.not_looked_at) == ([], {"unit": "systemd does not answer"})


def test_a_watch_that_was_just_stopped_does_not_say_that_all_is_well(server: Server) -> None:
    server.sensors = [FakeSensor("unit", lambda: {"dovecot.service": ("dovecot.service is down", "")})]
    server.write_watch({"unit": {}})
    server.watch_state = "inactive"
    assert {finding.key for finding in server.collect().wrong} == {"unit:dovecot.service", "watch:"}


@pytest.mark.parametrize("age", [60.0, -60.0])
def test_a_dead_watch_is_wrong_and_its_sensors_are_asked_anew(server: Server, age: float) -> None:
    """-60: the clock was set back, so a sample says nothing about now."""
    server.sensors = [
        FakeSensor("unit", lambda: {"dovecot.service": ("dovecot.service is down", "")}),
        FakeSensor("disk"),
        FakeSensor("leaving"),
    ]
    at = time.time() - age
    old = {"unit": {"at": at, "troubles": ["of yesterday"]}, "disk": {"at": at}, "leaving": {"at": at}}
    server.write_watch(old, {"failures": ("of yesterday", 1.0)})
    result = server.collect()
    unit, watch = sorted(result.wrong, key=lambda finding: finding.key)
    assert (unit.key, unit.since) == ("unit:dovecot.service", 0.0)
    assert "The watch does not run" in watch.text
    assert watch.since == (at if age > 0 else 0.0)
    assert result.not_looked_at == {"leaving": "only the watch sees it"}
    assert [sensor.looks for sensor in server.sensors] == [1, 1, 0]


def test_without_any_file_of_the_watch_there_is_an_answer(server: Server) -> None:
    server.sensors = [FakeSensor("disk")]
    assert [finding.key for finding in server.collect().wrong] == ["watch:"]
    server.reports_file.write_text("[garbage")
    assert [finding.key for finding in server.collect().wrong] == ["watch:"]


@pytest.mark.slow
def test_a_sensor_that_hangs_or_raises_is_named_and_the_others_answer(server: Server) -> None:
    released = threading.Event()

    def hang() -> Troubles:
        released.wait(30)
        return {}

    def fail() -> Troubles:
        raise FileNotFoundError(2, "No such file or directory", "/etc/x")

    server.sensors = [FakeSensor("signing", hang), FakeSensor("certificate", fail), FakeSensor("disk")]
    start = time.monotonic()
    result = server.collect()
    released.set()
    assert time.monotonic() - start < 3
    assert result.looked_at == ["disk"]
    assert result.not_looked_at["signing"].startswith("no answer within")
    assert result.not_looked_at["certificate"] == "/etc/x: No such file or directory"


def test_the_worst_comes_first(server: Server) -> None:
    server.frozen[ANNA] = parse_entry("20261125T160000Z guard sends\x1b spam")
    texts = {"backup": "old", "disk": "full", "firewall": "open", "queue": "long", "other": "?"}
    server.sensors = [FakeSensor(name) for name in texts]
    server.write_watch({name: {"troubles": [text]} for name, text in texts.items()})
    result = server.collect()
    assert [finding.key.partition(":")[0] for finding in result.wrong] == [
        *("frozen", "disk", "firewall", "queue", "backup", "other")
    ]
    assert "frozen by guard: sends\ufffd spam" in result.wrong[0].text


def test_mail_to_strangers_on_hold_waits_for_a_person(server: Server) -> None:
    server.held = [{"account": ANNA, "time": time} for time in (2000.0, 1000.0)]
    finding = server.collect().wrong[0]
    assert (finding.key, finding.since, finding.harm) == (f"strangers:{ANNA}", 1000.0, findings.LEAVES)
    assert finding.text.startswith(f"2 messages of {ANNA} to strangers on hold. `mailkeepctl why {ANNA}` says why")


def test_a_guard_that_is_silent_has_not_been_asked_for_what_is_on_hold(server: Server) -> None:
    server.held = None
    assert server.collect().not_looked_at == {"strangers": "x: Connection refused"}


def test_a_service_that_is_down_is_there_once(server: Server) -> None:
    server.sensors = [FakeSensor("unit"), FakeSensor("logins"), FakeSensor("inbound")]
    down = {"unit": {"troubles": ["dovecot.service is down"]}, "logins": {"troubles": ["no answer"]}}
    silent = {"inbound": {"troubles": ["no answer either"]}}
    server.write_watch(down | silent, {"unit:dovecot.service": ("dovecot.service is down", 1000.0)})
    assert [finding.text for finding in server.collect().wrong] == ["dovecot.service is down", "no answer either"]


# --- the screen


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(status_command, "load_watch_config", lambda: CONFIG)

    def run(result: Findings, *arguments: str) -> tuple[int, str]:
        result.sort()
        monkeypatch.setattr(status_command, "collect_findings", lambda _: result)
        code = ctl.main(["status", *arguments])
        return code, capsys.readouterr().out

    return run


Show = Callable[..., tuple[int, str]]


def test_all_is_well_is_one_line_and_exit_code_0(show: Show) -> None:
    result = Findings("mail.example.org", 1_764_086_400.0, looked_at=["disk", "unit"])
    assert show(result) == (0, "mail.example.org, 2025-11-25 16:00 UTC: all is well: 2 things looked at.\n")


def test_what_was_not_looked_at_is_not_well(show: Show) -> None:
    result = Findings("mail.example.org", 1_764_086_400.0, looked_at=["disk"], not_looked_at={"unit": "x", "dns": "x"})
    assert show(result) == (
        4,
        "mail.example.org, 2025-11-25 16:00 UTC: nothing is wrong in 1 thing.\nNot looked at: unit, dns (x).\n",
    )


def test_one_screen_has_the_worst_and_says_how_many_more(show: Show) -> None:
    now = 1_764_086_400.0
    wrong = [Finding(f"dns:{number}", "word " * 40 + "end", now - 3600 * 50) for number in range(9)]
    wrong += [Finding("unit:postfix.service", "postfix.service is down", now - 900), Finding("frozen:x", "y")]
    result = Findings(
        "mail.example.org", now, wrong, ["disk"], {f"sensor{number}": "reason " * 9 for number in range(9)}
    )
    code, text = show(result)
    lines = text.splitlines()
    assert code == 3
    assert len(lines) <= 23
    assert max(map(len, lines)) <= 79
    assert lines[:5] == [
        "mail.example.org, 2025-11-25 16:00 UTC: 11 things are wrong, the worst first.",
        "* SPAM MAY LEAVE, since when is not known",
        "  y",
        "* MAIL STOPS, since 2025-11-25 15:45 UTC (15 min)",
        "  postfix.service is down",
    ]
    assert "* TROUBLE AHEAD, since 2025-11-23 14:00 UTC (2 days)" in lines
    assert "more: `mailkeepctl status --all`" in text
    assert show(result, "--all")[1].count("TROUBLE AHEAD") == 9
    parsed = json.loads(show(result, "--json")[1])
    assert [entry["key"] for entry in parsed["wrong"][:2]] == ["frozen:x", "unit:postfix.service"]
    assert parsed["wrong"][0]["since"] is None


def test_a_command_stays_on_one_line(show: Show) -> None:
    text = "word " * 12 + "`systemctl restart mailkeep-watch` starts it"
    result = Findings("mail.example.org", 1_764_086_400.0, [Finding("watch:", text)])
    assert "  `systemctl restart mailkeep-watch` starts it" in show(result)[1].splitlines()


def test_without_configuration_it_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(findings.watch_config.load_config, "__defaults__", (tmp_path / "none",))
    assert ctl.main(["status"]) == 1
