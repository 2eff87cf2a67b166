"""The guard as Postfix meets it: the real daemon on real sockets, and requests and packets as Postfix writes them."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mailkeep_server.common import unix_http
from mailkeep_server.common.addresses import hash_text
from mailkeep_server.common.networks import network_of, wide_network_of
from mailkeep_server.common.sender_kinds import LOCAL
from mailkeep_server.guard import config, state_repair
from mailkeep_server.guard.database import Database
from mailkeep_server.guard.habits import Source
from mailkeep_server.guard.judge import Judge
from mailkeep_server.guard.outcomes import Fate
from mailkeep_server.guard.policy import DUNNO, PolicyRequest
from mailkeep_server.guard.sliding_window import HOUR

ANNA, BERT = "anna@example.org", "bert@example.org"
UNREACHABLE = 1_000_000_000
NOON = 1_764_072_000_000
"""Milliseconds: a day when nothing else happens."""

LIMITS = {
    "messages_per_10_minutes": 10,
    "messages_per_hour": 20,
    "messages_per_day": 40,
    "recipients_per_10_minutes": 30,
    "recipients_per_hour": 60,
    "recipients_per_day": 120,
    "new_recipients_per_day": 50,
    "networks_per_hour": 3,
}
NO_LIMITS = dict.fromkeys(LIMITS, UNREACHABLE)
FREEZE = {"refused_tries": 5, "foreign_senders": 4, "networks": 3, "new_recipients": 6, "spam_messages": 3}
NO_FREEZE = dict.fromkeys(FREEZE, UNREACHABLE)
RECEIVING = {"messages_per_hour": 1000, "network_messages_per_hour": 500, "new_senders_per_hour": 100}
NO_HOLDS = {
    "strangeness": UNREACHABLE,
    "dead": UNREACHABLE,
    "refused": UNREACHABLE,
    "share": 100,
    "complaints": UNREACHABLE,
    "complaint_share": 1000,
    "freeze_dead": UNREACHABLE,
    "freeze_refused": UNREACHABLE,
    "freeze_share": 100,
    "freeze_complaints": UNREACHABLE,
    "freeze_complaint_share": 1000,
}
HOLDS = {
    "strangeness": 9,
    "dead": 3,
    "refused": 5,
    "share": 8,
    "complaints": 3,
    "complaint_share": 3,
    "freeze_dead": 10,
    "freeze_refused": 15,
    "freeze_share": 25,
    "freeze_complaints": 10,
    "freeze_complaint_share": 20,
}
NO_CEILING = {"recipients_per_hour": UNREACHABLE, "recipients_per_day": UNREACHABLE}


def build_config(**changes: Any) -> dict[str, Any]:
    """guard.json as a dictionary."""
    return {
        "mode": "enforce",
        "contact": "postmaster@mail.example.org",
        "release_address": "release@mail.example.org",
        "limits": LIMITS,
        "accounts": {ANNA: {"addresses": ["sales@example.org"]}, BERT: {"addresses": []}},
        "domains": ["example.org", "mail.example.org"],
        "server": NO_CEILING,
        "local": NO_CEILING,
        "forwards": NO_CEILING,
        "lists": NO_CEILING | {"messages_per_hour": 1, "messages_per_day": 1},
        "aliases": {},
        "catch_all": {},
        "freeze": NO_FREEZE,
        "holds": NO_HOLDS,
        "receiving": RECEIVING,
        "exempt_networks": [],
        **changes,
    }


class JudgeSetup:
    """A judge with a clock that tests move. Everything goes into a real database, which `restart` reads again."""

    def __init__(self, directory: Path, **changes: Any) -> None:
        self.now = NOON
        self.frozen_file = directory / "frozen" / "accounts"
        self.frozen_file.parent.mkdir(exist_ok=True)
        self._directory, self._serial = directory, itertools.count(1)
        config_file = directory / "guard.json"
        config_file.write_text(json.dumps(build_config(**changes)))
        self._config = config.load_config(config_file)
        self.restart()

    def restart(self) -> None:
        if hasattr(self, "database"):
            self.database.close()
        self.database = Database(self._directory / "guard.db")
        self.judge = Judge(self._config, self.database, self.frozen_file, self.now)

    def advance_clock(self, milliseconds: int) -> None:
        self.now += milliseconds

    def ask_recipient(self, to: str, account: str = ANNA, client: str = "192.0.2.1", instance: str = "i0") -> str:
        return self.judge.judge_recipient(self.now, PolicyRequest(account, client, instance, recipient=to))

    def send_message(
        self,
        account: str = ANNA,
        to: int | Iterable[str] = 1,
        client: str = "192.0.2.1",
        queue_id: str = "",
        program: int = 1,
        name: str = "thunderbird",
        greeting: str = "[192.168.1.2]",
        size: int = 3000,
    ) -> str:
        """One message through RCPT and END-OF-MESSAGE; returns the first refusal, or the last action.

        The message is accepted in the end. A test that gives a `queue_id` says itself whether it is.
        """
        number = next(self._serial)
        recipients = (
            ["friend@example.net", *(f"r{n}@example.net" for n in range(to - 1))] if isinstance(to, int) else to
        )
        request = PolicyRequest(
            account, client, f"i{number}", queue_id=queue_id or f"Q{number}", greeting=greeting, size=size
        )
        for recipient in (recipients := list(recipients)):
            action = self.judge.judge_recipient(self.now, request._replace(recipient=recipient))
            if action != DUNNO:
                return action
        action = self.judge.judge_message(self.now, request._replace(recipients=len(recipients)))
        if queue_id or action != DUNNO:
            return action
        self.last_queue_id = request.queue_id
        source = Source(network_of(client), wide_network_of(client), program, name)
        verdict = self.judge.strangers.judge_message(self.now, account, recipients, request.queue_id, source)
        if verdict.refusal:
            self.judge.ledger.message_dropped(request.queue_id)
        elif not verdict.hold:
            self.judge.ledger.message_accepted(request.queue_id)
        return verdict.refusal or (f"HOLD {verdict.hold}" if verdict.hold else DUNNO)

    def send_to_stranger(self, recipient: str, fate: Fate | None = None, account: str = ANNA) -> str:
        """One message, and what became of it at once, unless it was held; returns the action."""
        action = self.send_message(account, [recipient])
        if fate and action == DUNNO:
            self.note_fate(recipient, fate)
        return action

    def note_fate(self, recipient: str, fate: Fate) -> None:
        """Of a recipient of the last message."""
        self.judge.strangers.note_outcome(self.now, self.last_queue_id, hash_text(recipient), fate)

    def send_local(self, queue_id: str, *to: str, kind: str = LOCAL) -> str | None:
        """A message without a login, as the milter judges it; returns the refusal."""
        recipients = to or ("you@example.net",)
        return self.judge.forwards.judge_forward(self.now, kind, recipients, queue_id)

    def send_as_stranger(self, *to: str, client: str = "198.51.100.7") -> list[str]:
        """On port 25: the actions about each recipient, and about the message if any recipient was accepted."""
        number = next(self._serial)
        request = PolicyRequest("", client, f"s{number}", queue_id=f"S{number}", is_strangers=True)
        judge = self.judge.forwards
        actions = [judge.judge_recipient(self.now, request._replace(recipient=recipient)) for recipient in to]
        if DUNNO in actions:
            actions.append(judge.judge_message(self.now, request._replace(recipients=actions.count(DUNNO))))
        return actions

    def usage_of(self, account: str = ANNA, window: int = HOUR) -> tuple[int, int, int]:
        """Messages, recipients and first-time recipients that count."""
        sender = self.judge.ledger.accounts.get(account)
        return tuple(sender.history.usage_within(self.now, window)) if sender else ()

    def list_events(self, kind: str = "") -> list[tuple[str, str]]:
        """Account and detail of the events of this kind."""
        events = self.database.events_after(0)
        return [(event.account, event.detail) for event in events if kind in ("", event.kind)]

    def freeze_reasons(self) -> dict[str, str]:
        """By account, as the judge sees it."""
        frozen = self.judge.freezer.frozen_accounts(self.now)
        return {name: record.why for name, record in frozen.items()}


# --- the daemon -------------------------------------------------------------------------------------------------------

# systemd hands sockets over as descriptors 3 and 4 (sd_listen_fds(3)).
_LAUNCH = """
import os, sys
for number, descriptor in enumerate(sys.argv[1:], 3):
    os.dup2(int(descriptor), number)
