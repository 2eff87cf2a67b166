"""Signatures on what leaves."""

import dkim

from mailkeep.dns.records import own_zone_records
from mailkeep.inventory.secrets import Secrets
from mailkeep.settings.models import Settings
from mailkeep.verify.outcome import fail_if_any, warn_if_any
from mailkeep.verify.target import ProbeResult


def _published(settings: Settings, secrets: Secrets) -> dict[str, str]:
    """The DKIM records that we tell operators to publish for the keys that sign, by name."""
    signing = {f"{key.selector}._domainkey.{key.domain}" for key in secrets.dkim}
    return {one.name: one.value for one in own_zone_records(settings, secrets) if one.name in signing}


def test_mail_is_signed(seen: ProbeResult, settings: Settings, secrets: Secrets, deploy: str) -> None:
    """Mail of every domain is signed, validly by the record that Mailkeep prints."""
    published = _published(settings, secrets)
    fail_if_any(
        (
            f"{domain}: {_flaw(saw, domain, published)}"
            for domain, saw in seen["signatures"].items()
            if _flaw(saw, domain, published)
        ),
        expected="a valid DKIM signature of each domain",
        remedy=f"`journalctl -u opendkim` says what is wrong; {deploy} restores keys and tables.",
    )


def _flaw(saw: dict[str, str], domain: str, published: dict[str, str]) -> str:
    if not saw["signature"]:
        return f"not signed (OpenDKIM answered {saw['verdict']!r})"
    if f"d={domain};" not in saw["signature"]:
        return f"signed for another domain: {saw['signature']}"
    message = f"DKIM-Signature: {saw['signature']}\r\n{saw['message']}".encode()

    def record(name: bytes, timeout: float = 0) -> bytes | None:  # noqa: ARG001 - as dkimpy calls it
        value = published.get(name.decode().rstrip("."))
        return value.encode() if value else None

    return "" if dkim.verify(message, dnsfunc=record) else f"the signature is not valid: {saw['signature']}"


def test_signatures_can_be_verified(seen: ProbeResult, settings: Settings, secrets: Secrets) -> None:
    """The DKIM records in the DNS are the ones that mail is signed with."""
    published = {name.partition("._domainkey.")[2]: value for name, value in _published(settings, secrets).items()}
    warn_if_any(
        (
            f"{domain}: {record or 'no record'}"
            for domain, record in seen["dkim records"].items()
            if _key(record) != _key(published[domain])
        ),
        expected="the public key of each domain's selector",
        remedy="Publish what `mailkeep dns` prints. A new record may take until the old one's time to live is over.",
    )


def _key(record: str) -> str:
    """Its p= tag (RFC 6376 section 3.6.1)."""
    tags = dict(tag.strip().split("=", 1) for tag in record.split(";") if "=" in tag)
    return "".join(tags.get("p", "").split())
