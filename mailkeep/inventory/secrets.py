"""What a server needs that must not be public: DKIM keys, the TLS key, the relay host's password and the like.

In the vault: `dkim/DOMAIN/SELECTOR`, `tls/self-signed` and `tls/acme` (key and certificate), `tls/key`, `acme` (what a
DNS provider wants to know), `relay`, `webhook`, `store`.
The newest selector signs; `SELECTOR.next` is one that will once its record is seen, `SELECTOR.until-YYYYMMDD` one that
did, whose record stays until that day. In the same way `tls/acme.next` is the key that will be shown,
`tls/acme.from-YYYYMMDDHHMM` one whose record was seen and that may be shown from then on (UTC), `tls/acme.former` one
that was shown.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from mailkeep.errors import UserError
from mailkeep.inventory import tls_certificate
from mailkeep.inventory.hosts import label
from mailkeep.inventory.vault import Vault, identity_path, write_private
from mailkeep.settings.models import Settings

SELF_SIGNED = "tls/self-signed"
TLS_KEY = "tls/key"
ACME_TLS = "tls/acme"
ACME = "acme"
RELAY = "relay"
WEBHOOK = "webhook"
STORE = "store"
_URL = re.compile(r"https?://[!-~]+")
# The day a key was made sorts as text.
_DKIM = re.compile(r"dkim/(?P<domain>[^/]+)/(?P<selector>s[0-9]{8})(?P<state>\.next|\.until-[0-9]{8})?")
_ACME_TLS = re.compile(r"tls/acme(?P<state>\.next|\.from-[0-9]{12}|\.former)?")
_VARIABLE = re.compile(r"(?P<name>[A-Z][A-Z0-9_]*)=(?P<value>[ -~]*)")
_DKIM_BITS = 2048  # RFC 8301 §3.2: at least 1024, should be 2048; 4096 needs more than one DNS packet


@dataclass(frozen=True, slots=True)
class DkimKey:
    """The key that signs for a domain; its record is at `SELECTOR._domainkey.DOMAIN` (RFC 6376 §3.6.2.1)."""

    domain: str
    selector: str
    private_pem: bytes = field(repr=False)

    @property
    def public(self) -> str:
        """The p= tag of the record: base64 of the DER SubjectPublicKeyInfo (RFC 6376 §3.6.1)."""
        key = load_pem_private_key(self.private_pem, None, unsafe_skip_rsa_key_validation=True)
        der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return base64.b64encode(der).decode()


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificate chain, the server's own first, and private key; both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


Variables = Mapping[str, str]
"""What a DNS provider wants to know, such as a token, by the names that lego has for it."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """`dkim` has the keys that sign, one a domain; `other_dkim` those whose records are published beside theirs.
    `tls` is what the server shows; by ACME its key, and what it shows until it has a certificate of the authority's.
    `other_tls` are certificates with the keys that are published beside that one."""

    dkim: tuple[DkimKey, ...]
    tls: Tls
    relay_password: str | None = field(repr=False)
    webhook: str | None = field(repr=False, default=None)  # its URL, and on a second line its token, if any
    store_password: str | None = field(repr=False, default=None)
    other_dkim: tuple[DkimKey, ...] = ()
    other_tls: tuple[bytes, ...] = ()
    acme: Variables | None = field(repr=False, default=None)

    @property
    def published_tls(self) -> tuple[bytes, ...]:
        return (self.tls.certificate, *self.other_tls)

    @property
    def published_dkim(self) -> tuple[DkimKey, ...]:
        return tuple(dict.fromkeys((*self.dkim, *self.other_dkim)))  # an interrupted rotation leaves one twice


def vault(inventory: Path) -> Vault:
    """The vault of an inventory, to be opened with the identity of this user."""
    return Vault(inventory / "secrets", identity_path(inventory))


def signing_domains(settings: Settings) -> tuple[str, ...]:
    """Every mail domain, and the host name: what the server itself sends comes from there."""
    return tuple(dict.fromkeys((*settings.domains, settings.host.name)))


def load(settings: Settings, inventory: Path) -> Secrets:
    """All that these settings need; UserError says what is missing or wrong and what to run."""
    if lacking := missing(settings, inventory):
        raise UserError("\n".join((f"{inventory / 'secrets'}: not all that mail.yml needs is there.", *lacking)))
    safe = vault(inventory)
    domains, signing = signing_domains(settings), signing_selectors(safe)
    return Secrets(
        dkim=tuple(dkim_key(safe, StoredDkim(domain, signing[domain])) for domain in domains),
        tls=_tls(settings, inventory, safe),
        relay_password=safe.read(RELAY).decode() if _needs_relay_password(settings) else None,
        webhook=safe.read(WEBHOOK).decode() if settings.alerts.webhook else None,
        store_password=safe.read(STORE).decode() if settings.guard.store else None,
        other_dkim=tuple(dkim_key(safe, one) for one in stored_dkim(safe) if one.state and one.domain in domains),
        other_tls=tuple(tls_certificate.split(safe.read(name))[0] for name in _other_tls(settings, safe)),
        acme=_variables(safe.read(ACME).decode()) if _needs_credentials(settings) else None,
    )


def missing(settings: Settings, inventory: Path) -> list[str]:
    """What the settings need and the vault lacks: a line each, with the command that mends it."""
    safe, name = vault(inventory), label(inventory)
    there, active = set(safe.names()), signing_selectors(safe)
    lines = []
    if unsigned := [domain for domain in signing_domains(settings) if domain not in active]:
        lines.append(
            f"No DKIM key for {', '.join(unsigned)}: if there was one, restore it from git or a backup. "
            f"For a new domain run `mailkeep keys {name}`, then publish what `mailkeep dns {name}` prints, before "
            "you deploy."
        )
    if settings.tls.mode in _MADE_HERE and not _has_own(settings, safe):
        lines.append(f"No self-signed certificate for {settings.host.name}: run `mailkeep keys {name}`.")
    if _needs_credentials(settings) and ACME not in there:
        lines.append(f"No credentials for {settings.tls.acme.provider}: run `mailkeep acme {name}`.")
    if settings.tls.mode == "files" and TLS_KEY not in there:
        lines.append(f"No TLS key: run `mailkeep tls {name} --certificate CHAIN.pem --key KEY.pem`.")
    if _needs_relay_password(settings) and RELAY not in there:
        lines.append(f"No password for the relay host: run `mailkeep relay {name}`.")
    if settings.alerts.webhook and WEBHOOK not in there:
        lines.append(f"No URL for the webhook: run `mailkeep webhook {name}`.")
    if settings.guard.store and STORE not in there:
        lines.append(f"No password for the guard's store: run `mailkeep store {name}`.")
    return lines


def generate(settings: Settings, inventory: Path, today: date) -> list[str]:
    """Makes the keys that the settings need and the vault lacks; a line for each. Replaces no valid key."""
    safe, made = vault(inventory), []
    active = signing_selectors(safe)
    for domain in signing_domains(settings):
        if domain not in active:
            selector = new_dkim(safe, domain, today).selector
            made.append(f"DKIM key for {domain}, selector {selector} (RSA {_DKIM_BITS})")
    if settings.tls.mode in _MADE_HERE and not _has_own(settings, safe):
        name = _MADE_HERE[settings.tls.mode]
        # TLSA records name its key: neither another host name nor the end of ten years is a reason for another one.
        kept = _key(safe, name) if name in safe.names() else None
        pem = tls_certificate.self_signed(settings.host.name, today, kept)
        safe.write(name, pem)
        made.append(f"self-signed certificate for {settings.host.name}, {tls_certificate.describe(pem)}")
    return made


def unused(settings: Settings, inventory: Path) -> list[str]:
    """Names in the vault that these settings have no use for, such as keys of domains that left mail.yml.
    Older selectors of a domain that is still there do not count: mail signed with them may be under way."""
    needed = {
        SELF_SIGNED: settings.tls.mode == "self-signed",
        TLS_KEY: settings.tls.mode == "files",
        RELAY: _needs_relay_password(settings),
        WEBHOOK: settings.alerts.webhook is not None,
        STORE: settings.guard.store is not None,
        ACME: _needs_credentials(settings),
    }
    domains = signing_domains(settings)

    def used(name: str) -> bool:
        dkim = _DKIM.fullmatch(name)
        if _ACME_TLS.fullmatch(name):
            return settings.tls.mode == "acme"
        return dkim["domain"] in domains if dkim else needed.get(name, False)

    return [name for name in vault(inventory).names() if not used(name)]


def import_tls(settings: Settings, inventory: Path, chain: Path, key: Path) -> list[str]:
    """Takes over a certificate chain (copied beside mail.yml) and its key (into the vault), also in place of
    former ones, after the same checks as `load`. Returns what was done and what is left to do."""
    pair = Tls(_file(chain), _file(key))
    tls_certificate.check(
        str(chain), pair.certificate, str(key), pair.key, settings.certificate_names, datetime.now(UTC)
    )
    target = inventory / (settings.tls.certificate or "tls.pem")
    safe = vault(inventory)
    other = _is_another_key(settings, safe, pair)
    safe.write(TLS_KEY, pair.key)
    write_private(target, pair.certificate)
    done = [f"{target}: the certificate chain", f"{safe.directory / TLS_KEY}.age: its key, encrypted"]
    if other:
        done.append(
            "It is another key than before. Where your zone is signed (DNSSEC), publish the new TLSA record "
            f"(`mailkeep dns {label(inventory)}`) beside the former one, wait an hour, and only then deploy."
        )
    if settings.tls.mode != "files":
        done.append(f"To use it, write in mail.yml:\ntls:\n  mode: files\n  certificate: {target.name}")
    return done


def _is_another_key(settings: Settings, safe: Vault, pair: Tls) -> bool:
    """Than the one that a server of this vault shows."""
    name = _MADE_HERE.get(settings.tls.mode, TLS_KEY)
    if name not in safe.names():
        return False
    former = tls_certificate.split(safe.read(name))[1]
    ours, theirs = (tls_certificate.private_key(name, key).public_key() for key in (former, pair.key))
    return ours != theirs


def set_relay_password(inventory: Path, password: str) -> None:
    """UserError when it is empty or holds a character that no SASL password map can carry."""
    _set_password(inventory, RELAY, "relay host", password)


def set_store_password(inventory: Path, password: str) -> None:
    """UserError as for the relay host's."""
    _set_password(inventory, STORE, "guard's store", password)


