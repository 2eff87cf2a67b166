"""The guard's window for root: `GET /status`, `/events?after=ID`, `/metrics` over a Unix socket, in HTTP/1.0."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from mailkeep_server.guard.account import Account
from mailkeep_server.guard.database import Store
from mailkeep_server.guard.judge import Judge
from mailkeep_server.guard.limits import Counted
from mailkeep_server.guard.sliding_window import DAY, Sent

if TYPE_CHECKING:
    from mailkeep_server.guard.daemon import Batch

LONGEST_REQUEST = 4096
PATIENCE = 5.0
MOST_SHOWN = 1000
AT_A_TIME = 50


async def serve(path: Path, judge: Judge, store: Store, batch: Batch) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError, EOFError, asyncio.LimitOverrunError), contextlib.closing(writer):
            request = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
            _, target, *_ = request.decode().split(" ")
            kind, body = await _answer(target, judge, store, batch)
            head = f"HTTP/1.0 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await asyncio.wait_for(writer.drain(), PATIENCE)

    path.unlink(missing_ok=True)
    await asyncio.start_unix_server(answer, path, limit=LONGEST_REQUEST)
    path.chmod(0o600)


async def _answer(target: str, judge: Judge, store: Store, batch: Batch) -> tuple[str, bytes]:
    """Content type and body; ValueError, which ends the connection, for what there is not."""
    url = urlsplit(target)
    now = time.time_ns() // 1_000_000
    if url.path == "/events":
        after = int(parse_qs(url.query).get("after", ["0"])[0])
        events = [event._asdict() | {"time": event.time / 1000} for event in store.events_after(after)]
        return "application/json", json.dumps({"last": store.last_event(), "events": events}).encode()
    if url.path == "/status":
        return "application/json", json.dumps(await status(judge, now)).encode()
    if url.path == "/metrics":
        return "text/plain; version=0.0.4", metrics(judge, batch, now).encode()
    raise ValueError(url.path)


async def status(judge: Judge, now: int) -> dict[str, Any]:
    """The accounts by use of their limits, the fullest first."""
    frozen = judge.frozen(now)
    listed = await _fullest(judge, now)
    shown = {one["account"] for one in listed}
    listed += [_account(judge, name, judge.accounts.get(name, Account()), now) for name in frozen if name not in shown]
    return {
        "mode": judge.config.mode,
        "server": _uses(judge.server, judge.config.server, now),
        "local": _uses(judge.local, judge.config.local, now),
        "accounts": listed,
        "frozen": {name: {"at": one.at.isoformat(), "by": one.by, "why": one.why} for name, one in frozen.items()},
    }


async def _fullest(judge: Judge, now: int) -> list[dict[str, Any]]:
    """Of 100,000 accounts too, without Postfix waiting meanwhile: a few at a time, and most by a rough look."""
    found: list[tuple[float, str, dict[str, Any]]] = []
    for number, (name, account) in enumerate([*judge.accounts.items()]):
        if number % AT_A_TIME == 0:
            await asyncio.sleep(0)
        limits = judge.config.limits_of(name)
        at_most = max(limits.part(account.sent), len(account.networks) / limits.networks_per_hour)
        if len(found) == MOST_SHOWN and at_most < found[0][0]:
            continue
        one = _account(judge, name, account, now)
        heapq.heappush(found, (one["fullest"]["part"], name, one))
        if len(found) > MOST_SHOWN:
            heapq.heappop(found)
    return [one for _, _, one in sorted(found, key=lambda each: (-each[0], each[1]))]


def _account(judge: Judge, name: str, account: Account, now: int) -> dict[str, Any]:
    uses = _uses(account.sent, judge.config.limits_of(name), now)
    networks, most = len(account.networks_used(now)), judge.config.limits_of(name).networks_per_hour
    uses.append({"limit": "networks_per_hour", "used": networks, "most": most, "part": networks / most})
    return {"account": name, "fullest": max(uses, key=lambda one: one["part"]), "limits": uses}


def _uses(sent: Sent, of: Counted, now: int) -> list[dict[str, Any]]:
    used = {limit: getattr(sent.used(now, limit.window), limit.column) for limit in of.counted}
    return [
        {"limit": limit.name, "used": number, "most": limit.most, "part": number / limit.most}
        for limit, number in used.items()
    ]


def metrics(judge: Judge, batch: Batch, now: int) -> str:
    """Prometheus' text format."""
    day = judge.server.used(now, DAY)
    values = {
        ("mailkeep_requests_total", "counter", "Answers given to Postfix"): batch.requests,
        ("mailkeep_commits_total", "counter", "Commits that those answers waited for"): batch.commits,
        ("mailkeep_commit_failures_total", "counter", "Commits that failed"): batch.failures,
        ("mailkeep_messages_last_day", "gauge", "Messages accepted in the last 24 hours"): day.messages,
        ("mailkeep_recipients_last_day", "gauge", "Their recipients"): day.recipients,
        ("mailkeep_accounts_active", "gauge", "Accounts that sent, or tried to, in the last 24 hours"): len(
            judge.accounts
        ),
        ("mailkeep_accounts_frozen", "gauge", "Frozen accounts"): len(judge.frozen(now)),
    }
    return "".join(
        f"# HELP {name} {text}\n# TYPE {name} {kind}\n{name} {value}\n" for (name, kind, text), value in values.items()
    )
