"""Renders `templates/…`, which are laid out as on the host."""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).resolve().parent / "templates"


@cache
def _create_environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        auto_reload=False,  # templates do not change while Mailkeep runs
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - configuration files, not HTML
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_template(template: str, **values: object) -> bytes:
    """`templates/TEMPLATE.j2` with these values. Raises jinja2.UndefinedError for a name without a value."""
    return _create_environment().get_template(template + ".j2").render(**values).encode()
