"""Changes the host's addresses in `mail.yml`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mailkeep.settings.account_rename import line_after
from mailkeep.settings.mail_file import MailFile, open_mail_file

ADDRESSES, FORWARDED_FROM = "addresses", "forwarded_from"


def set_addresses(path: Path, addresses: Iterable[object], forwarded_from: Iterable[object]) -> None:
    """Writes `host.addresses` and `host.forwarded_from`. Raises UserError, changing nothing."""
    values = {ADDRESSES: [*map(str, addresses)], FORWARDED_FROM: [*map(str, forwarded_from)]}
    with open_mail_file(path) as file:
        host_node = next(value for key, value in file.root.value if key.value == "host")
        pairs = {key.value: (key, value) for key, value in host_node.value}
        key, _ = pairs[ADDRESSES]
        file.layout = (key.start_mark.line + 1, "host.addresses")
        file.expected = "a list in one line, `[203.0.113.25, …]`, or the change made by hand"
        _set_forwarded_from(file, host_node, pairs, values[FORWARDED_FROM])
        _write_list(file, *_find_pair(file, ADDRESSES), values[ADDRESSES])
        host = {name: value for name, value in file.data["host"].items() if name not in values}
        new = {name: value for name, value in values.items() if value}
        file.save_data({**file.data, "host": {**host, **new}}, "The host's addresses are not changed")


def _set_forwarded_from(file: MailFile, host: Any, pairs: dict[str, tuple[Any, Any]], values: list[str]) -> None:
    if FORWARDED_FROM in pairs:
        key, node = pairs[FORWARDED_FROM]
        if values:
            _write_list(file, key, node, values)
        elif host.flow_style:  # with the comma before it
            before = file.lines[key.start_mark.line][: key.start_mark.column].rstrip(" ,")
            file.lines[key.start_mark.line] = before + file.lines[node.end_mark.line][node.end_mark.column :]
        else:
            del file.lines[key.start_mark.line : line_after(node)]
    elif values and host.flow_style:
        _, addresses = pairs[ADDRESSES]
        end = addresses.end_mark
        line = file.lines[end.line]
        text = f", {FORWARDED_FROM}: {_format_list(values)}"
        file.lines[end.line] = f"{line[: end.column]}{text}{line[end.column :]}"
    elif values:
        key, addresses = pairs[ADDRESSES]
        line_text = f"{' ' * key.start_mark.column}{FORWARDED_FROM}: {_format_list(values)}"
        file.insert_lines(line_after(addresses), [line_text])
    file.root = file.compose()


def _find_pair(file: MailFile, name: str) -> tuple[Any, Any]:
    host = next(value for key, value in file.root.value if key.value == "host")
    return next((key, value) for key, value in host.value if key.value == name)


def _write_list(file: MailFile, key: Any, node: Any, values: list[str]) -> None:
    text = _format_list(values)
    if node.flow_style:
        file.replace_node(node, text)
        return
    first, after = node.value[0].start_mark.line, line_after(node)
    if any("#" in line for line in file.lines[first:after]):
        return  # `save_data` then refuses the change, rather than losing a comment
    del file.lines[first:after]
    line = file.lines[key.start_mark.line]
    colon = line.find(":", key.end_mark.column) + 1
    file.lines[key.start_mark.line] = f"{line[:colon]} {text}{line[colon:]}"


def _format_list(values: list[str]) -> str:
    """An IPv6 address in quotes: it has colons."""
    return "[" + ", ".join(f'"{value}"' if ":" in value else value for value in values) + "]"
