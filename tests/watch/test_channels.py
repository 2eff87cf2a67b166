"""A notification reaches mail and webhooks in their formats; no secret is in the error when it does not."""

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import UnixSocketController
from aiosmtpd.smtp import SMTP, Envelope, Session
from watch_samples import NOTIFICATION, WebhookServer, serve_webhook

from mailkeep_server.watch import channels
from mailkeep_server.watch.channels import NotSentError, post_to_webhook, send_notification
from mailkeep_server.watch.config import WatchConfig, WebhookConfig

HOST = "mail.example.org"
TOKEN = "very-secret"  # noqa: S105


@pytest.fixture
def server() -> Iterator[WebhookServer]:
    with serve_webhook() as running:
        yield running


def post(
    server: WebhookServer, webhook_format: str, template: str = "", token: str = ""
) -> tuple[str, str, dict[str, str], bytes]:
    webhook = WebhookConfig(webhook_format, template, server.url, token)
    assert post_to_webhook(NOTIFICATION, webhook, HOST) == "HTTP 200"
    return server.requests[-1]


def test_ntfy_gets_title_priority_and_text(server: WebhookServer) -> None:
    method, path, headers, body = post(server, "ntfy", token=TOKEN)
    assert (method, path, body.decode()) == ("POST", "/very-secret", NOTIFICATION.text)
    assert headers["Title"] == NOTIFICATION.subject
    assert headers["Priority"] == "urgent"
    assert headers["Content-Type"] == "text/plain"
    assert headers["Authorization"] == f"Bearer {TOKEN}"


def test_slack_gets_its_json_with_its_three_characters_escaped(server: WebhookServer) -> None:
    _, _, headers, body = post(server, "slack")
    assert headers["Content-Type"] == "application/json"
    assert "Authorization" not in headers
    assert json.loads(body) == {"text": f"{NOTIFICATION.subject}\n\n1\n&lt;2&gt; &amp; {{host}} \\\n"}


def test_matrix_gets_a_message_with_a_transaction_id(server: WebhookServer) -> None:
    method, path, _, body = post(server, "matrix", token=TOKEN)
    assert (method, path) == ("PUT", "/very-secret/7")
    assert json.loads(body) == {"msgtype": "m.text", "body": f"{NOTIFICATION.subject}\n\n{NOTIFICATION.text}"}


def test_a_template_is_filled_in_once_and_stays_json(server: WebhookServer) -> None:
    template = '{"content": "{title}: {text}", "from": {"host": "{host}", "at": "{time}"}, "{other}": 1}'
    _, _, _, body = post(server, "ntfy", template)
    assert json.loads(body) == {
        "content": f"{NOTIFICATION.subject}: {NOTIFICATION.text}",
        "from": {"host": HOST, "at": "2025-11-25T16:00:00Z"},
        "{other}": 1,
    }


@pytest.mark.parametrize("status", [301, 307, 400, 404, 500])
def test_anything_but_success_is_a_failure_and_no_redirect_is_followed(
    server: WebhookServer, config: WatchConfig, status: int
) -> None:
    server.status, server.headers = status, {"Location": server.url + "/elsewhere"}
    config = replace(config, webhook=WebhookConfig("ntfy", "", server.url, "very-secret-token"))
    with pytest.raises(NotSentError, match=f"^HTTP {status}$"):
        send_notification("webhook", NOTIFICATION, config)
    assert len(server.requests) == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/very-secret", "http://very-secret.invalid/", "http://a b/", "x:/"])
def test_no_secret_is_in_the_error_of_a_failure(config: WatchConfig, url: str) -> None:
    config = replace(config, webhook=WebhookConfig("ntfy", "", url, "very-secret-token"))
    with pytest.raises(NotSentError) as raised:
        send_notification("webhook", NOTIFICATION, config)
    assert str(raised.value)
    assert "very-secret" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert "very-secret" not in repr(config)


class Postfix:
    """Accepts mail, but not to the administrators in `refused`."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.refused: set[str] = set()

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address in self.refused:
            return "554 5.7.1 Access denied"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.envelopes.append(envelope)
        return "250 2.0.0 Ok: queued as 4XyZ"


@pytest.fixture
def postfix(config: WatchConfig) -> Iterator[Postfix]:
    handler = Postfix()
    controller: Any = UnixSocketController(handler, unix_socket=config.smtp_socket)
    controller.start()
    yield handler
    controller.stop()


def test_mail_goes_to_every_administrator_through_postfixs_socket(postfix: Postfix, config: WatchConfig) -> None:
    assert send_notification("mail", NOTIFICATION, config) == "250 2.0.0 Ok: queued as 4XyZ"
    (envelope,) = postfix.envelopes
    assert (envelope.mail_from, envelope.rcpt_tos) == ("postmaster@mail.example.org", config.admins)
    message = message_from_bytes(envelope.original_content or b"", policy=policy.default)
    assert message["Subject"] == NOTIFICATION.subject
    assert message["Auto-Submitted"] == "auto-generated"
    assert message.get_content().splitlines() == NOTIFICATION.text.splitlines()


def test_a_refused_administrator_does_not_keep_the_mail_from_the_others(postfix: Postfix, config: WatchConfig) -> None:
    postfix.refused = {config.admins[0]}
    send_notification("mail", NOTIFICATION, config)
    assert postfix.envelopes[0].rcpt_tos == config.admins[1:]
    postfix.refused = set(config.admins)
    with pytest.raises(NotSentError, match="554"):
        send_notification("mail", NOTIFICATION, config)


@pytest.mark.slow
def test_mail_that_is_refused_or_not_answered_goes_by_the_way_without_milters(
    postfix: Postfix, config: WatchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when OpenDKIM refuses everything, or hangs."""
    postfix.refused = set(config.admins)
    second = Postfix()
    controller: Any = UnixSocketController(second, unix_socket=config.unsigned_smtp_socket)
    controller.start()
    try:
        assert send_notification("mail", NOTIFICATION, config) == "250 2.0.0 Ok: queued as 4XyZ"
        monkeypatch.setattr(channels, "TIMEOUT", 0.2)
        with socket.socket(socket.AF_UNIX) as hung:
            hung.bind(f"{config.smtp_socket}-hung")
            hung.listen()
            send_notification("mail", NOTIFICATION, replace(config, smtp_socket=f"{config.smtp_socket}-hung"))
    finally:
        controller.stop()
    assert [envelope.rcpt_tos for envelope in second.envelopes] == [config.admins] * 2
    assert postfix.envelopes == []


def test_without_postfix_the_error_says_so(config: WatchConfig) -> None:
    with pytest.raises(NotSentError, match="No such file"):
        send_notification("mail", NOTIFICATION, config)
    assert not Path(config.smtp_socket).exists()
