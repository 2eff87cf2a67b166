"""A letter reaches mail and webhooks as they take it; no secret is in what is said when it does not."""

import json
from collections.abc import Iterator
from dataclasses import replace
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import UnixSocketController
from aiosmtpd.smtp import SMTP, Envelope, Session
from watch_samples import LETTER, Hook, hook

from mailkeep_server.watch import channels
from mailkeep_server.watch.channels import NotSentError
from mailkeep_server.watch.config import Config, Webhook

HOST = "mail.example.org"
TOKEN = "very-secret"  # noqa: S105


@pytest.fixture
def other_end() -> Iterator[Hook]:
    with hook() as made:
        yield made


def post(hook: Hook, kind: str, template: str = "", token: str = "") -> tuple[str, str, dict[str, str], bytes]:
    assert channels.webhook(LETTER, Webhook(kind, template, hook.url, token), HOST) == "HTTP 200"
    return hook.requests[-1]


def test_ntfy_gets_title_priority_and_text(other_end: Hook) -> None:
    method, path, headers, body = post(other_end, "ntfy", token=TOKEN)
    assert (method, path, body.decode()) == ("POST", "/very-secret", LETTER.text)
    assert headers["Title"] == LETTER.subject
    assert headers["Priority"] == "urgent"
    assert headers["Authorization"] == f"Bearer {TOKEN}"


def test_slack_gets_its_json_with_its_three_characters_escaped(other_end: Hook) -> None:
    _, _, headers, body = post(other_end, "slack")
    assert headers["Content-Type"] == "application/json"
    assert "Authorization" not in headers
    assert json.loads(body) == {"text": f"{LETTER.subject}\n\n1\n&lt;2&gt; &amp; {{host}} \\\n"}


def test_matrix_gets_a_message_with_a_transaction_id(other_end: Hook) -> None:
    method, path, _, body = post(other_end, "matrix", token=TOKEN)
    assert (method, path) == ("PUT", "/very-secret/7")
    assert json.loads(body) == {"msgtype": "m.text", "body": f"{LETTER.subject}\n\n{LETTER.text}"}


def test_a_template_is_filled_in_once_and_stays_json(other_end: Hook) -> None:
    template = '{"content": "{title}: {text}", "from": {"host": "{host}", "at": "{time}"}, "{other}": 1}'
    _, _, _, body = post(other_end, "ntfy", template)
    assert json.loads(body) == {
        "content": f"{LETTER.subject}: {LETTER.text}",
        "from": {"host": HOST, "at": "2025-11-25T16:00:00Z"},
        "{other}": 1,
    }


@pytest.mark.parametrize("status", [301, 307, 400, 404, 500])
def test_anything_but_success_is_none_and_no_redirect_is_followed(other_end: Hook, config: Config, status: int) -> None:
    other_end.status, other_end.headers = status, {"Location": other_end.url + "/elsewhere"}
    config = replace(config, webhook=Webhook("ntfy", "", other_end.url, "very-secret-token"))
    with pytest.raises(NotSentError, match=f"^HTTP {status}$"):
        channels.send("webhook", LETTER, config)
    assert len(other_end.requests) == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/very-secret", "http://very-secret.invalid/", "http://a b/", "x:/"])
def test_no_secret_is_in_what_is_said_of_a_failure(config: Config, url: str) -> None:
    config = replace(config, webhook=Webhook("ntfy", "", url, "very-secret-token"))
    with pytest.raises(NotSentError) as raised:
        channels.send("webhook", LETTER, config)
    assert str(raised.value)
    assert "very-secret" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert "very-secret" not in repr(config)


class Postfix:
    """Takes mail for one administrator of two, or for none."""

    def __init__(self) -> None:
        self.taken: list[Envelope] = []
        self.refuse: set[str] = set()

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address in self.refuse:
            return "554 5.7.1 Access denied"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.taken.append(envelope)
        return "250 2.0.0 Ok: queued as 4XyZ"


@pytest.fixture
def postfix(config: Config) -> Iterator[Postfix]:
    handler = Postfix()
    controller: Any = UnixSocketController(handler, unix_socket=config.smtp)
    controller.start()
    yield handler
    controller.stop()


def test_mail_goes_to_every_administrator_through_postfixs_socket(postfix: Postfix, config: Config) -> None:
    assert channels.send("mail", LETTER, config) == "250 2.0.0 Ok: queued as 4XyZ"
    (envelope,) = postfix.taken
    assert (envelope.mail_from, envelope.rcpt_tos) == ("postmaster@mail.example.org", config.admins)
    message = message_from_bytes(envelope.original_content or b"", policy=policy.default)
    assert message["Subject"] == LETTER.subject
    assert message["Auto-Submitted"] == "auto-generated"
    assert message.get_content().splitlines() == LETTER.text.splitlines()


def test_an_administrator_who_is_refused_does_not_keep_the_mail_from_the_others(
    postfix: Postfix, config: Config
) -> None:
    postfix.refuse = {config.admins[0]}
    channels.send("mail", LETTER, config)
    assert postfix.taken[0].rcpt_tos == config.admins[1:]
    postfix.refuse = set(config.admins)
    with pytest.raises(NotSentError, match="554"):
        channels.send("mail", LETTER, config)


def test_without_postfix_it_says_so(config: Config) -> None:
    with pytest.raises(NotSentError, match="No such file"):
        channels.send("mail", LETTER, config)
    assert not Path(config.smtp).exists()
