"""Names carry the meaning, so that prose need not: no filler words, verb + noun for functions, short sentences."""

import ast
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from house import ROOT

DIRECTORIES = ("mailkeep", "mailkeep_server", "tests", "bench", "molecule")
FILLERS = {"one", "found", "said", "seen", "given", "told", "there", "here", "made", "wanted", "own", "listed", "thing"}
"""Words that say nothing of the value that they would name."""
MAX_FILLERS = 0.005  # of all bindings
MAX_ONE_WORD_FUNCTIONS = 0.5  # of all functions
MAX_SENTENCE = 25  # words


@cache
def read_sources() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text()) for name in DIRECTORIES for path in sorted((ROOT / name).rglob("*.py"))}


def bindings(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Each name that the source binds, with its line: variables, parameters, functions, classes, imports."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node.lineno
            case ast.Name(ctx=ast.Store()):
                yield node.id, node.lineno
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr, node.lineno
            case ast.arg():
                yield node.arg, node.lineno
            case ast.alias():
                yield (node.asname or node.name.partition(".")[0]), node.lineno
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name, node.lineno


def functions(tree: ast.AST) -> Iterator[str]:
    """Names of functions and methods; not of those whose name Python prescribes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("__"):
            yield node.name.strip("_")


def sentences(path: Path, tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The sentences of docstrings and comments, each with a line near it; examples and tables are left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            for paragraph in re.split(r"\n\s*\n", node.value.value):
                if not re.search(
                    r"^\s*\|| {3,}\S|\A\w+: .*\n\w+: ", paragraph.strip(), re.M
                ):  # no table, no list of terms
                    yield from ((sentence, node.lineno) for sentence in split_sentences(paragraph))
    comments: list[str] = []
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                comments.append(token.string.lstrip("# "))
            elif token.type not in (tokenize.NL, tokenize.INDENT, tokenize.DEDENT) and comments:
                yield from ((sentence, token.start[0]) for sentence in split_sentences(" ".join(comments)))
                comments = []


def split_sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+(?=[A-Z`\"(])|;\s", text)


@pytest.mark.slow
def test_no_filler_names() -> None:
    names = [(name, path, line) for path, tree in read_sources().items() for name, line in bindings(tree)]
    fillers = [f"{path.relative_to(ROOT)}:{line}: {name}" for name, path, line in names if name.strip("_") in FILLERS]
    assert len(names) > 15_000
    assert len(fillers) <= MAX_FILLERS * len(names), "\n".join(fillers)


@pytest.mark.slow
def test_most_functions_are_verb_and_noun() -> None:
    names = [name for tree in read_sources().values() for name in functions(tree)]
    one_word = [name for name in names if "_" not in name]
    assert len(names) > 2_000
    assert len(one_word) < MAX_ONE_WORD_FUNCTIONS * len(names)


@pytest.mark.slow
@pytest.mark.parametrize("directory", DIRECTORIES)
def test_sentences_are_short(directory: str) -> None:
    long = [
        f"{path.relative_to(ROOT)}:{line}: {len(sentence.split())} words: {sentence[:90]}"
        for path, tree in read_sources().items()
        if path.is_relative_to(ROOT / directory)
        for sentence, line in sentences(path, tree)
        if len(sentence.split()) > MAX_SENTENCE
    ]
    assert long == []


@pytest.mark.parametrize(
    "source",
    ["found = 1", "for one in (): pass", "def given(): pass", "def f(told): pass", "x.said = 1", "import os as here"],
)
def test_a_filler_name_is_noticed_wherever_it_is_bound(source: str) -> None:
    assert {name for name, _ in bindings(ast.parse(source))} & FILLERS
