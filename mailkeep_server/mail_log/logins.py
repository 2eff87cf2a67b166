"""Logins in the log of Dovecot (2.3, 2.4) and of Postfix's smtpd, good and failed.

A line of a login that failed has the user name that a stranger typed. All other fields are the service's own.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mailkeep_server.mail_log.log_lines import LogLine, search_lines
from mailkeep_server.mail_log.sources import Chunk

SEARCH = re.compile(rb"-login: |SASL [\w-]+ authentication failed|: client=[^\n]*sasl_username=")
_ADDRESS = r"([0-9a-fA-F:.]+)"
_DOVECOT = r"(imap|pop3|managesieve|submission)-login: (?:Info: )?"
_CLIENT = rf"[^\[\]\s]+\[{_ADDRESS}\](?::\d+)?"
_GOOD = re.compile(rf"{_DOVECOT}(?:Logged in|Login): user=<([^<>\s]+)>, method=([\w-]+), rip={_ADDRESS},")
# The name is a stranger's, and may hold anything: what stands behind it is read up to the end of the line.
_FAILED = re.compile(
    rf"{_DOVECOT}[A-Z][^<>]*\((?:auth failed|tried to use)[^<>]*: user=<(.*)>, method=([\w-]+), "
    rf"rip={_ADDRESS},[^<>]*(?:session=<[^<>]*>)?$"
)
_ATTEMPTS = re.compile(r"[^<>]*\(auth failed, (\d{1,3}) attempts")
_SMTP_GOOD = re.compile(rf"\w+: client={_CLIENT}, sasl_method=([\w-]+), sasl_username=(.+?)(?:, sasl_sender=.*)?$")
_SMTP_FAILED = re.compile(
    rf"warning: {_CLIENT}: SASL ([\w-]+) authentication failed(?:: .*?(?:, sasl_username=(.*))?)?$"
)


class Login(NamedTuple):
    """`service` is smtp, imap, pop3, managesieve or submission (Dovecot's). A good login over SMTP is noted with each
    message of its session. `account` of a failed login is what was typed. `attempts` is 1 for a good one."""

    time: str
    account: str
    address: str
    service: str
    method: str
    is_good: bool
    attempts: int = 1


def read_logins(chunks: Iterable[Chunk]) -> Iterator[Login]:
    """All logins, in the order of the log."""
    for line in search_lines(chunks, SEARCH):
        if login := parse_login(line):
            yield login


def parse_login(line: LogLine) -> Login | None:
    if line.program.endswith("/smtpd"):
        return _parse_smtp(line)
    text = (
        line.text if line.program == "dovecot" else f"{line.program}: {line.text}"
    )  # Dovecot's log files have no name
    if match := _GOOD.match(text):
        service, account, method, address = match.groups()
        return Login(line.time, account, address, service, method, True)
    if match := _FAILED.match(text):
        service, account, method, address = match.groups()
        attempts = _ATTEMPTS.match(text)
        return Login(line.time, account, address, service, method, False, int(attempts[1]) if attempts else 1)
    return None


def _parse_smtp(line: LogLine) -> Login | None:
    if match := _SMTP_GOOD.match(line.text):
        address, method, account = match.groups()
        return Login(line.time, account, address, "smtp", method, True)
    if match := _SMTP_FAILED.match(line.text):
        address, method, account = match.groups()
        return Login(line.time, account or "", address, "smtp", method, False)
    return None
