from datetime import date

import pytest

from mailkeep.inventory import tls_certificate
from mailkeep.inventory.secrets import Secrets, Tls
from mailkeep.parts import dns_watch
from mailkeep.settings.models import Settings
from mailkeep_server.dns_monitor import State, Values, changes, listings, state, unanswered


def test_the_providers_resolver_is_not_asked(declared: dict[str, object]) -> None:
    part = dns_watch.build_part(Settings.model_validate(declared | {"resolver": "system"}), None)  # type: ignore[arg-type]
    assert (part.packages, part.files, part.units, part.checks) == ((), (), (), ())


def test_other_values_count_as_other_records(declared: dict[str, object]) -> None:
    def config(**dns: str) -> bytes:
        one = Settings.model_validate(declared | {"dns": dns})
        return next(file.content for file in dns_watch.build_part(one, keys).files if file.path == dns_watch.CONFIG)

    pem = tls_certificate.self_signed("mail.example.org", date.today())
    keys = Secrets((), Tls(*tls_certificate.split(pem)), None)
    assert config() == config()
    assert config() != config(dmarc="none")


def test_what_nobody_answers_is_neither_a_change_nor_forgotten() -> None:
    seen = {"example.org MX": ["10 mail.example.org."]}
    assert changes(seen, {"example.org MX": None, "example.org TXT": ["v=spf1 -all"]}) == {}
    assert seen == {"example.org MX": ["10 mail.example.org."], "example.org TXT": ["v=spf1 -all"]}
    assert "is not there" in changes(seen, {"example.org MX": []})["example.org MX"]
    assert changes(seen, {"example.org MX": ["10 mail.example.org."]}) == {}


def test_what_is_published_only_after_the_deploy_counts_as_right() -> None:
    seen: dict[str, list[str]] = {}
    assert changes(seen, {"example.org MX": []}) == {}
    assert changes(seen, {"example.org MX": ["10 mail.example.org."]}) == {}
    assert seen == {"example.org MX": ["10 mail.example.org."]}
    assert "was 10 mail.example.org., and is not there" in changes(seen, {"example.org MX": []})["example.org MX"]


def test_a_trouble_lasts_while_nobody_answers() -> None:
    former = {"example.org MX": "example.org MX was A, and is B", "example.org TXT": "not asked about any more"}
    assert unanswered(["example.org MX"], [], former) == {"example.org MX": "example.org MX was A, and is B"}
    assert unanswered(["example.org MX"], ["example.org MX"], former) == {
        "example.org MX": "example.org MX was A, and is B"
    }


def test_that_nobody_answers_is_a_trouble_the_second_time() -> None:
    assert unanswered(["example.org MX"], ["example.org TXT"], {}) == {}
    [said] = unanswered(["example.org MX", "example.org TXT"], ["example.org TXT"], {}).values()
    assert said.startswith("example.org TXT: no answer, twice in a row")


TEST = ["127.0.0.2"]
# What a list says of an entry, of the one that it must have, and of the one that it must not.
LISTS: list[tuple[Values, Values, Values, State]] = [
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


@pytest.mark.parametrize(("entry", "test", "never", "expected"), LISTS)
def test_a_list_counts_only_if_it_works_and_tells(entry: Values, test: Values, never: Values, expected: State) -> None:
    assert state(entry, test, never) == expected


def test_only_a_listing_is_a_trouble_and_one_that_nobody_answers_for_now_lasts() -> None:
    one = {"list": "bl.test", "subject": "192.0.2.1", "entry": "e", "test": "t", "never": "n", "off": "ask them"}
    former = {"e": "bl.test lists 192.0.2.1 (127.0.0.2): ask them"}

    def found(entry: Values, test: Values, never: Values, troubles: dict[str, str]) -> dict[str, str]:
        return listings([one], {("e", "A"): entry, ("t", "A"): test, ("n", "A"): never}, troubles)

    for entry, test, never, expected in LISTS:
        assert bool(found(entry, test, never, {})) == (expected == "listed")
        assert bool(found(entry, test, never, former)) == (expected in ("listed", "unknown"))
    assert found(["127.0.0.2"], TEST, [], {}) == former
