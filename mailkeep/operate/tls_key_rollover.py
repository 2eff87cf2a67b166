"""A new TLS key in place of the old one, without a moment in which who checks TLSA records (DANE) does not deliver.

The vault says how far it is (`mailkeep.secrets`): a key is first `.next`, and its record published beside the present
one's; once that is seen it is `.from-TIME`, for until then some still have the former records; then it is the key, and
the former one `.former` until the server shows the new one (RFC 7671 §8.1). Each call does what can be done by now and
says what to do next, so it may be repeated, and interrupted, at will.
"""

import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import dns.resolver
from cryptography import x509

from mailkeep.dns import observe, records
from mailkeep.dns.client import Question
from mailkeep.dns.records import Record
from mailkeep.errors import UserError
from mailkeep.inventory import tls_certificate
from mailkeep.inventory.hosts import inventory_label
from mailkeep.inventory.tls_keys import list_acme_tls_entries
from mailkeep.inventory.vault import Vault, open_vault
from mailkeep.inventory.vault_entries import ACME_TLS, AcmeTlsEntry
from mailkeep.operate.dkim_rotation import LEAST_AGE
from mailkeep.settings.models import Settings

KEY = ACME_TLS
NEXT, FORMER = AcmeTlsEntry("next").name, AcmeTlsEntry("former").name
IMAPS = 993  # shows the same certificate as port 25, which many networks let nobody out to
SECONDS = 10

Unseen = Callable[[Record], tuple[list[str], int]]
"""Which servers do not give this record, in their words; and for how many seconds others may keep what they have."""

Shown = Callable[[Settings], dict[str, str]]
"""By address of the host, the value of a TLSA record for the key that it shows; addresses that answer only."""


def roll(
    settings: Settings, inventory: Path, at: datetime, unseen: Unseen, shown: Shown, *, now: bool = False
) -> list[str]:
    """The next step: what was done and what to do. `now` begins even if the key is new."""
    if settings.tls.mode != "acme":
        raise UserError(f"tls.mode is {settings.tls.mode}: only keys for `acme` are rolled over by this command.")
    safe, host, name = open_vault(inventory), settings.host.name, inventory_label(inventory)
    _finish(safe)
    there = safe.names()
    if NEXT in there:
        return [*_see(safe, host, at, unseen, name)]
    if waiting := next((entry for entry in list_acme_tls_entries(safe) if entry.usable_from), None):
        return [*_switch(safe, host, waiting, at, unseen, name)]
    if FORMER in there:
        return [*_retire(safe, settings, shown, name)]
    return [*_begin(safe, host, at, name, now)]


def _begin(safe: Vault, host: str, at: datetime, name: str, now: bool) -> Iterator[str]:
    made, today = _leaf(safe, KEY).not_valid_before_utc.date() + timedelta(days=1), at.date()
    if made >= today or (today - made < LEAST_AGE and not now):
        yield f"The key is of {made}; from {made + LEAST_AGE} on it is time for another (any day later: --now)."
        return
    safe.write(NEXT, tls_certificate.create_self_signed(host, today))
    yield "A new key is in the vault, and is not shown yet. Publish its record beside the present one:"
    for one in (KEY, NEXT):
        record = _record(safe, host, one)
        yield f"{record.name}  {record.type}\n  {record.value}{'  (is there already)' if one == KEY else ''}"
    yield f"Then run `mailkeep tls-roll {name}` again: it looks whether both are seen."


def _see(safe: Vault, host: str, at: datetime, unseen: Unseen, name: str) -> Iterator[str]:
    missing, lives = unseen(_record(safe, host, NEXT))
    if missing:
        yield f"The new key's record is not seen yet: {'; '.join(missing)}."
        yield f"Publish it; `mailkeep dns {name}` prints it. Then run `mailkeep tls-roll {name}` again."
        return
    start = at + timedelta(seconds=lives, minutes=1)  # the name has minutes, rounded down
    safe.write(AcmeTlsEntry.next_usable_from(start).name, safe.read(NEXT))
    safe.delete(NEXT)
    yield f"Both records are seen. Some may have the former ones alone for {lives} seconds more."
    yield f"From {start:%Y-%m-%d %H:%M} UTC on, run `mailkeep tls-roll {name}` again."


