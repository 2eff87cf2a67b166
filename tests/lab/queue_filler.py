"""Runs on the server: `queue_filler.py NUMBER QUEUE_ID…` adds so many copies of these deferred messages to the queue.

postsuper(1) -s gives each copy the queue ID that belongs to its inode.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

DEFERRED = Path("/var/spool/postfix/deferred")


def main(number: int, queue_ids: list[str]) -> None:
    sources = [next(DEFERRED.rglob(queue_id)) for queue_id in queue_ids]
    subprocess.run(["systemctl", "stop", "postfix"], check=True)
    for count in range(number):
        source = sources[count % len(sources)]
        copy = source.with_name(f"{source.name[0]}0F{count:06X}")
        shutil.copy2(source, copy)
        status = source.stat()
        os.chown(copy, status.st_uid, status.st_gid)
    subprocess.run(["postsuper", "-s"], check=True)
    subprocess.run(["systemctl", "start", "postfix"], check=True)


main(int(sys.argv[1]), sys.argv[2:])
