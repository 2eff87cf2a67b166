"""A clock to turn, a webhook's other end, and a guard that speaks as ours does."""

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from mailkeep_server.watch.alert_queue import Letter

LETTER = Letter(7, 1764086400.0, '[mail.example.org] anna@example.org is "frozen"', "1\n<2> & {host} \\\n", urgent=True)


@dataclass
class Clock:
    now: float = 1_764_086_400.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Hook:
    """What a webhook was sent, and what it answers."""

    url: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)


@contextmanager
def hook() -> Iterator[Hook]:
    made = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            made.requests.append((self.command, self.path, dict(self.headers), body))
            self.send_response(made.status)
            for name, value in made.headers.items():
                self.send_header(name, value)
            self.end_headers()

        do_PUT = do_GET = do_POST  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        made.url = f"http://127.0.0.1:{server.server_port}/very-secret"
        yield made
        server.shutdown()


@dataclass
class Events:
    """What the guard has told so far, and whether what it says is garbage."""

    events: list[dict[str, Any]] = field(default_factory=list)
    garbage: bytes = b""

    def tell(self, kind: str, account: str, detail: str, at: float) -> None:
        number = len(self.events) + 1
        self.events.append({"id": number, "time": at, "kind": kind, "account": account, "detail": detail})


@contextmanager
def guard(path: Path) -> Iterator[Events]:
    """The guard's control socket: HTTP/1.0 over a Unix-domain socket."""
    made = Events()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            target = self.rfile.readline().split()[1].decode()
            assert target.startswith("/events?after=")
            after = int(target.partition("=")[2])
            last = made.events[-1]["id"] if made.events else after
            body = json.dumps({"last": last, "events": [one for one in made.events if one["id"] > after]}).encode()
            answer = made.garbage or b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + body
            with suppress(BrokenPipeError):  # of endless garbage the watch takes only so much
                self.wfile.write(answer)

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    with Server(str(path), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield made
        server.shutdown()
