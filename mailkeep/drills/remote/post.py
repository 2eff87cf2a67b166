"""Sends the messages that it is told to, from the addresses that it is told to: a person with several devices.

On standard input one JSON object a line: `host`, `source`, `login`, `recipients`, `subject`; on standard output the
server's answer to each, as it comes. The latest devices keep their connections. Runs on the lab's attacker; standard
library only.
"""

import json
import smtplib
import ssl
import sys
from email.message import EmailMessage
from email.policy import SMTP as LINES
from typing import Any

SESSIONS: dict[tuple[str, str], smtplib.SMTP] = {}
MOST = 20


def session(job: dict[str, Any]) -> smtplib.SMTP:
    user, password = job["login"]
    found = SESSIONS.get((job["source"], user))
    if not found:
        if len(SESSIONS) == MOST:
            SESSIONS.pop(next(iter(SESSIONS))).close()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        found = smtplib.SMTP(job["host"], 587, "[192.0.2.1]", timeout=60, source_address=(job["source"], 0))
        found.starttls(context=context)
        found.login(user, password)
        SESSIONS[job["source"], user] = found
    return found


def send(job: dict[str, Any]) -> str:
    message = EmailMessage(policy=LINES)
    message["From"], message["To"] = job["login"][0], ", ".join(job["recipients"])
    message["Subject"] = job["subject"]
    message.set_content("See you on Thursday.\n")
    try:
        refused = session(job).send_message(message, to_addrs=job["recipients"])
        return str(refused) if refused else "250"
    except (OSError, smtplib.SMTPException) as error:
        SESSIONS.pop((job["source"], job["login"][0]), None)
        return repr(error)


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(send(json.loads(line))), flush=True)
