"""Hosts are worked on at once, and none waits for another."""

import os
import time

import pytest

from mailkeep.errors import UserError
from mailkeep.host import each_host, remote
from mailkeep.host.each_host import HostResult, run_on_each


def act(name: str) -> str:
    """Does what the host's name says."""
    if name == "slow":
        time.sleep(1)
    if name == "hanging":
        time.sleep(60)
    if name == "dying":
        os._exit(3)
    if name == "refused":
        raise UserError("the reason")
    if name.startswith("asking"):
        return f"{remote.getpass()} for {name}"
    if name == "mistaken":
        raise ValueError("a mistake")
    return f"{name} done"


@pytest.mark.slow
def test_the_result_of_each_host_comes_as_it_is_ready() -> None:
    results = list(run_on_each(["slow", "mail1", "mail2"], act))
    assert {result.value for result in results} == {"slow done", "mail1 done", "mail2 done"}
    assert results[-1].name == "slow"
    assert 1 <= results[-1].seconds < 10


@pytest.mark.slow
def test_a_host_that_fails_costs_the_others_nothing() -> None:
    start = time.monotonic()
    results = {
        result.name: result for result in run_on_each(["hanging", "dying", "mistaken", "refused", "mail1"], act, 2)
    }
    assert time.monotonic() - start < 20
    assert results["mail1"].value == "mail1 done"
    assert results["refused"].error == "the reason"
    assert results["mistaken"].error == "a mistake"
    assert "exit code 3" in results["dying"].error
    assert results["hanging"].error.startswith("no answer within 2 seconds. Log in")
    assert {result.value for name, result in results.items() if name != "mail1"} == {None}


@pytest.mark.slow
def test_the_time_in_which_a_person_types_passwords_is_no_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    def type_slowly(_: str) -> str:
        time.sleep(0.8)
        return "password"

    monkeypatch.setattr(each_host, "getpass", type_slowly)
    names = ["asking1", "asking2", "hanging"]
    results = {result.name: result for result in run_on_each(names, act, 0.5)}
    assert {name: results[name].value for name in names[:2]} == {
        "asking1": "password for asking1",
        "asking2": "password for asking2",
    }
    assert results["hanging"].error.startswith("no answer within")


@pytest.mark.slow
def test_there_are_never_too_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(each_host, "MAX_PROCESSES", 2)
    names = [f"mail{number}" for number in range(7)]
    assert sorted(result.name for result in run_on_each(names, act)) == names


def test_processes_end_with_the_run_that_nobody_waits_for_any_more() -> None:
    results = run_on_each(["hanging", "mail1"], act)
    first: HostResult[str] = next(results)
    assert first.name == "mail1"
    start = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - start < 10