def _set_password(inventory: Path, name: str, whose: str, password: str) -> None:
    if not password or not password.isprintable() or password != password.strip():
        raise UserError(f"The password of the {whose} must be one line of printable characters, no space around it.")
    vault(inventory).write(name, password.encode())


def set_webhook(inventory: Path, url: str, token: str) -> None:
    """Where alerts are posted, and what to log in with there (`Authorization: Bearer`), or "". UserError, in which
    neither appears, when they cannot be that."""
    if not _is_webhook(url):
        raise UserError("The webhook's URL must be whole, such as https://ntfy.sh/SECRET-TOPIC; it is not shown here.")
    if not re.fullmatch(r"[!-~]*", token):
        raise UserError("The webhook's token must be printable ASCII without spaces; it is not shown here.")
    vault(inventory).write(WEBHOOK, f"{url}\n{token}".encode())


def _is_webhook(url: str) -> bool:
    try:
        parts = urlsplit(url)
        reachable = parts.hostname and parts.port != 0
    except ValueError:  # a port beyond 65535, half an IPv6 address
        return False
    return bool(_URL.fullmatch(url) and reachable and not parts.username and not parts.fragment)


def set_acme(inventory: Path, lines: str) -> list[str]:
    """What the DNS provider wants to know, a line `NAME=value` each. Returns the names. UserError, in which no value
    appears, when a line is no such thing."""
    found = _variables(lines)
    vault(inventory).write(ACME, "".join(f"{name}={value}\n" for name, value in found.items()).encode())
    return [*found]


