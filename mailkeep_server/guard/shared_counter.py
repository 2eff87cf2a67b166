"""One count for several mail servers, in Valkey or Redis: each message is charged there before it is accepted.

Every guard counts the messages of its own server. Where `guard.shared_store` is set, a message that fits is charged to
the shared count too. One script checks all limits and adds the message, so two servers cannot both take the last place.
When the store does not answer within a second, each server goes by its own count until it does. Limits then hold for
each server alone, and an alert reports it. Freezes are shared too (`shared_freezes`).
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from mailkeep_server.common.wording import describe_error
from mailkeep_server.guard.config import SharedStoreConfig
from mailkeep_server.guard.limits import ExceededLimit, Limit
from mailkeep_server.guard.sliding_window import DAY, MAX_CLOCK_STEP, Usage

ANSWER_TIMEOUT = 1.0
"""Seconds."""
RETRY_SECONDS = 5.0
"""From a failure to the next attempt; meanwhile no message waits."""
FREEZES_KEY = b"mailkeep:frozen"
_RUN_ID = os.urandom(6).hex()
"""Tells this guard's messages from those of other servers, and of an earlier run, which also number from 1."""

# KEYS[1]: the account's messages, a sorted set by time of ID:RECIPIENTS:NEW.
# ARGV: now, id, recipients, new recipients, how long a message counts, and MAX_CLOCK_STEP: a time further ahead is
# wrong. Then for each limit its window, its column in (messages, recipients, new recipients), its maximum.
# Returns nothing when the message fits and is added, or was before. Else the place of the limit that keeps it out for
# longest (from 0), and when that ends.
_CHARGE = """
local key, now, day, max_step = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[5]), tonumber(ARGV[6])
local more = {1, tonumber(ARGV[3]), tonumber(ARGV[4])}
redis.call('ZREMRANGEBYSCORE', key, '-inf', now - day)
if redis.call('ZSCORE', key, ARGV[2] .. ':' .. ARGV[3] .. ':' .. ARGV[4]) then return {} end
local rows, flat = {}, redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
for i = 1, #flat, 2 do
  local recipients, new = flat[i]:match(':(%d+):(%d+)$')
  local time = tonumber(flat[i + 1])
  if time > now + max_step then
    time = now
    redis.call('ZADD', key, now, flat[i])
  end
  rows[#rows + 1] = {1, tonumber(recipients), tonumber(new), time}
end
local worst, free_at = -1, 0
for i = 7, #ARGV, 3 do
  local window, column, maximum = tonumber(ARGV[i]), tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local total = more[column]
  for _, row in ipairs(rows) do
    if row[4] > now - window then total = total + row[column] end
  end
  if total > maximum then
    local ends = now + window
    for _, row in ipairs(rows) do
      if row[4] > now - window and total > maximum then
        total = total - row[column]
        ends = row[4] + window
      end
    end
    if ends > free_at then worst, free_at = (i - 7) / 3, ends end
  end
end
if worst >= 0 then return {worst, free_at} end
redis.call('ZADD', key, now, ARGV[2] .. ':' .. ARGV[3] .. ':' .. ARGV[4])
redis.call('PEXPIRE', key, day)
return {}
"""


class SharedStoreError(Exception):
    """The store does not answer, or answers with an error."""


class Charge(NamedTuple):
    """A message to count in the store, as this server has counted it already."""

    time: int
    id: int
    """Among the messages of this server."""
    account: str
    usage: Usage
    limits: tuple[Limit, ...]

    @property
    def key(self) -> bytes:
        return f"mailkeep:sent:{self.account}".encode()

    @property
    def member(self) -> str:
        return f"{self.unique_id}:{self.usage.recipients}:{self.usage.new_recipients}"

    @property
    def unique_id(self) -> str:
        return f"{_RUN_ID}-{self.id}"

    def list_arguments(self) -> list[object]:
        """ARGV of the script."""
        limits = [(limit.window, Usage._fields.index(limit.column) + 1, limit.maximum) for limit in self.limits]
        return [
            self.time,
            self.unique_id,
            self.usage.recipients,
            self.usage.new_recipients,
            DAY,
            MAX_CLOCK_STEP,
            *(number for limit in limits for number in limit),
        ]


