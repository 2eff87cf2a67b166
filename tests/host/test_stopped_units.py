"""The services of packages that APT removes: stopped after the download, and running again when the deploy fails."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mailkeep.host import operations, stopped_units
from mailkeep.host.snapshot import POLICY_RC_D, RUN
from mailkeep_server.common.paths import STOPPED_UNITS

STATE = str(Path(STOPPED_UNITS).parent)
# What apt-get, dpkg and systemctl do here; each call is a line of the log.
PROGRAMS = {
    "apt-get": """echo "apt-get $*" >> log
case "$*" in
  *-s*) echo 'Remv exim4-base [4.98]'; echo 'Remv exim4-daemon-light [4.98]'; echo 'Inst postfix (3.10)' ;;
  *--download-only*) ! [ -e no-download ] || { echo 'E: no network' >&2; exit 100; } ;;
  *install*) touch removed; ! [ -e no-install ] || { echo 'E: unpacking' >&2; exit 100; } ;;
esac""",
    "dpkg": """[ "$1" = -L ] || { echo "exim4-base: $2"; exit; }
printf '%s\\n' /usr/sbin/exim4 /usr/lib/systemd/system/exim4.service /usr/lib/systemd/system/exim4-base.timer \\
  /usr/lib/systemd/system/exim4-base@.service /etc/init.d/exim4""",
    "systemctl": """echo "systemctl $*" >> log
case "$*" in
  *is-active*) case $3 in exim4.service | exim4-base.timer | cron.service | own.service) ;; *) false ;; esac ;;
  *is-failed*) [ "$3" = exim4-base.timer ] ;;
  start*) ! [ -e gone ] ;;
  *MainPID*cron.service) echo 7 ;;
  *MainPID*own.service) echo 9 ;;
  *SourcePath*) [ ! -e state ] || echo /etc/init.d/exim4 ;;
esac""",
    "dpkg-query": "cat state",
    "sync": "",
}


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Runs a script of the deploy in a directory with these programs, and with its own places in it."""
    for path in ("bin", "usr/sbin", "run", "proc"):
        (tmp_path / path).mkdir(parents=True)
    for name, text in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)

    def run(script: str) -> subprocess.CompletedProcess[str]:
        for path in (RUN, STATE, POLICY_RC_D.path, "/proc"):
            script = script.replace(path, f"{tmp_path}{path}")
        environment = {"PATH": f"{tmp_path}/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        return subprocess.run(["sh", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


def record(directory: Path) -> Path:
    return Path(f"{directory}{STOPPED_UNITS}")


def read_log(directory: Path) -> list[str]:
    return (directory / "log").read_text().splitlines()


@pytest.fixture
def install() -> str:
    return operations._install_script(["postfix"], was_interrupted=False).get_raw_value()


Run = Callable[[str], subprocess.CompletedProcess[str]]


def test_a_download_that_fails_stops_nothing(run_script: Run, install: str, tmp_path: Path) -> None:
    (tmp_path / "no-download").touch()
    done = run_script(install)
    assert done.returncode
    assert "E: no network" in done.stderr
    assert [line for line in read_log(tmp_path) if line.startswith("systemctl")] == []
    assert not record(tmp_path).exists()


def test_services_are_stopped_between_download_and_installation(run_script: Run, install: str, tmp_path: Path) -> None:
    done = run_script(install)
    assert done.returncode == 0, done.stderr
    steps = [line for line in read_log(tmp_path) if line.startswith(("systemctl stop", "apt-get -qq -y"))]
    assert ["download" if "--download-only" in step else step.split()[0] for step in steps] == [
        "download",
        "systemctl",
        "apt-get",
    ]
    assert steps[1] == "systemctl stop exim4-base.timer exim4.service"
    # The timer of a removed package would stay failed.
    assert "systemctl reset-failed exim4-base.timer" in read_log(tmp_path)
    assert "disable" not in " ".join(read_log(tmp_path))  # after a reboot, they run again


def test_only_a_unit_whose_main_process_is_of_the_package_is_stopped_not_a_caller_of_sendmail(
    run_script: Run, install: str, tmp_path: Path
) -> None:
    for pid, unit in {8: "cron.service", 9: "own.service"}.items():
        process = tmp_path / "proc" / str(pid)
        process.mkdir()
        (process / "exe").symlink_to("/usr/sbin/exim4")
        (process / "cgroup").write_text(f"0::/system.slice/{unit}\n")
    done = run_script(install)
    assert done.returncode == 0, done.stderr
    assert "systemctl stop exim4-base.timer exim4.service own.service" in read_log(tmp_path)


@pytest.mark.parametrize(("state", "is_back"), [("config-files", False), ("installed", True)])
def test_an_init_script_of_a_removed_package_is_no_service_that_runs_again(
    state: str, is_back: bool, run_script: Run, install: str, tmp_path: Path
) -> None:
    (tmp_path / "no-install").touch()
    (tmp_path / "state").write_text(state)
    done = run_script(install)
    assert ("exim4.service had been stopped, and runs again." in done.stderr) is is_back
    assert ("cannot be started again: exim4-base.timer exim4.service." in done.stderr) is not is_back
    assert record(tmp_path).exists() is not is_back


def test_after_an_installation_that_fails_they_run_again(run_script: Run, install: str, tmp_path: Path) -> None:
    (tmp_path / "no-install").touch()
    done = run_script(install)
    assert done.returncode
    assert "exim4.service had been stopped, and runs again." in done.stderr
    assert "systemctl start exim4.service" in read_log(tmp_path)
    assert not record(tmp_path).exists()
    assert not Path(f"{tmp_path}{POLICY_RC_D.path}").exists()


def test_one_that_cannot_run_again_is_named_with_the_command_that_brings_it_back(
    run_script: Run, install: str, tmp_path: Path
) -> None:
    (tmp_path / "no-install").touch()
    (tmp_path / "gone").touch()
    done = run_script(install)
    assert "Stopped, and cannot be started again: exim4-base.timer exim4.service." in done.stderr
    assert "apt-get install exim4-base exim4-daemon-light" in done.stderr
    assert record(tmp_path).exists()  # for the next run


def test_a_later_step_that_fails_and_a_run_that_is_refused_bring_them_back(run_script: Run, tmp_path: Path) -> None:
    for script in (f"{stopped_units.BRING_BACK_IF_IT_FAILS}\nfalse", f"{stopped_units.BRING_BACK_NOW}\nexit 1"):
        record(tmp_path).parent.mkdir(parents=True, exist_ok=True)
        record(tmp_path).write_text("unit exim4.service\npackage exim4-base\n")
        done = run_script(f"set -e\n{script}")
        assert (done.returncode, done.stderr) == (1, "exim4.service had been stopped, and runs again.\n")
        assert not record(tmp_path).exists()
