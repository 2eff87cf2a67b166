"""The running guard: in parallel, killed, reloaded, without room on the disk, under nonsense and too much of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import resource
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from guard_samples import (
    ANNA,
    BERT,
    END,
    FREEZE,
    NO_FREEZE,
    NO_LIMITS,
    OFFER,
    Daemon,
    Desk,
    ask,
    mail,
    packet,
    poll,
    request,
)

from mailkeep_server.freezes import freeze_list
from mailkeep_server.guard import control_socket
from mailkeep_server.guard import daemon as daemon_module
from mailkeep_server.guard.batch import Batch
from mailkeep_server.guard.connections import PolicyConnection
from mailkeep_server.guard.daemon import keep_house
from mailkeep_server.guard.database import Database
from mailkeep_server.guard.policy import DUNNO
from mailkeep_server.guard.sliding_window import HOUR

StartDaemon = Callable[..., Daemon]


# --- counting ---------------------------------------------------------------------------------------------------------


def test_exactly_the_limit_goes_through_50_connections_at_once(daemon: StartDaemon) -> None:
    running = daemon(limits=NO_LIMITS | {"messages_per_hour": 100})
    clients = [running.connect() for _ in range(50)]
    start = threading.Barrier(50)

    def send(client: socket.socket) -> int:
        start.wait()
        return sum(ask(client, request()) == DUNNO for _ in range(10))

    with ThreadPoolExecutor(50) as pool:
        assert sum(pool.map(send, clients)) == 100
    assert running.used() == 100


def test_requests_that_come_together_are_answered_in_order(daemon: StartDaemon) -> None:
    running = daemon(limits=NO_LIMITS | {"messages_per_hour": 3})
    with running.connect() as client:
        client.sendall(b"".join(request() for _ in range(5)))
        said = b""
        while said.count(b"\n\n") < 5:
            said += client.recv(4096)
    assert [one[:12] for one in said.split(b"\n\n")[:5]] == [b"action=DUNNO"] * 3 + [b"action=450 4"] * 2


def test_kill_under_load_loses_no_message_that_was_accepted(daemon: StartDaemon) -> None:
    running = daemon(limits=NO_LIMITS)
    accepted = [0] * 8
    enough = threading.Event()

    def send(number: int) -> None:
        with contextlib.suppress(ConnectionError), running.connect() as client:
            while ask(client, request()) == DUNNO:
                accepted[number] += 1
                if sum(accepted) > 300:
                    enough.set()

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for one in threads:
        one.start()
    assert enough.wait(10)
    assert running.kill() == -signal.SIGKILL
    for one in threads:
        one.join()
    running.start()
    counted = running.used()
    # What it had written down and not yet said when it was killed is at most one message a connection.
    assert sum(accepted) <= counted <= sum(accepted) + 8


def test_after_a_kill_the_limit_is_still_exact(daemon: StartDaemon) -> None:
    running = daemon(limits=NO_LIMITS | {"messages_per_hour": 6})
    with running.connect() as client:
        assert [ask(client, request()) for _ in range(4)] == [DUNNO] * 4
    running.kill()
    running.start()
    with running.connect() as client:
        assert [ask(client, request())[:5] for _ in range(4)] == ["DUNNO", "DUNNO", "450 4", "450 4"]


def test_sigterm_ends_it_in_order(daemon: StartDaemon) -> None:
    running = daemon()
    with running.connect() as client:
        ask(client, request())
        assert running.kill(signal.SIGTERM) == 0
    running.start()
    assert running.used() == 1


@pytest.mark.parametrize("hours", [48, -48])
def test_what_no_longer_counts_is_forgotten_while_it_runs_whatever_the_clock_does(
    desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    made = desk()
    made.send()
    made.store.commit()
    moments = itertools.chain([made.now], itertools.repeat(made.now + hours * HOUR))
    monkeypatch.setattr(daemon_module, "read_clock", lambda: next(moments))
    pruned: list[int] = []
    prune = made.judge.ledger.forget_expired
    monkeypatch.setattr(made.judge.ledger, "forget_expired", lambda now: (prune(now), pruned.append(now)))

    async def one_round() -> None:
        task = asyncio.create_task(keep_house(made.judge, made.store, Batch(made.store, asyncio.get_running_loop())))
        while not pruned and not task.done():
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(asyncio.wait_for(one_round(), 5))
    assert pruned == [made.now + hours * HOUR]
    assert hours < 0 or (made.judge.ledger.accounts, [*made.store.messages_since(0)]) == ({}, [])


# --- the configuration ------------------------------------------------------------------------------------------------


def test_reload_takes_new_limits_and_keeps_counters_and_connections(daemon: StartDaemon) -> None:
    running = daemon(limits=NO_LIMITS | {"messages_per_hour": 2})
    with running.connect() as client:
        assert [ask(client, request())[:5] for _ in range(3)] == ["DUNNO", "DUNNO", "450 4"]
        running.configure(limits=NO_LIMITS | {"messages_per_hour": 3})
        running.signal(signal.SIGHUP)
        poll(lambda: running.get("/status")["accounts"][0]["limits"][1]["maximum"] == 3)
        assert [ask(client, request())[:5] for _ in range(2)] == ["DUNNO", "450 4"]


def test_a_broken_configuration_keeps_the_former_one(daemon: StartDaemon) -> None:
    running = daemon(limits=NO_LIMITS | {"messages_per_hour": 1})
    running.configure('{"mode": "enforce"}')
    running.signal(signal.SIGHUP)
    poll(lambda: "the former configuration stays" in running.log.read_text())
    with running.connect() as client:
        assert [ask(client, request())[:5] for _ in range(2)] == ["DUNNO", "450 4"]


# --- the disk ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_written_down_is_refused_and_not_charged(daemon: StartDaemon) -> None:
    running = daemon()
    before = resource.prlimit(running.pid, resource.RLIMIT_FSIZE)
    with running.connect() as client:
        wal = (running.state / "guard.db-wal").stat().st_size
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (wal, before[1]))  # as good as a full disk
        assert ask(client, request()).startswith("451 4.3.0 The guard cannot record messages")
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, before)
        assert ask(client, request()) == DUNNO
    assert running.used() == 1
    running.kill()
    running.start()
    assert running.used() == 1


def test_nobody_else_can_lock_the_database(daemon: StartDaemon) -> None:
    """A program that only looked at it made another rate limiter answer nobody."""
    running = daemon()
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        sqlite3.connect(running.state / "guard.db", timeout=0).execute("BEGIN IMMEDIATE")


def test_a_freeze_holds_though_there_is_no_room_to_write_it(daemon: StartDaemon) -> None:
    running = daemon(limits=NO_LIMITS | {"messages_per_hour": 1}, freeze=FREEZE)
    (running.state / "frozen" / "accounts.new").mkdir()  # what the file is written to first
    with running.connect() as client:
        said = [ask(client, request())[:3] for _ in range(7)]
        assert said == ["DUN", "450", "450", "450", "450", "521", "521"]
        (running.state / "frozen" / "accounts.new").rmdir()
        poll(lambda: ANNA in freeze_list.read_freezes(running.state / "frozen" / "accounts"))
        assert ask(client, request()).startswith("521")
    running.kill()
    running.start()
    with running.connect() as client:
        assert ask(client, request()).startswith("521")


def test_a_freeze_by_hand_is_heard_of_within_a_second(daemon: StartDaemon) -> None:
    running = daemon()
    file = running.state / "frozen" / "accounts"
    file.write_text(f"{ANNA}:!:::20251125T120000Z carl lost her phone::\n")
    poll(lambda: running.events("frozen") == [(ANNA, "by carl: lost her phone")], 2)


def test_what_is_committed_is_brought_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power loss takes what fsync(2) has not: `sync` follows each commit, and says the file that holds it."""
    synced: list[str] = []
    monkeypatch.setattr(
        os, "fdatasync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
    )
    store = Database(tmp_path / "guard.db")
    store.add_message(1, ANNA, 1, 1, "192.0.2.0/24", "Q1")
    store.sync_to_disk()
    assert not synced
    store.commit()
    store.sync_to_disk()
    store.sync_to_disk()
    assert synced == ["guard.db-wal"]
    store.close()