from mailkeep_server.__main__ import main
sys.exit(main(["guard"]))
"""
REPOSITORY = Path(__file__).resolve().parents[2]


def wait_until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """The condition's first true value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)
    return value


class GuardProcess:
    """The guard as systemd starts it: three sockets, three directories, its messages in `log`."""

    def __init__(self, directory: Path, **changes: Any) -> None:
        self.directory, self._process = directory, None
        for name in ("etc", "state", "run"):
            (directory / name).mkdir(parents=True)
            (directory / name).chmod(0o755)
        (self.state / "frozen").mkdir()
        self.write_config(**changes)
        self._sockets = [_open_listener(directory / name) for name in ("policy", "milter", "incoming")]
        self.log = directory / "log"
        self.start()

    state = property(lambda self: self.directory / "state")
    pid = property(lambda self: self._process.pid)

    def write_config(self, text: str = "", **changes: Any) -> None:
        (self.directory / "etc" / "guard.json").write_text(text or json.dumps(build_config(**changes)))

    def start(self) -> None:
        directories = {"CONFIGURATION_DIRECTORY": "etc", "STATE_DIRECTORY": "state", "RUNTIME_DIRECTORY": "run"}
        descriptors = [listener.fileno() for listener in self._sockets]
        (self.directory / "run" / "control").unlink(missing_ok=True)
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _LAUNCH, *map(str, descriptors)],
                env={name: str(self.directory / below) for name, below in directories.items()} | {"LISTEN_FDS": "3"},
                cwd=REPOSITORY,
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._is_answering)

    def _is_answering(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()
        try:
            return bool(self.get_target("/status"))
        except (OSError, ValueError):
            return False

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Ends it with this signal; returns its exit status."""
        self._process.send_signal(number)
        return self._process.wait(10)

    def stop(self) -> None:
        if self._process.poll() is None:
            self.kill()
        for listener in self._sockets:
            listener.close()

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)

    def open_connection(self, name: str = "policy", timeout: float = 10) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        # Unlike settimeout(), waits while the queue of connections is full (unix(7)).
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 10, 0))
        client.connect(str(self.directory / name))
        client.settimeout(timeout)
        return client

    def get_target(self, target: str) -> Any:
        """From the control socket; JSON is parsed."""
        body = unix_http.get_body(str(self.directory / "run" / "control"), target, 10)
        return body.decode() if target == "/metrics" else json.loads(body)

    def usage_of(self, account: str = ANNA, limit: str = "messages_per_hour") -> int:
        uses = [row["limits"] for row in self.get_target("/status")["accounts"] if row["account"] == account]
        return next((use["used"] for use in uses[0] if use["limit"] == limit), 0) if uses else 0

    def list_events(self, kind: str) -> list[tuple[str, str]]:
        """Account and detail of the events of this kind."""
        events = self.get_target("/events?after=0")["events"]
        return [(event["account"], event["detail"]) for event in events if event["kind"] == kind]

    def read_memory(self, kind: str = "Pss") -> int:
        """Bytes."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:"))


