"""The running guard: in parallel, killed, reloaded, with a full disk, and under malformed or too many requests."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
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
    GuardProcess,
    JudgeSetup,
    ask_guard,
    build_message,
    build_packet,
    build_request,
    wait_until,
)

from mailkeep.verify.probe import guard as guard_probe
from mailkeep_server.freezes import freeze_list
from mailkeep_server.guard import control_socket
from mailkeep_server.guard import daemon as daemon_module
from mailkeep_server.guard.batch import Batch
from mailkeep_server.guard.connections import PolicyConnection
from mailkeep_server.guard.daemon import keep_house
from mailkeep_server.guard.database import Database
from mailkeep_server.guard.policy import DUNNO
from mailkeep_server.guard.sliding_window import HOUR

StartGuard = Callable[..., GuardProcess]
NewSetup = Callable[..., JudgeSetup]


# --- counting ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_exactly_the_limit_is_accepted_over_50_connections_at_once(start_guard: StartGuard) -> None:
    running = start_guard(limits=NO_LIMITS | {"messages_per_hour": 100})
    clients = [running.open_connection() for _ in range(50)]
    start = threading.Barrier(50)

    def send_messages(client: socket.socket) -> int:
        start.wait()
        return sum(ask_guard(client, build_request()) == DUNNO for _ in range(10))

    with ThreadPoolExecutor(50) as pool:
        assert sum(pool.map(send_messages, clients)) == 100
    assert running.usage_of() == 100


@pytest.mark.slow
def test_requests_that_arrive_together_are_answered_in_order(start_guard: StartGuard) -> None:
    running = start_guard(limits=NO_LIMITS | {"messages_per_hour": 3})
    with running.open_connection() as client:
        client.sendall(b"".join(build_request() for _ in range(5)))
        answers = b""
        while answers.count(b"\n\n") < 5:
            answers += client.recv(4096)
    assert [answer[:12] for answer in answers.split(b"\n\n")[:5]] == [b"action=DUNNO"] * 3 + [b"action=450 4"] * 2


@pytest.mark.slow
def test_a_kill_under_load_loses_no_accepted_message(start_guard: StartGuard) -> None:
    running = start_guard(limits=NO_LIMITS)
    accepted = [0] * 8
    enough = threading.Event()

    def send_until_killed(number: int) -> None:
        with contextlib.suppress(ConnectionError), running.open_connection() as client:
            while ask_guard(client, build_request()) == DUNNO:
                accepted[number] += 1
                if sum(accepted) > 300:
                    enough.set()

    threads = [threading.Thread(target=send_until_killed, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    assert enough.wait(10)
    assert running.kill() == -signal.SIGKILL
    for thread in threads:
        thread.join()
    running.start()
    counted = running.usage_of()
    # Recorded but not yet answered when it was killed: at most one message a connection.
    assert sum(accepted) <= counted <= sum(accepted) + 8


@pytest.mark.slow
def test_after_a_kill_the_limit_is_still_exact(start_guard: StartGuard) -> None:
    running = start_guard(limits=NO_LIMITS | {"messages_per_hour": 6})
    with running.open_connection() as client:
        assert [ask_guard(client, build_request()) for _ in range(4)] == [DUNNO] * 4
    running.kill()
    running.start()
    with running.open_connection() as client:
        assert [ask_guard(client, build_request())[:5] for _ in range(4)] == ["DUNNO", "DUNNO", "450 4", "450 4"]


@pytest.mark.slow
def test_sigterm_ends_it_in_order(start_guard: StartGuard) -> None:
    running = start_guard()
    with running.open_connection() as client:
        ask_guard(client, build_request())
        assert running.kill(signal.SIGTERM) == 0
    running.start()
    assert running.usage_of() == 1


@pytest.mark.parametrize("hours", [48, -48])
def test_expired_messages_are_forgotten_while_it_runs_whatever_the_clock_does(
    new_setup: NewSetup, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    setup = new_setup()
    setup.send_message()
    setup.database.commit()
    moments = itertools.chain([setup.now], itertools.repeat(setup.now + hours * HOUR))
    monkeypatch.setattr(daemon_module, "read_clock", lambda: next(moments))
    pruned: list[int] = []
    prune = setup.judge.ledger.forget_expired
    monkeypatch.setattr(setup.judge.ledger, "forget_expired", lambda now: (prune(now), pruned.append(now)))

    async def run_one_round() -> None:
        task = asyncio.create_task(
            keep_house(setup.judge, setup.database, Batch(setup.database, asyncio.get_running_loop()))
        )
        while not pruned and not task.done():
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(asyncio.wait_for(run_one_round(), 5))
    assert pruned == [setup.now + hours * HOUR]
    assert hours < 0 or (setup.judge.ledger.accounts, [*setup.database.messages_since(0)]) == ({}, [])


# --- the configuration ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_reload_takes_new_limits_and_keeps_counters_and_connections(start_guard: StartGuard) -> None:
    running = start_guard(limits=NO_LIMITS | {"messages_per_hour": 2})
    with running.open_connection() as client:
        assert [ask_guard(client, build_request())[:5] for _ in range(3)] == ["DUNNO", "DUNNO", "450 4"]
        running.write_config(limits=NO_LIMITS | {"messages_per_hour": 3})
        running.send_signal(signal.SIGHUP)
        wait_until(lambda: running.get_target("/status")["accounts"][0]["limits"][1]["maximum"] == 3)
        assert [ask_guard(client, build_request())[:5] for _ in range(2)] == ["DUNNO", "450 4"]


@pytest.mark.slow
def test_a_broken_configuration_keeps_the_former_one(start_guard: StartGuard) -> None:
    running = start_guard(limits=NO_LIMITS | {"messages_per_hour": 1})
    running.write_config('{"mode": "enforce"}')
    running.send_signal(signal.SIGHUP)
    wait_until(lambda: "the former configuration stays" in running.log.read_text())
    with running.open_connection() as client:
        assert [ask_guard(client, build_request())[:5] for _ in range(2)] == ["DUNNO", "450 4"]


@pytest.mark.slow
def test_the_control_socket_tells_the_configuration_that_runs(start_guard: StartGuard) -> None:
    """The file may be another by now."""
    running = start_guard(limits=NO_LIMITS | {"messages_per_hour": 7})
    running.write_config('{"mode": "learn"}')
    config = running.get_target("/config")
    assert (config["mode"], config["limits.messages_per_hour"]) == ("enforce", 7)


# --- the disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_message_that_cannot_be_recorded_is_refused_and_not_charged(start_guard: StartGuard) -> None:
    running = start_guard()
    before = resource.prlimit(running.pid, resource.RLIMIT_FSIZE)
    with running.open_connection() as client:
        wal = (running.state / "guard.db-wal").stat().st_size
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (wal, before[1]))  # as good as a full disk
        assert ask_guard(client, build_request()).startswith("451 4.3.0 The guard cannot record messages")
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, before)
        assert ask_guard(client, build_request()) == DUNNO
    assert running.usage_of() == 1
    running.kill()
    running.start()
    assert running.usage_of() == 1


@pytest.mark.slow
def test_nobody_else_can_lock_the_database(start_guard: StartGuard) -> None:
    """A mere reader of its database made another rate limiter stop answering."""
    running = start_guard()
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        sqlite3.connect(running.state / "guard.db", timeout=0).execute("BEGIN IMMEDIATE")


@pytest.mark.slow
def test_a_freeze_that_cannot_be_written_holds_and_nobody_else_waits(start_guard: StartGuard) -> None:
    """Somebody holds the lock of the list, such as a program that was stopped in the middle."""
    running = start_guard(limits=NO_LIMITS | {"messages_per_hour": 1}, freeze=FREEZE)
    with running.open_connection() as client:
        with (running.state / "frozen" / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            codes = [ask_guard(client, build_request())[:3] for _ in range(7)]
            assert codes == ["DUN", "450", "450", "450", "450", "521", "521"]
            start = time.monotonic()
            assert ask_guard(client, build_request(account=BERT)) == DUNNO
            assert time.monotonic() - start < 2
            assert "another program holds" in running.log.read_text()
            assert ANNA not in freeze_list.read_freezes(running.state / "frozen" / "accounts")
        wait_until(lambda: ANNA in freeze_list.read_freezes(running.state / "frozen" / "accounts"))
        assert ask_guard(client, build_request()).startswith("521")
    running.kill()
    running.start()
    with running.open_connection() as client:
        assert ask_guard(client, build_request()).startswith("521")


@pytest.mark.slow
def test_a_freeze_by_hand_is_an_event_within_two_seconds(start_guard: StartGuard) -> None:
    running = start_guard()
    file = running.state / "frozen" / "accounts"
    file.write_text(f"{ANNA}:!:::20251125T120000Z carl lost her phone::\n")
    wait_until(lambda: running.list_events("frozen") == [(ANNA, "by carl: lost her phone")], 2)


def test_a_commit_is_brought_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power loss takes commits that were not flushed: `sync_to_disk` flushes the WAL, once after each."""
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


