"""One count for several mail servers: Valkey (or Redis), asked about each message before it is accepted.

Every guard counts what its own server accepts, as ever. Where `guard.shared` is set, a message that fits there is then
put to the shared count, in which one script checks all limits and adds the message, so that two servers never both take
the last one. When the store does not answer within a second, each server goes by its own count until it does: limits
hold for each, and the operator is told. Freezes are shared too.
"""

import asyncio
import contextlib
import json
import ssl
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple

from mailkeep_server.freezes import freeze_list
from mailkeep_server.guard.config import Place
from mailkeep_server.guard.limits import Limit, Over
from mailkeep_server.guard.sliding_window import DAY, MOST_BACK, Used

PATIENCE = 1.0
"""Seconds for an answer."""
AGAIN = 5.0
"""Seconds from a failure to the next try; meanwhile nobody waits."""
FROZEN = b"mailkeep:frozen"
THAWED = "thawed "
"""Before the line of a freeze that is over. A thaw is always said: a list that has lost a freeze, as when the store
comes back empty or as it was yesterday, thaws nobody."""
_THIS_RUN = token_hex(6)
"""Tells messages of this guard from those of others, and of an earlier run, which count from 1 as well."""

# KEYS[1]: the account's messages, a sorted set by time of ID:RECIPIENTS:NEW.
# ARGV: now, id, recipients, new, how long a message counts, and how far ahead of now a time is wrong (guard.windows);
# then for each limit its window, its column in (messages, recipients, new), its most. Returns nothing when the message
# is in, which it is at once when it fits; else the place of the limit that keeps it out for longest (from 0), and when
# that ends.
_CHARGE = """
local key, now, day, wrong = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[5]), tonumber(ARGV[6])
local more = {1, tonumber(ARGV[3]), tonumber(ARGV[4])}
redis.call('ZREMRANGEBYSCORE', key, '-inf', now - day)
if redis.call('ZSCORE', key, ARGV[2] .. ':' .. ARGV[3] .. ':' .. ARGV[4]) then return {} end
local rows, flat = {}, redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
for i = 1, #flat, 2 do
  local recipients, new = flat[i]:match(':(%d+):(%d+)$')
  local time = tonumber(flat[i + 1])
  if time > now + wrong then
    time = now
    redis.call('ZADD', key, now, flat[i])
  end
  rows[#rows + 1] = {1, tonumber(recipients), tonumber(new), time}
end
local worst, free_at = -1, 0
for i = 7, #ARGV, 3 do
  local window, column, most = tonumber(ARGV[i]), tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local total = more[column]
  for _, row in ipairs(rows) do
    if row[4] > now - window then total = total + row[column] end
  end
  if total > most then
    local ends = now + window
    for _, row in ipairs(rows) do
      if row[4] > now - window and total > most then
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


class StoreError(Exception):
    """It does not answer, or not as it should."""


class Charge(NamedTuple):
    """A message to count, as the judge of this server has already."""

    time: int
    id: int
    """Among the messages of this server."""
    account: str
    more: Used
    limits: tuple[Limit, ...]

    @property
    def key(self) -> bytes:
        return f"mailkeep:sent:{self.account}".encode()

    @property
    def member(self) -> str:
        return f"{self.unique}:{self.more.recipients}:{self.more.new}"

    @property
    def unique(self) -> str:
        return f"{_THIS_RUN}-{self.id}"

    def arguments(self) -> list[object]:
        limits = [(limit.window, Used._fields.index(limit.column) + 1, limit.most) for limit in self.limits]
        return [
            self.time,
            self.unique,
            self.more.recipients,
            self.more.new,
            DAY,
            MOST_BACK,
            *(number for limit in limits for number in limit),
        ]


class Shared:
    """The connection to the store, made when it is needed. `lost` and `back` are told when it fails and recovers."""

    def __init__(self, place: Place, lost: Callable[[str], None], back: Callable[[], None]) -> None:
        self.place, self._lost, self._back = place, lost, back
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._down_until = 0.0
        self._is_lost = False

    async def charge(self, charges: Sequence[Charge]) -> list[Over | None]:
        """For each message the limit that it is over, in the count of all servers; None: it fits, or nobody knows."""
        commands = [(b"EVAL", _CHARGE, 1, one.key, *one.arguments()) for one in charges]
        try:
            answers = await self._ask(commands)
        except StoreError:
            return [None] * len(charges)
        return [_over(charge, answer) for charge, answer in zip(charges, answers, strict=True)]

    async def take_back(self, charge: Charge) -> None:
        with contextlib.suppress(StoreError):  # it stays counted, on the safe side
            await self._ask([(b"ZREM", charge.key, charge.member)])

    async def frozen(self, changes: dict[str, str]) -> dict[str, str]:
        """Tells the others of freezes and thaws here; returns all there are, by account. Raises StoreError."""
        commands: list[tuple[object, ...]] = [(b"HSET", FROZEN, account, line) for account, line in changes.items()]
        flat = (await self._ask([*commands, (b"HGETALL", FROZEN)]))[-1]
        if not isinstance(flat, list):
            raise StoreError(f"HGETALL gave {flat!r}")
        words = [bytes(word).decode() for word in flat]
        return dict(zip(words[::2], words[1::2], strict=True))

    async def _ask(self, commands: Sequence[tuple[object, ...]]) -> list[object]:
        """The answers, in order. Raises StoreError: after PATIENCE, at once where it has just failed."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE), self._one_at_a_time:
                # Now, not before: whoever had the lock may have found it down.
                is_down = loop.time() < self._down_until
                answers = [] if is_down else await self._exchange(commands)
        except (OSError, EOFError, TimeoutError, ValueError, StoreError) as error:
            self._forget()
            self._down_until = loop.time() + AGAIN
            if not self._is_lost:
                self._is_lost = True
                self._lost(f"{type(error).__name__}: {error}")
            raise StoreError(str(error)) from None
        if is_down:
            raise StoreError("not yet again")
        if self._is_lost:
            self._is_lost = False
            self._back()
        return answers

    async def _exchange(self, commands: Sequence[tuple[object, ...]]) -> list[object]:
        if self._streams is None:
            self._streams = await self._connect()
        reader, writer = self._streams
        writer.write(b"".join(map(_encoded, commands)))
        await writer.drain()
        return [await _answer(reader) for _ in commands]

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        place = self.place
        tls = ssl.create_default_context() if place.tls else None
        reader, writer = await asyncio.open_connection(place.host, place.port, ssl=tls)
        if place.password:
            writer.write(_encoded((b"AUTH", place.user, place.password)))
            await _answer(reader)
        return reader, writer

    def _forget(self) -> None:
        if self._streams:
            self._streams[1].transport.abort()
            self._streams = None


