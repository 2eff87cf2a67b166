"""Watches the server's queue during a drill: how many messages of an account are in it, and how many are on hold.

`witness.py ACCOUNT SECONDS` prints a JSON object a line at each change. Ends after SECONDS, or when a file `over`
appears beside this one. Standard library only: it runs on the server.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

OVER = Path(__file__).with_name("over")
POLL_INTERVAL = 0.3


def count_queued(account: str) -> dict[str, int]:
    done = subprocess.run(["postqueue", "-j"], capture_output=True, text=True, check=False)
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    queues = [message["queue_name"] for message in messages if message["sender"] == account]
    return {"queued": len(queues), "held": queues.count("hold")}


if __name__ == "__main__":
    account, ends = sys.argv[1], time.time() + float(sys.argv[2])
    before: dict[str, int] = {}
    while not OVER.exists() and time.time() < ends:
        if (counts := count_queued(account)) != before:
            print(json.dumps({"at": time.time()} | counts), flush=True)
            before = counts
        time.sleep(POLL_INTERVAL)
