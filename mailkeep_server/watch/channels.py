"""The channels to the operator: mail, and a webhook for when this server's mail does not arrive.

Libraries are imported where they are used: until the first alert, the watch does without 10 MB.
"""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from mailkeep_server.watch.alert_queue import Notification
from mailkeep_server.watch.config import WatchConfig, WebhookConfig
from mailkeep_server.watch.mail_reserve import give_up_room

TIMEOUT = 10.0  # seconds for each step of a connection

Request = tuple[str, str, dict[str, str], bytes]
"""Method, URL, headers and body."""


class NotSentError(Exception):
    """The message says why; it contains no secret."""


def send_notification(channel: str, notification: Notification, config: WatchConfig) -> str:
    """Sends it by `mail` or `webhook`; returns the other side's answer. Raises NotSentError."""
    try:
        if channel == "mail":
            return send_mail(notification, config)
        assert config.webhook
        return post_to_webhook(notification, config.webhook, config.host)
    except NotSentError:
        raise
    except Exception as error:
        # The text of an OSError is the kernel's; that of others may quote the URL.
        reason = str(error) if isinstance(error, OSError) else ""
        raise NotSentError(reason or type(error).__name__) from None


def send_mail(notification: Notification, config: WatchConfig) -> str:
    """Hands it to the smtpd that takes mail to administrators alone, whatever other limits stop other mail.

    If that one does not take it, because of OpenDKIM or a cleanup(8) that hangs, a second smtpd has neither: an alert
    without a signature is better than none. A first one that answers too late delivers the alert twice. If the queue's
    disk is full, the alert gets room that was kept for it.
    """
    try:
        return _send_by(config.smtp_socket, notification, config)
    except (NotSentError, OSError) as error:
        for _ in range(2):
            with suppress(NotSentError, OSError):
                return _send_by(config.unsigned_smtp_socket, notification, config)
            if not give_up_room():
                break
        raise error from None


def _send_by(path: str, notification: Notification, config: WatchConfig) -> str:
    """Raises NotSentError and OSError."""
    message = build_message(notification, config)
    return submit_message(path, config.host, f"postmaster@{config.host}", config.admins, message)


def submit_message(path: str, host: str, sender: str, recipients: Sequence[str], message: bytes) -> str:
    """By a socket of Postfix's; returns its answer. Raises NotSentError and OSError."""
    import smtplib

    from mailkeep_server.common.unix_smtp import UnixSmtp

    try:
        with UnixSmtp(path, local_hostname=host, timeout=TIMEOUT) as connection:
            connection.ehlo()
            _check_reply(connection.mail(sender))
            refusals = [reply for recipient in recipients if (reply := connection.rcpt(recipient))[0] >= 300]
            if len(refusals) == len(recipients):
                _check_reply(refusals[0])
            return _check_reply(connection.data(message))
    except smtplib.SMTPException as error:
        raise NotSentError(f"Postfix: {error}") from None


def build_message(notification: Notification, config: WatchConfig) -> bytes:
    from email.message import EmailMessage
    from email.policy import SMTP
    from email.utils import formatdate
    from textwrap import fill

    message = EmailMessage(policy=SMTP)
    message["From"] = f"Mailkeep <postmaster@{config.host}>"
    message["To"] = ", ".join(config.admins)
    message["Subject"] = notification.subject
    message["Date"] = formatdate(notification.time)
    message["Message-ID"] = f"<{notification.id}.watch@{config.host}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no vacation message answers it
    if notification.urgent:
        message["Importance"] = "high"
    lines = (fill(line, 76, subsequent_indent="    ") for line in notification.text.splitlines())
    message.set_content("\n".join(lines) + "\n")
    return message.as_bytes()


def _check_reply(reply: tuple[int, bytes]) -> str:
    code, text = reply[0], reply[1].decode(errors="replace")
    if code >= 300:
        raise NotSentError(f"Postfix: {code} {text}")
    return f"{code} {text}"


def post_to_webhook(notification: Notification, webhook: WebhookConfig, host: str) -> str:
    from urllib.error import URLError
    from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, Request

    method, url, headers, body = build_request(notification, webhook, host)
    # No other handlers: a redirect would take the token to another host, a proxy of the environment too.
    opener = OpenerDirector()
    for handler in (HTTPHandler(), HTTPSHandler()):
        opener.add_handler(handler)
    try:
        with opener.open(Request(url, body, headers, method=method), timeout=TIMEOUT) as response:  # noqa: S310
            status = int(response.status)
    except URLError as error:
        raise NotSentError(str(error.reason)) from None
    if not 200 <= status < 300:
        raise NotSentError(f"HTTP {status}")
    return f"HTTP {status}"


def build_request(notification: Notification, webhook: WebhookConfig, host: str) -> Request:
    headers = {"User-Agent": "mailkeep", "Content-Type": "application/json"}
    if webhook.token:
        headers["Authorization"] = f"Bearer {webhook.token}"
    if webhook.template:
        return "POST", webhook.url, headers, fill_template(webhook.template, notification, host).encode()
    if webhook.format == "ntfy":  # https://docs.ntfy.sh/publish/
        title = notification.subject.encode("ascii", "replace").decode()
        priority = "urgent" if notification.urgent else "default"
        headers |= {"Title": title, "Priority": priority, "Content-Type": "text/plain"}
        return "POST", webhook.url, headers, notification.text.encode()
    text = f"{notification.subject}\n\n{notification.text}"
    if webhook.format == "matrix":  # Client-Server API: PUT /rooms/{roomId}/send/m.room.message/{txnId}
        return "PUT", f"{webhook.url}/{notification.id}", headers, _to_json({"msgtype": "m.text", "body": text})
    # https://api.slack.com/reference/surfaces/formatting#escaping; Mattermost, Rocket.Chat and others take the same.
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "POST", webhook.url, headers, _to_json({"text": escaped})


def fill_template(template: str, notification: Notification, host: str) -> str:
    """The template with its placeholders `{title}`, `{text}`, `{host}` and `{time}` replaced. They stand within JSON
    strings, and are escaped for that."""
    time_text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(notification.time))
    values = {"title": notification.subject, "text": notification.text, "host": host, "time": time_text}
    # In one pass: text that an alert quotes is no placeholder.
    first, *parts = template.split("{")
    filled = [first]
    for part in parts:
        name, brace, rest = part.partition("}")
        is_placeholder = brace and name in values
        filled.append(json.dumps(values[name])[1:-1] + rest if is_placeholder else "{" + part)
    return "".join(filled)


def _to_json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()
