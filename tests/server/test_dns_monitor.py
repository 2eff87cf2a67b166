"""A record that changes or vanishes is a trouble, and so is a listing; silence proves neither."""

import json
from pathlib import Path

import pytest

from mailkeep_server import dns_monitor
from mailkeep_server.common.dnsbl import ListingState, Values, judge_listing
from mailkeep_server.dns_monitor import (
    Question,
    check_records,
    find_changes,
    find_listings,
    find_unanswered,
)

MX = "example.org MX"


def test_a_name_without_an_answer_is_neither_a_change_nor_forgotten() -> None:
    baseline = {MX: ["10 mail.example.org."]}
    assert find_changes(baseline, {MX: None, "example.org TXT": ["v=spf1 -all"]}) == {}
    assert baseline == {MX: ["10 mail.example.org."], "example.org TXT": ["v=spf1 -all"]}
    assert find_changes(baseline, {MX: []})[MX].endswith("now it is missing")
    assert find_changes(baseline, {MX: ["10 mail.example.org."]}) == {}


def test_a_record_that_is_published_only_after_the_deploy_counts_as_right() -> None:
    baseline: dict[str, list[str]] = {}
    assert find_changes(baseline, {MX: []}) == {}
    assert find_changes(baseline, {MX: ["10 mail.example.org."]}) == {}
    assert baseline == {MX: ["10 mail.example.org."]}
    assert find_changes(baseline, {MX: []}) == {
        MX: "example.org MX has changed: it was 10 mail.example.org., now it is missing"
    }


def test_a_trouble_lasts_while_nobody_answers() -> None:
    former = {MX: "example.org MX has changed", "example.org TXT": "no longer declared"}
    assert find_unanswered([MX], [], former) == {MX: "example.org MX has changed"}
    assert find_unanswered([MX], [MX], former) == {MX: "example.org MX has changed"}


def test_silence_is_a_trouble_the_second_time() -> None:
    assert find_unanswered([MX], ["example.org TXT"], {}) == {}
    [text] = find_unanswered([MX, "example.org TXT"], ["example.org TXT"], {}).values()
    assert text.startswith("example.org TXT: no answer, twice in a row")


TEST = ["127.0.0.2"]
# A list's answers for an entry, for the test entry that it must have, and for the one that it must not have.
LISTS: list[tuple[Values, Values, Values, ListingState]] = [
    (["127.0.0.2"], TEST, [], "listed"),
    (["127.0.0.4", "127.0.0.10"], TEST, [], "listed"),
    ([], TEST, [], "clear"),
    (["127.0.0.2"], [], [], "gone"),  # dead
    ([], [], [], "gone"),
    (["127.0.0.2"], TEST, ["127.0.0.2"], "gone"),  # it lists everything
    (["192.0.2.80"], ["192.0.2.80"], ["192.0.2.80"], "gone"),  # somebody else has bought its domain
    (["192.0.2.80"], TEST, [], "gone"),
    (["127.255.255.254"], ["127.255.255.254"], [], "refused"),
    (["127.255.255.254"], TEST, [], "refused"),
    ([], ["127.0.0.1"], [], "refused"),
    (["127.255.255.254"], None, None, "refused"),
    (None, TEST, [], "unknown"),
    (["127.0.0.2"], None, [], "unknown"),
    (["127.0.0.2"], TEST, None, "unknown"),
    (None, None, None, "unknown"),
]


@pytest.mark.parametrize(("entry", "must_list", "must_not_list", "expected"), LISTS)
def test_a_list_counts_only_if_it_works_and_answers(
    entry: Values, must_list: Values, must_not_list: Values, expected: ListingState
) -> None:
    assert judge_listing(entry, must_list, must_not_list) == expected


def test_only_a_listing_is_a_trouble_and_it_lasts_while_the_list_does_not_answer() -> None:
    blocklist = {"zone": "bl.test", "subject": "192.0.2.1", "entry": "e", "must_list": "t", "must_not_list": "n"}
    blocklist["delisting"] = "ask them"
    former = {"e": "bl.test lists 192.0.2.1 (127.0.0.2): ask them"}

    def troubles(entry: Values, must_list: Values, must_not_list: Values, former: dict[str, str]) -> dict[str, str]:
        answers = {("e", "A"): entry, ("t", "A"): must_list, ("n", "A"): must_not_list}
        return find_listings([blocklist], answers, former)

    for entry, must_list, must_not_list, expected in LISTS:
        assert bool(troubles(entry, must_list, must_not_list, {})) == (expected == "listed")
        assert bool(troubles(entry, must_list, must_not_list, former)) == (expected in ("listed", "unknown"))
    assert troubles(["127.0.0.2"], TEST, [], {}) == former


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[Question, Values]:
    """What the resolver answers, by name and type."""
    answers: dict[Question, Values] = {}
    monkeypatch.setattr(dns_monitor, "query_values", answers.get)
    return answers


def run_check(directory: Path, *names: str, values: str = "") -> dict[str, str]:
    config = {"records": [name.split() for name in names], "values": values, "lists": []}
    (directory / "dns.json").write_text(json.dumps(config))
    check_records(directory / "dns.json", directory)
    troubles: dict[str, str] = json.loads((directory / "troubles.json").read_text())["troubles"]
    return troubles


def test_a_change_is_a_trouble_until_it_is_back_or_other_records_are_deployed(
    tmp_path: Path, answers: dict[Question, Values]
) -> None:
    answers["example.org", "MX"] = ["10 mail.example.org."]
    assert run_check(tmp_path, MX) == {}
    answers["example.org", "MX"] = ["10 mx.example.net."]
    assert list(run_check(tmp_path, MX)) == [MX]
    answers["example.org", "MX"] = None
    assert "now it is 10 mx.example.net." in run_check(tmp_path, MX)[MX], "silence ends no trouble"
    answers["example.org", "MX"] = ["10 mx.example.net."]
    assert run_check(tmp_path, MX, values="others") == {}
    answers["example.org", "MX"] = ["10 mail.example.org."]
    assert list(run_check(tmp_path, MX, values="others")) == [MX]


def test_state_of_version_0_1_0_is_replaced(tmp_path: Path, answers: dict[Question, Values]) -> None:
    (tmp_path / "seen.json").write_text('{"config": "0", "records": {"example.org MX": ["old"]}, "silent": []}')
    (tmp_path / "troubles.json").write_text('{"troubles": {"example.org MX": "example.org MX was old, and is new"}}')
    answers["example.org", "MX"] = ["10 mail.example.org."]
    assert run_check(tmp_path, MX) == {}
    assert {file.name for file in tmp_path.iterdir()} == {"dns.json", "baseline.json", "troubles.json"}
