"""The documentation is read in a hurry: its sentences are short."""

import re

import pytest
from documents import DOCUMENTS, read_prose

MAX_WORDS = 25
WRITTEN = [name for name in DOCUMENTS if name != "settings.md"]  # which the models' descriptions make
_HEADING = re.compile(r"^#.*$", re.MULTILINE)
_ITEM = re.compile(r"\n\s*\n|\n(?=- |\d+\. |\|)")
_END = re.compile(r"(?<=[.;?!])\**\s+")


def split_sentences(document: str) -> list[str]:
    """A semicolon ends a sentence too. A cell of a table is one, an inline code is one word."""
    prose = re.sub(r"\]\([^)]*\)", "]", _HEADING.sub("\n\n", read_prose(document)))
    prose = re.sub(r"`[^`]*`", "CODE", prose)
    cells = [cell for item in _ITEM.split(prose) for cell in (item.split("|") if item.startswith("|") else [item])]
    return [sentence for cell in cells for sentence in _END.split(cell.replace("\n", " "))]


@pytest.mark.parametrize("document", WRITTEN)
def test_no_sentence_is_longer_than_25_words(document: str) -> None:
    assert [sentence for sentence in split_sentences(document) if len(sentence.split()) > MAX_WORDS] == []
