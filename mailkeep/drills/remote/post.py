"""Sends messages as a person with several devices does, from the source address of each.

Standard input is a job a line: `host`, `source`, `login`, `recipients`, `subject`, and perhaps `copies_program`: false
for a program of another kind. Standard output is the server's answer to each, as a JSON string a line. The devices used
last keep their connections. Standard library only: it runs on the lab's attacker.
"""

import json
import smtplib
import ssl
import sys
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

CONNECTIONS: dict[tuple[str, str], smtplib.SMTP] = {}
"""By source address and user name."""
MAX_CONNECTIONS = 20


def find_or_open_connection(job: dict[str, Any]) -> smtplib.SMTP:
    user, password = job["login"]
    if connection := CONNECTIONS.get((job["source"], user)):
        return connection
    if len(CONNECTIONS) == MAX_CONNECTIONS:
        CONNECTIONS.pop(next(iter(CONNECTIONS))).close()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = smtplib.SMTP(job["host"], 587, "[192.0.2.1]", timeout=60, source_address=(job["source"], 0))
    connection.starttls(context=context)
    connection.login(user, password)
    CONNECTIONS[job["source"], user] = connection
    return connection


def send_message(job: dict[str, Any]) -> str:
    message = EmailMessage(policy=SMTP)
    headers = {"From": job["login"][0], "To": ", ".join(job["recipients"]), "Subject": job["subject"]}
    for name in sorted(headers, reverse=job.get("copies_program", True)):
        message[name] = headers[name]
    message.set_content("See you on Thursday.\n")
    try:
        refused = find_or_open_connection(job).send_message(message, to_addrs=job["recipients"])
        return str(refused) if refused else "250"
    except (OSError, smtplib.SMTPException) as error:
        CONNECTIONS.pop((job["source"], job["login"][0]), None)
        return repr(error)


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(send_message(json.loads(line))), flush=True)
