"""Describes every setting for operators: `list_sections` as data, `render_reference` as docs/settings.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mailkeep.settings.models import Settings
from mailkeep.settings.numbers import SERVICES, format_size
from mailkeep.settings.schema import build_json_schema
from mailkeep.settings.sections import nested_models

TARGET = Path(__file__).resolve().parents[2] / "docs" / "settings.md"

INTRODUCTION = """\
# Settings

What `inventories/NAME/mail.yml` holds, generated from the models in `mailkeep/settings/sections.py` by
`python -m mailkeep.settings.reference`. `mailkeep schema` prints the same as a JSON Schema, with which editors complete
and check. `mailkeep init` writes a mail.yml of yours, `mailkeep check NAME` says what is wrong with it, and
`inventories/example/mail.yml` is an example to read.
"""

RULES = (
    'A value is the text as written: `name: no` is the name "no". A key without a value means the default.',
    "Sizes are in bytes, or in K, M, G or T, which are powers of 1024: `500M`.",
    "Networks have no host bits: `203.0.113.0/24`, or a single address.",
    "Domains and addresses are lower-case ASCII. Write internationalised domains in their ASCII form "
    "(`xn--mller-kva.example`); local parts beyond ASCII are not supported, since the server offers no SMTPUTF8.",
    "An address in a mail domain must lead somewhere: to an account, an alias or a catch-all.",
    "YAML's anchors, aliases and tags (`&`, `*`, `!`) are refused; put a value that begins with one in quotes.",
    f"Ports are numbers, or one of these names: {', '.join(f'`{name}`' for name in SERVICES)}.",
)
"""What holds for all settings, in Markdown."""


SEE_BELOW = "see below"


@dataclass(frozen=True, slots=True)
class SettingReference:
    """One setting. `type` names the kind of value in a word or two. `default` and `example` are YAML on one line, "" if
    there is none. `default` is None if the setting is required, and `SEE_BELOW` for a section with defaults."""

    name: str
    type: str
    description: str
    default: str | None
    example: str


@dataclass(frozen=True, slots=True)
class SectionReference:
    """One section. `path` is "" at the top, else as in `tls.acme` or `accounts[]` (each item of a list)."""

    path: str
    description: str
    settings: tuple[SettingReference, ...]


def list_sections() -> list[SectionReference]:
    """Every section of mail.yml, each before those below it."""
    return [*_list_below("", Settings)]


def _list_below(path: str, model: type[BaseModel]) -> Iterator[SectionReference]:
    schema = build_json_schema()
    properties = (schema if model is Settings else schema["$defs"][model.__name__])["properties"]
    fields = model.model_fields.items()
    settings = tuple(_describe_setting(name, field, properties[name]) for name, field in fields)
    yield SectionReference(path, " ".join((model.__doc__ or "").split()), settings)
    for name, field in fields:
        for section in nested_models(field.annotation):
            brackets = "[]" if _is_list(field) else ""
            yield from _list_below(f"{path}.{name}{brackets}".removeprefix("."), section)


def _describe_setting(name: str, field: FieldInfo, schema: dict[str, Any]) -> SettingReference:
    return SettingReference(
        name,
        _name_type(field, schema),
        field.description or "",
        _format_default(field, schema),
        _format_yaml(field.examples[0]) if field.examples else "",
    )


def _is_list(field: FieldInfo) -> bool:
    return str(field.annotation).startswith("tuple")


def _name_type(field: FieldInfo, schema: dict[str, Any]) -> str:
    if _is_list(field):
        return "list"
    if any(nested_models(field.annotation)):
        return "section"
    if str(field.annotation).startswith("dict"):
        return "mapping"
    choices = [choice for choice in schema.get("anyOf", [schema]) if choice != {"type": "null"}]
    if any("enum" in choice and choice.get("type") == "string" for choice in choices):
        return "choice"
    if _is_size(schema):
        return "size"
    if {"enum": [*SERVICES]} in choices:
        return "port"
    names = {"integer": "number", "boolean": "yes or no", "string": "text"}
    return next((names[choice["type"]] for choice in choices if choice.get("type") in names), "text")


def _is_size(schema: dict[str, Any]) -> bool:
    return any("KMGT" in choice.get("pattern", "") for choice in schema.get("anyOf", ()))


def _format_default(field: FieldInfo, schema: dict[str, Any]) -> str | None:
    if field.is_required():
        return None
    if isinstance(field.default, BaseModel):
        return SEE_BELOW
    if field.default in (None, "", (), {}):
        return ""
    return format_size(field.default) if _is_size(schema) else _format_yaml(schema["default"])


def _format_yaml(value: object) -> str:
    text = str(yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6))
    return text.removesuffix("...\n").strip()


def render_reference() -> str:
    """docs/settings.md."""
    rules = "\n".join(f"- {rule}" for rule in RULES)
    return "\n".join([INTRODUCTION, f"{rules}\n", *(_render_section(section) for section in list_sections())])


def _render_section(section: SectionReference) -> str:
    title = f"`{section.path}`" if section.path else "At the top"
    head = ["| setting | meaning | default | example |", "|---|---|---|---|"]
    return "\n".join([f"## {title}", "", section.description, "", *head, *map(_render_row, section.settings), ""])


def _render_row(setting: SettingReference) -> str:
    words = {None: "required", "": "none", SEE_BELOW: SEE_BELOW}
    default = words.get(setting.default, f"`{setting.default}`")
    example = f"`{setting.example}`" if setting.example else ""
    return f"| `{setting.name}` | {setting.description} | {default} | {example} |"


if __name__ == "__main__":
    TARGET.write_text(render_reference())
