"""A certificate authority that takes no order from us for now: the directory leads to pebble's, but for new orders,
which are answered as RFC 8555 6.6 says. pebble itself knows no limits.

Runs in the internet container, as `limited_authority.py PORT DIRECTORY`; there is pebble's certificate.
"""

import json
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import urlopen

SAID = {"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many certificates (5) already issued"}


class Authority(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        with urlopen("https://acme.outside.test:14000/dir", context=PEBBLE) as answer:
            directory = json.load(answer)
        self.answer(200, "application/json", directory | {"newOrder": f"https://{self.headers['Host']}/limited"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(429, "application/problem+json", SAID | {"status": 429})

    def answer(self, status: int, kind: str, said: dict[str, object]) -> None:
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After", "86400")
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    port, where = int(sys.argv[1]), sys.argv[2]
    PEBBLE = ssl.create_default_context(cafile=f"{where}/acme.pem")
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(f"{where}/acme.pem", f"{where}/acme.key")
    server = ThreadingHTTPServer(("", port), Authority)
    server.socket = served.wrap_socket(server.socket, server_side=True)
    server.serve_forever()