def is_ended(client: socket.socket) -> bool:
    """Whether the guard has ended the connection."""
    try:
        return client.recv(4096) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\n\n",
        b"GET / HTTP/1.0\r\n\r\n\n\n",
        b"request=junk_mail\n\n",
        build_request(recipient_count="many"),
        build_request(recipient_count=-1),
        build_request(recipient_count="9" * 400),
        build_request().replace(b"sasl_username=", b"sasl_user="),
        build_request().replace(b"anna", b"\xff\xfe"),
        b"x" * 20_000,
        build_request()[:-1] + b"more=" + b"x" * 20_000 + b"\n\n",
    ],
)
def test_a_malformed_request_ends_the_connection_and_nothing_else(
    shared_guard: GuardProcess, request_bytes: bytes
) -> None:
    with shared_guard.open_connection() as client, shared_guard.open_connection() as other:
        client.sendall(request_bytes)
        assert is_ended(client)
        assert ask_guard(other, build_request(account="n1@example.org")) == DUNNO


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        build_packet(b"?"),
        build_packet(b"O", b"\0\0\0\2", end=b""),
        build_packet(b"O", b"\0" * 12, end=b""),
        b"GET / HTTP/1.0\r\n\r\n",
    ],
)
def test_a_malformed_packet_ends_the_connection_and_nothing_else(
    shared_guard: GuardProcess, request_bytes: bytes
) -> None:
    with shared_guard.open_connection("milter") as client, shared_guard.open_connection() as other:
        client.sendall(request_bytes)
        assert is_ended(client)
        assert ask_guard(other, build_request(account="n1@example.org")) == DUNNO


