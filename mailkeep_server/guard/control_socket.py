"""The guard's control socket, for root: `GET /status`, `/config`, `/events?after=ID`, `/metrics`, `/rename?old=…&new=…`
in HTTP/1.0. `hold_control` has further targets."""

import asyncio
import contextlib
import heapq
import json
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mailkeep_server.guard.account import Account
from mailkeep_server.guard.batch import Batch
from mailkeep_server.guard.config import describe_config
from mailkeep_server.guard.database import Database
from mailkeep_server.guard.hold_control import answer_about_holds
from mailkeep_server.guard.hold_targets import HOLD_TARGETS
from mailkeep_server.guard.judge import Judge
from mailkeep_server.guard.limits import RateLimits
from mailkeep_server.guard.sliding_window import DAY, SendHistory, read_clock

MAX_REQUEST_BYTES = 4096
REQUEST_TIMEOUT = 5.0
"""Seconds to send a request, and to take the answer."""
MAX_SHOWN_ACCOUNTS = 1000
_CLIENT_ERRORS = (OSError, ValueError, KeyError, EOFError, asyncio.LimitOverrunError, sqlite3.Error)
_ACCOUNTS_PER_TURN = 50
"""How many are looked at before requests of Postfix get their turn."""


async def serve_control_socket(path: Path, judge: Judge, database: Database, batch: Batch) -> None:
    async def handle_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(*_CLIENT_ERRORS), contextlib.closing(writer):
            request = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), REQUEST_TIMEOUT)
            _, target, *_ = request.decode().split(" ")
            try:
                content_type, body = await _answer_request(target, judge, database, batch)
            except sqlite3.Error as error:  # what could not be written, as on a full disk, must not hide the rest
                batch.fail_all(error)
                content_type, body = await _answer_request(target, judge, database, batch)
            head = f"HTTP/1.0 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await asyncio.wait_for(writer.drain(), REQUEST_TIMEOUT)

    path.unlink(missing_ok=True)
    await asyncio.start_unix_server(handle_client, path, limit=MAX_REQUEST_BYTES)
    path.chmod(0o600)


async def _answer_request(target: str, judge: Judge, database: Database, batch: Batch) -> tuple[str, bytes]:
    """Content type and body. Raises ValueError, which ends the connection, for a target that does not exist."""
    url = urlsplit(target)
    if url.path == "/events":
        after = int(parse_qs(url.query).get("after", ["0"])[0])
        events = [event._asdict() | {"time": event.time / 1000} for event in database.events_after(after)]
        return "application/json", json.dumps({"last": database.last_event_id(), "events": events}).encode()
    if url.path == "/status":
        return "application/json", json.dumps(await build_status(judge, read_clock())).encode()
    if url.path == "/config":
        answer = describe_config(judge.declared_config) | {"careful_until": _describe_care(judge, read_clock())}
        return "application/json", json.dumps(answer).encode()
    if url.path == "/receiving":
        return "application/json", json.dumps(_describe_receiving(judge)).encode()
    if url.path == "/metrics":
        return "text/plain; version=0.0.4", format_metrics(judge, batch, read_clock()).encode()
    answer = _answer_change(url.path, parse_qs(url.query), judge, database)
    database.commit()
    return "application/json", json.dumps(answer).encode()


def _answer_change(target: str, query: Mapping[str, list[str]], judge: Judge, database: Database) -> Any:
    """Of the targets that change something. Raises ValueError or KeyError, as `_answer_request` does."""
    if target in HOLD_TARGETS:
        return answer_about_holds(target, query, judge, read_clock())
    if target == "/rename":  # the guard must start again then, to count anew
        database.rename_account(query["old"][0], query["new"][0])
    elif target == "/unsort":
        judge.receiving.undo_bomb(read_clock(), query["account"][0])
    else:
        raise ValueError(target)
    return {}


