"""Runs on the mail server, once a day, by itself: are its DNS records as they were, and has a blocklist taken it in?

What a look after the last deploy saw counts as right (`mailkeep dns --check` judges that); what differs from it later
is a trouble, until it is back, or until a deploy with other records. Troubles go into the journal, and by key into
`troubles.json` for whoever alerts. Python's standard library and dig(1) only.

Usage: on_server.py CONFIG STATE-DIRECTORY, or on_server.py --check CONFIG
"""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

AT_ONCE = 8
Key = tuple[str, str]  # a name and a type


def ask(key: Key) -> list[str] | None:
    """The values, sorted. None where no server answers, which says nothing of the record."""
    command = ["dig", "+noall", "+comments", "+answer", "+time=5", "+tries=2", *key]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    if not re.search(r"status: (NOERROR|NXDOMAIN)\b", said):
        return None
    lines = (line.split(None, 4) for line in said.splitlines() if line and not line.startswith(";"))
    return sorted(value.replace('" "', "") for _, _, _, kind, value in lines if kind == key[1])


def changes(seen: dict[str, list[str]], now: dict[str, list[str] | None]) -> dict[str, str]:
    """By name and type, what is not as it was. What is new counts as right from now on, and is put into `seen`."""
    found = {}
    for name, values in now.items():
        if values is not None and seen.setdefault(name, values) != values:
            found[name] = f"{name} was {_said(seen[name])}, and is {_said(values)}"
    return found


def _said(values: list[str]) -> str:
    return ", ".join(values) or "not there"


def listings(lists: Iterable[dict[str, Any]], answers: dict[Key, list[str] | None]) -> dict[str, str]:
    """By entry. A list that has not the entry that it must have, or has the one that it must not, counts for nothing
    (RFC 5782 §5); nor does an answer that only refuses to tell."""
    found = {}
    for one in lists:
        entry, test, never = (answers[(one[name], "A")] or [] for name in ("entry", "test", "never"))
        listed = [value for value in entry if value.startswith("127.") and not refuses(value)]
        if listed and test and not never:
            found[one["entry"]] = f"{one['list']} lists {one['subject']} ({', '.join(listed)}): {one['off']}"
    return found


def refuses(value: str) -> bool:
    return value.startswith("127.255.255.") or value in ("127.0.0.1", "127.0.0.255")


def look(config: dict[str, Any]) -> dict[Key, list[str] | None]:
    keys = {(name, kind) for name, kind in config["records"]}
    keys |= {(one[name], "A") for one in config["lists"] for name in ("entry", "test", "never")}
    ordered = sorted(keys)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(ordered, pool.map(ask, ordered), strict=True))


def main(config_file: Path, state: Path) -> None:
    text = config_file.read_text()
    config, of = json.loads(text), hashlib.sha256(text.encode()).hexdigest()
    file = state / "seen.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    seen = before["records"] if before.get("config") == of else {}
    answers = look(config)
    now = {f"{name} {kind}": answers[(name, kind)] for name, kind in config["records"]}
    troubles = changes(seen, now) | listings(config["lists"], answers)
    for trouble in troubles.values():
        print(trouble)
    _write(file, {"config": of, "records": seen})
    _write(state / "troubles.json", {"troubles": troubles})


def _write(file: Path, content: object) -> None:
    """By rename: who reads it sees the old or the new one."""
    new = file.with_suffix(".new")
    new.write_text(json.dumps(content, indent=1) + "\n")
    new.replace(file)


if __name__ == "__main__":
    if sys.argv[1] == "--check":
        json.loads(Path(sys.argv[2]).read_text())
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
