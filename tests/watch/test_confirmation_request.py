"""The owner is asked at an address elsewhere, and nobody else gets the code."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from aiosmtpd.controller import UnixSocketController
from aiosmtpd.smtp import SMTP, Envelope, Session

from mailkeep_server.common import unix_http
from mailkeep_server.common.release_codes import digest_code
from mailkeep_server.watch.config import WatchConfig
from mailkeep_server.watch.confirmation_request import ConfirmationRequests
from mailkeep_server.watch.owner_notice import OwnerNotices

ANNA, OWNER = "anna@example.org", "anna.elsewhere@example.net"
REASON = "its network is new: 198.51.100.0/24"


class Outside:
    """What Postfix took, or its refusal."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.answer = "250 2.0.0 Ok"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.envelopes.append(envelope)
        return self.answer


@pytest.fixture
def outside(config: WatchConfig) -> Iterator[Outside]:
    handler = Outside()
    controller: Any = UnixSocketController(handler, unix_socket=config.smtp_socket)
    controller.start()
    yield handler
    controller.stop()


@pytest.fixture
def targets(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the guard was asked: three messages are on hold."""
    targets: list[str] = []

    def get_body(_socket: str, target: str, _timeout: float) -> bytes:
        targets.append(target)
        return json.dumps({"held": 3}).encode()

    monkeypatch.setattr(unix_http, "get_body", get_body)
    return targets


def ask_owner(config: WatchConfig, account: str = ANNA) -> list[str]:
    """The failures that were reported."""
    failures: list[str] = []
    before = set(threading.enumerate())
    ConfirmationRequests(config, failures.append).send_request(account, REASON)
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    return failures


def read_request(outside: Outside) -> tuple[EmailMessage, str]:
    """The message, and its code."""
    message = message_from_bytes(outside.envelopes[-1].original_content or b"", policy=policy.default)
    local_part, _, domain = str(message["Reply-To"]).partition("@")
    name, _, code = local_part.partition("+")
    assert (name, domain) == ("release", "mail.example.org")
    return message, code


def test_the_owner_gets_the_code_and_the_guard_its_digest(
    config: WatchConfig, outside: Outside, targets: list[str]
) -> None:
    assert ask_owner(config) == []
    message, code = read_request(outside)
    assert (outside.envelopes[0].mail_from, outside.envelopes[0].rcpt_tos) == ("<>", [OWNER])
    assert (message["To"], message["Auto-Submitted"]) == (OWNER, "auto-generated")
    text = message.get_content().replace("\r\n", "\n")
    assert f"    {REASON}\n" in text
    assert "3 messages so far" in text
    assert code not in text
    [target] = targets
    query = parse_qs(urlsplit(target).query)
    assert query == {"account": [ANNA], "digest": [digest_code(code)], "shown": ["a...@e..."]}
    assert code not in target


def test_each_code_is_another(config: WatchConfig, outside: Outside, targets: list[str]) -> None:
    codes = set[str]()
    for _ in range(5):
        ask_owner(config)
        codes.add(read_request(outside)[1])
    assert len(codes) == len(targets) == 5


def test_nobody_is_asked_about_an_account_without_such_an_address(
    config: WatchConfig, outside: Outside, targets: list[str]
) -> None:
    assert ask_owner(config, "bert@example.org") == []
    assert outside.envelopes == []
    assert targets == []


def test_nobody_is_asked_about_a_hold_that_has_ended(
    config: WatchConfig, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix_http, "get_body", lambda *_: b'{"held": null}')
    assert ask_owner(config) == []
    assert outside.envelopes == []


def test_the_operator_hears_that_the_owner_was_not_asked(
    config: WatchConfig, outside: Outside, targets: list[str]
) -> None:
    outside.answer = "451 4.3.0 no"
    [failure] = ask_owner(config)
    assert failure.startswith(f"{ANNA} cannot confirm its mail on hold by itself: Postfix: 451")
    _, code = read_request(outside)
    assert code not in failure
    assert len(targets) == 1


def test_the_notice_in_the_inbox_has_neither_the_code_nor_the_address(
    config: WatchConfig, outside: Outside, targets: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str] = []
    monkeypatch.setattr(OwnerNotices, "_start", lambda *arguments: texts.append(arguments[-1]))
    ask_owner(config)
    _, code = read_request(outside)
    place = ConfirmationRequests(config, texts.append).find_place(ANNA)
    OwnerNotices(config.host, texts.append).send_hold_notice(ANNA, REASON, place)
    [text] = texts
    assert "\na...@e.... Or ask the administrator to release it, by postmaster@mail.example.org" in text
    assert OWNER not in text
    assert code not in text
    OwnerNotices(config.host, texts.append).send_hold_notice(ANNA, REASON)
    assert "\nIf you sent it, ask the administrator to release it, by postmaster@mail.example.org" in texts[1]
    assert targets
