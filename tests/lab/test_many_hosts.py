"""Many hosts of one inventory: one that is down, deaf or refusing is a line, and costs the others nothing."""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mailkeep.lab import Lab
from mailkeep.lab.addresses import NOBODY_HOST
from mailkeep.lab.site import Site, join_sites

Copy = Callable[[str], Site]

BROKEN = ("deaf", "down", "refusing", "changed-key")
SLOWEST_REFUSAL = 20  # seconds: connections wait 10 for an answer


@pytest.fixture
def broken_hosts(lab: Lab) -> Iterator[dict[str, dict[str, Any]]]:
    """Hosts that do not let anybody in, by name, with pyinfra's data."""
    with socket.create_server(("127.0.0.1", 0)) as deaf, socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
        closed.close()
        yield {
            "deaf": {"ssh_hostname": "127.0.0.1", "ssh_port": deaf.getsockname()[1]},
            "down": {"ssh_hostname": str(lab.ipv4_address(NOBODY_HOST))},
            "refusing": {"ssh_hostname": "127.0.0.1", "ssh_port": port},
        }


@pytest.fixture
def copies(boot_copy: Copy) -> list[Site]:
    sites = [boot_copy(name) for name in ("mail1", "mail2")]
    for site in sites:
        site.server.run("rm /etc/fail2ban/fail2ban.d/mailkeep.local")
    return sites


def impostor(site: Site, tmp_path: Path) -> dict[str, Any]:
    """The data of a host whose SSH key is not the one that known_hosts has."""
    [port] = re.findall(r"Port (\d+)", site.server.ssh_config.read_text())
    key = tmp_path / "other-key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{port} {' '.join(key.with_suffix('.pub').read_text().split()[:2])}\n")
    return {"ssh_hostname": "127.0.0.1", "ssh_port": int(port), "ssh_known_hosts_file": str(known_hosts)}


def run_mailkeep(*arguments: str | Path) -> tuple[int, list[str], str, float]:
    """The exit code, the lines of standard output, standard error, and the seconds that it took."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "mailkeep", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done.returncode, done.stdout.splitlines(), done.stderr, time.monotonic() - start


def find_line(lines: list[str], host: str) -> str:
    """The only line about this host, but for the summary."""
    [line] = [line for line in lines[:-1] if re.match(rf"(. )?{host}: ", line)]
    return line


def test_hosts_that_are_not_reached_are_a_line_each_and_the_others_are_built(
    copies: list[Site], broken_hosts: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    broken_hosts["changed-key"] = impostor(copies[0], tmp_path)
    inventory = join_sites(tmp_path / "many", copies, broken_hosts)

    code, lines, errors, seconds = run_mailkeep("plan", inventory)
    assert code == 1
    assert seconds < SLOWEST_REFUSAL + 15
    for name in ("mail1", "mail2"):
        assert re.search(r"\d changes?; nothing was touched$", find_line(lines, name))
    for name in BROKEN:
        assert "not reached: " in find_line([*errors.splitlines(), ""], name)
    assert errors.count("\n") <= len(BROKEN) + 1  # and one about the new hosts' keys
    assert "accepting & adding" not in errors

    code, lines, errors, seconds = run_mailkeep("deploy", inventory, "--no-verify")
    assert code == 1
    assert seconds < SLOWEST_REFUSAL + 60
    for name in ("mail1", "mail2"):
        assert re.match(rf"✓ {name}: deployed, \d+ of \d+ operations changed something; ", find_line(lines, name))
    assert "does not answer as SSH" in find_line(lines, "deaf")
    assert "Is it up" in find_line(lines, "down")
    assert "Does sshd run there" in find_line(lines, "refusing")
    assert "Another machine may answer in its place" in find_line(lines, "changed-key")
    # The good hosts were ready, and printed, before the deaf one was given up.
    assert lines.index(find_line(lines, "mail1")) < lines.index(find_line(lines, "deaf"))
    assert lines[-1].startswith("6 hosts: 2 without fault, 4 not reached (deaf, down, refusing, changed-key); ")
    assert len(lines) == 7 + errors.count("! ")

    code, lines, _, _ = run_mailkeep("verify", inventory)
    assert code == 1
    for name in ("mail1", "mail2"):  # whether all their checks pass, test_verify.py says
        assert re.match(rf"[✓!✗] {name}: \d+ checks passed", find_line(lines, name)), lines
    for name in BROKEN:
        assert f"✗ {name}: not reached: ssh: " in find_line(lines, name)
        assert "must log in without asking anything." in find_line(lines, name)
    assert "does not answer as SSH" in find_line(lines, "deaf")
    assert "Another machine may answer in its place" in find_line(lines, "changed-key")
    assert "4 not reached (deaf, down, refusing, changed-key)" in lines[-1]


def test_only_what_is_broken_is_shown_in_full_and_json_has_all(copies: list[Site], tmp_path: Path) -> None:
    inventory = join_sites(tmp_path / "two", copies)
    code, lines, errors, _ = run_mailkeep("deploy", inventory, "--no-verify")
    assert (code, len(lines)) == (0, 3), [*lines, errors]
    assert lines[2].startswith("2 hosts: 2 without fault; ")

    copies[1].server.run("systemctl disable --quiet --now logrotate.timer")
    code, lines, _, _ = run_mailkeep("verify", inventory)
    assert code == 1
    assert re.match(r"✗ mail2: \d+ checks passed, \d+ failed", find_line(lines, "mail2"))
    assert [line for line in lines if line.startswith("  ✗ mail2: Every service runs")], lines
    assert "    observed  logrotate.timer: inactive, disabled" in [line.rstrip() for line in lines]
    assert not [line for line in lines if "Nobody relays" in line]  # it passed on both
    assert lines[-1].startswith("2 hosts: ")

    code, lines, _, _ = run_mailkeep("verify", inventory, "--json")
    outcomes = json.loads("\n".join(lines))["outcomes"]
    statuses = {(outcome["host"], outcome["check"]): outcome["status"] for outcome in outcomes}
    assert code == 1
    assert statuses["mail1", "services_run_and_start_at_boot"] == statuses["mail1", "nobody_relays"] == "passed"
    assert statuses["mail2", "services_run_and_start_at_boot"] == "failed"

    code, lines, _, _ = run_mailkeep("deploy", inventory, "--json")
    report = json.loads("\n".join(lines))
    assert (code, report["results"]["failed_hosts"]) == (0, [])
    assert [row["success"] for row in report["results"]["operations"] if row["success"]] == [["mail2"]]
    assert (report["hosts"]["mail1"]["changed"], len(report["hosts"]["mail2"]["changed"])) == ([], 1)


def test_a_deploy_that_a_host_refuses_shows_why_and_the_others_go_on(copies: list[Site], tmp_path: Path) -> None:
    copies[1].server.run("rm -rf /etc/mailname && mkdir /etc/mailname")  # must be a file
    code, lines, errors, _ = run_mailkeep("deploy", join_sites(tmp_path / "two", copies), "--no-verify")
    assert code == 1
    assert find_line(lines, "mail1").startswith("✓ mail1: deployed")
    [line, header] = [line for line in lines[:-1] if "mail2: " in line]
    assert line.startswith("✗ mail2: the deploy failed at: Files: checked, then put in place; ")
    assert header == "✗ mail2: the deploy failed at: Files: checked, then put in place"
    assert any("/etc/mailname is a directory, but must be a file." in line for line in lines), [*lines, errors]
    assert "1 where the deploy failed (mail2)" in lines[-1]
