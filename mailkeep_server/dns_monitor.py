"""The daily check of the server's own DNS records and of blocklists, by `mailkeep-dns.timer`.

Records as the first check after a deploy finds them count as right; `mailkeep dns --check` judges them by themselves.
A record that differs later is a trouble until it is back, or until a deploy with other records. So is a name without
an answer in two checks in a row; once may be the network. Troubles go into the journal, and into `troubles.json` for
the watch. The check needs dig(1).

Usage: dns-monitor CONFIG STATE_DIRECTORY, or dns-monitor --check CONFIG
"""

import hashlib
import json
import re
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mailkeep_server.common.dnsbl import Values, judge_listing
from mailkeep_server.common.files import atomic_write

MAX_CONCURRENT_QUERIES = 8
Question = tuple[str, str]  # a name and a record type


def query_values(question: Question) -> Values:
    """The values, sorted."""
    command = ["dig", "+noall", "+comments", "+answer", "+time=5", "+tries=2", *question]
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    if not re.search(r"status: (NOERROR|NXDOMAIN)\b", output):
        return None
    lines = (line.split(None, 4) for line in output.splitlines() if line and not line.startswith(";"))
    return sorted(value.replace('" "', "") for _, _, _, kind, value in lines if kind == question[1])


def find_changes(baseline: dict[str, list[str]], current: dict[str, Values]) -> dict[str, str]:
    """Troubles by name and type: records whose values differ from the `baseline`.

    A record that the baseline lacks, or has as missing, counts as right from now on and is added to it. It may have
    been published only after the deploy.
    """
    troubles = {}
    for name, values in current.items():
        if values is None:
            continue
        baseline[name] = baseline.get(name) or values
        if baseline[name] != values:
            before, now = _format_values(baseline[name]), _format_values(values)
            troubles[name] = f"{name} has changed: it was {before}, now it is {now}"
    return troubles


def find_unanswered(
    silent: Iterable[str], silent_before: Iterable[str], former_troubles: dict[str, str]
) -> dict[str, str]:
    """Troubles of names that nobody answers for now (`silent`): a trouble of the former check lasts; and a name that
    was silent in the former check too has one for that."""
    troubles = {
        name: f"{name}: no answer, twice in a row; its name servers fail, or its DNSSEC signatures do not validate"
        for name in sorted(set(silent) & set(silent_before))
    }
    return troubles | {name: former_troubles[name] for name in silent if name in former_troubles}


def _format_values(values: list[str]) -> str:
    return ", ".join(values) or "missing"


def find_listings(
    lists: Iterable[dict[str, Any]], answers: dict[Question, Values], former_troubles: dict[str, str]
) -> dict[str, str]:
    """Troubles by DNS name of the entry. A listing of the former check lasts while the list does not answer."""
    troubles = {}
    for blocklist in lists:
        name = blocklist["entry"]
        entry, must_list, must_not_list = (answers[question] for question in _list_questions(blocklist))
        state = judge_listing(entry, must_list, must_not_list)
        if state == "listed":
            values = ", ".join(entry or ())
            troubles[name] = f"{blocklist['zone']} lists {blocklist['subject']} ({values}): {blocklist['delisting']}"
        elif state == "unknown" and name in former_troubles:
            troubles[name] = former_troubles[name]
    return troubles


def _list_questions(blocklist: dict[str, Any]) -> list[Question]:
    return [(blocklist[name], "A") for name in ("entry", "must_list", "must_not_list")]


def query_all(config: dict[str, Any]) -> dict[Question, Values]:
    questions = {(name, kind) for name, kind in config["records"]}
    questions.update(question for blocklist in config["lists"] for question in _list_questions(blocklist))
    ordered = sorted(questions)
    with ThreadPoolExecutor(MAX_CONCURRENT_QUERIES) as pool:
        return dict(zip(ordered, pool.map(query_values, ordered), strict=True))


def check_records(config_file: Path, directory: Path) -> None:
    """One check; `baseline.json` and `troubles.json` in `directory` are its state."""
    text = config_file.read_text()
    config, config_hash = json.loads(text), hashlib.sha256(text.encode()).hexdigest()
    baseline_file, troubles_file = directory / "baseline.json", directory / "troubles.json"
    former, former_troubles = _read_json(baseline_file), _read_json(troubles_file).get("troubles", {})
    if former.get("config") != config_hash:
        former, former_troubles = {}, {}
    answers, baseline = query_all(config), former.get("records", {})
    current = {f"{name} {kind}": answers[name, kind] for name, kind in config["records"]}
    silent = [name for name, values in current.items() if values is None]
    troubles = find_changes(baseline, current) | find_unanswered(silent, former.get("silent", ()), former_troubles)
    troubles |= find_listings(config["lists"], answers, former_troubles)
    for trouble in troubles.values():
        print(trouble)
    _write_json(baseline_file, {"config": config_hash, "records": baseline, "silent": silent})
    _write_json(troubles_file, {"troubles": troubles})
    (directory / "seen.json").unlink(missing_ok=True)  # the baseline of version 0.1.0


def _read_json(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return content


def _write_json(file: Path, content: object) -> None:
    atomic_write(file, json.dumps(content, indent=1) + "\n")


def main(arguments: list[str]) -> int:
    if arguments[0] == "--check":
        json.loads(Path(arguments[1]).read_text())
        return 0
    check_records(*map(Path, arguments))
    return 0