# --- bounds -----------------------------------------------------------------------------------------------------------


def ended(client: socket.socket) -> bool:
    """Whether the guard has ended the connection."""
    try:
        return client.recv(4096) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\n\n",
        b"GET / HTTP/1.0\r\n\r\n\n\n",
        b"request=junk_mail\n\n",
        request(recipient_count="many"),
        request(recipient_count=-1),
        request(recipient_count="9" * 400),
        request().replace(b"sasl_username=", b"sasl_user="),
        request().replace(b"anna", b"\xff\xfe"),
        b"x" * 20_000,
        request()[:-1] + b"more=" + b"x" * 20_000 + b"\n\n",
    ],
)
def test_nonsense_ends_the_connection_and_nothing_else(shared: Daemon, nonsense: bytes) -> None:
    with shared.connect() as client, shared.connect() as other:
        client.sendall(nonsense)
        assert ended(client)
        assert ask(other, request(account="n1@example.org")) == DUNNO


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        packet(b"?"),
        packet(b"O", b"\0\0\0\2", end=b""),
        packet(b"O", b"\0" * 12, end=b""),
        b"GET / HTTP/1.0\r\n\r\n",
    ],
)
def test_nonsense_for_the_milter_ends_the_connection_and_nothing_else(shared: Daemon, nonsense: bytes) -> None:
    with shared.connect("milter") as client, shared.connect() as other:
        client.sendall(nonsense)
        assert ended(client)
        assert ask(other, request(account="n1@example.org")) == DUNNO


