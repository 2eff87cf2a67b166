"""The receiver of a webhook: it records each request as a line of JSON, and answers with the status from a file.

It runs in the internet container as `receiver.py PORT DIRECTORY`; the directory holds the files `requests` and
`status`.
"""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        status = int((DIRECTORY / "status").read_text())
        request = {
            "time": time.time(),
            "method": self.command,
            "path": self.path,
            "headers": dict(self.headers),
            "body": body,
            "status": status,
        }
        with (DIRECTORY / "requests").open("a") as requests:
            requests.write(json.dumps(request) + "\n")
        self.send_response(status)
        self.end_headers()

    do_PUT = do_POST  # noqa: N815


if __name__ == "__main__":
    DIRECTORY = Path(sys.argv[2])
    ThreadingHTTPServer(("", int(sys.argv[1])), Receiver).serve_forever()
