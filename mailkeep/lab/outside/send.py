"""Delivers one message by SMTP, as a mail exchanger somewhere would, and prints the server's last answer as JSON.

On standard input, JSON: host, port, helo, tls (use STARTTLS if offered),
sender, recipients, data (base64). The dialogue ends at the first answer that refuses;
code 0 is a connection that was not made or was cut.
"""

import base64
import json
import smtplib
import ssl
import sys
from collections.abc import Iterator
from typing import Any


def dialogue(smtp: smtplib.SMTP, job: dict[str, Any]) -> Iterator[tuple[str, tuple[int, bytes]]]:
    yield "EHLO", smtp.ehlo()
    if job["tls"] and smtp.has_extn("starttls"):
        anyone = ssl.create_default_context()
        anyone.check_hostname, anyone.verify_mode = (
            False,
            ssl.CERT_NONE,
        )  # opportunistic, as between exchangers
        yield "STARTTLS", smtp.starttls(context=anyone)
        yield "EHLO", smtp.ehlo()
    yield "MAIL", smtp.mail(job["sender"])
    for recipient in job["recipients"]:
        yield "RCPT", smtp.rcpt(recipient)
    yield "DATA", smtp.data(base64.b64decode(job["data"]))


def deliver(job: dict[str, Any]) -> tuple[str, tuple[int, bytes]]:
    stage, answer = "CONNECT", (220, b"")
    try:
        with smtplib.SMTP(job["host"], job["port"], job["helo"], timeout=30) as smtp:
            for stage, answer in dialogue(smtp, job):  # noqa: B007 - the last one counts
                if answer[0] >= 400:
                    break
    except smtplib.SMTPResponseException as error:  # the greeting or, after DATA, the go-ahead refuses
        text = error.smtp_error
        answer = (error.smtp_code, text if isinstance(text, bytes) else text.encode())
    except OSError as error:  # also smtplib's SMTPServerDisconnected
        answer = (0, str(error).encode())
    return stage, answer


if __name__ == "__main__":
    stage, (code, text) = deliver(json.load(sys.stdin))
    json.dump({"stage": stage, "code": code, "text": text.decode(errors="replace")}, sys.stdout)
