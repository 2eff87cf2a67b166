"""`backup COMMAND …`: what the units of the backup run, and what `mailkeep backup` and its like run over SSH.

Exit codes: 0 done; 1 a fault, which the output names.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable

from mailkeep_server.backup import proof, rebuild, run
from mailkeep_server.backup.borg import BackupError, Repository
from mailkeep_server.backup.config import STATE, BackupConfig, Target, load_config
from mailkeep_server.backup.progress import Progress, wait_for_progress
from mailkeep_server.backup.restore import Selection, parse_since, restore_mail
from mailkeep_server.common.backup_archives import find_clock_fault, select_archives
from mailkeep_server.common.backup_status import load_status
from mailkeep_server.common.files import atomic_write
from mailkeep_server.common.wording import describe_error

WAIT_SECONDS = 20.0
KEEP_UNITS = ("daily", "weekly", "monthly")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="backup")
    parser.add_argument("--json", action="store_true", help="print JSON")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init", help="make the repositories that do not exist")
    commands.add_parser("run", help="make a backup at every target")
    commands.add_parser("list", help="list the archives of every target")
    prove = commands.add_parser("prove", help="restore a random mailbox and compare")
    restore = commands.add_parser("restore", help="restore mail of an account")
    restore.add_argument("account")
    for name in ("target", "archive", "folder", "since", "subject", "message-id", "into"):
        restore.add_argument(f"--{name}", default="")
    rebuild_options = commands.add_parser("rebuild", help="put an archive's mail and state on a new machine")
    rebuild_options.add_argument("--target", default="")
    rebuild_options.add_argument("--archive", default="")
    result = commands.add_parser("result", help="print what the last restore or rebuild has come to")
    result.add_argument("of", choices=("restore", "rebuild"))
    prune = commands.add_parser("prune", help="delete old archives on disks of this machine")
    for unit in KEEP_UNITS:
        prune.add_argument(f"--{unit}", type=int, required=True)
    wait = commands.add_parser("wait", help="wait until a unit of the backup ends, or has news")
    wait.add_argument("unit")
    wait.add_argument("--last", default="", help="the progress that is known already")
    prove.add_argument("--quick", action="store_true", help="a hundred messages, without reading the whole repository")
    options = parser.parse_args(arguments)
    try:
        return COMMANDS[options.command](load_config(), options)
    except (BackupError, OSError, RuntimeError, ValueError, LookupError) as error:
        print(describe_error(error), file=sys.stderr)
        return 1


def _create_repositories(config: BackupConfig, options: argparse.Namespace) -> int:
    """Prints, as JSON, each target's key to keep on paper, or its fault."""
    del options
    results = {}
    for target in config.targets:
        repository = Repository(target)
        try:
            try:
                repository.list_archives()
                is_new = False
            except BackupError as error:
                if "no repository" not in str(error) and "does not exist" not in str(error):
                    raise
                repository.create()
                is_new = True
            results[target.name] = {"new": is_new, "key": repository.export_key(), "fault": ""}
        except BackupError as error:
            results[target.name] = {"new": False, "key": "", "fault": str(error)}
    print(json.dumps(results))
    return 1 if any(result["fault"] for result in results.values()) else 0


def _make_backup(config: BackupConfig, options: argparse.Namespace) -> int:
    with Progress() as show_progress:
        is_good = run.make_backup(config, show_progress)
    status = load_status()
    for target in config.targets:
        target_status = status.of(target.name)
        if not options.json:
            print(f"{target.name}: {target_status.fault or target_status.archive}", flush=True)
    if options.json:
        print(json.dumps({target.name: vars(status.of(target.name)) for target in config.targets}))
    return 0 if is_good else 1