def _variables(lines: str) -> Variables:
    found = [_VARIABLE.fullmatch(line.strip()) for line in lines.splitlines() if line.strip()]
    variables = {one["name"]: one["value"] for one in found if one}
    if not found or len(variables) != len(found):
        raise UserError(
            "Expected lines such as RFC2136_NAMESERVER=192.0.2.53, each name once, in printable ASCII; they are not "
            "shown here. `lego dnshelp -c PROVIDER` lists the names."
        )
    return variables


def _needs_credentials(settings: Settings) -> bool:
    return settings.tls.mode == "acme" and settings.tls.acme.challenge == "dns-01"


def _needs_relay_password(settings: Settings) -> bool:
    return settings.relay is not None and settings.relay.user is not None


@dataclass(frozen=True, slots=True)
class StoredDkim:
    """A DKIM key of the vault: `state` is empty, `.next` or `.until-YYYYMMDD`."""

    domain: str
    selector: str
    state: str = ""

    @property
    def name(self) -> str:
        return f"dkim/{self.domain}/{self.selector}{self.state}"


def stored_dkim(safe: Vault) -> list[StoredDkim]:
    """Per domain from the oldest to the newest."""
    found = map(_DKIM.fullmatch, safe.names())
    return [StoredDkim(one["domain"], one["selector"], one["state"] or "") for one in found if one]


