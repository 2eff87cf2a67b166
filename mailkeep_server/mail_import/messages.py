"""A message on its way into a folder, with all that IMAP keeps beside its bytes."""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

from mailkeep_server.common.message_bytes import Content

SYSTEM_FLAGS = ("\\Seen", "\\Answered", "\\Flagged", "\\Deleted", "\\Draft")
_KEYWORD = re.compile(r"[A-Za-z0-9!#$&'+,./:;<=>?@^_`|}~$\[-]{1,50}")  # RFC 3501: an atom; Dovecot keeps 50 bytes
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
MAX_DATE = 253_402_300_799  # the end of the year 9999


@dataclass(frozen=True)
class Message:
    """`content` is its bytes or a file with them; `date` is when it arrived (INTERNALDATE), in seconds since 1970.

    `uid` is the UID that it had, if that is to be kept. `key` is the caller's own, for what it notes about the message.
    """

    content: Content
    flags: frozenset[str] = frozenset()
    keywords: frozenset[str] = frozenset()
    date: int = 0
    uid: int = 0
    key: str = field(default="", compare=False)

    @property
    def attributes(self) -> str:
        """Its flags and date in a command APPEND."""
        return f'{self.flag_list} "{format_date(self.date)}"'

    @property
    def flag_list(self) -> str:
        """Its flags and keywords, as a list of IMAP."""
        words = [flag for flag in SYSTEM_FLAGS if flag in self.flags]
        words += sorted(keyword for keyword in self.keywords if is_keyword(keyword))
        return f"({' '.join(words)})"


def is_keyword(text: str) -> bool:
    """Whether IMAP can keep this keyword. No other is sent to Dovecot."""
    return bool(_KEYWORD.fullmatch(text))


def format_date(seconds: int) -> str:
    """As IMAP has it (RFC 3501, date-time), in UTC."""
    moment = datetime.fromtimestamp(min(max(seconds, 0), MAX_DATE), UTC)
    return f"{moment:%d}-{_MONTHS[moment.month - 1]}-{moment:%Y %H:%M:%S} +0000"


def read_date(text: str) -> int:
    """Seconds since 1970 of such a date. Raises ValueError."""
    match = re.fullmatch(r" ?(\d{1,2})-(\w{3})-(\d{4} \d\d:\d\d:\d\d [+-]\d{4})", text)
    if not match or match.group(2).title() not in _MONTHS:
        raise ValueError(f"{text!r} is no date of IMAP")
    month = _MONTHS.index(match.group(2).title()) + 1
    return int(datetime.strptime(f"{match.group(1)} {month} {match.group(3)}", "%d %m %Y %H:%M:%S %z").timestamp())
