#!/usr/bin/env python3
"""What a backup costs: a first one of 20,000 messages, one with 200 new, nothing new; beside plain tar in the same run.

Builds the demonstration's server in the lab, with a target on its own disk. The messages are of random size, 11 KB on
average, and do not compress. 10 GB are extrapolated from the throughput of the first backup.

    python bench/backup.py [--messages N]
"""

import argparse
import json
from typing import Any

import fresh
import machine
import yaml

from mailkeep.inventory.backup_keys import create_backup_keys
from mailkeep.inventory.vault import open_vault_to_write
from mailkeep.lab import Server

ACCOUNT = "anna@example.test"
MAILDIR = "/var/vmail/example.test/anna/Maildir"
MAX_FIRST, MAX_NEXT, MAX_MEMORY = 20.0, 5.0, 100.0  # seconds, seconds, MB
GIGABYTES = 10
WRITE_MESSAGES = """
import os, pathlib, random, sys
first, count = map(int, sys.argv[1:])
random.seed(first)
directory = pathlib.Path("{maildir}/cur")
directory.mkdir(parents=True, exist_ok=True)
for number in range(first, first + count):
    size = random.randint(500, 22000)
    body = random.randbytes(size).hex()[:size]
    text = f"Message-ID: <{{number}}@example.test>\\nSubject: {{number}}\\n\\n{{body}}\\n"
    name = f"{{1700000000 + number}}.M{{number}}.mail,S={{len(text)}}:2,S"
    (directory / name).write_text(text)
os.system("chown -R vmail: /var/vmail/example.test")
print(sum(path.stat().st_size for path in directory.iterdir()))
"""
MEASURE = """
import json, resource, subprocess, sys, time
start = time.monotonic()
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"seconds": time.monotonic() - start, "cpu": usage.ru_utime + usage.ru_stime,
    "memory": usage.ru_maxrss / 1024, "code": done.returncode, "output": done.stdout + done.stderr}))
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--messages", type=int, default=20_000, help="in the first backup (default: 20000)")
    options = arguments.parse_args()
    print(machine.describe_machine(), flush=True)
    with fresh.fresh_lab("bench-backup") as lab:
        site = fresh.create_bare_server(lab)
        settings = yaml.safe_load(site.settings_file.read_text())
        settings["backup"] = {"targets": [{"name": "disk", "path": "/srv/backup/mail"}]}
        site.settings_file.write_text(yaml.safe_dump(settings))
        create_backup_keys(open_vault_to_write(site.inventory))
        fresh.deploy(site)
        server = site.server
        server.run("python3 -IB /usr/lib/mailkeep backup init")
        size = write_messages(server, 0, options.messages)
        print(f"{options.messages} messages, {size / 1e6:.0f} MB")
        tar = measure(server, "tar", "-C", "/var/vmail", "-cf", "/srv/first.tar", ".")
        first = measure_backup(server)
        write_messages(server, options.messages, 200)
        tar_again = measure(server, "tar", "-C", "/var/vmail", "-cf", "/srv/next.tar", ".")
        following, unchanged = measure_backup(server), measure_backup(server)
        proof = measure(server, "python3", "-IB", "/usr/lib/mailkeep", "backup", "prove")
        stored = int(server.run("du -sb /srv/backup/mail | cut -f1").stdout)
    print_row("tar, all", tar)
    print_row("first backup", first, MAX_FIRST)
    print_row("tar again, with 200 new", tar_again)
    print_row("backup with 200 new", following, MAX_NEXT)
    print_row("backup, nothing new", unchanged)
    print_row("weekly proof", proof)
    print(f"the repository takes {stored / 1e6:.0f} MB")
    minutes = GIGABYTES * 1e9 / size * first["seconds"] / 60
    print(f"{GIGABYTES} GB at the first backup's rate: {minutes:.0f} minutes, once")


def write_messages(server: Server, first: int, count: int) -> int:
    """Returns the bytes of all messages."""
    program = WRITE_MESSAGES.format(maildir=MAILDIR)
    return int(server.run(f"python3 - {first} {count}", stdin=program).stdout)


def measure_backup(server: Server) -> dict[str, Any]:
    return measure(server, "python3", "-IB", "/usr/lib/mailkeep", "backup", "run")


def measure(server: Server, *command: str) -> dict[str, Any]:
    """Exits with the command's output when it fails."""
    server.write("/root/measure.py", MEASURE)
    result: dict[str, Any] = json.loads(server.run(f"python3 /root/measure.py {' '.join(command)}").stdout)
    if result["code"]:
        raise SystemExit(f"{' '.join(command)}: {result['output']}")
    return result


def print_row(name: str, result: dict[str, Any], max_seconds: float = 0) -> None:
    bound = f"  (bound {max_seconds:.0f} s, {MAX_MEMORY:.0f} MB)" if max_seconds else ""
    print(f"{name:26} {result['seconds']:6.1f} s  CPU {result['cpu']:6.1f} s  peak {result['memory']:5.0f} MB{bound}")


if __name__ == "__main__":
    main()
