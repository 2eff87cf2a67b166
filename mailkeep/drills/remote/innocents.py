"""People who use mail during an attack: they send, receive and read.

Standard input is a job: `host`, `login` of an account, `colleague` (another account's address) and `seconds`. Standard
output is a JSON object a line: what was done, when, and the server's answer. Ends after the job's seconds, or when a
file `over` appears beside this one. Standard library only: it runs on the lab's Internet.
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
ANSWER_TIMEOUT = 30.0
LOCK = threading.Lock()
POLL_INTERVAL = 0.1


def unverified_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def answer_of(action: Callable[[], str]) -> str:
    """The server's answer to `action`; "dropped: …" when there was none."""
    try:
        return action()
    except smtplib.SMTPRecipientsRefused as error:
        return str(error.recipients)
    except smtplib.SMTPResponseException as error:
        return f"{error.smtp_code} {error.smtp_error!r}"
    except imaplib.IMAP4.error as error:
        return f"NO {error}"
    except (OSError, EOFError, smtplib.SMTPException) as error:
        return f"dropped: {error!r}"


def print_event(kind: str, at: float, answer: str, **details: Any) -> None:
    with LOCK:
        print(json.dumps({"kind": kind, "at": at, "until": time.time(), "answer": answer} | details), flush=True)


def submit_message(job: dict[str, Any]) -> None:
    """From the account to somebody outside and to the colleague."""
    send_message(job, 587, job["login"][0], [FRIEND, job["colleague"]], job["login"])


def deliver_message(job: dict[str, Any]) -> None:
    """From somebody outside to the account and the colleague."""
    send_message(job, 25, FRIEND, [job["login"][0], job["colleague"]], None)


def send_message(job: dict[str, Any], port: int, sender: str, recipients: list[str], login: list[str] | None) -> None:
    name, at = uuid.uuid4().hex, time.time()
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = sender, ", ".join(recipients), f"Drill: innocent {name}"
    message.set_content("See you on Thursday.\n")

    def run_session() -> str:
        with smtplib.SMTP(job["host"], port, "mx.outside.test", timeout=ANSWER_TIMEOUT) as smtp:
            smtp.starttls(context=unverified_context())
            if login:
                smtp.login(*login)
            refused = smtp.send_message(message, sender, recipients)
        return str(refused) if refused else "250"

    print_event("sent", at, answer_of(run_session), name=name, recipients=recipients)


def read_mailbox(job: dict[str, Any]) -> None:
    at = time.time()

    def run_session() -> str:
        context = unverified_context()
        with imaplib.IMAP4_SSL(job["host"], 993, ssl_context=context, timeout=ANSWER_TIMEOUT) as mailbox:
            mailbox.login(*job["login"])
            mailbox.select(readonly=True)
        return "OK"

    print_event("read", at, answer_of(run_session))


def repeat_action(action: Callable[[dict[str, Any]], None], job: dict[str, Any], interval: float) -> None:
    ends, due = time.time() + job["seconds"], time.time()
    while not OVER.exists() and time.time() < ends:
        if time.time() >= due:
            action(job)
            due += interval
        time.sleep(POLL_INTERVAL)


def main() -> None:
    job = json.load(sys.stdin)
    for action, interval in ((submit_message, 3.0), (deliver_message, 2.0), (read_mailbox, 3.0)):
        threading.Thread(target=repeat_action, args=(action, job, interval)).start()


if __name__ == "__main__":
    main()
