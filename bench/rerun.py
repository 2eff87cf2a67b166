#!/usr/bin/env python3
"""How long a run takes that has nothing to change, through a network round trip of 50 ms; Ansible does the same work.

The demonstration's server is built in the lab. Then, in turn and through the same delaying proxy on loopback: a deploy,
and bench/ansible/playbook.yml (pipelining, ControlPersist) over the same packages, users, directories, files and
services. Both must say that nothing changed. Remote commands are those that the server's sshd has logged. Prints the
times, their medians, and the ratio of these.

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

GOAL_SECONDS, GOAL_RATIO = 3.0, 15
PLAYBOOK = Path(__file__).parent / "ansible" / "playbook.yml"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: 3)")
    arguments.add_argument("--round-trip", type=float, default=50, help="milliseconds (default: 50)")
    options = arguments.parse_args()
    print(machine.line(), flush=True)
    with fresh.lab("bench-rerun") as lab:
        built = fresh.built(lab)
        sessions.log_commands(built.server)
        with delay.proxy(ssh_port(built.server), options.round_trip / 1000) as port:
            far = built.server.ssh_config
            far.write_text(re.sub(r"Port \d+", f"Port {port}", far.read_text()))
            measure(built, options.rounds)


def ssh_port(server: Server) -> int:
    [port] = re.findall(r"Port (\d+)", server.ssh_config.read_text())
    return int(port)


def measure(built: Site, rounds: int) -> None:
    variables = ansible_variables(built)
    contestants: dict[str, Callable[[], None]] = {
        "deploy": lambda: deploy(built),
        "playbook": lambda: play(built.server, variables),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    print(f"{'round':>6} {'':9} {'seconds':>8} {'remote commands':>16}", flush=True)
    for number in range(1, rounds + 1):
        for name, run in contestants.items():
            before, start = sessions.count_commands(built.server), time.monotonic()
            run()
            times[name].append(time.monotonic() - start)
            count = sessions.count_commands(built.server) - before
            print(f"{number:>6} {name:9} {times[name][-1]:>8.2f} {count:>16}", flush=True)
    ours, theirs = statistics.median(times["deploy"]), statistics.median(times["playbook"])
    print(f"median deploy {ours:.2f} s (goal at most {GOAL_SECONDS}), playbook {theirs:.2f} s")
    print(f"ratio 1/{theirs / ours:.1f}, goal at most 1/{GOAL_RATIO}")


def deploy(built: Site) -> None:
    deployed = built.deploy()
    if deployed.code or deployed.changed:
        raise SystemExit(f"not a run without changes: {deployed.changed}\n{deployed.output}")


def play(server: Server, variables: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("ansible-playbook")),
        *("--inventory", f"{server.name},", "--user", "root", f"--ssh-common-args=-F {server.ssh_config}"),
        *("--extra-vars", f"@{variables}", str(PLAYBOOK)),
    ]
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "ANSIBLE_CONFIG": str(PLAYBOOK.with_name("ansible.cfg"))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode or "changed=0" not in done.stdout:
        raise SystemExit(f"not a run without changes:\n{done.stdout}{done.stderr}")


def ansible_variables(built: Site) -> Path:
    """The playbook's variables as JSON, with every file's content beside them; lab secrets, in the lab's directory."""
    directory = built.inventory.with_name("ansible")
    directory.mkdir(mode=0o700)
    wanted = mail_server.build_parts(built.settings, built.secrets)
    variables = {
        "packages": sorted({name for part in wanted for name in part.packages}),
        "users": [asdict(user) for part in wanted for user in part.users],
        "memberships": [{"user": user, "group": group} for part in wanted for user, group in part.memberships],
        "directories": [asdict(d) | {"mode": f"{d.mode:04o}"} for part in wanted for d in part.directories],
        "files": list(ansible_files(wanted, directory)),
        "absent": [path for part in wanted for path in part.absent],
        # A unit that is not meant to run in a container would have Ansible start it at every run.
        "services": [unit.name for part in wanted for unit in part.units if unit.running and active(built, unit)],
    }
    path = directory / "variables.json"
    path.write_text(json.dumps(variables))
    return path


def ansible_files(wanted: Iterable[Part], directory: Path) -> Iterator[dict[str, str | bool]]:
    for number, file in enumerate(file for part in wanted for file in part.files):
        source = directory / str(number)
        source.write_bytes(file.content)
        yield {
            **{"path": file.path, "source": str(source), "secret": file.secret},
            **{"owner": file.owner, "group": file.group, "mode": f"{file.mode:04o}"},
        }


def active(built: Site, unit: Unit) -> bool:
    return built.server.run(f"systemctl is-active --quiet {unit.name}", check=False).returncode == 0


if __name__ == "__main__":
    main()
