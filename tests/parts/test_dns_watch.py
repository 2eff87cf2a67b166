from datetime import date

from mailkeep import certificate
from mailkeep.dns.on_server import changes, listings
from mailkeep.parts import dns_watch
from mailkeep.secrets import Secrets, Tls
from mailkeep.settings import Settings


def test_the_providers_resolver_is_not_asked(declared: dict[str, object]) -> None:
    part = dns_watch.part(Settings.model_validate(declared | {"resolver": "system"}), None)  # type: ignore[arg-type]
    assert (part.packages, part.files, part.checks) == ((), (), ())
    assert [unit.running for unit in part.units] == [False]


def test_other_values_count_as_other_records(declared: dict[str, object]) -> None:
    def config(**dns: str) -> bytes:
        one = Settings.model_validate(declared | {"dns": dns})
        return next(file.content for file in dns_watch.part(one, keys).files if file.path == dns_watch.CONFIG)

    pem = certificate.self_signed("mail.example.org", date.today())
    keys = Secrets((), Tls(*certificate.split(pem)), None)
    assert config() == config()
    assert config() != config(dmarc="none")


def test_what_nobody_answers_is_neither_a_change_nor_forgotten() -> None:
    seen = {"example.org MX": ["10 mail.example.org."]}
    assert changes(seen, {"example.org MX": None, "example.org TXT": ["v=spf1 -all"]}) == {}
    assert seen == {"example.org MX": ["10 mail.example.org."], "example.org TXT": ["v=spf1 -all"]}
    assert "is not there" in changes(seen, {"example.org MX": []})["example.org MX"]
    assert changes(seen, {"example.org MX": ["10 mail.example.org."]}) == {}


def test_a_list_that_refuses_or_lists_everything_counts_for_nothing() -> None:
    one = {"list": "bl.test", "subject": "192.0.2.1", "entry": "e", "test": "t", "never": "n", "off": "ask them"}

    def found(entry: list[str], test: list[str], never: list[str]) -> bool:
        return bool(listings([one], {("e", "A"): entry, ("t", "A"): test, ("n", "A"): never}))

    assert found(["127.0.0.2"], ["127.0.0.2"], [])
    assert not found([], ["127.0.0.2"], [])
    assert not found(["127.0.0.2"], [], [])
    assert not found(["127.0.0.2"], ["127.0.0.2"], ["127.0.0.2"])
    assert not found(["127.255.255.254"], ["127.255.255.254"], [])
    assert not found(["192.0.2.80"], ["192.0.2.80"], [])
