"""Proves the spam filter the way that mail goes: over port 25, through milters and Sieve, into a mailbox.

That mailbox is of no account: nobody can log in to it, and only this machine can write to it.
"""

import smtplib
import time
import uuid
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path

from mailkeep_server.common import paths
from mailkeep_server.common.spam_header import VERDICT_HEADER
from mailkeep_server.common.wording import describe_error

DOMAIN = "mailkeep.invalid"
ADDRESS = f"canary@{DOMAIN}"
"""RFC 6761 §6.4: nobody else's mail ever goes to a name below `invalid`."""
MAILDIR = Path(paths.CANARY_MAILBOX) / "Maildir"
HEADER, JUNK_VALUE = "X-Mailkeep-Canary", "junk"
VERDICTS = ("not spam, ", "probably spam, ")
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
PLAIN_TEXT = "The server proves that its spam filter works. Shall we meet on Monday?"
JUNK_TEXT = "Cheap pills, casino credit and a lottery prize: claim your jackpot without prescription."
LESSONS = 5
"""Of each kind, from which a word list tells the one from the other."""
DELIVERY_TIMEOUT = 30.0  # seconds
SMTP_TIMEOUT = 60.0
POLL_SECONDS = 0.2
INBOX, JUNK = "INBOX", "Junk"


def prove_filter(deliver: Callable[[EmailMessage], str], *, refuses: bool) -> dict[str, str]:
    """The faults by canary: `plain` must land in INBOX, `junk` in Junk, and `gtube` be refused if the filter `refuses`
    mail. All are removed."""
    faults = {
        "plain": _find_landing_fault(compose_canary(PLAIN_TEXT), INBOX, deliver),
        "junk": _find_landing_fault(compose_canary(JUNK_TEXT, is_junk=True), JUNK, deliver),
        "gtube": _find_refusal_fault(compose_canary(GTUBE), deliver) if refuses else "",
    }
    return {canary: fault for canary, fault in faults.items() if fault}


def teach_canary(spool: Path) -> None:
    """Leaves lessons as Dovecot's script does: by its own word list, the mailbox tells its canaries apart."""
    for number in range(LESSONS):
        for kind, text in (("ham", PLAIN_TEXT), ("spam", JUNK_TEXT)):
            copy = spool / "tmp" / f"canary-{kind}-{number}"
            lesson = compose_canary(text, is_junk=kind == "spam")
            copy.write_bytes(f"{kind} {ADDRESS}\n".encode() + lesson.as_bytes())
            copy.rename(spool / "new" / copy.name)


def compose_canary(text: str, *, is_junk: bool = False) -> EmailMessage:
    message = EmailMessage()
    message["From"] = ADDRESS
    message["To"] = ADDRESS
    message["Subject"] = "A test of the spam filter"
    message["Message-ID"] = f"<{uuid.uuid4()}@{DOMAIN}>"
    message["Date"] = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime())
    if is_junk:
        message[HEADER] = JUNK_VALUE
    message.set_content(text + "\n")
    return message


def send_message(host: str, message: EmailMessage) -> str:
    """The server's last answer. Raises OSError."""
    with smtplib.SMTP("127.0.0.1", 25, local_hostname=host, timeout=SMTP_TIMEOUT) as connection:
        try:
            connection.send_message(message, "", [ADDRESS])
        except smtplib.SMTPRecipientsRefused as error:
            return _format_answer(*error.recipients[ADDRESS])
        except smtplib.SMTPResponseException as error:
            return _format_answer(error.smtp_code, error.smtp_error)
    return "250 accepted"


def _format_answer(code: int, text: bytes | str) -> str:
    return f"{code} {text.decode(errors='replace') if isinstance(text, bytes) else text}"


def _find_landing_fault(message: EmailMessage, folder: str, deliver: Callable[[EmailMessage], str]) -> str:
    """Why the message did not land in this folder with a verdict; "" if it did."""
    try:
        answer = deliver(message)
    except OSError as error:
        return f"was not sent: {describe_error(error)}"
    if not answer.startswith("250"):
        return f"was answered with {answer}"
    deadline = time.monotonic() + DELIVERY_TIMEOUT
    while not (places := take_message(str(message["Message-ID"]))):
        if time.monotonic() > deadline:
            return f"did not arrive within {DELIVERY_TIMEOUT:.0f} seconds"
        time.sleep(POLL_SECONDS)
    place, verdict = places
    if place != folder:
        return f"landed in {place}, not in {folder} ({VERDICT_HEADER}: {verdict or 'none'})"
    return "" if verdict.startswith(VERDICTS) else f"was not judged: {VERDICT_HEADER}: {verdict or 'none'}"


def _find_refusal_fault(message: EmailMessage, deliver: Callable[[EmailMessage], str]) -> str:
    try:
        answer = deliver(message)
    except OSError as error:
        return f"was not sent: {describe_error(error)}"
    return "" if answer.startswith("5") else f"was answered with {answer}, not refused"


def take_message(message_id: str) -> tuple[str, str] | None:
    """The folder and the verdict of the message, which is removed; None if it is not there. What former proofs have
    left goes, too."""
    result = None
    for folder, file in _list_messages(MAILDIR):
        headers = file.read_text(errors="replace").partition("\n\n")[0].replace("\n\t", " ").replace("\n ", " ")
        fields = [line.partition(":")[::2] for line in headers.splitlines()]
        if any(name.lower() == "message-id" and value.strip() == message_id for name, value in fields):
            verdict = next((value.strip() for name, value in fields if name == VERDICT_HEADER), "")
            result = folder, verdict
        file.unlink()
    return result


def _list_messages(maildir: Path) -> Iterator[tuple[str, Path]]:
    """Maildir++: a folder is a directory whose name begins with a dot."""
    for directory in (maildir, *maildir.glob(".*")):
        folder = directory.name.removeprefix(".") if directory != maildir else INBOX
        for state in ("new", "cur"):
            for file in (directory / state).glob("*"):
                yield folder, file