def test_an_address_that_is_no_text_ends_the_connection_and_does_not_fill_the_journal(daemon: StartDaemon) -> None:
    guard = daemon()
    with guard.connect() as client:
        client.sendall(request("RCPT", recipient="friend@example.net").replace(b"friend", b"\xff"))
        assert ended(client)
    assert guard.log.read_text() == "PolicyConnection: bytes that are not UTF-8; connection ended\n"


def test_a_request_may_come_byte_by_byte_and_to_no_end_it_may_not(shared: Daemon) -> None:
    with shared.connect() as client:
        for byte in request(account="n2@example.org"):
            client.send(bytes((byte,)))
        assert client.recv(4096) == b"action=DUNNO\n\n"
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                client.sendall(b"endless=" + b"x" * 1000 + b"\n")
        assert ended(client)


def test_who_does_not_read_the_answers_is_not_read_either(shared: Daemon) -> None:
    before = shared.memory()
    with shared.connect(timeout=0.3) as client:
        with contextlib.suppress(TimeoutError):
            while True:
                client.sendall(request(account="n3@example.org") * 100)
        assert shared.memory() - before < 3_000_000
        assert shared.get("/status")


def test_a_slow_request_is_cut_off_and_an_idle_connection_is_not(desk_of_connections: list) -> None:
    slow, trickling, idle = desk_of_connections
    slow.handle_data(b"request=")
    type(slow).abort_idle(time.monotonic() + 9)
    trickling.handle_data(b"r")
    trickling._last_heard -= 8
    trickling.handle_data(b"e")
    type(slow).abort_idle(time.monotonic() + 9)
    assert [one.transport.aborted for one in desk_of_connections] == [False, True, False]
    type(slow).abort_idle(time.monotonic() + 11)
    assert [one.transport.aborted for one in desk_of_connections] == [True, True, False]
    type(slow).abort_idle(time.monotonic() + 7 * 3600)
    assert idle.transport.aborted


def test_messages_that_are_given_up_leave_nothing_behind(desk: Callable[..., Desk]) -> None:
    made = desk(limits=NO_LIMITS)
    connection = PolicyConnection(made.judge, SimpleNamespace(add_answer=lambda *_: None))  # type: ignore[arg-type]
    connection.connection_made(asyncio.Transport())
    for number in range(100):
        connection.handle_data(request("RCPT", recipient=f"r{number}@example.net"))
    assert len(made.judge._open) == 1
    connection.connection_lost(None)
    for number in range(2500):
        made.recipient("r@example.net", instance=f"i{number}")
        made.send(queue_id=f"q{number}")
    assert max(len(made.judge._open), len(made.judge.ledger._pending), len(made.judge._refused)) <= 2000


