"""Any file becomes settings or a SettingsError, in seconds and without a traceback."""

import copy
import os
import random
import re
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import yaml
from hypothesis import example
from hypothesis import strategies as st
from settings_samples import COMPLETE

from mailkeep.settings.load import load_settings
from mailkeep.settings.models import Settings
from mailkeep.settings.yaml_reader import SettingsError


@pytest.fixture(scope="module")
def loads(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], Settings | SettingsError]:
    path = tmp_path_factory.mktemp("fuzzed") / "mail.yml"

    def loads(content: bytes) -> Settings | SettingsError:
        path.write_bytes(content)
        try:
            return load_settings(path)
        except SettingsError as error:
            check_message(path, str(error))
            return error

    return loads


def check_message(path: Path, message: str) -> None:
    """Three lines a problem: position, found, want; all on one screen."""
    assert len(message) < 20_000
    lines = message.split("\n")
    if re.fullmatch(r"… and [0-9]+ more", lines[-1]):
        lines.pop()
    assert len(lines) % 3 == 0
    for place, actual, expected in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        assert re.match(re.escape(f"{path}") + r"(:[1-9][0-9]*)?: .", place), place
        assert re.match(r"  found  .", actual), actual
        assert re.match(r"  want   .", expected), expected


Loads = Callable[[bytes], Settings | SettingsError]


@pytest.mark.slow
@hypothesis.settings(max_examples=200)
@hypothesis.given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_a_message(loads: Loads, content: bytes) -> None:
    assert isinstance(loads(content), SettingsError)


YAML_TEXT = st.text(
    st.one_of(st.sampled_from("-:?,[]{}#&*!|>'\"%@`\n\r\t ~<=\x85\u2028\ufeff\x1f\\"), st.characters(codec="utf-8")),
    max_size=200,
)


@pytest.mark.slow
@hypothesis.settings(max_examples=300)
@hypothesis.given(YAML_TEXT)
@example("\ufeff")
@example("\ufeff\ufeffa: 1")
@example("%YAML 9.9\n---\na: 1")
@example("%TAG ! !\n--- !x\na: 1")
@example("a: 'b\n---\nc'")
@example("? ")
@example(": ")
@example("{")
@example("{}")
@example("[{}, {")
@example("? ? ? ? a")
@example('"\\ud800": 1')
@example('a: "\\U00110000"')
@example("password: x")
@example("accounts: [{password: {a: {b: {c: 1}}}}]")
def test_any_text_is_refused_with_a_message(loads: Loads, content: str) -> None:
    assert isinstance(loads(content.encode()), SettingsError)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.dates(),
    st.text(max_size=20),
    st.sampled_from(["a@b.example", "example.org", "mail.example.org", "1M", "9" * 400, "-", "0", "@", "/", "::", "%"]),
)
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(SCALARS, v, max_size=3), max_leaves=6
)
PARTS = re.split(r"(\W)", COMPLETE)
DOCUMENT = yaml.safe_load(COMPLETE)


@pytest.mark.slow
@hypothesis.settings(max_examples=120)
@hypothesis.given(st.data())
def test_a_valid_document_with_any_value_anywhere_loads_or_is_refused(loads: Loads, data: st.DataObject) -> None:
    document = copy.deepcopy(DOCUMENT)
    for _ in range(data.draw(st.integers(1, 3))):
        node = document
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if not isinstance(node[key], dict | list) or data.draw(st.booleans()):
                node[key] = data.draw(VALUES)
                break
            node = node[key]
    loads(yaml.safe_dump(document, allow_unicode=data.draw(st.booleans())).encode())


@pytest.mark.slow
@hypothesis.settings(max_examples=300)
@hypothesis.given(
    st.lists(
        st.tuples(st.integers(0, len(PARTS) - 1), st.one_of(st.sampled_from(PARTS), YAML_TEXT)), min_size=1, max_size=3
    )
)
def test_a_valid_document_with_pieces_of_text_replaced_loads_or_is_refused(
    loads: Loads, edits: list[tuple[int, str]]
) -> None:
    parts = PARTS.copy()
    for index, part in edits:
        parts[index] = part
    loads("".join(parts).encode())


@pytest.mark.slow
def test_a_valid_document_cut_anywhere_loads_or_is_refused(loads: Loads) -> None:
    content = COMPLETE.encode()
    results = [loads(content[:length]) for length in range(0, len(content), 7)]
    assert sum(isinstance(result, SettingsError) for result in results) > 100
    assert isinstance(loads(content), Settings)


@pytest.mark.slow
def test_a_valid_document_with_bits_flipped_loads_or_is_refused(loads: Loads) -> None:
    chance = random.Random(1)  # noqa: S311 - the same flips every time
    results = []
    for _ in range(200):
        content = bytearray(COMPLETE.encode())
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        results.append(loads(bytes(content)))
    assert {type(result) for result in results} == {Settings, SettingsError}


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        "[" * 10**6,
        "{" * 10**6,
        "- " * 10**5,
        "a: " * 10**5,
        "? " * 10**5,
        "a" * (5 * 10**6),
        "- a\n" * 500_000,
        "domains: [" + "a," * 500_000 + "]",
        "domains: [" + "a," * 10_000 + "]",
        "host: {name: " + "a." * 10**6 + "}",
        "host: {name: " + "a@" * 10**6 + "}",
        "relay: {host: '[" + "]:" * 10**6 + "\\n'}",
        "accounts: [{quota: " + "1" * 10**6 + ", address: " + "a." * 10**6 + "@b}]",
        "".join(f"k{n}: 1\n" for n in range(5_000)),
        "#" * (5 * 10**6),
    ],
    ids=lambda content: content[:20],
)
def test_a_huge_file_is_refused_in_seconds(loads: Loads, content: str) -> None:
    start = os.times().user
    assert isinstance(loads(content.encode()), SettingsError)
    assert os.times().user - start < 5
