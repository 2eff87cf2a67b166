"""DKIM signatures of outgoing mail."""

import dkim

from mailkeep.dns.records import own_zone_records
from mailkeep.inventory.secrets import Secrets
from mailkeep.settings.models import Settings
from mailkeep.verify.outcome import fail_if_any, warn_if_any
from mailkeep.verify.target import ProbeResult


def _records_of_signing_keys(settings: Settings, secrets: Secrets) -> dict[str, str]:
    """The DKIM records that `mailkeep dns` prints for the keys that sign; values by name."""
    names = {f"{key.selector}._domainkey.{key.domain}" for key in secrets.dkim}
    return {record.name: record.value for record in own_zone_records(settings, secrets) if record.name in names}


def test_mail_is_signed(observed: ProbeResult, settings: Settings, secrets: Secrets, deploy: str) -> None:
    """Mail of every domain is signed, and valid by the record that Mailkeep prints."""
    records = _records_of_signing_keys(settings, secrets)
    signatures = observed["signatures"].items()
    flaws = {domain: _describe_flaw(signed, domain, records) for domain, signed in signatures}
    fail_if_any(
        (f"{domain}: {flaw}" for domain, flaw in flaws.items() if flaw),
        expected="a valid DKIM signature of each domain",
        remedy=f"`journalctl -u opendkim` says what is wrong; {deploy} restores keys and tables.",
    )


def _describe_flaw(signed: dict[str, str], domain: str, records: dict[str, str]) -> str:
    """Empty for a valid signature."""
    if not signed["signature"]:
        return f"not signed (OpenDKIM answered {signed['verdict']!r})"
    if f"d={domain};" not in signed["signature"]:
        return f"signed for another domain: {signed['signature']}"
    message = f"DKIM-Signature: {signed['signature']}\r\n{signed['message']}".encode()

    def find_record(name: bytes, timeout: float = 0) -> bytes | None:  # noqa: ARG001 - as dkimpy calls it
        value = records.get(name.decode().rstrip("."))
        return value.encode() if value else None

    return "" if dkim.verify(message, dnsfunc=find_record) else f"the signature is not valid: {signed['signature']}"


def test_signatures_can_be_verified(observed: ProbeResult, settings: Settings, secrets: Secrets) -> None:
    """The published DKIM records are those of the keys that sign."""
    records = _records_of_signing_keys(settings, secrets).items()
    expected = {name.partition("._domainkey.")[2]: value for name, value in records}
    warn_if_any(
        (
            f"{domain}: {record or 'no record'}"
            for domain, record in observed["dkim records"].items()
            if _public_key(record) != _public_key(expected[domain])
        ),
        expected="the public key of each domain's selector",
        remedy="Publish what `mailkeep dns` prints. A new record is seen when the old one's time to live is over.",
    )


def _public_key(record: str) -> str:
    """The p= tag (RFC 6376 section 3.6.1)."""
    tags = dict(tag.strip().split("=", 1) for tag in record.split(";") if "=" in tag)
    return "".join(tags.get("p", "").split())