def _switch(safe: Vault, host: str, waiting: AcmeTlsEntry, at: datetime, unseen: Unseen, name: str) -> Iterator[str]:
    start = waiting.usable_time
    if at < start:
        yield f"Some may still have the former records. From {start:%Y-%m-%d %H:%M} UTC on, run this again."
        return
    missing, _ = unseen(_record(safe, host, waiting.name))
    if missing:
        yield f"The new key's record is gone again: {'; '.join(missing)}. Publish it, and run this again."
        return
    _move(safe, waiting.name)
    yield "The new key is in place of the former one, in the vault."
    yield f"Run `mailkeep deploy {name}` now: the server gets a certificate for it. Leave both records where they are."
    yield f"Then run `mailkeep tls-roll {name}` again."


def _move(safe: Vault, waiting: str) -> None:
    """Killed anywhere in between, no key is lost, and `_finish` does the rest."""
    safe.write(FORMER, safe.read(KEY))
    safe.write(KEY, safe.read(waiting))
    safe.delete(waiting)


def _finish(safe: Vault) -> None:
    """What an interruption has left: a key in two states is in the later one."""
    for waiting in [entry.name for entry in list_acme_tls_entries(safe) if entry.usable_from]:
        if NEXT in safe.names():
            safe.delete(NEXT)
        if safe.read(waiting) == safe.read(KEY):
            safe.delete(waiting)


def _retire(safe: Vault, settings: Settings, shown: Shown, name: str) -> Iterator[str]:
    new, former = (_record(safe, settings.host.name, one) for one in (KEY, FORMER))
    seen = shown(settings)
    if not seen:
        yield f"The server does not answer on port {IMAPS} of any address. Run this where it does."
        return
    if others := [address for address, value in seen.items() if value != new.value]:
        yield f"{', '.join(others)}: another key is shown still. Run `mailkeep deploy {name}`, if you have not since."
        yield "On the server, `systemctl start mailkeep-certificate` gets a certificate for it, or says why not."
        yield f"Then run `mailkeep tls-roll {name}` again."
        return
    safe.delete(FORMER)
    yield f"The server shows the new key, and the former one is gone from the vault. Remove its record:\n{former.name}"
    yield f"  {former.type}  {former.value}"
    yield f"Run `mailkeep deploy {name}` then: the server's daily look at its records learns that this is right."
    yield "The roll-over is done."


def _leaf(safe: Vault, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(safe.read(name))


def _record(safe: Vault, host: str, name: str) -> Record:
    return records.tlsa_record(host, _leaf(safe, name))


def unseen(record: Record, resolver: dns.resolver.Resolver) -> tuple[list[str], int]:
    question = Question(record.name, record.type)
    seen = observe.query_names([question], resolver)
    answers = {"the resolver": seen.public[question], **seen.authoritative[question]}
    missing = [f"{who} does not have it" for who, answer in answers.items() if record.value not in answer.values]
    return missing, max(answer.ttl for answer in answers.values())


def shown(settings: Settings) -> dict[str, str]:
    found = {}
    for address in map(str, settings.host.addresses):
        anyone = ssl.create_default_context()
        anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
        try:
            with (
                socket.create_connection((address, IMAPS), SECONDS) as plain,
                anyone.wrap_socket(plain, server_hostname=settings.host.name) as talk,
            ):
                der = talk.getpeercert(binary_form=True) or b""
        except OSError:
            continue
        found[address] = records.tlsa_record(settings.host.name, x509.load_der_x509_certificate(der)).value
    return found