def signing_selectors(safe: Vault) -> dict[str, str]:
    """Per domain the newest selector, of those that have no other state."""
    return {one.domain: one.selector for one in stored_dkim(safe) if not one.state}


def dkim_key(safe: Vault, stored: StoredDkim) -> DkimKey:
    where, pem = f"{safe.directory / stored.name}.age", safe.read(stored.name)
    if not isinstance(tls_certificate.private_key(where, pem), rsa.RSAPrivateKey):
        raise UserError(f"{where}: not an RSA key, and other kinds are not signed with.")
    return DkimKey(stored.domain, stored.selector, pem)


def new_dkim(safe: Vault, domain: str, today: date, state: str = "") -> StoredDkim:
    """Makes a key under a selector of this day."""
    made = StoredDkim(domain, f"s{today:%Y%m%d}", state)
    safe.write(made.name, new_dkim_pem())
    return made


def new_dkim_pem() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=_DKIM_BITS)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


# What is made here goes under which name.
_MADE_HERE = {"self-signed": SELF_SIGNED, "acme": ACME_TLS}


def _has_own(settings: Settings, safe: Vault) -> bool:
    """A certificate for a former host name, or one that has run out, does not count."""
    name = _MADE_HERE[settings.tls.mode]
    if name not in safe.names():
        return False
    pem = safe.read(name)
    where = f"{safe.directory / name}.age"
    leaf = tls_certificate.chain(where, pem)[0]
    return tls_certificate.covers(leaf, settings.host.name) and datetime.now(UTC) < leaf.not_valid_after_utc


def _tls(settings: Settings, inventory: Path, safe: Vault) -> Tls:
    if name := _MADE_HERE.get(settings.tls.mode):
        return Tls(*tls_certificate.split(safe.read(name)))
    path = inventory / str(settings.tls.certificate)
    pair = Tls(_file(path), safe.read(TLS_KEY))
    where = f"{safe.directory / TLS_KEY}.age"
    tls_certificate.check(str(path), pair.certificate, where, pair.key, settings.certificate_names, datetime.now(UTC))
    return pair


def _key(safe: Vault, name: str) -> ec.EllipticCurvePrivateKey:
    where = f"{safe.directory / name}.age"
    key = tls_certificate.private_key(where, tls_certificate.split(safe.read(name))[1])
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"{where}: not an ECDSA key, as `mailkeep keys` makes it. Restore it from git or a backup.")
    return key


def _other_tls(settings: Settings, safe: Vault) -> list[str]:
    """The names of keys for ACME that are coming, or going."""
    found = map(_ACME_TLS.fullmatch, safe.names()) if settings.tls.mode == "acme" else ()
    return [one[0] for one in found if one and one["state"]]


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error
