"""Reads `mail.yml` into `Settings`, or says in the words of mail.yml what is wrong with it.

Fields are checked one by one first. How they relate (does this alias lead anywhere?) is checked only once each is
valid: one typing error must not become ten messages.
"""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mailkeep.settings import field_errors, renamed_keys, yaml_reader
from mailkeep.settings.models import Settings
from mailkeep.settings.sections import nested_models
from mailkeep.settings.yaml_reader import Document, Loc, Problem, SettingsError, format_kind, format_path, format_value

EXPECTED = {
    "model_type": "`setting: value` lines",
    "dict_type": "`key: value` lines",
    "tuple_type": "a list: one `- value` a line",
    "too_short": "at least one",
    "too_long": "at most {max_length}",
    "literal_error": "{expected}",
}
"""By pydantic's kind of error: what mail.yml should hold instead."""


def load_settings(path: Path) -> Settings:
    """The settings in the YAML file `path`. SettingsError lists all its problems."""
    return parse_settings(path, yaml_reader.read_text(path))


@lru_cache(maxsize=1)  # a command reads the settings, then edits the same file
def parse_settings(path: Path, content: str) -> Settings:
    """The settings in `content`; `path` is for the messages. SettingsError lists all problems."""
    return _check_document(path, yaml_reader.parse_document(path, content))


def parse_edited_settings(path: Path, content: str, former: str) -> Settings:
    """As `parse_settings`, after an edit of the accounts. Those that are as in `former` are not checked again: among
    10,000 that would take a quarter of the command's time."""
    try:
        settings = parse_settings(path, former)
    except SettingsError:
        return parse_settings(path, content)
    pairs = zip(yaml_reader.parse_document(path, former).data.get("accounts") or (), settings.accounts, strict=True)
    checked = {account.address: (fields, account) for fields, account in pairs}

    def replace_checked(fields: dict[str, object]) -> object:
        before, account = checked.get(str(fields.get("address")), (None, None))
        return account if before == fields else fields

    document = yaml_reader.parse_document(path, content)
    if accounts := document.data.get("accounts"):
        data = {**document.data, "accounts": [replace_checked(fields) for fields in accounts]}
        document = replace(document, data=data)
    return _check_document(path, document)


def _check_document(path: Path, document: Document) -> Settings:
    document, problems = renamed_keys.move_renamed_keys(document)
    try:
        with yaml_reader.paused_collection():
            settings = Settings.model_validate(document.data)
    except ValidationError as error:
        details = [detail for detail in error.errors(include_url=False) if not _is_consequence(detail)]
        raise SettingsError(path, [*problems, *(_to_problem(document, detail) for detail in details)]) from None
    if problems:
        raise SettingsError(path, problems)
    return settings


def _to_problem(document: Document, detail: ErrorDetails) -> Problem:
    loc = detail["loc"]
    if loc and loc[-1] == "[key]":
        loc = loc[:-1]
    return Problem(document.line(loc), format_path(loc), *_describe_error(detail, loc))


def _describe_error(detail: ErrorDetails, loc: Loc) -> tuple[str, str]:
    """The actual value and the expected one, in the words of mail.yml rather than of Python."""
    context = detail.get("ctx", {})
    kind, value = detail["type"], detail["input"]
    if kind == field_errors.KIND:
        return context["actual"] or format_value(value), context["expected"]
    if kind == "missing":
        return "nothing", f"this setting. {_description_of(loc)}"
    if kind == "extra_forbidden":
        return f"the unknown setting {format_value(loc[-1])}", _known_settings(loc)
    # Text in place of a list may be anything, even an address with its password.
    actual = format_kind(value) if kind.endswith("_type") else format_value(value)
    return actual, EXPECTED.get(kind, detail["msg"]).format(**context)


def _is_consequence(detail: ErrorDetails) -> bool:
    """Whether another error causes this one: a list is too short only because its items are wrong."""
    return detail["type"] == "too_short" and bool(detail["input"])


def _known_settings(loc: Loc) -> str:
    known = [*_model_around(loc).model_fields]
    similar = get_close_matches(str(loc[-1])[:80], known, n=1)
    return similar[0] if similar else f"one of {', '.join(known)}"


def _description_of(loc: Loc) -> str:
    return _model_around(loc).model_fields[str(loc[-1])].description or ""


def _model_around(loc: Loc) -> type[BaseModel]:
    """The model that has the last key of `loc` as a setting."""
    model: type[BaseModel] = Settings
    for name in loc[:-1]:
        if isinstance(name, str):
            model = next(nested_models(model.model_fields[name].annotation))
    return model
