"""People who have nothing to do with the attack: they send, are written to and read their mail all the while.

On standard input a job: `host`, `login` of an account, `colleague` (another account's address) and `seconds`; on
standard output, one JSON object a line, what they did and what the server said. Ends after so many seconds, or
when there is a file `over` beside this one. Runs on the lab's internet; standard library only.
"""

import imaplib
import json
import smtplib
import ssl
import sys
import threading
import time
import uuid
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any

FRIEND = "friend@outside.test"
OVER = Path(__file__).with_name("over")
TIMEOUT = 30.0
LOCK = threading.Lock()


def anyone() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def heard(act: Callable[[], str]) -> str:
    try:
        return act()
    except smtplib.SMTPRecipientsRefused as error:
        return str(error.recipients)
    except smtplib.SMTPResponseException as error:
        return f"{error.smtp_code} {error.smtp_error!r}"
    except imaplib.IMAP4.error as error:
        return f"NO {error}"
    except (OSError, EOFError, smtplib.SMTPException) as error:
        return f"dropped: {error!r}"


def say(kind: str, at: float, answer: str, **more: Any) -> None:
    with LOCK:
        print(json.dumps({"kind": kind, "at": at, "until": time.time(), "answer": answer} | more), flush=True)


def submit(job: dict[str, Any]) -> None:
    """The account writes to somebody outside and to a colleague."""
    post(job, 587, job["login"][0], [FRIEND, job["colleague"]], job["login"])


def receive(job: dict[str, Any]) -> None:
    """Somebody outside writes to the account and to the colleague."""
    post(job, 25, FRIEND, [job["login"][0], job["colleague"]], None)


def post(job: dict[str, Any], port: int, sender: str, recipients: list[str], login: list[str] | None) -> None:
    name, at = uuid.uuid4().hex, time.time()
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = sender, ", ".join(recipients), f"Drill: innocent {name}"
    message.set_content("See you on Thursday.\n")

    def act() -> str:
        with smtplib.SMTP(job["host"], port, "mx.outside.test", timeout=TIMEOUT) as smtp:
            smtp.starttls(context=anyone())
            if login:
                smtp.login(*login)
            refused = smtp.send_message(message, sender, recipients)
        return str(refused) if refused else "250"

    say("sent", at, heard(act), name=name, recipients=recipients)


def read(job: dict[str, Any]) -> None:
    at = time.time()

    def act() -> str:
        with imaplib.IMAP4_SSL(job["host"], 993, ssl_context=anyone(), timeout=TIMEOUT) as mailbox:
            mailbox.login(*job["login"])
            mailbox.select(readonly=True)
        return "OK"

    say("read", at, heard(act))


def repeat(act: Callable[[dict[str, Any]], None], job: dict[str, Any], every: float) -> None:
    ends, due = time.time() + job["seconds"], time.time()
    while not OVER.exists() and time.time() < ends:
        if time.time() >= due:
            act(job)
            due += every
        time.sleep(0.1)


if __name__ == "__main__":
    given = json.load(sys.stdin)
    people = [
        threading.Thread(target=repeat, args=(act, given, every))
        for act, every in ((submit, 3.0), (receive, 2.0), (read, 3.0))
    ]
    for person in people:
        person.start()
