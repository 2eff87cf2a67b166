#!/usr/bin/env python3
"""How long a deploy takes that changes nothing, over a network round trip of 50 ms, compared with Ansible.

Builds the demonstration's server in the lab. Then a deploy takes turns with bench/ansible/playbook.yml (pipelining,
ControlPersist), which manages the same packages, users, directories, files and services. Both go through the same
delaying proxy on loopback, and both must report no change. Remote commands are counted in the log of the server's sshd.
Prints the times, their medians, and the ratio of these.

    LC_ALL=C.UTF-8 python bench/rerun.py [--rounds N] [--round-trip MILLISECONDS]
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import delay
import fresh
import machine

from mailkeep.lab import Server, sessions
from mailkeep.lab.site import Site
from mailkeep.parts import mail_server
from mailkeep.parts.model import Part, Unit

MAX_SECONDS, MIN_RATIO = 3.0, 15
PLAYBOOK = Path(__file__).parent / "ansible" / "playbook.yml"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: 3)")
    arguments.add_argument("--round-trip", type=float, default=50, help="milliseconds (default: 50)")
    options = arguments.parse_args()
    print(machine.describe_machine(), flush=True)
    with fresh.fresh_lab("bench-rerun") as lab:
        site = fresh.build_server(lab)
        sessions.log_commands(site.server)
        with delay.delaying_proxy(read_ssh_port(site.server), options.round_trip / 1000) as port:
            ssh_config = site.server.ssh_config
            ssh_config.write_text(re.sub(r"Port \d+", f"Port {port}", ssh_config.read_text()))
            compare_reruns(site, options.rounds)


def read_ssh_port(server: Server) -> int:
    [port] = re.findall(r"Port (\d+)", server.ssh_config.read_text())
    return int(port)


def compare_reruns(site: Site, rounds: int) -> None:
    variables = write_variables(site)
    contestants: dict[str, Callable[[], None]] = {
        "deploy": lambda: run_deploy(site),
        "playbook": lambda: run_playbook(site.server, variables),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    print(f"{'round':>6} {'':9} {'seconds':>8} {'remote commands':>16}", flush=True)
    for number in range(1, rounds + 1):
        for name, run in contestants.items():
            before, start = sessions.count_commands(site.server), time.monotonic()
            run()
            times[name].append(time.monotonic() - start)
            count = sessions.count_commands(site.server) - before
            print(f"{number:>6} {name:9} {times[name][-1]:>8.2f} {count:>16}", flush=True)
    deploy, playbook = statistics.median(times["deploy"]), statistics.median(times["playbook"])
    print(f"median deploy {deploy:.2f} s (goal at most {MAX_SECONDS}), playbook {playbook:.2f} s")
    print(f"ratio 1/{playbook / deploy:.1f}, goal at most 1/{MIN_RATIO}")


def run_deploy(site: Site) -> None:
    result = site.deploy()
    if result.code or result.changed:
        raise SystemExit(f"the deploy was to change nothing, and changed: {result.changed}\n{result.output}")


def run_playbook(server: Server, variables: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("ansible-playbook")),
        *("--inventory", f"{server.name},", "--user", "root", f"--ssh-common-args=-F {server.ssh_config}"),
        *("--extra-vars", f"@{variables}", str(PLAYBOOK)),
    ]
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "ANSIBLE_CONFIG": str(PLAYBOOK.with_name("ansible.cfg"))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode or "changed=0" not in done.stdout:
        raise SystemExit(f"the playbook was to change nothing:\n{done.stdout}{done.stderr}")


def write_variables(site: Site) -> Path:
    """Write the playbook's variables as JSON, with each file's content beside them.

    They contain secrets of the lab and stay in its directory.
    """
    directory = site.inventory.with_name("ansible")
    directory.mkdir(mode=0o700)
    parts = mail_server.build_parts(site.settings, site.secrets)
    variables = {
        "packages": sorted({name for part in parts for name in part.packages}),
        "users": [asdict(user) for part in parts for user in part.users],
        "memberships": [{"user": user, "group": group} for part in parts for user, group in part.memberships],
        "directories": [asdict(d) | {"mode": f"{d.mode:04o}"} for part in parts for d in part.directories],
        "files": list(list_files(parts, directory)),
        "absent": [path for part in parts for path in part.absent],
        # Ansible would start a unit that is not meant to run in a container at every run.
        "services": [unit.name for part in parts for unit in part.units if unit.running and is_active(site, unit)],
    }
    path = directory / "variables.json"
    path.write_text(json.dumps(variables))
    return path


def list_files(parts: Iterable[Part], directory: Path) -> Iterator[dict[str, str | bool]]:
    for number, file in enumerate(file for part in parts for file in part.files):
        source = directory / str(number)
        source.write_bytes(file.content)
        yield {
            **{"path": file.path, "source": str(source), "secret": file.secret},
            **{"owner": file.owner, "group": file.group, "mode": f"{file.mode:04o}"},
        }


def is_active(site: Site, unit: Unit) -> bool:
    return site.server.run(f"systemctl is-active --quiet {unit.name}", check=False).returncode == 0


if __name__ == "__main__":
    main()
