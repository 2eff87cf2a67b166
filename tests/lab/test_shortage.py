"""A failed boot is explained by what the machine is short of. No container is needed to judge figures."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from mailkeep.lab import container
from mailkeep.lab.container import Container
from mailkeep.lab.podman import LabError
from mailkeep.lab.shortage import MachineLoad, find_shortages, read_load

IDLE = MachineLoad(inotify_used=20, inotify_limit=128, free_memory=4000, load=0.3, processors=2, boot_seconds=2.0)


def test_an_idle_machine_is_short_of_nothing() -> None:
    assert find_shortages(IDLE) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"inotify_used": 126},
            "inotify instances are short: 126 of 128 are in use; run `sysctl fs.inotify.max_user_instances=1024`, "
            "or remove other labs with `make down`.",
        ),
        (
            {"inotify_used": 2048, "inotify_limit": 2048},
            "inotify instances are short: 2048 of 2048 are in use; run `sysctl fs.inotify.max_user_instances=4096`, "
            "or remove other labs with `make down`.",
        ),
        (
            {"free_memory": 90},
            "memory is short: 90 MiB are free, and a server needs 256; "
            "remove other labs with `make down`, or stop other programs.",
        ),
        (
            {"boot_seconds": 60.4, "load": 17.2},
            "time is short: the boot took 60 s at a load of 17.2 on 2 processors; stop other programs, and try again.",
        ),
    ],
)
def test_each_shortage_has_a_sentence_with_figures_and_a_remedy(change: dict[str, float], sentence: str) -> None:
    assert find_shortages(replace(IDLE, **change)) == [sentence]  # type: ignore[arg-type]


@pytest.mark.parametrize(("used", "is_short"), [(123, False), (124, True), (128, True)])
def test_inotify_is_short_when_a_machine_could_not_boot_once_more(used: int, is_short: bool) -> None:
    assert bool(find_shortages(replace(IDLE, inotify_used=used))) == is_short


def test_all_shortages_are_named() -> None:
    exhausted = replace(IDLE, inotify_used=128, free_memory=10, boot_seconds=60.0)
    assert len(find_shortages(exhausted)) == 3


def test_this_machines_figures_can_be_read() -> None:
    load = read_load(1.5)
    assert load.inotify_limit > 0
    assert load.free_memory > 0
    assert load.boot_seconds == 1.5


def test_a_failed_boot_names_the_shortage_before_the_failed_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "read_load", lambda _seconds: replace(IDLE, inotify_used=128))
    failed = "lab: mail has booted with failed units:\nsystemd-ask-password-console.path failed"
    first, *rest = str(boot_error(failed)).splitlines()
    assert first.startswith("lab: mail: inotify instances are short: 128 of 128 are in use")
    assert "\n".join(rest) == failed


def test_a_failed_boot_without_a_shortage_names_the_failed_units_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "read_load", lambda _seconds: IDLE)
    assert str(boot_error("lab: mail has booted with failed units:\nx.service")).startswith("lab: mail has booted")


def boot_error(message: str) -> LabError:
    machine = Container("x", "mail", "mail.example.test", IPv4Address(1), IPv6Address(1), Path())
    return machine._boot_error(message, 2.0)
