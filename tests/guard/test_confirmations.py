"""The owner ends a hold by a reply to a one-time code; whoever knows only the account's password does not."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from urllib.parse import urlencode

import pytest
from guard_samples import (
    ANNA,
    BERT,
    END,
    HOLDS,
    NO_LIMITS,
    OFFER,
    GuardProcess,
    JudgeSetup,
    build_message,
    build_packet,
    build_request,
)

from mailkeep_server.common.release_codes import CODE_BYTES, build_address, digest_code, find_digest, make_code
from mailkeep_server.freezes import freeze_list
from mailkeep_server.guard.hold_targets import write_outcome
from mailkeep_server.guard.outcomes import Fate, Outcome
from mailkeep_server.guard.policy import DUNNO, PolicyRequest
from mailkeep_server.guard.sliding_window import DAY

NewSetup = Callable[..., JudgeSetup]
HOST = "mail.example.org"
SHOWN = "a...@e..."
OWNER = "anna.elsewhere@example.net"
SERIAL = itertools.count(1)


def hold_mail(setup: JudgeSetup, account: str = ANNA) -> str:
    """Queue id of a message on hold."""
    setup.advance_clock(1000)
    for _ in range(3):
        setup.send_to_stranger(f"a@n{next(SERIAL)}.example.net", Fate.DEAD, account)
    assert setup.send_message(account, to=[f"stranger{next(SERIAL)}@example.net"]).startswith("HOLD")
    return setup.last_queue_id


def ask_owner(setup: JudgeSetup, account: str = ANNA) -> str:
    """The code that the owner gets."""
    code = make_code()
    assert setup.judge.confirmations.add_code(setup.now, account, digest_code(code), SHOWN) is not None
    return code


def reply(setup: JudgeSetup, code: str, sender: str = OWNER, *, is_alone: bool = True) -> str:
    """As Postfix asks about a message on port 25; the refusal of its recipient."""
    to, confirmations = build_address(HOST, code), setup.judge.confirmations
    request = PolicyRequest("", "198.51.100.7", f"i{next(SERIAL)}", to, sender=sender, is_strangers=True)
    if refusal := confirmations.refuse_recipient(setup.now, request):
        return refusal
    confirmations.take_message(setup.now, request if is_alone else request._replace(recipient=""))
    return ""


def list_released(setup: JudgeSetup) -> list[str]:
    return [row["queue_id"] for row in setup.judge.strangers.list_held(setup.now) if row["is_released"]]


def freeze(setup: JudgeSetup) -> None:
    freezer = setup.judge.freezer
    freezer.freeze_for(setup.now, ANNA, setup.judge.ledger.get_account(ANNA), setup.judge.config, "by a test")
    setup.advance_clock(1000)
    freezer.frozen_accounts(setup.now)


def thaw(setup: JudgeSetup) -> None:
    freeze_list.thaw_account(ANNA, setup.frozen_file)
    setup.advance_clock(1000)
    setup.judge.freezer.frozen_accounts(setup.now)


@pytest.fixture
def setup(new_setup: NewSetup) -> JudgeSetup:
    return new_setup(limits=NO_LIMITS, holds=HOLDS)


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_reply_ends_the_hold_and_has_the_mail_sent(setup: JudgeSetup, is_alone: bool) -> None:
    queue_id = hold_mail(setup)
    code = ask_owner(setup)
    setup.restart()
    assert reply(setup, code.upper(), is_alone=is_alone) == "", "some programs change the case"
    assert list_released(setup) == [queue_id]
    setup.judge.strangers.note_returned(setup.now, queue_id, "")
    assert setup.judge.strangers.list_held(setup.now) == []
    assert setup.list_events("confirmed") == [(ANNA, f"its owner confirmed it at {SHOWN}, 1 message on hold released")]
    assert setup.send_message(to=["another@example.net"]) == DUNNO
    assert setup.list_events("returned") == []


def test_a_code_is_good_once(setup: JudgeSetup) -> None:
    hold_mail(setup)
    code = ask_owner(setup)
    assert reply(setup, code) == ""
    refusal = reply(setup, code)
    assert refusal.startswith("550 5.7.1")
    hold_mail(setup)
    assert reply(setup, code) == refusal, "and for one hold"
    assert reply(setup, make_code()) == refusal, "a wrong code gets the same answer"
    assert list_released(setup) != [setup.last_queue_id]


def test_guesses_and_no_code_at_all_end_nothing(setup: JudgeSetup) -> None:
    queue_id = hold_mail(setup)
    code = ask_owner(setup)
    for guess in ("", "%", "0", code[:-1], code + "0", digest_code(code), *(make_code() for _ in range(1000))):
        assert reply(setup, guess).startswith("550")
    assert list_released(setup) == []
    assert reply(setup, code) == ""
    assert list_released(setup) == [queue_id]


def test_a_code_is_for_its_account_alone(setup: JudgeSetup) -> None:
    hold_mail(setup)
    berts = hold_mail(setup, BERT)
    ask_owner(setup)
    assert reply(setup, ask_owner(setup, BERT)) == ""
    assert list_released(setup) == [berts]
    assert setup.send_message(to=["another@example.net"]).startswith("HOLD")


def test_a_later_code_replaces_an_earlier_one(setup: JudgeSetup) -> None:
    hold_mail(setup)
    earlier, later = ask_owner(setup), ask_owner(setup)
    assert reply(setup, earlier).startswith("550")
    assert reply(setup, later) == ""


def test_a_code_is_good_for_a_day(setup: JudgeSetup) -> None:
    hold_mail(setup)
    code = ask_owner(setup)
    setup.advance_clock(DAY)
    assert reply(setup, code).startswith("550")
    setup.advance_clock(-1)
    assert reply(setup, code) == ""


def test_a_code_ends_with_its_hold(setup: JudgeSetup) -> None:
    hold_mail(setup)
    code = ask_owner(setup)
    setup.judge.strangers.release(setup.now, ANNA)
    assert reply(setup, code).startswith("550")
    setup.advance_clock(1000)
    hold_mail(setup)
    assert reply(setup, code).startswith("550")


def test_without_a_hold_and_while_frozen_there_is_no_code(setup: JudgeSetup) -> None:
    confirmations = setup.judge.confirmations
    assert confirmations.add_code(setup.now, ANNA, digest_code("x"), SHOWN) is None
    hold_mail(setup)
    freeze(setup)
    assert confirmations.add_code(setup.now, ANNA, digest_code("x"), SHOWN) is None


def test_a_frozen_account_stays_frozen_and_its_code_is_dead_after_a_thaw_too(setup: JudgeSetup) -> None:
    hold_mail(setup)
    code = ask_owner(setup)
    freeze(setup)
    assert reply(setup, code).startswith("550")
    assert ANNA in setup.freeze_reasons()
    thaw(setup)
    hold_mail(setup)
    assert reply(setup, code).startswith("550")
    assert list_released(setup) == []


def test_a_freeze_while_the_reply_arrives_is_in_time(setup: JudgeSetup) -> None:
    hold_mail(setup)
    request = PolicyRequest("", "198.51.100.7", "i", build_address(HOST, ask_owner(setup)), sender=OWNER)
    assert setup.judge.confirmations.refuse_recipient(setup.now, request) == ""
    freeze(setup)
    setup.judge.confirmations.take_message(setup.now, request)
    assert setup.list_events("confirmed") == []


def test_a_reply_sends_nothing_that_was_held_before_a_freeze(setup: JudgeSetup) -> None:
    hold_mail(setup)
    freeze(setup)
    thaw(setup)
    queue_id = hold_mail(setup)
    assert reply(setup, ask_owner(setup)) == ""
    assert list_released(setup) == [queue_id]


def test_a_freeze_keeps_what_was_released_and_not_yet_sent(setup: JudgeSetup) -> None:
    hold_mail(setup)
    assert reply(setup, ask_owner(setup)) == ""
    freeze(setup)
    assert list_released(setup) == []
    thaw(setup)
    assert list_released(setup) == []
    setup.advance_clock(DAY)
    assert [row["is_due"] for row in setup.judge.strangers.list_held(setup.now)] == [True], "it goes back to its owner"


def test_an_automatic_answer_ends_the_code_and_no_hold(setup: JudgeSetup) -> None:
    hold_mail(setup)
    code = ask_owner(setup)
    assert reply(setup, code, sender="") == "", "it is no bounce storm either"
    assert list_released(setup) == []
    assert reply(setup, code).startswith("550"), "Postfix has logged it"
    assert setup.list_events("confirmed") == []


def test_a_server_that_only_tries_the_address_ends_nothing(setup: JudgeSetup) -> None:
    hold_mail(setup)
    code = ask_owner(setup)
    request = PolicyRequest("", "198.51.100.7", "i", build_address(HOST, code), sender=OWNER)
    assert setup.judge.confirmations.refuse_recipient(setup.now, request) == ""
    setup.judge.transaction_aborted("i")
    setup.judge.confirmations.take_message(setup.now, request._replace(recipient=""))
    assert list_released(setup) == []
    assert reply(setup, code) == ""


def test_a_code_is_nowhere_in_the_state(setup: JudgeSetup) -> None:
    hold_mail(setup)
    code = ask_owner(setup)
    assert len(bytes.fromhex(code)) == CODE_BYTES == 16
    setup.database.commit()
    files = [file.read_bytes() for file in setup.frozen_file.parent.parent.rglob("*") if file.is_file()]
    assert any(digest_code(code).encode() in content for content in files)
    assert not any(code.encode() in content for content in files)
    assert code not in str(setup.list_events())


def test_other_addresses_are_no_replies() -> None:
    assert find_digest("release+x@mail.example.org", "release@mail.example.org") == digest_code("x")
    for other in ("release+x@example.org", "xrelease+x@mail.example.org", "release@", "", "a@b"):
        assert find_digest(other, "release@mail.example.org") is None
    assert find_digest("@", "") is None, "no account has codes"


@pytest.mark.slow
def test_the_running_guard_takes_the_reply_from_postfix(start_guard: Callable[..., GuardProcess]) -> None:
    guard, code, bad = start_guard(holds=HOLDS, limits=NO_LIMITS), make_code(), make_code()
    dead = [f"a@n{number}.example.net" for number in range(3)]

    def ask(state: str, instance: str, recipient: str, **more: str) -> str:
        with guard.open_connection() as policy:
            policy.sendall(build_request(state, "", instance=instance, recipient=recipient, sender=OWNER, **more))
            return policy.recv(4096).decode().strip()

    def send_message(queue_id: str, recipients: list[str]) -> bytes:
        with guard.open_connection("milter") as milter:
            milter.sendall(OFFER)
            milter.recv(4096)
            sent = build_message(ANNA, ANNA, [("From", ANNA)], queue_id)
            to = [build_packet(b"R", f"<{recipient}>") for recipient in recipients]
            milter.sendall(b"".join([*sent[:3], *to, *sent[4:]]))
            assert milter.recv(4096)  # the answer to MAIL
            milter.sendall(END)
            return milter.recv(4096)

    assert send_message("Q1", dead)[4:] == b"c"
    outcomes = [("o", write_outcome(Outcome("Q1", recipient, Fate.DEAD))) for recipient in dead]
    guard.get_target(f"/outcomes?{urlencode(outcomes)}")
    assert send_message("Q2", ["stranger@example.net"])[4:5] == b"q"
    query = urlencode({"account": ANNA, "digest": digest_code(code), "shown": SHOWN})
    assert guard.get_target(f"/confirmation?{query}") == {"held": 1}
    strangers = {"policy_context": "strangers"}
    assert ask("RCPT", "1", build_address(HOST, bad), **strangers).startswith("action=550 5.7.1")
    assert ask("RCPT", "2", build_address(HOST, code), **strangers) == "action=DUNNO"
    assert [row["is_released"] for row in guard.get_target("/held")["messages"]] == [False]
    assert ask("END-OF-MESSAGE", "2", "", **strangers) == "action=DUNNO"
    assert [row["is_released"] for row in guard.get_target("/held")["messages"]] == [True]
    assert ask("RCPT", "3", build_address(HOST, code), **strangers).startswith("action=550 5.7.1")
    assert code not in guard.log.read_text()
