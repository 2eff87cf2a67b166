"""Another address for an account, as edits of mail.yml's text and as the data that they must lead to.

Its owner still gets mail to the former address, which becomes an alias, and may write from it by `send_as`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml


class Edit(NamedTuple):
    """A new text of a node; or without a node, lines that come before line `line`. `column` is then -1."""

    line: int
    column: int
    text: str
    node: Any = None


def rename_in_data(data: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """mail.yml's data after the rename. An alias `new` that leads to `old` alone turns round."""
    aliases: dict[str, Any] = dict(data.get("aliases") or {})
    if aliases.get(new) in (old, [old]):
        aliases[old] = aliases.pop(new)
    aliases.setdefault(old, new)
    accounts = [_rename_in_account(account, old, new) for account in data["accounts"]]
    return {**_replace_values({**data, "aliases": aliases}, old, new), "accounts": accounts}


def _rename_in_account(account: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    if account.get("address") != old:
        return dict(_replace_values(account, old, new))
    senders = [old if sender == new else sender for sender in account.get("send_as") or ()]
    return {**_replace_values(account, old, new), "send_as": senders if old in senders else [*senders, old]}


def list_edits(root: Any, old: str, new: str) -> Iterator[Edit]:
    """`root` is the node of the whole file, which has the account `old`. Of two edits before one line, the later in
    the file is first."""
    old_text, new_text = quote_scalar(old), quote_scalar(new)
    sections = _list_pairs(root)
    yield from _list_alias_edits(root, sections.get("aliases"), old, new)
    items = sections["accounts"][1].value
    account = next(item for item in items if _list_pairs(item)["address"][1].value == old)
    senders = _list_pairs(account).get("send_as", (None, None))[1]
    kept = list(list_values(senders)) if senders else []
    if any(node.value in (old, new) for node in kept):
        yield from (_replace(node, old_text) for node in kept if node.value == new)
        yield from _replace_all(root, old, new_text, kept)
        return
    address_key, address = _list_pairs(account)["address"]
    if senders is None and account.flow_style:
        yield _replace(address, f"{new_text}, send_as: [{old_text}]")
        yield from _replace_all(root, old, new_text, [address])
        return
    yield from _replace_all(root, old, new_text, [])
    if senders is None:
        yield Edit(line_after(address), -1, f"{' ' * address_key.start_mark.column}send_as: [{old_text}]")
    elif not senders.value:
        yield _replace(senders, f"[{old_text}]" if isinstance(senders.value, list) else f" [{old_text}]")
    elif senders.flow_style:
        last = senders.value[-1]
        yield _replace(last, f"{quote_scalar(last.value)}, {old_text}")
    else:
        yield Edit(line_after(senders), -1, f"{' ' * senders.start_mark.column}- {old_text}")


def _list_alias_edits(root: Any, section: tuple[Any, Any] | None, old: str, new: str) -> Iterator[Edit]:
    """The alias `old`, unless the file has it: instead of an alias `new` that leads to the account, else as the
    first."""
    line = f"{quote_scalar(old)}: {quote_scalar(new)}"
    if section is None:
        end, indent = root.end_mark, " " * root.start_mark.column
        yield Edit(end.line + bool(end.column), -1, f"{indent}aliases:\n{indent}  {line}")
        return
    key, aliases = section
    pairs = _list_pairs(aliases) if isinstance(aliases.value, list) else {}
    if old in pairs:
        return
    if new in pairs and [node.value for node in list_values(pairs[new][1])] == [old]:
        yield _replace(pairs[new][0], quote_scalar(old))
    elif not aliases.value and isinstance(aliases.value, list):
        yield _replace(aliases, f"{{{line}}}")
    elif not aliases.value:
        yield Edit(key.end_mark.line + 1, -1, f"{' ' * key.start_mark.column}  {line}")
    elif aliases.flow_style:
        first = aliases.value[0][0]
        yield _replace(first, f"{line}, {quote_scalar(first.value)}")
    else:
        first = aliases.value[0][0].start_mark
        yield Edit(first.line, -1, " " * first.column + line)


def quote_scalar(text: str) -> str:
    """As YAML needs it within a line."""
    return str(yaml.safe_dump([text], allow_unicode=True, width=10**6))[2:].rstrip("\n")


def list_values(node: Any) -> Iterator[Any]:
    """All scalars in a node but keys."""
    if isinstance(node.value, str):
        yield node
        return
    for child in node.value:
        yield from list_values(child[1] if isinstance(child, tuple) else child)


def line_after(node: Any) -> int:
    """The line after the last line of a node. The end mark of a block would include the blank lines and comments after
    it."""
    while not getattr(node, "flow_style", True) and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    line: int = node.end_mark.line
    return line + 1 if node.end_mark.column else line


def _replace(node: Any, text: str) -> Edit:
    return Edit(node.start_mark.line, node.start_mark.column, text, node)


def _replace_all(root: Any, old: str, new_text: str, kept: list[Any]) -> Iterator[Edit]:
    for node in list_values(root):
        if node.value == old and not any(node is other for other in kept):
            yield _replace(node, new_text)


def _replace_values(data: Any, old: str, new: str) -> Any:
    """All values that are `old`, and no keys."""
    if isinstance(data, dict):
        return {key: _replace_values(value, old, new) for key, value in data.items()}
    if isinstance(data, list):
        return [_replace_values(value, old, new) for value in data]
    return new if data == old else data


def _list_pairs(mapping: Any) -> dict[str, tuple[Any, Any]]:
    return {key.value: (key, value) for key, value in mapping.value}
