"""Work on many hosts at once, each in a process of its own: a host that is down, deaf or slow costs the others nothing.

The processes are forked, so what the parent has imported and loaded costs nothing again.
"""

import math
import multiprocessing
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import Enum
from getpass import getpass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

import gevent  # type: ignore[import-untyped]
from pyinfra.connectors import util as pyinfra_util

from mailkeep.errors import UserError
from mailkeep.host import remote
from mailkeep.host.ssh_connection import COMMAND_TIMEOUT, make_socket_directory, use_socket_directory
from mailkeep_server.common.wording import describe_error

T = TypeVar("T")

MIN_HOSTS_FOR_SHORT_FORM = 2
"""From so many hosts on, commands print a line for each, and in full only what is broken."""
MAX_PROCESSES = 32  # of some 30 MB each
ANSWER_TIMEOUT = COMMAND_TIMEOUT


@dataclass(frozen=True, slots=True)
class HostResult(Generic[T]):
    """`value` is what the action returned, after so many `seconds`. It is None if it raised; `error` says why."""

    name: str
    seconds: float
    value: T | None
    error: str = ""


class _Prompt(Enum):
    """What a process tells before its answer: its time does not run while a person types."""

    BEGINS = "before it waits for its turn at the terminal"
    ENDS = "after it"


@dataclass(frozen=True, slots=True)
class _Run:
    name: str
    process: BaseProcess
    start: float
    deadline: float


def run_on_each(
    names: Iterable[str], action: Callable[[str], T], timeout: float = ANSWER_TIMEOUT
) -> Iterator[HostResult[T]]:
    """Yield the result of `action` on each host, as it ends. A host without an answer in `timeout` seconds is an error;
    the time in which it waits for a password does not count.

    Results travel by pickle. While the caller handles a result, no process asks for a password at the terminal.
    Call it in a process without other threads.
    """
    context = multiprocessing.get_context("fork")
    turn, sockets = context.Lock(), make_socket_directory()
    queue, running = deque(names), dict[Connection, _Run]()
    try:
        while queue or running:
            while queue and len(running) < MAX_PROCESSES:
                name = queue.popleft()
                reader, writer = context.Pipe(duplex=False)
                process = context.Process(
                    target=_answer, args=(writer, name, action, turn, _find_terminal(), sockets), daemon=False
                )
                process.start()
                writer.close()  # so that its end is noticed
                start = time.monotonic()
                running[reader] = _Run(name, process, start, start + timeout)
            for result in _collect_results(running, timeout, turn):
                with turn:
                    yield result
    finally:
        for run in running.values():
            run.process.terminate()
            run.process.join()
        shutil.rmtree(sockets, ignore_errors=True)


def _collect_results(
    running: dict[Connection, _Run], timeout: float, turn: AbstractContextManager[Any]
) -> Iterator[HostResult[Any]]:
    first_deadline = min(run.deadline for run in running.values())
    pause = None if math.isinf(first_deadline) else max(0.0, first_deadline - time.monotonic())
    ready = wait(list(running), pause)
    for reader in [reader for reader in running if reader in ready]:
        run = running[reader]
        try:
            message = reader.recv()
        except EOFError:
            run.process.join()
            message = None, f"its process ended with exit code {run.process.exitcode}. Run it again."
        if isinstance(message, _Prompt):
            deadline = math.inf if message is _Prompt.BEGINS else time.monotonic() + timeout
            running[reader] = replace(run, deadline=deadline)
            continue
        value, error = message
        del running[reader]
        run.process.join()
        yield HostResult(run.name, time.monotonic() - run.start, value, error)
    for reader in [reader for reader, run in running.items() if run.deadline <= time.monotonic()]:
        with turn:  # else the process could take it now, and end without giving it back
            if reader.poll():
                continue
            run = running.pop(reader)
            run.process.terminate()
            run.process.join()
        error = f"no answer within {timeout:.0f} seconds. Log in, and see what hangs: `systemctl list-jobs`, `dmesg`."
        yield HostResult(run.name, time.monotonic() - run.start, None, error)


def _find_terminal() -> str:
    """The terminal of standard input, such as /dev/pts/1, or nothing."""
    return os.ttyname(sys.stdin.fileno()) if sys.stdin is not None and sys.stdin.isatty() else ""


def _answer(
    writer: Connection,
    name: str,
    action: Callable[[str], T],
    turn: AbstractContextManager[Any],
    terminal: str,
    sockets: str,
) -> None:
    """The forked process: run the action, and send (its value, no error) or (None, the error)."""
    gevent.reinit()  # the parent may have used an event loop
    use_socket_directory(sockets)
    if terminal:
        sys.stdin = Path(terminal).open()  # noqa: SIM115  # multiprocessing has closed it; with it, sudo may ask

    def ask_in_turn(prompt: str = "Password: ") -> str:
        writer.send(_Prompt.BEGINS)
        try:
            with turn:
                return getpass(prompt)
        finally:
            writer.send(_Prompt.ENDS)

    for module in (pyinfra_util, remote):
        vars(module)["getpass"] = ask_in_turn
    answer: tuple[T | None, str]
    try:
        answer = action(name), ""
    except KeyboardInterrupt:
        os._exit(130)  # the parent says so
    except UserError as error:
        answer = None, str(error)
    except Exception as error:  # whatever it is, the other hosts go on
        answer = None, describe_error(error)
    writer.send(answer)
    writer.close()
