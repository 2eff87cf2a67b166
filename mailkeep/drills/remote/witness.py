"""Looks at the server's queue all through a drill: how much of the account's mail is in it, and how much is on hold.

`witness.py ACCOUNT SECONDS`; prints a line of JSON each time that it changes. Ends after so many seconds, or when there
is a file `over` beside this one. Runs on the server; standard library only.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

OVER = Path(__file__).with_name("over")


def queue(account: str) -> dict[str, int]:
    done = subprocess.run(["postqueue", "-j"], capture_output=True, text=True, check=False)
    queued = [json.loads(line) for line in done.stdout.splitlines()]
    own = [one["queue_name"] for one in queued if one["sender"] == account]
    return {"queued": len(own), "held": own.count("hold")}


if __name__ == "__main__":
    account, ends = sys.argv[1], time.time() + float(sys.argv[2])
    before: dict[str, int] = {}
    while not OVER.exists() and time.time() < ends:
        if (now := queue(account)) != before:
            print(json.dumps({"at": time.time()} | now), flush=True)
            before = now
        time.sleep(0.3)