def _list_archives(config: BackupConfig, options: argparse.Namespace) -> int:
    """Always JSON, which the operator's side shows."""
    del options
    status = load_status()
    results = {}
    for target in config.targets:
        repository = Repository(target)
        result = vars(status.of(target.name)) | {"repository": target.repository, "archives": [], "size": 0}
        try:
            archives = select_archives(repository.list_archives(), config.host)
            result["archives"] = [{"name": archive.name, "time": archive.time.isoformat()} for archive in archives]
            result["size"] = repository.read_size()
        except BackupError as error:
            result["fault"] = str(error)
        results[target.name] = result
    print(json.dumps(results))
    return 1 if any(result["fault"] for result in results.values()) else 0


def _prune_archives(config: BackupConfig, options: argparse.Namespace) -> int:
    """Prints, as JSON, numbers of archives deleted and kept at each target that is on this machine, or its fault."""
    keep, status, results = {unit: getattr(options, unit) for unit in KEEP_UNITS}, load_status(), {}
    with run.hold_lock():
        for target in config.targets:
            if not target.is_remote:
                results[target.name] = _prune_target(config, target, status.of(target.name).archive, keep)
    print(json.dumps(results))
    return 1 if any(result["fault"] for result in results.values()) else 0


def _prune_target(config: BackupConfig, target: Target, last: str, keep: dict[str, int]) -> dict[str, str | int]:
    repository = Repository(target)
    try:
        before = select_archives(repository.list_archives(), config.host)
        earlier = {archive.name for archive in before} - {last}
        if fault := find_clock_fault(before, earlier):
            return {"deleted": 0, "kept": len(before), "fault": fault}
        repository.prune(config.host, keep)
        kept = select_archives(repository.list_archives(), config.host)
        return {"deleted": len(before) - len(kept), "kept": len(kept), "fault": ""}
    except BackupError as error:
        return {"deleted": 0, "kept": 0, "fault": str(error)}


def _restore_mail(config: BackupConfig, options: argparse.Namespace) -> int:
    def restore_selected() -> object:
        selection = Selection(
            options.folder,
            parse_since(options.since) if options.since else 0,
            options.subject,
            options.message_id,
            options.into,
        )
        return restore_mail(
            config,
            options.account,
            selection,
            target=options.target,
            archive=options.archive,
            show_progress=show_progress,
        )

    with Progress() as show_progress:
        return _write_result("restore", restore_selected)


def _rebuild_mail(config: BackupConfig, options: argparse.Namespace) -> int:
    with Progress() as show_progress:
        return _write_result(
            "rebuild",
            lambda: rebuild.rebuild_mail(
                config, target=options.target, archive=options.archive, show_progress=show_progress
            ),
        )


def _write_result(name: str, work: Callable[[], object]) -> int:
    """The operator's machine may be gone when the work ends: it asks for the result later."""
    file = STATE / f"{name}-result.json"
    file.unlink(missing_ok=True)
    try:
        fields = vars(work()) | {"error": ""}
    except (BackupError, OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
        fields = {"error": describe_error(error)}
    atomic_write(file, json.dumps(fields), 0o600)
    print(fields["error"] or "done")
    return 1 if fields["error"] else 0


def _print_result(config: BackupConfig, options: argparse.Namespace) -> int:
    del config
    print((STATE / f"{options.of}-result.json").read_text())
    return 0


def _wait_for_unit(config: BackupConfig, options: argparse.Namespace) -> int:
    del config
    print(wait_for_progress(options.unit, options.last, WAIT_SECONDS))
    return 0


def _prove_backups(config: BackupConfig, options: argparse.Namespace) -> int:
    with Progress() as show_progress:
        faults = proof.prove_backups(config, quick=options.quick, show_progress=show_progress)
    return proof.print_proof(faults, options.json)


COMMANDS: dict[str, Callable[[BackupConfig, argparse.Namespace], int]] = {
    "init": _create_repositories,
    "run": _make_backup,
    "list": _list_archives,
    "prove": _prove_backups,
    "prune": _prune_archives,
    "wait": _wait_for_unit,
    "restore": _restore_mail,
    "rebuild": _rebuild_mail,
    "result": _print_result,
}
