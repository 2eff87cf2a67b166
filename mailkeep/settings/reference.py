"""Writes `docs/settings.md` from the models: `python -m mailkeep.settings.reference`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mailkeep.settings.fields import SERVICES, format_size
from mailkeep.settings.models import Settings
from mailkeep.settings.schema import build_json_schema
from mailkeep.settings.sections import nested_models

TARGET = Path(__file__).resolve().parents[2] / "docs" / "settings.md"

INTRODUCTION = """\
# Settings

What `inventories/NAME/mail.yml` holds, made from the models in `mailkeep/settings/models.py` by
`python -m mailkeep.settings.reference`; `mailkeep schema` prints the same as a JSON Schema, from which editors complete
and check. `inventories/example/mail.yml` is one to read; `mailkeep init` makes yours,
and `mailkeep check NAME` tells what is wrong with it.

- A value is the text that is written: `name: no` is the name "no". Nothing behind a key means its default.
- Sizes are in bytes, or in K, M, G or T, which are powers of 1024: `500M`.
- Networks have no host bits: `203.0.113.0/24`, or one address.
- Domains and addresses are lower-case ASCII. Internationalised domains are written in their ASCII form
  (`xn--mller-kva.example`); local parts beyond ASCII are not supported, since the server has no SMTPUTF8.
- An address in a mail domain must lead somewhere: to an account, an alias or a catch-all.
- YAML's anchors, aliases and tags (`&`, `*`, `!`) are refused; a value that begins with one goes in quotes.
"""


def render_reference() -> str:
    """The whole page."""
    ports = ", ".join(f"`{name}`" for name in SERVICES)
    sections = [
        INTRODUCTION,
        *_sections("", Settings),
        f"Ports go by number or by one of these names: {ports}.\n",
    ]
    return "\n".join(sections)


def _sections(prefix: str, model: type[BaseModel]) -> Iterator[str]:
    title = f"`{prefix.rstrip('.')}`" if prefix else "At the top"
    described = _schema_of(model)
    rows = [_row(name, field, described[name]) for name, field in model.model_fields.items()]
    head = ["| setting | meaning | default | example |", "|---|---|---|---|"]
    yield "\n".join([f"## {title}", "", model.__doc__ or "", "", *head, *rows, ""])
    for name, field in model.model_fields.items():
        for below in nested_models(field.annotation):
            many = "[]" if str(field.annotation).startswith("tuple") else ""
            yield from _sections(f"{prefix}{name}{many}.", below)


def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    whole = build_json_schema()
    properties: dict[str, Any] = (whole if model is Settings else whole["$defs"][model.__name__])["properties"]
    return properties


def _row(name: str, field: FieldInfo, described: dict[str, Any]) -> str:
    example = f"`{_yaml(field.examples[0])}`" if field.examples else ""
    return f"| `{name}` | {field.description} | {_default(field, described)} | {example} |"


def _default(field: FieldInfo, described: dict[str, Any]) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, BaseModel):
        return "see below"
    if field.default is None or field.default in ("", (), {}):
        return "none"
    is_size = any("KMGT" in choice.get("pattern", "") for choice in described["anyOf"])
    return f"`{format_size(field.default) if is_size else _yaml(described['default'])}`"


def _yaml(value: object) -> str:
    return (
        str(yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6))
        .removesuffix("...\n")
        .strip()
    )


if __name__ == "__main__":
    TARGET.write_text(render_reference())
