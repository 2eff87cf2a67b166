"""`mailkeep tls rotate`: a new TLS key in place of the current one.

Senders who check TLSA records (DANE) always find the server's key among them (RFC 7671 §8.1).

Once the record of the next key is seen, that key is `.from-TIME`: until then some resolvers keep an older answer. The
record of the former key stays until the server shows the current one.
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
from mailkeep.inventory.tls_keys import list_acme_tls_entries
from mailkeep.inventory.vault_entries import AcmeTlsEntry
from mailkeep.operate.key_rotation import KeyRotation, describe_age, format_record
from mailkeep.settings.models import Settings

CURRENT, NEXT, FORMER = AcmeTlsEntry("current").name, AcmeTlsEntry("next").name, AcmeTlsEntry("former").name
IMAPS_PORT = 993  # shows the same certificate as port 25, which many networks block on the way out
CONNECT_TIMEOUT = 10  # seconds

FindUnpublished = Callable[[Record], tuple[list[str], int]]
"""The servers that do not give this record, each with a word on it; and for how many seconds resolvers may keep an
older answer."""

ReadServedRecords = Callable[[Settings], dict[str, str]]
"""By address of the host, the value of the TLSA record for the key that it shows; only addresses that answer."""


class TlsRotation(KeyRotation):
    """Of the key for ACME. `now` is in UTC. UserError unless certificates come by ACME: other keys are the
    operator's."""

    verb = "mailkeep tls rotate"

    def __init__(
        self,
        settings: Settings,
        inventory: Path,
        now: datetime,
        find_unpublished: FindUnpublished,
        read_served_records: ReadServedRecords,
        *,
        start_now: bool = False,
    ) -> None:
        if settings.tls.mode != "acme":
            raise UserError(
                f"tls.mode is {settings.tls.mode}: this command replaces only keys for `acme`. "
                "`mailkeep tls import` brings a key of your own."
            )
        super().__init__(settings, inventory, start_now=start_now)
        self.now = now
        self.find_unpublished, self.read_served_records = find_unpublished, read_served_records

    def has_next(self) -> bool:
        return NEXT in self.vault.names() or self._confirmed_next() is not None

    def has_former(self) -> bool:
        return FORMER in self.vault.names()

    def create_next(self) -> Iterator[str]:
        # A certificate is dated a day back, for clocks that are slow.
        created = self._read_certificate(CURRENT).not_valid_before_utc.date() + timedelta(days=1)
        if not self.is_due(created, self.now.date()):
            yield describe_age(created)
            return
        self.vault.write(NEXT, tls_certificate.create_self_signed(self.settings.host.name, self.now.date()))
        yield "A new key is in the vault. The server does not use it yet. Publish its record beside the current one:"
        yield f"{format_record(self._build_record(CURRENT))}  (published already)"
        yield format_record(self._build_record(NEXT))
        yield f"Then run {self.next_call}: it checks that both are published."

    def switch_to_next(self) -> Iterator[str]:
        confirmed = self._confirmed_next()
        return self._confirm_next() if confirmed is None else self._use_next(confirmed)

    def _confirm_next(self) -> Iterator[str]:
        servers, ttl = self.find_unpublished(self._build_record(NEXT))
        if servers:
            yield f"The new key's record is not published yet: {'; '.join(servers)}."
            yield f"Publish it ({self.dns_command} prints it), then run {self.next_call}."
            return
        start = self.now + timedelta(seconds=ttl, minutes=1)  # the entry's name drops the seconds
        self.vault.write(AcmeTlsEntry.next_usable_from(start).name, self.vault.read(NEXT))
        self.vault.delete(NEXT)
        yield f"Both records are published. Resolvers may keep an older answer for {ttl} seconds more."
        yield f"From {start:%Y-%m-%d %H:%M} UTC on, run {self.next_call}."

    def _use_next(self, confirmed: AcmeTlsEntry) -> Iterator[str]:
        start = confirmed.usable_time
        if self.now < start:
            yield f"Resolvers may still keep an older answer. From {start:%Y-%m-%d %H:%M} UTC on, run {self.next_call}."
            return
        servers, _ = self.find_unpublished(self._build_record(confirmed.name))
        if servers:
            yield f"The new key's record is gone again: {'; '.join(servers)}."
            yield f"Publish it ({self.dns_command} prints it), then run {self.next_call}."
            return
        self._replace_current(confirmed.name)
        yield "The new key is now the current one in the vault."
        yield f"Run {self.deploy_command} now: the server gets a certificate for it. Leave both records published."
        yield f"Then run {self.next_call}."

    def retire_former(self) -> Iterator[str]:
        current, former = self._build_record(CURRENT), self._build_record(FORMER)
        served = self.read_served_records(self.settings)
        if not served:
            yield f"The server does not answer on port {IMAPS_PORT} of any address. Run this where it does."
            return
        if outdated := [address for address, value in served.items() if value != current.value]:
            yield f"{', '.join(outdated)}: the server still shows another key."
            yield f"Run {self.deploy_command} if you have not since the keys were switched."
            yield "On the server, `systemctl start mailkeep-certificate` gets a certificate, or says why not."
            yield f"Then run {self.next_call}."
            return
        self.vault.delete(FORMER)
        yield "The server shows the current key, and the former one is gone from the vault. Remove its record:"
        yield format_record(former)
        yield f"Then run {self.deploy_command}, so that the server's daily DNS check does not miss it."
        yield "The rotation is complete."

    def finish_switch(self) -> None:
        """A key that an interruption left in two states is in the later one."""
        confirmed = self._confirmed_next()
        if confirmed is None:
            return
        if NEXT in self.vault.names():
            self.vault.delete(NEXT)
        if self.vault.read(confirmed.name) == self.vault.read(CURRENT):
            self.vault.delete(confirmed.name)

    def _replace_current(self, next_name: str) -> None:
        """Interrupted anywhere in between, no key is lost, and `finish_switch` does the rest."""
        self.vault.write(FORMER, self.vault.read(CURRENT))
        self.vault.write(CURRENT, self.vault.read(next_name))
        self.vault.delete(next_name)

    def _confirmed_next(self) -> AcmeTlsEntry | None:
        """The next key whose record was seen."""
        return next((entry for entry in list_acme_tls_entries(self.vault) if entry.usable_from), None)

    def _read_certificate(self, name: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.vault.read(name))

    def _build_record(self, name: str) -> Record:
        return records.tlsa_record(self.settings.host.name, self._read_certificate(name))


def find_unpublished(record: Record, resolver: dns.resolver.Resolver) -> tuple[list[str], int]:
    """The resolver, and the servers of the zone, that do not give this record; and the longest TTL of their answers."""
    question = Question(record.name, record.type)
    dns_answers = observe.query_names([question], resolver)
    answers = {"the resolver": dns_answers.public[question], **dns_answers.authoritative[question]}
    servers = [f"{server} does not have it" for server, answer in answers.items() if record.value not in answer.values]
    return servers, max(answer.ttl for answer in answers.values())


def read_served_records(settings: Settings) -> dict[str, str]:
    """By address of the host, the value of the TLSA record for the key that it shows; only addresses that answer."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the record names the key, not the authority
    served = {}
    for address in map(str, settings.host.addresses):
        try:
            with (
                socket.create_connection((address, IMAPS_PORT), CONNECT_TIMEOUT) as connection,
                context.wrap_socket(connection, server_hostname=settings.host.name) as tls,
            ):
                der = tls.getpeercert(binary_form=True) or b""
        except OSError:
            continue
        served[address] = records.tlsa_record(settings.host.name, x509.load_der_x509_certificate(der)).value
    return served
