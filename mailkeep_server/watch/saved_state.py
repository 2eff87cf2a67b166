"""The watch's state of the last run: open troubles, alerts and notifications on their way, networks of logins."""

import json
from pathlib import Path
from typing import Any

from mailkeep_server.common import paths

FILE = Path(paths.WATCH_SAVED_STATE)

# Version 0.1.0 had other names.
_NAMES_0_1_0 = {
    "open": "open_troubles",
    "lines": "alerts",
    "told": "report_times",
    "letters": "notifications",
    "event": "last_event",
}
_FIELDS_0_1_0 = {"over": "end_text", "told": "last_report", "at": "time", "left": "pending_channels"}
_KEYS_0_1_0 = {
    "world:": "dns:",
    "way:": "channel:",
    "sensor:world": "sensor:dns",
    "freezes:look": "freezes:read",
    "freezes:carry_out": "freezes:enforce",
}


def read_state(file: Path = FILE) -> dict[str, Any]:
    """Empty if there is none, or it cannot be read: the watch must start."""
    try:
        state = json.loads(file.read_text())
        if not isinstance(state, dict):
            return {}
        return _convert_0_1_0(state) if "open" in state else state
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _convert_0_1_0(state: dict[str, Any]) -> dict[str, Any]:
    """Without it, the upgrade would report every open trouble again, and forget the networks of logins."""
    converted = {_NAMES_0_1_0.get(name, name): value for name, value in state.items()}
    for name in ("open_troubles", "report_times"):
        converted[name] = {_rename_key(key): value for key, value in converted.get(name, {}).items()}
    troubles = converted["open_troubles"]
    converted["open_troubles"] = {key: _rename_fields(fields) for key, fields in troubles.items()}
    for name in ("alerts", "notifications"):
        converted[name] = [_rename_fields(fields) for fields in converted.get(name, ())]
    return converted


def _rename_fields(fields: dict[str, Any]) -> dict[str, Any]:
    return {_FIELDS_0_1_0.get(name, name): value for name, value in fields.items()}


def _rename_key(key: str) -> str:
    for before, after in _KEYS_0_1_0.items():
        if key.startswith(before):
            return after + key.removeprefix(before)
    return key