def test_5000_connections_at_once_are_survived_in_little_memory(daemon: StartDaemon) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 6000:
        pytest.skip("needs 6,000 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (6000, hard))
    running = daemon()
    clients = []
    try:
        for number in range(5000):
            clients.append(running.connect("policy" if number % 2 else "milter"))
            clients[-1].setblocking(False)
        poll(lambda: sum(map(_open, clients)) == 2000)
        heard = next(one for one in clients[1::2] if _open(one))
        heard.settimeout(10)
        assert ask(heard, request()) == DUNNO
        assert running.memory() < 40_000_000
    finally:
        for one in clients:
            one.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with running.connect() as client:
        assert poll(lambda: ask(client, request()) == DUNNO)


def _open(client: socket.socket) -> bool:
    """Whether the guard has not ended it; nothing was said on it."""
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


# --- the window for root ----------------------------------------------------------------------------------------------


def test_status_shows_the_fullest_account_first(daemon: StartDaemon) -> None:
    running = daemon(limits=NO_LIMITS | {"messages_per_hour": 10})
    with running.connect() as client:
        for account in (ANNA, BERT, BERT):
            ask(client, request(account=account))
    status = running.get("/status")
    assert [
        (one["account"], one["fullest"]["limit"], one["fullest"]["used_fraction"]) for one in status["accounts"]
    ] == [
        (BERT, "messages_per_hour", 0.2),
        (ANNA, "messages_per_hour", 0.1),
    ]


def test_status_shows_the_fullest_of_many(desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_socket, "MAX_SHOWN_ACCOUNTS", 5)
    accounts = {f"n{number}@example.org": {"addresses": []} for number in range(200)}
    made = desk(accounts=accounts, limits=NO_LIMITS | {"messages_per_hour": 100})
    for number, account in enumerate(accounts):
        for _ in range(number * 7 % 20):
            made.send(account)
    shown = asyncio.run(control_socket.build_status(made.judge, made.now))["accounts"]
    assert [one["fullest"]["used"] for one in shown] == [19] * 5


def test_metrics_are_prometheus_text(daemon: StartDaemon) -> None:
    running = daemon()
    with running.connect() as client:
        ask(client, request(recipient_count=7))
    lines = running.get("/metrics").splitlines()
    assert {"mailkeep_messages_last_day 1", "mailkeep_recipients_last_day 7", "mailkeep_accounts_frozen 0"} <= {*lines}
    assert all(line.startswith("#") or len(line.split()) == 2 for line in lines)


@pytest.mark.parametrize(
    "asked",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /etc/passwd HTTP/1.0\r\n\r\n",
        b"GET /events?after=x HTTP/1.0\r\n\r\n",
        b"x" * 9000,
    ],
)
def test_nonsense_at_the_control_socket_is_answered_with_its_end(shared: Daemon, asked: bytes) -> None:
    with shared.connect("run/control") as client:
        client.sendall(asked)
        assert ended(client)
    assert shared.get("/status")
    assert "Traceback" not in shared.log.read_text()


def test_events_come_from_where_the_reader_left_off(daemon: StartDaemon) -> None:
    running = daemon(limits=NO_LIMITS | {"messages_per_hour": 1}, freeze=NO_FREEZE)
    with running.connect() as client:
        for _ in range(3):
            ask(client, request())
    first = running.get("/events?after=0")
    assert [one["kind"] for one in first["events"]] == ["near", "over"]
    assert running.get(f"/events?after={first['last']}") == {"last": first["last"], "events": []}
    running.kill()
    running.start()
    assert running.get("/events?after=0") == first


def test_a_message_is_judged_through_the_milter_socket(daemon: StartDaemon) -> None:
    running = daemon()
    with running.connect("milter") as client:
        for one in (OFFER, *mail(ANNA, ANNA, [("From", "boss@example.org")]), END):
            client.sendall(one)
        answers = poll(lambda: b"553 5.7.1 anna@example.org does not own boss@example.org" in client.recv(4096))
    assert answers
    assert running.events("spoof") == [(ANNA, "tried to send as boss@example.org in the From: line")]
