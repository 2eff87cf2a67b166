"""Words for people."""

import json
import subprocess


def count_noun(number: int, noun: str, plural: str = "") -> str:
    """`1 message`, `2 messages`; `2 addresses` by a `plural` of its own."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def describe_error(error: BaseException) -> str:
    """An error as a sentence, without Python's names for it."""
    if isinstance(error, UnicodeError):
        return "it contains bytes that are no text"
    if isinstance(error, subprocess.TimeoutExpired):
        command = error.cmd if isinstance(error.cmd, str) else " ".join(map(str, error.cmd[:3]))
        return f"`{command}` did not end within {error.timeout:.0f} seconds"
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or "no answer"
        return f"{error.filename}: {reason}" if error.filename else reason
    if isinstance(error, json.JSONDecodeError):
        return "it is not as Mailkeep wrote it (no JSON)"
    if isinstance(error, LookupError):
        return f"something expected is missing ({error})"
    text = str(error)
    if isinstance(error, ValueError) and text.startswith("invalid literal"):
        return f"a number was expected, not {text.rpartition(': ')[2]}"
    return text or "an error without a description"


def printable_text(text: str) -> str:
    """Text that others wrote, for a terminal: without control characters, escape sequences and marks of direction."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