@pytest.mark.slow
def test_an_address_that_is_not_utf_8_ends_the_connection_and_does_not_fill_the_journal(
    start_guard: StartGuard,
) -> None:
    guard = start_guard()
    with guard.open_connection() as client:
        client.sendall(build_request("RCPT", recipient="friend@example.net").replace(b"friend", b"\xff"))
        assert is_ended(client)
    assert guard.log.read_text() == "PolicyConnection: bytes that are not UTF-8; connection ended\n"


def test_verify_asks_what_the_guard_understands(shared_guard: GuardProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody's mail waits because a request lacks what only habits are learned from."""
    monkeypatch.setattr(guard_probe, "GUARD_POLICY_SOCKET", str(shared_guard.directory / "policy"))
    assert guard_probe._ask_policy_service("n97@example.org") == f"action={DUNNO}"
    assert guard_probe._ask_policy_service("mailkeep-probe@example.org").startswith("action=450")


def test_a_request_may_arrive_byte_by_byte_but_must_end(shared_guard: GuardProcess) -> None:
    with shared_guard.open_connection() as client:
        for byte in build_request(account="n2@example.org"):
            client.send(bytes((byte,)))
        assert client.recv(4096) == b"action=DUNNO\n\n"
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                client.sendall(b"endless=" + b"x" * 1000 + b"\n")
        assert is_ended(client)


@pytest.mark.slow
def test_a_client_that_does_not_read_answers_is_not_read_either(shared_guard: GuardProcess) -> None:
    before = shared_guard.read_memory()
    with shared_guard.open_connection(timeout=0.3) as client:
        with contextlib.suppress(TimeoutError):
            while True:
                client.sendall(build_request(account="n3@example.org") * 100)
        assert shared_guard.read_memory() - before < 3_000_000
        assert shared_guard.get_target("/status")


def test_a_slow_request_is_cut_off_and_an_idle_connection_is_not(three_connections: list) -> None:
    slow, trickling, idle = three_connections
    slow.handle_data(b"request=")
    type(slow).abort_idle(time.monotonic() + 9)
    trickling.handle_data(b"r")
    trickling._last_heard -= 8
    trickling.handle_data(b"e")
    type(slow).abort_idle(time.monotonic() + 9)
    assert [connection.transport.aborted for connection in three_connections] == [False, True, False]
    type(slow).abort_idle(time.monotonic() + 11)
    assert [connection.transport.aborted for connection in three_connections] == [True, True, False]
    type(slow).abort_idle(time.monotonic() + 7 * 3600)
    assert idle.transport.aborted


@pytest.mark.slow
def test_aborted_messages_leave_nothing_behind(new_setup: NewSetup) -> None:
    setup = new_setup(limits=NO_LIMITS)
    connection = PolicyConnection(setup.judge, SimpleNamespace(add_answer=lambda *_: None))  # type: ignore[arg-type]
    connection.connection_made(asyncio.Transport())
    for number in range(100):
        connection.handle_data(build_request("RCPT", recipient=f"r{number}@example.net"))
    assert len(setup.judge._open) == 1
    connection.connection_lost(None)
    for number in range(2500):
        setup.ask_recipient("r@example.net", instance=f"i{number}")
        setup.send_message(queue_id=f"q{number}")
    assert max(len(setup.judge._open), len(setup.judge.ledger._pending), len(setup.judge._refused)) <= 2000


@pytest.mark.slow
def test_5000_connections_at_once_are_survived_in_little_memory(start_guard: StartGuard) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 6000:
        pytest.skip("needs 6,000 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (6000, hard))
    running = start_guard()
    clients = []
    try:
        for number in range(5000):
            clients.append(running.open_connection("policy" if number % 2 else "milter"))
            clients[-1].setblocking(False)
        wait_until(lambda: sum(map(is_open, clients)) == 2000)
        accepted = next(client for client in clients[1::2] if is_open(client))
        accepted.settimeout(10)
        assert ask_guard(accepted, build_request()) == DUNNO
        assert running.read_memory() < 40_000_000
    finally:
        for client in clients:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with running.open_connection() as client:
        assert wait_until(lambda: ask_guard(client, build_request()) == DUNNO)


def is_open(client: socket.socket) -> bool:
    """Whether the guard has not ended the connection, on which nothing was sent."""
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


# --- the control socket -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_status_shows_the_fullest_account_first(start_guard: StartGuard) -> None:
    running = start_guard(limits=NO_LIMITS | {"messages_per_hour": 10})
    with running.open_connection() as client:
        for account in (ANNA, BERT, BERT):
            ask_guard(client, build_request(account=account))
    status = running.get_target("/status")
    fullest = [(row["account"], row["fullest"]["limit"], row["fullest"]["used_fraction"]) for row in status["accounts"]]
    assert fullest == [(BERT, "messages_per_hour", 0.2), (ANNA, "messages_per_hour", 0.1)]


@pytest.mark.slow
def test_status_shows_the_fullest_of_many(new_setup: NewSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_socket, "MAX_SHOWN_ACCOUNTS", 5)
    accounts = {f"n{number}@example.org": {"addresses": []} for number in range(200)}
    setup = new_setup(accounts=accounts, limits=NO_LIMITS | {"messages_per_hour": 100})
    for number, account in enumerate(accounts):
        for _ in range(number * 7 % 20):
            setup.send_message(account)
    shown = asyncio.run(control_socket.build_status(setup.judge, setup.now))["accounts"]
    assert [row["fullest"]["used"] for row in shown] == [19] * 5


@pytest.mark.slow
def test_metrics_are_prometheus_text(start_guard: StartGuard) -> None:
    running = start_guard()
    with running.open_connection() as client:
        ask_guard(client, build_request(recipient_count=7))
    lines = running.get_target("/metrics").splitlines()
    assert {"mailkeep_messages_last_day 1", "mailkeep_recipients_last_day 7", "mailkeep_accounts_frozen 0"} <= {*lines}
    assert all(line.startswith("#") or len(line.split()) == 2 for line in lines)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /etc/passwd HTTP/1.0\r\n\r\n",
        b"GET /events?after=x HTTP/1.0\r\n\r\n",
        b"x" * 9000,
    ],
)
def test_a_malformed_request_at_the_control_socket_ends_the_connection(
    shared_guard: GuardProcess, request_bytes: bytes
) -> None:
    with shared_guard.open_connection("run/control") as client:
        client.sendall(request_bytes)
        assert is_ended(client)
    assert shared_guard.get_target("/status")
    assert "Traceback" not in shared_guard.log.read_text()


@pytest.mark.slow
def test_events_come_from_where_the_reader_left_off(start_guard: StartGuard) -> None:
    running = start_guard(limits=NO_LIMITS | {"messages_per_hour": 1}, freeze=NO_FREEZE)
    with running.open_connection() as client:
        for _ in range(3):
            ask_guard(client, build_request())
    first = running.get_target("/events?after=0")
    assert [event["kind"] for event in first["events"]] == ["first-use-expected", "near", "over"]
    assert running.get_target(f"/events?after={first['last']}") == {"last": first["last"], "events": []}
    running.kill()
    running.start()
    assert running.get_target("/events?after=0") == first


@pytest.mark.slow
def test_a_message_is_judged_through_the_milter_socket(start_guard: StartGuard) -> None:
    running = start_guard()
    with running.open_connection("milter") as client:
        for packet in (OFFER, *build_message(ANNA, ANNA, [("From", "boss@example.org")]), END):
            client.sendall(packet)
        answers = wait_until(lambda: b"553 5.7.1 anna@example.org does not own boss@example.org" in client.recv(4096))
    assert answers
    assert running.list_events("spoof") == [
        (ANNA, "tried to send as boss@example.org in the From: line; 1 such message in an hour, 1000000000 freeze it")
    ]
