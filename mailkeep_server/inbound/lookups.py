"""The DNS for one message: no name is asked twice, and all answers together have one deadline.

The resolver of the machine keeps the answers for the next message. So nothing is kept here.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mailkeep_server.common.dns_query import DnsReply, is_name, join_strings, query_quickly, read_nameservers

SECONDS = 20.0  # for all lookups of a message
LOOKUP_SECONDS = 5.0  # for a server's answer
MAX_LOOKUPS = 150  # of a message; fifty sets of ARC need a hundred
NO_SUCH_NAME = 3
Query = Callable[[str, str, str, float], DnsReply]


class LookupFailedError(Exception):
    """The DNS gives no answer for now."""


def _read_clock() -> float:
    return time.monotonic()


@dataclass
class Lookups:
    """`query` asks a server for a name and a type. The deadline is in monotonic seconds."""

    query: Query = query_quickly
    nameservers: Callable[[], list[str]] = read_nameservers
    deadline: float = field(default_factory=lambda: _read_clock() + SECONDS)
    _replies: dict[tuple[str, str], DnsReply | LookupFailedError] = field(default_factory=dict)

    def look_up(self, name: str, record_type: str) -> list[bytes]:
        """The data of the name's records. Raises LookupFailedError."""
        return self._find_reply(name, record_type).data

    def read_texts(self, name: str) -> list[str]:
        """The TXT records, the strings of each joined. Raises LookupFailedError."""
        return [join_strings(data) for data in self.look_up(name, "TXT")]

    def has_name(self, name: str) -> bool:
        """Whether the name or one below it exists (RFC 8020). Raises LookupFailedError."""
        return is_name(name) and self._find_reply(name, "A").code != NO_SUCH_NAME

    def _find_reply(self, name: str, record_type: str) -> DnsReply:
        name = name.removesuffix(".").lower()
        if not is_name(name):
            return DnsReply(NO_SUCH_NAME, False, [])
        key = name, record_type
        if key not in self._replies:
            self._replies[key] = self._ask(name, record_type)
        reply = self._replies[key]
        if isinstance(reply, LookupFailedError):
            raise reply
        return reply

    def _ask(self, name: str, record_type: str) -> DnsReply | LookupFailedError:
        if len(self._replies) >= MAX_LOOKUPS:
            return LookupFailedError(f"{name}: {MAX_LOOKUPS} names were asked before it")
        reason = f"no time is left of {SECONDS:.0f} seconds"
        try:
            for server in self.nameservers():
                if (left := self.deadline - _read_clock()) <= 0:
                    break
                try:
                    reply = self.query(server, name, record_type, min(left, LOOKUP_SECONDS))
                except (OSError, ValueError) as error:
                    reason = str(error) or type(error).__name__
                    continue
                if reply.code in (0, NO_SUCH_NAME):
                    return reply
                reason = f"the resolver answers with code {reply.code}"
        except OSError as error:
            reason = str(error)
        return LookupFailedError(f"{name}: {reason}")
