"""A certificate authority that refuses each new order for exceeding its rate limit (RFC 8555 section 6.6).

Its directory is pebble's, apart from the URL of new orders; pebble itself has no rate limits. It runs in the internet
container as `limited_authority.py PORT DIRECTORY`; the directory holds pebble's certificate and key.
"""

import json
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import urlopen

PROBLEM = {"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many certificates (5) already issued"}


class Authority(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        with urlopen("https://acme.outside.test:14000/dir", context=PEBBLE) as response:
            directory = json.load(response)
        self.send_json(200, "application/json", directory | {"newOrder": f"https://{self.headers['Host']}/limited"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_json(429, "application/problem+json", PROBLEM | {"status": 429})

    def send_json(self, status: int, media_type: str, document: dict[str, object]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After", "86400")
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    port, directory = int(sys.argv[1]), sys.argv[2]
    PEBBLE = ssl.create_default_context(cafile=f"{directory}/acme.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(f"{directory}/acme.pem", f"{directory}/acme.key")
    server = ThreadingHTTPServer(("", port), Authority)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()
