"""Whom an account knows: people it has written to, and domains that have written to it before.

People are known by address, since they wrote back by it. Those who write first are known by domain. Newsletters
use a new address for each message (VERP), and most strangers write from a provider that everybody knows.
"""

import re
from dataclasses import dataclass, field
from enum import IntEnum

from mailkeep_server.common.addresses import hash_text
from mailkeep_server.common.networks import network_of
from mailkeep_server.guard.database import Database
from mailkeep_server.guard.sliding_window import DAY, HOUR

FIRST_DAYS = 7 * DAY
"""From an account's first message on: nobody has written to it before, so everybody is new."""
_REFRESHED_AFTER = 30 * DAY
_BEGINNING, _TRUSTED_UNTIL = 0, 1
"""In place of the hash of a sender: the time of the account's first message, and when senders are trusted no more."""
_MAX_LENGTH = 2000
"""Characters of From: that are read."""
_IN_BRACKETS = re.compile(r"<([^<>]*)>")
_ADDRESS = re.compile(r"[^\s<>@,;:()\"]+@[a-z0-9.-]+")


class Rank(IntEnum):
    """How well an account knows a sender. Those of one rank cannot use up what another may send."""

    NEW = 0
    KNOWN = 1
    """Its domain first wrote an hour ago at least: a bomb's senders are new for as long as the limits count."""
    WRITTEN_TO = 2


@dataclass(slots=True)
class IncomingMessage:
    """A message on port 25, as far as it has come."""

    client: str = ""
    sender: str = ""
    """Of the envelope, lower case; empty for notices and automatic answers."""
    author: str = ""
    """The address in From:, lower case."""
    is_list_mail: bool = False
    """Whether it has List-Id: (RFC 2919): a list is known by itself, not by its authors."""
    recipients: list[str] = field(default_factory=list)
    """Those that were accepted."""

    @property
    def origin(self) -> int:
        """A hash: the list's domain, else the author's; the client's network, if it names neither."""
        addresses = (self.sender, self.author) if self.is_list_mail else (self.author, self.sender)
        domains = [address.rpartition("@")[2] for address in addresses]
        return hash_text(next(filter(None, domains), network_of(self.client)))


def read_author(value: str) -> str:
    """The last address in a From: line, lower case; empty if it has none."""
    text = value[:_MAX_LENGTH].lower()
    addresses = _ADDRESS.findall(" ".join(_IN_BRACKETS.findall(text))) or _ADDRESS.findall(text)
    return addresses[-1] if addresses else ""


class Correspondents:
    """All methods raise sqlite3.Error."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def rank_sender(self, now: int, account: str, address: str) -> Rank:
        """By the envelope alone, before the message has come."""
        if address and self._database.knows_recipient(account, hash_text(address)):
            return Rank.WRITTEN_TO
        noted_at = self._database.sender_time(account, hash_text(address.rpartition("@")[2])) if address else 0
        return Rank.KNOWN if 0 < noted_at <= now - HOUR else Rank.NEW

    def knows_origin(self, now: int, account: str, message: IncomingMessage) -> bool:
        has_written_to = any(
            self._database.knows_recipient(account, hash_text(address))
            for address in {message.sender, message.author} - {""}
        )
        noted_at = self._database.sender_time(account, message.origin)
        if 0 < noted_at < now - _REFRESHED_AFTER:
            self.remember(now, account, message.origin)
        return has_written_to or noted_at > 0

    def remember(self, now: int, account: str, origin: int) -> None:
        self._database.remember_sender(now, account, origin)

    def forget(self, account: str, origin: int) -> None:
        self._database.forget_sender(account, origin)

    def is_new_account(self, now: int, account: str) -> bool:
        """Whether its first message came within FIRST_DAYS. To be asked at each message: this may be the first."""
        beginning = self._database.sender_time(account, _BEGINNING)
        if not beginning and not self._database.knows_senders(account):
            self._database.remember_sender(now, account, _BEGINNING)
            return True
        return beginning > now - FIRST_DAYS

    def trusts_all(self, now: int, account: str) -> bool:
        return self._database.sender_time(account, _TRUSTED_UNTIL) > now

    def trust_all_until(self, time: int, account: str) -> None:
        self._database.remember_sender(time, account, _TRUSTED_UNTIL)
