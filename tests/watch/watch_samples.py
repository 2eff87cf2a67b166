"""A clock to turn, the other end of a webhook, and a guard that answers as ours does."""

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from mailkeep_server.watch.alert_queue import Notification

NOTIFICATION = Notification(
    7, 1764086400.0, '[mail.example.org] anna@example.org is "frozen"', "1\n<2> & {host} \\\n", urgent=True
)


@dataclass
class Clock:
    now: float = 1_764_086_400.0

    def __call__(self) -> float:
        return self.now


@dataclass
class WebhookServer:
    """The requests that it got, and its answer to them."""

    url: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)


@contextmanager
def serve_webhook() -> Iterator[WebhookServer]:
    webhook = WebhookServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            webhook.requests.append((self.command, self.path, dict(self.headers), body))
            self.send_response(webhook.status)
            for name, value in webhook.headers.items():
                self.send_header(name, value)
            self.end_headers()

        do_PUT = do_GET = do_POST  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Prints nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        webhook.url = f"http://127.0.0.1:{server.server_port}/very-secret"
        yield webhook
        server.shutdown()


@dataclass
class GuardServer:
    """The guard's events so far; and an answer that is garbage, if it gives such."""

    events: list[dict[str, Any]] = field(default_factory=list)
    garbage: bytes = b""

    def add_event(self, kind: str, account: str, detail: str, time: float) -> None:
        number = len(self.events) + 1
        self.events.append({"id": number, "time": time, "kind": kind, "account": account, "detail": detail})


@contextmanager
def serve_guard(path: Path) -> Iterator[GuardServer]:
    """The guard's control socket: HTTP/1.0 over a Unix-domain socket."""
    guard = GuardServer()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            target = self.rfile.readline().split()[1].decode()
            assert target.startswith("/events?after=")
            after = int(target.partition("=")[2])
            last = guard.events[-1]["id"] if guard.events else after
            body = json.dumps({"last": last, "events": [event for event in guard.events if event["id"] > after]})
            answer = guard.garbage or b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + body.encode()
            with suppress(BrokenPipeError):  # of endless garbage, the watch takes only so much
                self.wfile.write(answer)

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    with Server(str(path), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield guard
        server.shutdown()


def compose_record(kind: str, data: bytes) -> bytes:
    """A record of a queue file (Postfix's rec_type.h)."""
    return kind.encode() + bytes([len(data)]) + data


def write_queue_file(file: Path, arrival: float, sender: str, recipient: str = "x@example.net") -> None:
    """As cleanup(8) writes it; the attribute is longer than 127 bytes."""
    attribute = b"A" + bytes([0xC8, 0x01]) + b"x" * 200
    file.write_bytes(
        compose_record("C", b"            600")
        + compose_record("T", f"{int(arrival)} 123".encode())
        + attribute
        + compose_record("S", sender.encode())
        + compose_record("R", recipient.encode())
        + compose_record("M", b"")
        + b"No record."
    )
