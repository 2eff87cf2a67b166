"""What fails is tried once more with what it needs: the tests of its file before it."""

import json
from pathlib import Path

import pytest

from scripts.list_failed_tests import list_failed_tests


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "lastfailed"


def test_a_file_whose_tests_follow_each_other_is_run_again_whole(cache: Path) -> None:
    cache.write_text(json.dumps({"tests/lab/test_move.py::test_b": True, "tests/lab/test_move.py::test_a": True}))
    assert list_failed_tests(cache) == ["tests/lab/test_move.py"]


def test_a_test_with_a_server_of_its_own_is_run_again_alone(cache: Path) -> None:
    test = "tests/lab/test_verify.py::test_a_fault[some words]"
    cache.write_text(json.dumps({test: True}))
    assert list_failed_tests(cache) == [test]


def test_a_run_that_left_nothing_behind_is_a_fault(cache: Path) -> None:
    with pytest.raises(OSError, match="lastfailed"):
        list_failed_tests(cache)