# The modules are imported as root: another user may not be able to read them.
_LAUNCH_AS = """
import os, sys
user, *descriptors = map(int, sys.argv[1:])
for number, descriptor in enumerate(descriptors, 3):
    os.dup2(descriptor, number)
from mailkeep_server.guard import daemon
import encodings.idna, concurrent.futures.thread
os.setgroups([]); os.setgid(user); os.setuid(user)
sys.exit(daemon.main([]))
"""


class SupervisedGuard(GuardProcess):
    """As mailkeep-guard.service runs it: of another user's, restarted for ever, and root mends its state before."""

    user, reader_group = 65_534, 12_345
    restart_seconds = 0.2

    def __init__(self, directory: Path, **changes: Any) -> None:
        self.starts, self._is_paused, self._has_ended = 0, False, False
        directory.mkdir()
        self._systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._systemd.bind(str(directory / "systemd"))
        (directory / "systemd").chmod(0o666)
        super().__init__(directory, **changes)

    def write_list(self, text: str) -> None:
        """As a person with an editor would."""
        (self.state / "frozen" / "accounts").write_text(text)

    def start(self) -> None:
        os.chown(self.directory / "run", self.user, self.user)
        for path, group, mode in ((self.state, self.user, 0o711), (self.state / "frozen", self.reader_group, 0o2750)):
            os.chown(path, self.user, group)
            path.chmod(mode)
        self._launch()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._supervisor.start()
        try:
            wait_until(self.is_answering)
        except AssertionError as error:
            self.stop()
            raise AssertionError(f"no answer after {self.starts} starts: {self.log.read_text()}") from error

    def _launch(self) -> None:
        self.starts += 1
        sentences = [*state_repair.mend_state(self.state, self.user, self.user, self.reader_group)]
        if sentences:
            state_repair._write_report(self.directory / "run" / "repairs", sentences)
        directories = {"CONFIGURATION_DIRECTORY": "etc", "STATE_DIRECTORY": "state", "RUNTIME_DIRECTORY": "run"}
        descriptors = [listener.fileno() for listener in self._sockets]
        environment = {name: str(self.directory / below) for name, below in directories.items()}
        notifications = {"LISTEN_FDS": "3", "NOTIFY_SOCKET": str(self.directory / "systemd")}
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _LAUNCH_AS, str(self.user), *map(str, descriptors)],
                env=environment | notifications,
                cwd=REPOSITORY,
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _supervise(self) -> None:
        while not self._has_ended:
            with contextlib.suppress(BlockingIOError):
                self._systemd.recv(4096, socket.MSG_DONTWAIT)
            if not self._is_paused and self._process.poll() is not None:
                time.sleep(self.restart_seconds)
                self._launch()
            time.sleep(0.01)

    def is_answering(self) -> bool:
        try:
            return bool(self.get_target("/status"))
        except (OSError, ValueError):
            return False

    def pause(self) -> None:
        """Stops the guard in order, and does not start it again."""
        self._is_paused = True
        self.kill(signal.SIGTERM)

    def resume(self) -> None:
        self._is_paused = False

    def stop(self) -> None:
        self._has_ended = True
        self._supervisor.join()
        self._systemd.close()
        super().stop()