class SharedCounter:
    """The connection to the store, opened when first needed. `on_lost` is called with the error when it fails, and
    `on_back` when it works again."""

    def __init__(self, store: SharedStoreConfig, on_lost: Callable[[str], None], on_back: Callable[[], None]) -> None:
        self.store, self._on_lost, self._on_back = store, on_lost, on_back
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._lock = asyncio.Lock()
        self._down_until = 0.0
        self._is_lost = False

    async def charge_messages(self, charges: Sequence[Charge]) -> list[ExceededLimit | None]:
        """For each message, the limit it exceeds in the count of all servers. None: it fits, or the store is away."""
        commands = [(b"EVAL", _CHARGE, 1, charge.key, *charge.list_arguments()) for charge in charges]
        try:
            answers = await self._send_commands(commands)
        except SharedStoreError:
            return [None] * len(charges)
        return [_parse_exceeded(charge, answer) for charge, answer in zip(charges, answers, strict=True)]

    async def uncount_message(self, charge: Charge) -> None:
        with contextlib.suppress(SharedStoreError):  # it stays counted, which errs on the safe side
            await self._send_commands([(b"ZREM", charge.key, charge.member)])

    async def exchange_freezes(self, changes: dict[str, str]) -> dict[str, str]:
        """Writes these entries to the store's list, by account. Returns the whole list. Raises SharedStoreError."""
        commands: list[tuple[object, ...]] = [
            (b"HSET", FREEZES_KEY, account, entry) for account, entry in changes.items()
        ]
        flat = (await self._send_commands([*commands, (b"HGETALL", FREEZES_KEY)]))[-1]
        if not isinstance(flat, list):
            raise SharedStoreError(f"HGETALL returned {flat!r}")
        words = [bytes(word).decode() for word in flat]
        return dict(zip(words[::2], words[1::2], strict=True))

    async def _send_commands(self, commands: Sequence[tuple[object, ...]]) -> list[object]:
        """The answers, in order. Raises SharedStoreError: after ANSWER_TIMEOUT, or at once if it has just failed."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT), self._lock:
                # Checked with the lock held: the holder before may have found the store down.
                is_down = loop.time() < self._down_until
                answers = [] if is_down else await self._exchange(commands)
        except (OSError, EOFError, TimeoutError, ValueError, SharedStoreError) as error:
            self._close_connection()
            self._down_until = loop.time() + RETRY_SECONDS
            if not self._is_lost:
                self._is_lost = True
                self._on_lost(describe_error(error))
            raise SharedStoreError(str(error)) from None
        if is_down:
            raise SharedStoreError("it has just failed")
        if self._is_lost:
            self._is_lost = False
            self._on_back()
        return answers

    async def _exchange(self, commands: Sequence[tuple[object, ...]]) -> list[object]:
        if self._streams is None:
            self._streams = await self._connect()
        reader, writer = self._streams
        writer.write(b"".join(map(_encode_command, commands)))
        await writer.drain()
        return [await _read_answer(reader) for _ in commands]

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        store = self.store
        import ssl  # not in a guard without a store: it takes 2 MB

        tls = ssl.create_default_context() if store.tls else None
        reader, writer = await asyncio.open_connection(store.host, store.port, ssl=tls)
        if store.password:
            writer.write(_encode_command((b"AUTH", store.user, store.password)))
            await _read_answer(reader)
        return reader, writer

    def _close_connection(self) -> None:
        if self._streams:
            self._streams[1].transport.abort()
            self._streams = None


def _parse_exceeded(charge: Charge, answer: object) -> ExceededLimit | None:
    match answer:
        case [int(place), int(free_at)] if place < len(charge.limits):
            return ExceededLimit(charge.limits[place], free_at)
    return None


def _encode_command(command: Iterable[object]) -> bytes:
    """RESP (valkey.io/topics/protocol): an array of bulk strings."""
    words = [word if isinstance(word, bytes) else str(word).encode() for word in command]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


async def _read_answer(reader: asyncio.StreamReader) -> object:
    """An integer, bytes, a list, or None. Raises SharedStoreError for an error reply."""
    line = (await reader.readuntil(b"\r\n"))[:-2]
    kind, rest = line[:1], line[1:]
    match kind:
        case b"+":
            return rest
        case b"-":
            raise SharedStoreError(rest.decode(errors="replace"))
        case b":":
            return int(rest)
        case b"$":
            return (await reader.readexactly(int(rest) + 2))[:-2] if int(rest) >= 0 else None
        case b"*":
            return [await _read_answer(reader) for _ in range(int(rest))] if int(rest) >= 0 else None
    raise SharedStoreError(f"an answer that begins with {kind!r}")
