"""README.md and docs/ as their readers meet them: commands to run and settings to write, in order."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = {
    str(path.relative_to(directory)): path
    for directory, pattern in ((ROOT, "*.md"), (ROOT / "docs", "**/*.md"))
    for path in sorted(directory.glob(pattern))
}
# The first line of each block of commands says on which machine its reader is.
PLACES: dict[str, Literal["clone", "machine", "server"]] = {
    "# on your machine, in a clone of this repository": "clone",
    "# on your machine": "machine",
    "# on the server": "server",
}
_FENCED = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_HOST = re.compile(
    r"\b(?:ssh"
    r"|mailkeep (?:plan|deploy|verify|alert-test|account (?:freeze|thaw)|blocklists|dns home --(?:check|moving)|inspect"
    r"|import|reports|report home|trace home|status|queue|bans|logins|backup home(?! --init \|)|restore|rebuild"
    r"|move))\b"
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
class SettingsBlock:
    """Lines of mail.yml. Each setting replaces the one of the same name; an indented block belongs to the first
    account."""

    text: str
    where: str


def read_blocks(document: str) -> list[Block]:
    text = DOCUMENTS[document].read_text()
    return [
        Block(match["language"], match["text"], f"{document}:{text.count(chr(10), 0, match.start()) + 1}")
        for match in _FENCED.finditer(text)
    ]


def read_steps(document: str) -> Iterator[Command | SettingsBlock]:
    for block in read_blocks(document):
        if block.language == "yaml":
            yield SettingsBlock(block.text, block.where)
        elif block.language == "sh":
            first, _, rest = block.text.partition("\n")
            for command in split_commands(rest, block.where):
                yield Command(command, PLACES[first], block.where)


def split_commands(text: str, where: str) -> Iterator[str]:
    """Splits as a shell does: a command ends with the first line that completes it."""
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


def read_prose(document: str) -> str:
    """The document without its fenced blocks."""
    return _FENCED.sub("", DOCUMENTS[document].read_text())
