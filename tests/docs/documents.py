"""README.md and docs/ as their readers meet them: commands to run and settings to write, in order."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = {
    path.name: path for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))
}
# The first line of every block of commands says where its reader is.
PLACES: dict[str, Literal["clone", "machine", "server"]] = {
    "# on your machine, in a clone of this repository": "clone",
    "# on your machine": "machine",
    "# on the server": "server",
}
_FENCED = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_HOST = re.compile(
    r"\b(?:ssh|mail\.tar\.gz"
    r"|mailkeep (?:plan|deploy|verify|alert-test|account (?:freeze|thaw)|blocklists|dns home --check))\b"
)


@dataclass(frozen=True)
class Block:
    """A fenced block; `where` is FILE:LINE."""

    language: str
    text: str
    where: str


@dataclass(frozen=True)
class Command:
    text: str
    place: Literal["clone", "machine", "server"]
    where: str

    @property
    def needs_server(self) -> bool:
        return self.place == "server" or bool(_HOST.search(self.text))


@dataclass(frozen=True)
class Settings:
    """Lines of mail.yml: whole settings, which replace those of the same name; indented ones, of the first account."""

    text: str
    where: str


def blocks(document: str) -> list[Block]:
    text = DOCUMENTS[document].read_text()
    return [
        Block(found["language"], found["text"], f"{document}:{text.count(chr(10), 0, found.start()) + 1}")
        for found in _FENCED.finditer(text)
    ]


def steps(document: str) -> Iterator[Command | Settings]:
    for block in blocks(document):
        if block.language == "yaml":
            yield Settings(block.text, block.where)
        elif block.language == "sh":
            first, _, rest = block.text.partition("\n")
            for command in commands(rest, block.where):
                yield Command(command, PLACES[first], block.where)


def commands(text: str, where: str) -> Iterator[str]:
    """One after the other, as a shell reads them: a command ends with the first line that makes it whole."""
    gathered = ""
    for line in text.splitlines(keepends=True):
        gathered += line
        if (
            not line.endswith("\\\n")
            and subprocess.run(["bash", "-n", "-c", gathered], capture_output=True).returncode == 0
        ):
            if gathered.strip():
                yield gathered.rstrip("\n")
            gathered = ""
    assert not gathered, f"{where}: not a whole command: {gathered}"


def prose(document: str) -> str:
    return _FENCED.sub("", DOCUMENTS[document].read_text())
