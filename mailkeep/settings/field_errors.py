"""The error that a parser of a setting raises."""

from pydantic_core import PydanticCustomError

KIND = "expected"


def invalid(expected: str, actual: str | None = None) -> PydanticCustomError:
    """The error to raise. `expected` is a valid value; `actual` describes the present one where it must not be shown,
    or would say too little."""
    return PydanticCustomError(KIND, "{expected}", {"expected": expected, "actual": actual})


def require_text(value: object, expected: str) -> str:
    if not isinstance(value, str) or not value:
        raise invalid(expected)
    return value
