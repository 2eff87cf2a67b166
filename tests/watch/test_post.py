"""No way waits for another, what was not sent is tried again, and a dead way is told by the other."""

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from watch_samples import LETTER, Clock

from mailkeep.lab.podman import poll
from mailkeep_server.watch import outbox as post_module
from mailkeep_server.watch.alert_queue import Desk, Letter
from mailkeep_server.watch.channels import NotSentError
from mailkeep_server.watch.outbox import KEPT, Post

WAYS = ("mail", "webhook")
Send = Callable[[str, Letter], str]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post_module, "PAUSES", (0.01,))


def started(desk: Desk, send: Send, state: dict[str, object] | None = None) -> Post:
    made = Post(WAYS, send, desk, state)
    made.start()
    return made


def dead(_way: str, _letter: Letter) -> str:
    raise NotSentError("HTTP 500")


def letter(number: int) -> Letter:
    return replace(LETTER, id=number, at=9e9, left=[])


def test_a_way_that_hangs_holds_up_neither_the_other_nor_who_writes(desk: Desk) -> None:
    hangs, sent = threading.Event(), list[int]()

    def send(way: str, letter: Letter) -> str:
        if way == "webhook":
            hangs.wait()
        else:
            sent.append(letter.id)
        return "ok"

    post = started(desk, send)
    for number in range(1000):
        post.put(letter(number))
    poll(lambda: sent[-1:] == [999], 5, "not sent by mail")
    assert len(post.state()["letters"]) <= KEPT
    hangs.set()
    poll(lambda: not post.state()["letters"], 5, "letters are left")


def test_a_dead_way_is_told_and_what_was_for_it_arrives_when_it_is_back(desk: Desk, clock: Clock) -> None:
    broken, sent = True, list[tuple[str, int]]()

    def send(way: str, letter: Letter) -> str:
        if broken and way == "webhook":
            raise NotSentError("HTTP 500")
        sent.append((way, letter.id))
        return "ok"

    post = started(desk, send)
    post.put(letter(1))
    poll(lambda: "way:webhook" in desk.open, 5, "nothing is told")
    clock.now += 5
    told = desk.letter()
    assert told
    assert "Alerts do not get out by webhook: HTTP 500" in told.text
    broken = False
    poll(lambda: ("webhook", 1) in sent, 5, "not sent by the webhook")
    poll(lambda: "way:webhook" not in desk.open, 5, "still told to be dead")
    assert sent.count(("mail", 1)) == 1


def test_what_nobody_took_for_too_long_is_given_up(desk: Desk) -> None:
    post = started(desk, dead)
    post.put(replace(letter(1), at=0.0))
    poll(lambda: not post.state()["letters"], 5, "letters are left")


def test_letters_outlive_a_restart(desk: Desk) -> None:
    post = started(desk, dead)
    post.put(letter(7))
    sent: list[tuple[str, int]] = []

    def works(way: str, letter: Letter) -> str:
        sent.append((way, letter.id))
        return "ok"

    started(desk, works, post.state())
    poll(lambda: sorted(sent) == [("mail", 7), ("webhook", 7)], 5, "not sent")