class Freezes:
    """Keeps the file of frozen accounts and the store's list in step: who is frozen on one server is on all, and who is
    thawed too. What both last agreed on tells what has changed here since; it outlives a restart."""

    def __init__(self, shared: Shared, file: Path) -> None:
        self._shared, self._file, self._agreed_file = shared, file, file.with_name("agreed.json")

    async def step(self) -> None:
        """Once; nothing while the store is away. Raises OSError."""
        here = {name: record.entry for name, record in freeze_list.read_freezes(self._file).items()}
        agreed = self._agreed()
        added = {name: line for name, line in here.items() if name not in agreed}
        thawed = {name: f"{THAWED}{line}" for name, line in agreed.items() if name not in here}
        try:
            there = await self._shared.frozen(added | thawed)
        except StoreError:
            return
        for name, line in there.items():
            if name in here and line == f"{THAWED}{agreed.get(name)}":
                freeze_list.thaw_account(name, self._file)
            elif name not in here and not line.startswith(THAWED):
                one = freeze_list.parse_entry(line)
                freeze_list.freeze_account(name, one.by, one.why, one.at, self._file)
        # Who is frozen here and has gone from there is told to the store again, at the next step.
        if (now_agreed := {name: line for name, line in there.items() if not line.startswith(THAWED)}) != agreed:
            new = self._agreed_file.with_suffix(".new")
            new.write_text(json.dumps(now_agreed))
            new.replace(self._agreed_file)

    def _agreed(self) -> dict[str, str]:
        try:
            return {str(name): str(line) for name, line in json.loads(self._agreed_file.read_text()).items()}
        except (FileNotFoundError, ValueError):
            return {}


def _over(charge: Charge, answer: object) -> Over | None:
    match answer:
        case [int(place), int(free_at)] if place < len(charge.limits):
            return Over(charge.limits[place], free_at)
    return None


def _encoded(command: Iterable[object]) -> bytes:
    """RESP (valkey.io/topics/protocol): an array of bulk strings."""
    words = [word if isinstance(word, bytes) else str(word).encode() for word in command]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


async def _answer(reader: asyncio.StreamReader) -> object:
    """An integer, bytes, a list, or None. Raises StoreError for an error of the store's."""
    line = (await reader.readuntil(b"\r\n"))[:-2]
    kind, rest = line[:1], line[1:]
    match kind:
        case b"+":
            return rest
        case b"-":
            raise StoreError(rest.decode(errors="replace"))
        case b":":
            return int(rest)
        case b"$":
            return (await reader.readexactly(int(rest) + 2))[:-2] if int(rest) >= 0 else None
        case b"*":
            return [await _answer(reader) for _ in range(int(rest))] if int(rest) >= 0 else None
    raise StoreError(f"an answer that begins with {kind!r}")
