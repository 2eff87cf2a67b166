"""The ways to the operator: mail, and a webhook for when this server's mail does not arrive.

Libraries are imported where they are used: until the first alert the watch does without 10 MB.
"""

import json
import socket
import time
from typing import Any

from mailkeep_server.watch.alert_queue import Letter
from mailkeep_server.watch.config import Config, Webhook

TIMEOUT = 10.0  # seconds


class NotSentError(Exception):
    """The message says why; no secret is in it."""


def send(way: str, letter: Letter, config: Config) -> str:
    """What the other side said when it took the letter. Raises NotSentError."""
    try:
        if way == "mail":
            return mail(letter, config)
        assert config.webhook
        return webhook(letter, config.webhook, config.host)
    except NotSentError:
        raise
    except Exception as error:
        # An OSError's text is the kernel's; others might quote the URL.
        why = str(error) if isinstance(error, OSError) else ""
        raise NotSentError(why or type(error).__name__) from None


def mail(letter: Letter, config: Config) -> str:
    """Hands it to the smtpd that takes mail to the administrators alone."""
    import smtplib
    from email.message import EmailMessage
    from email.policy import SMTP
    from email.utils import formatdate
    from textwrap import fill as fill_line

    class Local(smtplib.SMTP):
        def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:  # noqa: ARG002 - smtplib's name
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(timeout)
            connection.connect(config.smtp)
            return connection

    message = EmailMessage(policy=SMTP)
    message["From"] = f"Mailkeep <postmaster@{config.host}>"
    message["To"] = ", ".join(config.admins)
    message["Subject"] = letter.subject
    message["Date"] = formatdate(letter.at)
    message["Message-ID"] = f"<{letter.id}.watch@{config.host}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no vacation message answers it
    if letter.urgent:
        message["Importance"] = "high"
    lines = (fill_line(line, 76, subsequent_indent="    ") for line in letter.text.splitlines())
    message.set_content("\n".join(lines) + "\n")
    try:
        with Local("alerts", local_hostname=config.host, timeout=TIMEOUT) as connection:
            connection.ehlo()
            _answer(connection.mail(f"postmaster@{config.host}"))
            refused = [said for admin in config.admins if (said := connection.rcpt(admin))[0] >= 300]
            if len(refused) == len(config.admins):
                _answer(refused[0])
            return _answer(connection.data(message.as_bytes()))
    except smtplib.SMTPException as error:
        raise NotSentError(f"Postfix: {error}") from None


def _answer(said: tuple[int, bytes]) -> str:
    code, text = said
    told = f"{code} {text.decode(errors='replace')}"
    if code >= 300:
        raise NotSentError(f"Postfix: {told}")
    return told


def webhook(letter: Letter, hook: Webhook, host: str) -> str:
    from urllib.error import URLError
    from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, Request

    method, url, headers, body = request(letter, hook, host)
    # Nothing else: no redirects, which would take the token elsewhere, no proxy of the environment's.
    opener = OpenerDirector()
    for handler in (HTTPHandler(), HTTPSHandler()):
        opener.add_handler(handler)
    try:
        with opener.open(Request(url, body, headers, method=method), timeout=TIMEOUT) as answer:  # noqa: S310
            status = int(answer.status)
    except URLError as error:
        raise NotSentError(str(error.reason)) from None
    if not 200 <= status < 300:
        raise NotSentError(f"HTTP {status}")
    return f"HTTP {status}"


def request(letter: Letter, hook: Webhook, host: str) -> tuple[str, str, dict[str, str], bytes]:
    """Method, URL, headers and body."""
    headers = {"User-Agent": "mailkeep", "Content-Type": "application/json"}
    if hook.token:
        headers["Authorization"] = f"Bearer {hook.token}"
    if hook.template:
        return "POST", hook.url, headers, fill(hook.template, letter, host).encode()
    if hook.format == "ntfy":  # https://docs.ntfy.sh/publish/
        title = letter.subject.encode("ascii", "replace").decode()
        ntfy = {"Title": title, "Priority": "urgent" if letter.urgent else "default", "Content-Type": "text/plain"}
        return "POST", hook.url, headers | ntfy, letter.text.encode()
    whole = f"{letter.subject}\n\n{letter.text}"
    if hook.format == "matrix":  # Client-Server API: PUT /rooms/{roomId}/send/m.room.message/{txnId}
        return "PUT", f"{hook.url}/{letter.id}", headers, _json({"msgtype": "m.text", "body": whole})
    # https://api.slack.com/reference/surfaces/formatting#escaping; Mattermost, Rocket.Chat and others take the same.
    escaped = whole.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "POST", hook.url, headers, _json({"text": escaped})


def fill(template: str, letter: Letter, host: str) -> str:
    """The template with what `{title}`, `{text}`, `{host}` and `{time}` stand for, as the inside of a JSON string."""
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(letter.at))
    meant = {"title": letter.subject, "text": letter.text, "host": host, "time": when}
    # In one pass: what an alert quotes is no placeholder.
    parts = template.split("{")
    filled = [parts[0]]
    for part in parts[1:]:
        name, brace, rest = part.partition("}")
        known = brace and name in meant
        filled.append(json.dumps(meant[name])[1:-1] + rest if known else "{" + part)
    return "".join(filled)


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()
