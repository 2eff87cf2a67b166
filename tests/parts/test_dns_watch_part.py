"""The daily check of the records is set up where it can ask, and starts anew when the declared records change."""

import json
from datetime import date

from mailkeep.dns import blocklists
from mailkeep.inventory import tls_certificate
from mailkeep.inventory.secrets import Secrets
from mailkeep.inventory.tls_keys import TlsPair
from mailkeep.parts import dns_watch
from mailkeep.settings.models import Settings

KEYS = Secrets(
    (), TlsPair(*tls_certificate.split_pem(tls_certificate.create_self_signed("mail.example.org", date.today()))), None
)


def config(declared: dict[str, object], **dns: str) -> bytes:
    part = dns_watch.build_part(Settings.model_validate(declared | {"dns": dns}), KEYS)
    return next(file.content for file in part.files if file.path == dns_watch.CONFIG)


def test_the_providers_resolver_is_not_asked(declared: dict[str, object]) -> None:
    part = dns_watch.build_part(Settings.model_validate(declared | {"resolver": "system"}), KEYS)
    assert (part.packages, part.files, part.units, part.checks) == ((), (), (), ())


def test_other_values_count_as_other_records(declared: dict[str, object]) -> None:
    assert config(declared) == config(declared)
    assert config(declared) != config(declared, dmarc="none")


def test_every_address_is_looked_up_in_every_blocklist_with_its_test_entries(declared: dict[str, object]) -> None:
    lists = json.loads(config(declared))["lists"]
    assert {blocklist["zone"] for blocklist in lists} == {
        blocklist.zone for blocklist in blocklists.LISTS if not blocklist.is_allowlist
    }
    (zen,) = [blocklist for blocklist in lists if (blocklist["zone"], blocklist["subject"]) == (ZEN, "192.0.2.1")]
    assert zen["entry"] == f"1.2.0.192.{ZEN}"
    assert zen["must_list"] == f"2.0.0.127.{ZEN}"
    assert zen["must_not_list"] == f"1.0.0.127.{ZEN}"
    assert "https://check.spamhaus.org/" in zen["delisting"]


ZEN = "zen.spamhaus.org"