def _open_listener(path: Path) -> socket.socket:
    """On a descriptor above those that systemd would use."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(512)
    high = socket.socket(fileno=fcntl.fcntl(listener, fcntl.F_DUPFD, 10))
    listener.close()
    return high


# --- Postfix's side of the policy protocol ----------------------------------------------------------------------------

_SERIAL = itertools.count(1)


def build_request(state: str = "END-OF-MESSAGE", account: str = ANNA, **changes: Any) -> bytes:
    """As Postfix 3.10 writes it (SMTPD_POLICY_README)."""
    number = next(_SERIAL)
    attributes = {
        "request": "smtpd_access_policy",
        "protocol_state": state,
        "protocol_name": "ESMTP",
        "client_address": "192.0.2.1",
        "client_name": "client.example.net",
        "client_port": "54322",
        "reverse_client_name": "client.example.net",
        "server_address": "198.51.100.10",
        "server_port": "465",
        "helo_name": "[192.0.2.1]",
        "sender": account,
        "recipient": "",
        "recipient_count": "1",
        "queue_id": f"4dGk{number:06d}",
        "instance": f"2b1f.6925a1c0.{number:x}.0",
        "size": "1234",
        "etrn_domain": "",
        "stress": "",
        "sasl_method": "PLAIN",
        "sasl_username": account,
        "sasl_sender": "",
        "ccert_subject": "",
        "ccert_issuer": "",
        "ccert_fingerprint": "",
        "ccert_pubkey_fingerprint": "",
        "encryption_protocol": "TLSv1.3",
        "encryption_cipher": "TLS_AES_256_GCM_SHA384",
        "encryption_keysize": "256",
        "policy_context": "",
        "compatibility_level": "3.10",
        "mail_version": "3.10.5",
        **{name: str(value) for name, value in changes.items()},
    }
    return "".join(f"{name}={value}\n" for name, value in attributes.items()).encode() + b"\n"


def ask_guard(client: socket.socket, request: bytes) -> str:
    """The action that the guard answers with; empty if it ended the connection instead."""
    client.sendall(request)
    answer = b""
    while not answer.endswith(b"\n\n"):
        if not (more := client.recv(4096)):
            return ""
        answer += more
    return answer.decode().removeprefix("action=").rstrip("\n")


# --- Postfix's side of the milter protocol ----------------------------------------------------------------------------


def build_packet(command: bytes, *words: str | bytes, end: bytes = b"\0") -> bytes:
    """Each word ends with a NUL."""
    data = command + b"".join((word if isinstance(word, bytes) else word.encode()) + end for word in words)
    return struct.pack("!I", len(data)) + data


OFFER = build_packet(b"O", struct.pack("!III", 6, 0x1FF, 0x1FFFFF), end=b"")

END = build_packet(b"E")


def build_macros(command: bytes, **values: str) -> bytes:
    """The macros that come before this command."""
    names = {"login": "{auth_authen}", "queue_id": "i"}
    return build_packet(
        b"D" + command, *itertools.chain.from_iterable((names[name], value) for name, value in values.items())
    )


def build_message(
    login: str, sender: str, headers: Iterable[tuple[str, str | bytes]], queue_id: str = "Q1"
) -> list[bytes]:
    """The packets of a message, without its end (`END`)."""
    return [
        build_macros(b"M", login=login) if login else build_macros(b"M"),
        build_packet(b"M", f"<{sender}>", "BODY=8BITMIME"),
        build_macros(b"R", queue_id=queue_id),
        build_packet(b"R", "<friend@example.net>"),
        *(build_packet(b"L", name, value) for name, value in headers),
    ]
