"""The JSON Schema of `mail.yml`."""

from __future__ import annotations

from typing import Any

from mailkeep.settings.models import Settings


def build_json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of `mail.yml`, for editors. It does not relate settings to each other."""
    made = Settings.model_json_schema()
    for model in (made, *made["$defs"].values()):
        required = model.get("required", ())
        for name, setting in model.get("properties", {}).items():
            if name not in required:  # a key with nothing behind it means the default
                model["properties"][name] = _or_nothing(setting)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | made


def _or_nothing(setting: dict[str, Any]) -> dict[str, Any]:
    about = {key: setting[key] for key in ("title", "description", "default", "examples") if key in setting}
    kind = {key: value for key, value in setting.items() if key not in about}
    choices = kind["anyOf"] if [*kind] == ["anyOf"] else [kind]
    nothing = {"type": "null"}
    return about | {"anyOf": [*choices, *([nothing] if nothing not in choices else [])]}