async def build_status(judge: Judge, now: int) -> dict[str, Any]:
    """The output of `mailkeepctl limits --json`. Accounts are ordered by use of their limits, the fullest first."""
    frozen, accounts = judge.freezer.frozen_accounts(now), judge.ledger.accounts
    shown = await _list_fullest(judge, now)
    names = {row["account"] for row in shown}
    shown += [
        _describe_account(judge, name, accounts.get(name, Account()), now) for name in frozen if name not in names
    ]
    return {
        "mode": judge.config.mode,
        "careful_until": _describe_care(judge, now),
        "server": _list_uses(judge.ledger.server, judge.config.server_ceiling, now),
        "local": _list_uses(judge.ledger.local, judge.config.local_ceiling, now),
        "forwards": _list_uses(judge.ledger.forwards, judge.config.forward_ceiling, now),
        "accounts": shown,
        "frozen": {
            name: {"at": record.at.isoformat(), "by": record.by, "why": record.why} for name, record in frozen.items()
        },
    }


def _describe_receiving(judge: Judge) -> dict[str, Any]:
    """Accounts that get a mail bomb, with the time (seconds since the epoch), and accounts over their limit."""
    bombs = {account: time / 1000 for account, time in judge.receiving.bombs.items()}
    return {"bombs": bombs, "floods": sorted(judge.receiving.floods)}


def _describe_care(judge: Judge, now: int) -> str:
    """Until when limits are halved, because counts were lost; "" if they are not."""
    end = judge.careful_until
    return f"{datetime.fromtimestamp(end / 1000, UTC):%Y-%m-%d %H:%M} UTC" if now < end else ""


async def _list_fullest(judge: Judge, now: int) -> list[dict[str, Any]]:
    """Looks closely only at accounts that may be among the fullest. Even of 100,000 accounts, Postfix does not wait."""
    fullest: list[tuple[float, str, dict[str, Any]]] = []
    for number, (name, account) in enumerate([*judge.ledger.accounts.items()]):
        if number % _ACCOUNTS_PER_TURN == 0:
            await asyncio.sleep(0)
        limits = judge.config.limits_of(name)
        bound = max(limits.max_used_fraction(account.history), len(account.networks) / limits.networks_per_hour)
        if len(fullest) == MAX_SHOWN_ACCOUNTS and bound < fullest[0][0]:
            continue
        row = _describe_account(judge, name, account, now)
        heapq.heappush(fullest, (row["fullest"]["used_fraction"], name, row))
        if len(fullest) > MAX_SHOWN_ACCOUNTS:
            heapq.heappop(fullest)
    return [row for _, _, row in sorted(fullest, key=lambda entry: (-entry[0], entry[1]))]


def _describe_account(judge: Judge, name: str, account: Account, now: int) -> dict[str, Any]:
    limits = judge.config.limits_of(name)
    uses = _list_uses(account.history, limits, now)
    uses.append(_describe_use("networks_per_hour", len(account.used_networks(now)), limits.networks_per_hour))
    return {"account": name, "fullest": max(uses, key=lambda use: use["used_fraction"]), "limits": uses}


def _list_uses(history: SendHistory, limits: RateLimits, now: int) -> list[dict[str, Any]]:
    return [
        _describe_use(limit.name, getattr(history.usage_within(now, limit.window), limit.column), limit.maximum)
        for limit in limits.rate_limits
    ]


def _describe_use(limit: str, used: int, maximum: int) -> dict[str, Any]:
    return {"limit": limit, "used": used, "maximum": maximum, "used_fraction": used / maximum}


def format_metrics(judge: Judge, batch: Batch, now: int) -> str:
    """Prometheus' text format."""
    day, active = judge.ledger.server.usage_within(now, DAY), len(judge.ledger.accounts)
    frozen = len(judge.freezer.frozen_accounts(now))
    metrics = (
        ("mailkeep_requests_total", "counter", "Answers given to Postfix", batch.requests),
        ("mailkeep_commits_total", "counter", "Commits that those answers waited for", batch.commits),
        ("mailkeep_commit_failures_total", "counter", "Commits that failed", batch.failures),
        ("mailkeep_messages_last_day", "gauge", "Messages accepted in the last 24 hours", day.messages),
        ("mailkeep_recipients_last_day", "gauge", "Their recipients", day.recipients),
        ("mailkeep_accounts_active", "gauge", "Accounts that sent, or tried to, in the last 24 hours", active),
        ("mailkeep_accounts_frozen", "gauge", "Frozen accounts", frozen),
    )
    return "".join(
        f"# HELP {name} {text}\n# TYPE {name} {kind}\n{name} {value}\n" for name, kind, text, value in metrics
    )
