"""Changes how SSH reaches a host, in the text of `inventory.py`."""

import ast
import re
from pathlib import Path

from mailkeep.atomic_file import write_atomically
from mailkeep.errors import UserError
from mailkeep.inventory.hosts import HOSTS_FILE, read_hosts

KEY = "ssh_hostname"


def set_ssh_hostname(directory: Path, host: str, address: str) -> bool:
    """Writes `ssh_hostname` into the host's data; an empty address removes it. False if the file is not as `mailkeep
    init` writes it, a tuple of name and data: then it stays as it was."""
    file = directory / HOSTS_FILE
    before, data = file.read_text(), read_hosts(directory)
    new_data = {key: value for key, value in data[host].items() if key != KEY} | ({KEY: address} if address else {})
    if data[host] == new_data:
        return True
    span = _find_data(before, host)
    if span is None:
        return False
    start, end = span
    literal = re.sub(rf"""(["']){KEY}\1:\s*(["'])[^"']*\2(,[ ]?|(?=\s*}}))""", "", before[start:end])
    inserted = f'"{KEY}": "{address}", ' if address else ""
    _write(file, before[:start] + "{" + inserted + literal[1:] + before[end:])
    try:
        if read_hosts(directory) == {**data, host: new_data}:
            return True
    except UserError:
        pass  # as for any other file that is not as expected
    _write(file, before)
    return False


def _find_data(text: str, host: str) -> tuple[int, int] | None:
    """The begin and end, in characters, of the dictionary beside the host's name."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Tuple) and len(node.elts) == 2:
            name, data = node.elts
            if isinstance(name, ast.Constant) and name.value == host and isinstance(data, ast.Dict):
                assert data.end_lineno is not None
                assert data.end_col_offset is not None
                return (
                    starts[data.lineno - 1] + _count_characters(text, data.lineno, data.col_offset),
                    starts[data.end_lineno - 1] + _count_characters(text, data.end_lineno, data.end_col_offset),
                )
    return None


def _count_characters(text: str, line: int, offset: int) -> int:
    """ast counts bytes of UTF-8."""
    return len(text.splitlines()[line - 1].encode()[:offset].decode())


def _write(file: Path, text: str) -> None:
    target = file.resolve()
    write_atomically(target, text.encode(), status=target.stat())
