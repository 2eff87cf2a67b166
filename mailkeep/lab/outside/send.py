"""Delivers messages by SMTP, as any mail exchanger does, and answers with the server's last reply.

Runs in the Internet container, as `send.py PORT`. A connection to this port of loopback brings a job, a line of JSON.
It has host, port, helo, tls (use STARTTLS if offered), sender, recipients, data (base64). The answer is JSON as well.
A service, as starting Python for each message took a third of the processor time of some tests.

A refused recipient does not end the session: the others are tried, and get the message if any is accepted (RFC 5321
section 3.3). `refused` has the answer to each refused recipient. Another refusal ends the session, and so does a 421.
Code 0 means that the connection was not made, or was cut.
"""

import base64
import json
import os
import smtplib
import socket
import socketserver
import ssl
import sys
from collections.abc import Iterator
from typing import Any

SMTP_TIMEOUT = 30


Answer = tuple[int, bytes]
CLOSING = 421


def run_session(smtp: smtplib.SMTP, job: dict[str, Any], refused: dict[str, str]) -> Iterator[tuple[str, Answer]]:
    """Yields each command with its answer. Adds the refused recipients to `refused`."""
    yield "EHLO", smtp.ehlo()
    if job["tls"] and smtp.has_extn("starttls"):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # opportunistic TLS, as between exchangers
        yield "STARTTLS", smtp.starttls(context=context)
        yield "EHLO", smtp.ehlo()
    yield "MAIL", smtp.mail(job["sender"])
    for recipient in job["recipients"]:
        code, text = smtp.rcpt(recipient)
        if code >= 400:
            refused[recipient] = f"{code} {text.decode(errors='replace')}"
        yield "RCPT", (code, text)
    if len(refused) < len(job["recipients"]):
        yield "DATA", smtp.data(base64.b64decode(job["data"]))


def deliver_message(job: dict[str, Any]) -> tuple[str, Answer, dict[str, str]]:
    stage, answer = "CONNECT", (220, b"")
    refused: dict[str, str] = {}
    try:
        with smtplib.SMTP(job["host"], job["port"], job["helo"], timeout=SMTP_TIMEOUT) as smtp:
            for stage, answer in run_session(smtp, job, refused):
                if answer[0] == CLOSING or (answer[0] >= 400 and stage != "RCPT"):
                    break
    except smtplib.SMTPResponseException as error:  # a refusing greeting, or a refusal of DATA's content
        text = error.smtp_error
        answer = (error.smtp_code, text if isinstance(text, bytes) else text.encode())
    except OSError as error:  # includes smtplib.SMTPServerDisconnected
        answer = (0, str(error).encode())
    return stage, answer, refused


class JobHandler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        stage, (code, text), refused = deliver_message(json.loads(self.rfile.readline()))
        answer = {"stage": stage, "code": code, "text": text.decode(errors="replace"), "refused": refused}
        self.wfile.write(json.dumps(answer).encode())


class JobServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1000


if __name__ == "__main__":
    with JobServer(("127.0.0.1", int(sys.argv[1])), JobHandler) as server:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])  # sd_notify(3)
        server.serve_forever()
