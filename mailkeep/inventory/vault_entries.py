"""The names that Mailkeep gives to the secrets of a vault, and what the names of keys say about them.

A key that is being replaced is in one of three states. `next`: its DNS record is published, the server does not use it
yet. `current`: the server uses it. `former`: the server used it before, and its record must stay for a while.
On disk the states are suffixes:

| file                          | key                                                                     |
|-------------------------------|-------------------------------------------------------------------------|
| `dkim/DOMAIN/SELECTOR`        | current; of several, the newest selector signs, one of another server last |
| `….next`                      | next                                                                    |
| `….until-YYYYMMDD`            | former; its record must stay until that day                             |
| `tls/acme`                    | current                                                                 |
| `tls/acme.next`               | next                                                                    |
| `tls/acme.from-YYYYMMDDHHMM`  | next, its record was seen; no resolver has an older answer from then on (UTC) |
| `tls/acme.former`             | former                                                                  |
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Literal

from mailkeep.errors import UserError

SELF_SIGNED = "tls/self-signed"  # certificate and key, PEM
ACME_TLS = "tls/acme"  # key, and the certificate that the server shows until the authority issues one, PEM
TLS_KEY = "tls/key"  # of a certificate beside mail.yml
DNS_CREDENTIALS = "acme"
RELAY = "relay"
WEBHOOK = "webhook"
SHARED_STORE = "store"
BACKUP_PASSPHRASE = "backup/passphrase"  # noqa: S105 - the name of an entry
BACKUP_SSH_KEY = "backup/ssh"  # OpenSSH's private key

_DAY = "%Y%m%d"
_MINUTE = "%Y%m%d%H%M"
SELECTOR = r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_DATED_SELECTOR = re.compile("s[0-9]{8}")
_DKIM_NAME = re.compile(
    rf"dkim/(?P<domain>[^/]+)/(?P<selector>{SELECTOR})(?P<suffix>\.next|\.until-(?P<until>[0-9]{{8}}))?"
)
_ACME_TLS_NAME = re.compile(r"tls/acme(?P<suffix>\.next|\.from-(?P<usable_from>[0-9]{12})|\.former)?")

KeyState = Literal["next", "current", "former"]


@dataclass(frozen=True, slots=True)
class DkimEntry:
    """The name of a DKIM key. A selector of ours is `s` and the day on which its key was created (YYYYMMDD). One of
    another server is any label of the DNS."""

    domain: str
    selector: str
    state: KeyState = "current"
    until: str = ""  # YYYYMMDD, of a former key

    @property
    def name(self) -> str:
        suffix = {"current": "", "next": ".next", "former": f".until-{self.until}"}[self.state]
        return f"dkim/{self.domain}/{self.selector}{suffix}"

    @property
    def is_taken_over(self) -> bool:
        """Whether another server made the key: its selector has not the form of ours."""
        return not _DATED_SELECTOR.fullmatch(self.selector)

    @property
    def age_key(self) -> tuple[str, bool, str]:
        """Sorts by domain, then from the oldest key to the newest. Keys of another server come before ours."""
        return self.domain, not self.is_taken_over, self.selector

    @property
    def created_on(self) -> date:
        """The day in the selector; of a key that was taken over, the first day of all. UserError if it is no day."""
        if self.is_taken_over:
            return date.min
        return self._parse_day(self.selector.removeprefix("s"))

    @property
    def until_day(self) -> date:
        """The day until which the record of a former key must stay. UserError if the name holds no day."""
        return self._parse_day(self.until)

    def as_former(self, until: date) -> "DkimEntry":
        return DkimEntry(self.domain, self.selector, "former", f"{until:{_DAY}}")

    def _parse_day(self, digits: str) -> date:
        try:
            return datetime.strptime(digits, _DAY).date()
        except ValueError:
            raise UserError(
                f"{self.name}: the name of this key in the vault holds no day (YYYYMMDD). Rename its file."
            ) from None


@dataclass(frozen=True, slots=True)
class AcmeTlsEntry:
    """The name of a TLS key for which an ACME authority issues the certificate."""

    state: KeyState = "current"
    usable_from: str = ""  # YYYYMMDDHHMM in UTC, of a next key whose record was seen

    @property
    def name(self) -> str:
        if self.usable_from:
            return f"{ACME_TLS}.from-{self.usable_from}"
        return ACME_TLS if self.state == "current" else f"{ACME_TLS}.{self.state}"

    @property
    def usable_time(self) -> datetime:
        return datetime.strptime(self.usable_from, _MINUTE).replace(tzinfo=UTC)

    @staticmethod
    def next_usable_from(time: datetime) -> "AcmeTlsEntry":
        """A next key that the server may use from `time` on (UTC); the name drops the seconds."""
        return AcmeTlsEntry("next", f"{time:{_MINUTE}}")


def parse_dkim_entry(name: str) -> DkimEntry | None:
    """None if the name is of no DKIM key."""
    match = _DKIM_NAME.fullmatch(name)
    if not match:
        return None
    state: KeyState = "former" if match["until"] else "next" if match["suffix"] else "current"
    return DkimEntry(match["domain"], match["selector"], state, match["until"] or "")


def parse_acme_tls_entry(name: str) -> AcmeTlsEntry | None:
    """None if the name is of no TLS key for ACME."""
    match = _ACME_TLS_NAME.fullmatch(name)
    if not match:
        return None
    states: dict[str | None, KeyState] = {None: "current", ".former": "former"}
    return AcmeTlsEntry(states.get(match["suffix"], "next"), match["usable_from"] or "")
