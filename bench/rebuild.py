#!/usr/bin/env python3
"""The promise in one run: build a server, fill it, back it up, destroy it, rebuild it by one command, compare.

The backups' target is the outside world's machine. Every message is compared by its hash, UID and flags, and the
account logs in with its old password.

    python bench/rebuild.py [--messages N]
"""

import argparse
import hashlib
import imaplib
import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import backup as backup_bench
import fresh
import machine
import yaml

from mailkeep.lab import Internet, Lab, Server
from mailkeep.lab.site import Site

ACCOUNT, KEEPER, PATH = backup_bench.ACCOUNT, "keeper", "/home/keeper/mail"
Mailbox = dict[int, tuple[str, str]]
"""By UID, the flags and the SHA-256 of each message in the inbox."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--messages", type=int, default=2000, help="in the mailbox (default: 2000)")
    options = arguments.parse_args()
    print(machine.describe_machine(), flush=True)
    begin = time.monotonic()
    with fresh.fresh_lab("bench-rebuild") as lab:
        site = fresh.create_bare_server(lab)
        internet = lab.boot_internet(fresh=False)
        with stage("build"):
            declare_target(site, internet)
            fresh.deploy(site)
            run_mailkeep(site, "backup", "--init")
        with stage(f"fill with {options.messages} messages, and back up"):
            backup_bench.write_messages(site.server, 0, options.messages)
            run_mailkeep(site, "backup")
            before = read_inbox(site)
        with stage("destroy"):
            bare = destroy(lab, site, internet)
        with stage("rebuild, verify"):
            print(run_mailkeep(site, "rebuild").splitlines()[-6], flush=True)
        with stage("compare"):
            after = read_inbox(site)
    lost = {uid for uid in before if after.get(uid) != before[uid]}
    print(f"{len(before)} messages before, {len(lost)} of them lost or changed; on {bare.hostname}")
    print(f"{time.monotonic() - begin:6.1f} s  in all")
    if lost or len(before) < options.messages:
        raise SystemExit("The mail did not come back as it was.")


@contextmanager
def stage(name: str) -> Iterator[None]:
    begin = time.monotonic()
    yield
    print(f"{time.monotonic() - begin:6.1f} s  {name}", flush=True)


def declare_target(site: Site, internet: Internet) -> None:
    """Declares the outside world's machine as the target, and lets the server's key in there."""
    key = " ".join(internet.run("cat /etc/ssh/ssh_host_ed25519_key.pub").stdout.split()[:2])
    settings = yaml.safe_load(site.settings_file.read_text())
    target = {"name": "offsite", "host": str(internet.ip), "user": KEEPER, "path": PATH, "host_key": key}
    settings["backup"] = {"targets": [target]}
    site.settings_file.write_text(yaml.safe_dump(settings))
    [line] = re.findall(r"^command=.*$", run_mailkeep(site, "backup", "--init"), re.MULTILINE)
    internet.run(f"useradd --create-home --shell /bin/sh {KEEPER}; install -d -o {KEEPER} -m 700 ~{KEEPER}/.ssh")
    internet.run(f"cat > ~{KEEPER}/.ssh/authorized_keys", stdin=line)


def run_mailkeep(site: Site, command: str, *options: str) -> str:
    """Exits with the command's output when it fails."""
    words = [str(Path(sys.executable).with_name("mailkeep")), command, str(site.inventory), *options]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ, timeout=1800)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout


def destroy(lab: Lab, site: Site, internet: Internet) -> Server:
    """The machine and its disk are gone; a bare one has its address."""
    site.server.remove()
    bare = lab.boot_server(site.server.name, hostname=site.server.hostname, ip=site.server.ip)
    internet.resolve_for(bare)
    return bare


def read_inbox(site: Site) -> Mailbox:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with imaplib.IMAP4_SSL(str(site.server.ip), 993, ssl_context=context, timeout=60) as client:
        client.login(ACCOUNT, site.passphrases[ACCOUNT])
        client.select(readonly=True)
        items = client.uid("FETCH", "1:*", "(FLAGS BODY.PEEK[])")[1]
    mailbox: Mailbox = {}
    for item in items:
        if isinstance(item, tuple):
            head = re.search(r"UID (\d+).*FLAGS \((.*?)\)", item[0].decode())
            assert head
            mailbox[int(head[1])] = head[2].replace("\\Recent", "").strip(), hashlib.sha256(item[1]).hexdigest()
    return mailbox


if __name__ == "__main__":
    main()
