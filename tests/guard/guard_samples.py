"""The guard as Postfix meets it: the real daemon on real sockets, and requests and packets as Postfix writes them."""

from __future__ import annotations

import fcntl
import itertools
import json
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mailkeep_server.common import unix_http
from mailkeep_server.guard import config
from mailkeep_server.guard.database import Database
from mailkeep_server.guard.judge import Judge
from mailkeep_server.guard.policy import DUNNO, PolicyRequest
from mailkeep_server.guard.sliding_window import HOUR

ANNA, BERT = "anna@example.org", "bert@example.org"
PLENTY = 1_000_000_000
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
NO_LIMITS = dict.fromkeys(LIMITS, PLENTY)
FREEZE = {"refused_tries": 5, "foreign_senders": 4, "networks": 3, "new_recipients": 6}
NO_FREEZE = dict.fromkeys(FREEZE, PLENTY)
NO_CEILING = {"recipients_per_hour": PLENTY, "recipients_per_day": PLENTY}


def settings(**changed: Any) -> dict[str, Any]:
    """guard.json as a dictionary."""
    return {
        "mode": "enforce",
        "contact": "postmaster@mail.example.org",
        "limits": LIMITS,
        "accounts": {ANNA: {"addresses": ["sales@example.org"]}, BERT: {"addresses": []}},
        "server": NO_CEILING,
        "local": NO_CEILING,
        "freeze": NO_FREEZE,
        **changed,
    }


class Desk:
    """A judge with a clock that tests move. Everything is written to a real database, and read again by `restart`."""

    def __init__(self, directory: Path, **changed: Any) -> None:
        self.now = NOON
        self.frozen_file = directory / "frozen" / "accounts"
        self.frozen_file.parent.mkdir()
        self._directory, self._serial = directory, itertools.count(1)
        self.configure(**changed)
        self.store = Database(directory / "guard.db")
        self.judge = Judge(self._config, self.store, self.frozen_file, self.now)

    def configure(self, **changed: Any) -> None:
        file = self._directory / "guard.json"
        file.write_text(json.dumps(settings(**changed)))
        self._config = config.load_config(file)
        if hasattr(self, "judge"):
            self.judge.config = self._config

    def restart(self) -> None:
        self.store.close()
        self.store = Database(self._directory / "guard.db")
        self.judge = Judge(self._config, self.store, self.frozen_file, self.now)

    def later(self, milliseconds: int) -> None:
        self.now += milliseconds

    def recipient(self, to: str, account: str = ANNA, client: str = "192.0.2.1", instance: str = "i0") -> str:
        return self.judge.judge_recipient(self.now, PolicyRequest(account, client, instance, recipient=to))

    def send(
        self,
        account: str = ANNA,
        to: int | Iterable[str] = 1,
        client: str = "192.0.2.1",
        queue_id: str = "",
    ) -> str:
        """One message through RCPT and END-OF-MESSAGE; the first refusal, or the last answer. It goes, unless a test
        gives it a `queue_id` to say itself what becomes of it."""
        number = next(self._serial)
        recipients = (
            ["friend@example.net"] + [f"r{n}@example.net" for n in range(to - 1)] if isinstance(to, int) else to
        )
        ask = PolicyRequest(account, client, f"i{number}", queue_id=queue_id or f"Q{number}")
        for one in (recipients := list(recipients)):
            said = self.judge.judge_recipient(self.now, ask._replace(recipient=one))
            if said != DUNNO:
                return said
        said = self.judge.judge_message(self.now, ask._replace(recipients=len(recipients)))
        if not queue_id:
            self.judge.ledger.message_accepted(ask.queue_id)
        return said

    def used(self, account: str = ANNA, window: int = HOUR) -> tuple[int, int, int]:
        """Messages, recipients and first-time recipients that count."""
        return (
            tuple(self.judge.ledger.accounts[account].history.usage_within(self.now, window))
            if account in self.judge.ledger.accounts
            else ()
        )

    def events(self, kind: str = "") -> list[tuple[str, str]]:
        """Account and detail of those of that kind."""
        return [(one.account, one.detail) for one in self.store.events_after(0) if kind in ("", one.kind)]

    def frozen(self) -> dict[str, str]:
        """Why, by account, as the judge sees it."""
        return {name: one.why for name, one in self.judge.freezer.frozen_accounts(self.now).items()}


# --- the daemon -------------------------------------------------------------------------------------------------------

# systemd hands sockets over as descriptors 3 and 4 (sd_listen_fds(3)).
_LAUNCH = """
import os, sys
for number, given in enumerate(sys.argv[1:], 3):
    os.dup2(int(given), number)
from mailkeep_server.__main__ import main
sys.exit(main(["guard"]))
"""
REPOSITORY = Path(__file__).resolve().parents[2]


