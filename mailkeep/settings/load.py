"""Reads `mail.yml` into `Settings`, or says what is wrong with it, in the words of mail.yml.

Fields are checked one by one first, how they relate (does this alias lead anywhere?) only once each is sound: one
typing error is not to turn into ten.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mailkeep.settings import renamed_keys, yaml_reader
from mailkeep.settings.models import Settings
from mailkeep.settings.sections import nested_models
from mailkeep.settings.yaml_reader import Document, Loc, Problem, SettingsError, format_kind, format_path, format_value

WANTS = {
    "model_type": "`setting: value` lines",
    "dict_type": "`key: value` lines",
    "tuple_type": "a list: one `- value` a line",
    "too_short": "at least one",
    "too_long": "at most {max_length}",
    "literal_error": "{expected}",
}


def load_settings(path: Path) -> Settings:
    """The settings in the YAML file `path`; raises SettingsError with all that is wrong with it."""
    return parse_settings(path, yaml_reader.read_text(path))


def parse_settings(path: Path, content: str) -> Settings:
    """The settings in `content`; `path` is for the messages. Raises SettingsError with all that is wrong."""
    document = yaml_reader.parse_document(path, content)
    problems = renamed_keys.move_renamed_keys(document)
    try:
        settings = Settings.model_validate(document.data)
    except ValidationError as error:
        details = [detail for detail in error.errors(include_url=False) if not _follows(detail)]
        raise SettingsError(path, [*problems, *(_problem(document, detail) for detail in details)]) from None
    if problems:
        raise SettingsError(path, problems)
    return settings


def _problem(document: Document, detail: ErrorDetails) -> Problem:
    loc = detail["loc"]
    if loc and loc[-1] == "[key]":
        loc = loc[:-1]
    return Problem(document.line(loc), format_path(loc), *_told(detail, loc))


def _told(detail: ErrorDetails, loc: Loc) -> tuple[str, str]:
    """What was found and what is wanted, in the words of mail.yml rather than of Python."""
    context = detail.get("ctx", {})
    kind, value = detail["type"], detail["input"]
    if kind == "want":
        return context["found"] or format_value(value), context["want"]
    if kind == "missing":
        return "nothing", f"this setting. {_description(loc)}"
    if kind == "extra_forbidden":
        return f"the unknown setting {format_value(loc[-1])}", _known_settings(loc)
    # Text where a list should be may be anything, a password with its address even.
    found = format_kind(value) if kind.endswith("_type") else format_value(value)
    return found, WANTS.get(kind, detail["msg"]).format(**context)


def _follows(detail: ErrorDetails) -> bool:
    """Whether it is told elsewhere: a list too short only because its items are wrong."""
    return detail["type"] == "too_short" and bool(detail["input"])


def _known_settings(loc: Loc) -> str:
    known = [*_model_around(loc).model_fields]
    near = get_close_matches(str(loc[-1])[:80], known, n=1)
    return f"{near[0]}" if near else f"one of {', '.join(known)}"


def _description(loc: Loc) -> str:
    return _model_around(loc).model_fields[str(loc[-1])].description or ""


def _model_around(loc: Loc) -> type[BaseModel]:
    """The model that the last key of `loc` is a setting of."""
    model: type[BaseModel] = Settings
    for name in loc[:-1]:
        if isinstance(name, str):
            model = next(nested_models(model.model_fields[name].annotation))
    return model
