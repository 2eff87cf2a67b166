"""Keys of mail.yml that were renamed. The old name still works; `mailkeep check` and `deploy` note it."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

from mailkeep.settings import yaml_reader
from mailkeep.settings.yaml_reader import Document, Loc, Problem, format_path

RENAMED_KEYS: dict[Loc, str] = {
    ("guard", "store"): "shared_store",  # since 0.2.0
}
"""The old key, as a path from the top, and its new name in the same section."""


def move_renamed_keys(document: Document) -> tuple[Document, list[Problem]]:
    """A document in which each old key's value has its new key; a problem for each pair of which both are written."""
    problems: list[Problem] = []
    if not any(old[-1] in _section_of(document, old) for old in RENAMED_KEYS):
        return document, problems
    document = deepcopy(document)
    for old, name in RENAMED_KEYS.items():
        section = _section_of(document, old)
        if old[-1] not in section:
            continue
        new = (*old[:-1], name)
        value = section.pop(old[-1])
        if name in section:
            actual = f"the old name of {format_path(new)}, which is on line {document.line(new)}"
            problems.append(Problem(document.line(old), format_path(old), actual, f"{format_path(new)} alone"))
        else:
            section[name] = value
            _move_lines(document.lines, old, new)
    return document, problems


def describe_renamed_keys(path: Path) -> list[str]:
    """A note to the operator for each old key in the file. Raises SettingsError if the file is no YAML."""
    document = yaml_reader.parse_document(path, yaml_reader.read_text(path))
    renamed = [(old, (*old[:-1], name)) for old, name in RENAMED_KEYS.items() if old[-1] in _section_of(document, old)]
    return [
        f"{path}:{document.line(old)}: {format_path(old)} is now {format_path(new)}; the old name still works"
        for old, new in renamed
    ]


def _section_of(document: Document, key: Loc) -> dict[str | int, object]:
    """The mapping that holds the key. Empty if its section is no mapping, which the models report."""
    section: object = document.data
    for name in key[:-1]:
        section = section.get(name) if isinstance(section, dict) else None
    return section if isinstance(section, dict) else {}


def _move_lines(lines: dict[Loc, int], old: Loc, new: Loc) -> None:
    for loc in [loc for loc in lines if loc[: len(old)] == old]:
        lines[(*new, *loc[len(old) :])] = lines.pop(loc)