def poll(condition: Callable[[], Any], seconds: float = 10) -> Any:
    """What the condition says once it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)
    return found


class Daemon:
    """The guard as systemd starts it: two sockets, three directories, its messages in `log`."""

    def __init__(self, directory: Path, **changed: Any) -> None:
        self.directory, self._process = directory, None
        for name in ("etc", "state", "run"):
            (directory / name).mkdir(parents=True)
        (self.state / "frozen").mkdir()
        self.configure(**changed)
        self._sockets = [self._listen(directory / name) for name in ("policy", "milter")]
        self.log = directory / "log"
        self.start()

    state = property(lambda self: self.directory / "state")
    pid = property(lambda self: self._process.pid)

    def _listen(self, path: Path) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        listening.listen(512)
        high = socket.socket(fileno=fcntl.fcntl(listening, fcntl.F_DUPFD, 10))
        listening.close()
        return high

    def configure(self, text: str = "", **changed: Any) -> None:
        (self.directory / "etc" / "guard.json").write_text(text or json.dumps(settings(**changed)))

    def start(self) -> None:
        places = {"CONFIGURATION_DIRECTORY": "etc", "STATE_DIRECTORY": "state", "RUNTIME_DIRECTORY": "run"}
        descriptors = [one.fileno() for one in self._sockets]
        (self.directory / "run" / "control").unlink(missing_ok=True)
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _LAUNCH, *map(str, descriptors)],
                env={name: str(self.directory / place) for name, place in places.items()} | {"LISTEN_FDS": "2"},
                cwd=REPOSITORY,
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        poll(self._answers)

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()
        try:
            return bool(self.get("/status"))
        except (OSError, ValueError):
            return False

    def kill(self, how: int = signal.SIGKILL) -> int:
        """Ends it; its exit status."""
        self._process.send_signal(how)
        return self._process.wait(10)

    def stop(self) -> None:
        if self._process.poll() is None:
            self.kill()
        for one in self._sockets:
            one.close()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def connect(self, name: str = "policy", timeout: float = 10) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        # Unlike settimeout(), waits while the queue of connections is full (unix(7)).
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 10, 0))
        client.connect(str(self.directory / name))
        client.settimeout(timeout)
        return client

    def get(self, target: str) -> Any:
        """From the control socket; JSON is parsed."""
        body = unix_http.get_body(str(self.directory / "run" / "control"), target, 10)
        return body.decode() if target == "/metrics" else json.loads(body)

    def used(self, account: str = ANNA, limit: str = "messages_per_hour") -> int:
        found = next((one for one in self.get("/status")["accounts"] if one["account"] == account), {"limits": []})
        return next((one["used"] for one in found["limits"] if one["limit"] == limit), 0)

    def events(self, kind: str) -> list[tuple[str, str]]:
        found = self.get("/events?after=0")["events"]
        return [(one["account"], one["detail"]) for one in found if one["kind"] == kind]

    def memory(self, kind: str = "Pss") -> int:
        """Bytes."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:"))


# --- Postfix's side of the policy protocol ----------------------------------------------------------------------------

_SERIAL = itertools.count(1)


def request(state: str = "END-OF-MESSAGE", account: str = ANNA, **changed: Any) -> bytes:
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
        **{name: str(value) for name, value in changed.items()},
    }
    return "".join(f"{name}={value}\n" for name, value in attributes.items()).encode() + b"\n"


def ask(client: socket.socket, wanted: bytes) -> str:
    """The action that the guard answers with; empty if it ended the connection instead."""
    client.sendall(wanted)
    said = b""
    while not said.endswith(b"\n\n"):
        if not (more := client.recv(4096)):
            return ""
        said += more
    return said.decode().removeprefix("action=").rstrip("\n")


# --- Postfix's side of the milter protocol ----------------------------------------------------------------------------


def packet(command: bytes, *words: str | bytes, end: bytes = b"\0") -> bytes:
    """Words are strings, each with a NUL behind it."""
    data = command + b"".join((word if isinstance(word, bytes) else word.encode()) + end for word in words)
    return struct.pack("!I", len(data)) + data


OFFER = packet(b"O", struct.pack("!III", 6, 0x1FF, 0x1FFFFF), end=b"")

END = packet(b"E")


def macros(of: bytes, **values: str) -> bytes:
    names = {"login": "{auth_authen}", "queue_id": "i"}
    return packet(b"D" + of, *itertools.chain.from_iterable((names[name], value) for name, value in values.items()))


def mail(login: str, sender: str, headers: Iterable[tuple[str, str | bytes]], queue_id: str = "Q1") -> list[bytes]:
    """The packets of a message, without its end (`END`)."""
    return [
        macros(b"M", login=login) if login else macros(b"M"),
        packet(b"M", f"<{sender}>", "BODY=8BITMIME"),
        macros(b"R", queue_id=queue_id),
        packet(b"R", "<friend@example.net>"),
        *(packet(b"L", name, value) for name, value in headers),
    ]
