"""The JSON Schema of `mail.yml`."""

from __future__ import annotations

from typing import Any

from mailkeep.settings.models import Settings


def build_json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of `mail.yml`, for editors. It does not relate settings to each other."""
    schema = Settings.model_json_schema()
    for model in (schema, *schema["$defs"].values()):
        required = model.get("required", ())
        for name, setting in model.get("properties", {}).items():
            if name not in required:  # a key without a value means the default
                model["properties"][name] = _allow_null(setting)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def _allow_null(setting: dict[str, Any]) -> dict[str, Any]:
    annotations = {key: setting[key] for key in ("title", "description", "default", "examples") if key in setting}
    constraints = {key: value for key, value in setting.items() if key not in annotations}
    choices = constraints["anyOf"] if [*constraints] == ["anyOf"] else [constraints]
    null = {"type": "null"}
    return annotations | {"anyOf": [*choices, *([null] if null not in choices else [])]}
