"""Runs on the mail server, once a day, by itself: are its DNS records as they were, and has a blocklist taken it in?

What a look after the last deploy saw counts as right (`mailkeep dns --check` judges that); what differs from it later
is a trouble, until it is back, or until a deploy with other records. So is a name that nobody answers for twice in a
row; once may be the network. Troubles go into the journal, and by key into `troubles.json` for whoever alerts. Python's
standard library and dig(1) only.

Usage: on_server.py CONFIG STATE-DIRECTORY, or on_server.py --check CONFIG
"""

import hashlib
import json
import re
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

AT_ONCE = 8
Key = tuple[str, str]  # a name and a type
Values = list[str] | None  # of a record; None where no server answers, which says nothing of it
State = Literal["listed", "clear", "refused", "gone", "unknown"]


def ask(key: Key) -> Values:
    """The values, sorted."""
    command = ["dig", "+noall", "+comments", "+answer", "+time=5", "+tries=2", *key]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    if not re.search(r"status: (NOERROR|NXDOMAIN)\b", said):
        return None
    lines = (line.split(None, 4) for line in said.splitlines() if line and not line.startswith(";"))
    return sorted(value.replace('" "', "") for _, _, _, kind, value in lines if kind == key[1])


def changes(seen: dict[str, list[str]], now: dict[str, Values]) -> dict[str, str]:
    """By name and type, what is not as it was. What is new counts as right from now on, and is put into `seen`; so is
    what was published only after the deploy."""
    found = {}
    for name, values in now.items():
        if values is None:
            continue
        seen[name] = seen.get(name) or values
        if seen[name] != values:
            found[name] = f"{name} was {_said(seen[name])}, and is {_said(values)}"
    return found


def unanswered(silent: Iterable[str], before: Iterable[str], troubles: dict[str, str]) -> dict[str, str]:
    """What to say of names that nobody answers for: what they were in trouble for at the former look lasts; and where
    nobody answered then (`before`) either, that is the trouble."""
    found = {
        name: f"{name}: no answer, twice in a row; its servers fail, or its signatures (DNSSEC) do not validate"
        for name in sorted(set(silent) & set(before))
    }
    return found | {name: troubles[name] for name in silent if name in troubles}


def _said(values: list[str]) -> str:
    return ", ".join(values) or "not there"


def listings(lists: Iterable[dict[str, Any]], answers: dict[Key, Values], troubles: dict[str, str]) -> dict[str, str]:
    """By entry. One that was among the troubles at the former look, and that nobody answers for now, lasts."""
    found = {}
    for one in lists:
        entry, test, never = (answers[(one[name], "A")] for name in ("entry", "test", "never"))
        what = state(entry, test, never)
        if what == "listed":
            found[one["entry"]] = f"{one['list']} lists {one['subject']} ({', '.join(entry or ())}): {one['off']}"
        elif what == "unknown" and one["entry"] in troubles:
            found[one["entry"]] = troubles[one["entry"]]
    return found


def state(entry: Values, test: Values, never: Values) -> State:
    """Whether a list has an `entry`. One that has not the `test` entry that it must have, that has the one that it must
    `never`, or that answers with anything but 127.0.0.0/8, is none any more (RFC 5782 §2.1, §5)."""
    said = [value for values in (entry, test, never) for value in values or ()]
    if any(map(refuses, said)):
        return "refused"
    if entry is None or test is None or never is None:
        return "unknown"
    if never or not test or not all(value.startswith("127.") for value in said):
        return "gone"
    return "listed" if entry else "clear"


def refuses(value: str) -> bool:
    """ "You ask too much, or through a public resolver": Spamhaus; SURBL and URIBL; DNSWL."""
    return value.startswith("127.255.255.") or value in ("127.0.0.1", "127.0.0.255")


def look(config: dict[str, Any]) -> dict[Key, Values]:
    keys = {(name, kind) for name, kind in config["records"]}
    keys |= {(one[name], "A") for one in config["lists"] for name in ("entry", "test", "never")}
    ordered = sorted(keys)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(ordered, pool.map(ask, ordered), strict=True))


def main(arguments: list[str]) -> int:
    """`--check CONFIG`, or `CONFIG STATE_DIRECTORY`."""
    if arguments[0] == "--check":
        json.loads(Path(arguments[1]).read_text())
        return 0
    compare_with_last(*map(Path, arguments))
    return 0


def compare_with_last(config_file: Path, directory: Path) -> None:
    text = config_file.read_text()
    config, of = json.loads(text), hashlib.sha256(text.encode()).hexdigest()
    seen, told = directory / "seen.json", directory / "troubles.json"
    before, former = _read(seen), _read(told).get("troubles", {})
    if before.get("config") != of:
        before, former = {}, {}
    answers, right = look(config), before.get("records", {})
    now = {f"{name} {kind}": answers[(name, kind)] for name, kind in config["records"]}
    silent = [name for name, values in now.items() if values is None]
    troubles = changes(right, now) | unanswered(silent, before.get("silent", ()), former)
    troubles |= listings(config["lists"], answers, former)
    for trouble in troubles.values():
        print(trouble)
    _write(seen, {"config": of, "records": right, "silent": silent})
    _write(told, {"troubles": troubles})


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found


def _write(file: Path, content: object) -> None:
    """By rename: who reads it sees the old or the new one."""
    new = file.with_suffix(".new")
    new.write_text(json.dumps(content, indent=1) + "\n")
    new.replace(file)
