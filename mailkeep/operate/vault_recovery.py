"""A new vault for one whose identity is lost. The server needs its keys in clear: they are read from it.

Next and former keys are not on the server. Password hashes are in mail.yml, not in the vault.
"""

import base64
import binascii
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from pathlib import Path
from shlex import join

from cryptography.hazmat.primitives.asymmetric import ec

from mailkeep.errors import UserError
from mailkeep.host.remote import RemoteHost, for_each_host, last_line
from mailkeep.inventory import hosts, tls_certificate
from mailkeep.inventory import vault as vaults
from mailkeep.inventory.dkim_keys import signing_domains
from mailkeep.inventory.secrets import NEEDED_TEXTS
from mailkeep.inventory.vault_entries import (
    ACME_TLS,
    DNS_CREDENTIALS,
    RELAY,
    SELECTOR,
    SELF_SIGNED,
    SHARED_STORE,
    TLS_KEY,
    WEBHOOK,
    DkimEntry,
    parse_acme_tls_entry,
    parse_dkim_entry,
)
from mailkeep.parts import alerts, certificates, opendkim, postfix
from mailkeep.settings.models import Settings
from mailkeep_server.common import paths

Files = Mapping[str, bytes]
"""Files of the server, by path."""
SECRET_FILES = (
    *(certificates.PEM, certificates.KEY, certificates.CREDENTIALS),
    *(postfix.RELAY_PASSWORD, alerts.WEBHOOK, paths.GUARD_SHARED_STORE),
)
_READ = f"""
for file in {opendkim.KEYS}/*.pem {join(SECRET_FILES)}; do
  [ -f "$file" ] || continue
  content=$(base64 -w 0 "$file") || exit 1
  echo "$file $content"
done"""


def recover_vault(settings: Settings, inventory: Path, today: date) -> list[str]:
    """Replaces the vault of this inventory, and its identity. Returns what was done and what is left to do, a line
    each. UserError if the vault can be opened, when no server of the inventory can be read, and when servers differ;
    then nothing has changed."""
    identity = vaults.identity_path(inventory)
    _refuse_if_readable(inventory, identity)
    files, failures = _read_files(inventory)
    host, entries, missing, unread = _choose_host(settings, files, failures, today)
    vault = vaults.open_vault(inventory)
    states = {name: parse_dkim_entry(name) or parse_acme_tls_entry(name) for name in vault.names()}
    lost = [name for name, entry in states.items() if entry and entry.state != "current"]
    former = _replace_vault(inventory, identity, entries, today)
    label = hosts.inventory_label(inventory)
    return [
        f"From {host}: {', '.join(sorted(entries))}.",
        *(f"Not on the server: {text}." for text in missing),
        *(f"Not read: {text}" for text in unread),
        *(f"Lost, since the server does not hold it: {name}. Its DNS record can go." for name in lost),
        f"The vault is new: {vault.directory}. The one that nobody can open is now {former}.",
        f"Back up the new identity today: {identity}. Colleagues go into {vault.directory / vaults.RECIPIENTS} again.",
        f"Next: `mailkeep plan {label}`, which should find nothing to do.",
    ]


def _refuse_if_readable(inventory: Path, identity: Path) -> None:
    try:
        vaults.open_vault(inventory).check_identity()
    except UserError:
        if not identity.exists():
            return
        raise UserError(
            f"{identity}: this identity exists, and does not open {inventory / 'secrets'}. If it is no other vault's, "
            "move it away; else set MAILKEEP_IDENTITY to a path for the new identity. Nothing was changed."
        ) from None
    raise UserError("The vault can be opened with your identity: nothing is lost, and nothing was changed.")


def _read_files(inventory: Path) -> tuple[dict[str, Files], list[str]]:
    """The secret files of each host that can be read, by its name; and why others cannot, a line each."""

    def read_host(host: RemoteHost) -> tuple[str, Files]:
        done = host.run(_READ)
        if done.rc:
            raise UserError(f"its keys cannot be read: {last_line(done)}")
        pairs = (line.partition(" ") for line in done.stdout.splitlines() if line.startswith("/"))
        try:
            return host.name, {path: base64.b64decode(text, validate=True) for path, _, text in pairs}
        except binascii.Error:
            raise UserError("its answer cannot be read") from None

    files, failures = dict[str, Files](), list[str]()
    try:
        files.update(for_each_host(inventory, read_host))
    except UserError as error:
        failures = str(error).splitlines()
    return files, failures


def _choose_host(
    settings: Settings, files: Mapping[str, Files], failures: list[str], today: date
) -> tuple[str, dict[str, bytes], list[str], list[str]]:
    """The host that lacks least, its entries, what it lacks, and why others were not read. UserError if hosts
    differ."""
    unread, recovered = [*failures], dict[str, tuple[dict[str, bytes], list[str]]]()
    for name, content in files.items():
        try:
            entries, missing = read_entries(settings, content, today)
        except UserError as error:
            unread.append(f"{name}: {error}")
            continue
        if entries:
            recovered[name] = entries, missing
        else:
            unread.append(f"{name}: none of Mailkeep's keys are on this server.")
    if not recovered:
        raise UserError("\n".join((*unread, "No server could be read. Nothing was changed.")))
    host = min(recovered, key=lambda name: len(recovered[name][1]))
    for other in recovered:
        if names := _list_differences(recovered, files, host, other):
            raise UserError(
                f"{host} and {other} differ: {', '.join(names)}. Take the host with the older keys out of inventory.py "
                "for this run, and run it again. Nothing was changed."
            )
    return host, *recovered[host], unread


def _list_differences(
    recovered: Mapping[str, tuple[dict[str, bytes], list[str]]], files: Mapping[str, Files], host: str, other: str
) -> list[str]:
    """The entries that differ, or that only one has although neither lacks more than the other."""
    (first, first_missing), (second, second_missing) = recovered[host], recovered[other]
    one_sided = {*first} ^ {*second} if len(first_missing) == len(second_missing) else set()
    unequal = {name for name in {*first} & {*second} if first[name] != second[name]}
    if files[host].get(certificates.KEY) == files[other].get(certificates.KEY):
        unequal.discard(ACME_TLS)  # its certificate is made anew for each
    return sorted(one_sided | unequal)


def read_entries(settings: Settings, files: Files, today: date) -> tuple[dict[str, bytes], list[str]]:
    """The vault's entries that the settings need, from the files of a server; and what is missing there."""
    entries, missing = dict[str, bytes](), list[str]()
    for domain in signing_domains(settings):
        if keys := dict(_find_dkim_keys(domain, files)):
            entries |= keys
        else:
            missing.append(f"a DKIM key for {domain}; for a new domain, `mailkeep keys` creates one")
    texts: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
        RELAY: (postfix.RELAY_PASSWORD, lambda text: _parse_relay_password(settings, text)),
        WEBHOOK: (alerts.WEBHOOK, bytes),
        SHARED_STORE: (paths.GUARD_SHARED_STORE, lambda text: str(json.loads(text)["password"]).encode()),
        DNS_CREDENTIALS: (certificates.CREDENTIALS, _parse_environment),
    }
    needed = {name: texts[name] for name, is_needed in NEEDED_TEXTS.items() if is_needed(settings)}
    name, path, parse_key = _describe_tls_key(settings, today)
    for entry, (file, parse) in {name: (path, parse_key), **needed}.items():
        if file in files:
            try:
                entries[entry] = parse(files[file])
            except (KeyError, TypeError, ValueError):
                raise UserError(f"{file} on this server is damaged: it does not hold `{entry}`.") from None
        else:
            missing.append(f"{file}, which holds `{entry}`")
    return entries, missing


def _find_dkim_keys(domain: str, files: Files) -> Iterator[tuple[str, bytes]]:
    for path, content in files.items():
        match = re.fullmatch(rf"{re.escape(opendkim.KEYS)}/{re.escape(domain)}\.({SELECTOR})\.pem", path)
        if match:
            yield DkimEntry(domain, match[1]).name, content


def _describe_tls_key(settings: Settings, today: date) -> tuple[str, str, Callable[[bytes], bytes]]:
    """The entry of the TLS key, the file that holds it on the server, and how the one is made of the other."""
    if settings.tls.mode == "files":
        return TLS_KEY, certificates.PEM, lambda pem: tls_certificate.split_pem(pem)[1]
    if settings.tls.mode == "self-signed":
        return SELF_SIGNED, certificates.PEM, bytes

    def add_certificate(pem: bytes) -> bytes:
        # The server's certificate is the authority's; the vault's is only for the first start on a new machine.
        key = tls_certificate.parse_private_key(certificates.KEY, pem)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise UserError(f"{certificates.KEY} on the server: this is no ECDSA key, as `mailkeep keys` creates.")
        return tls_certificate.create_self_signed(settings.host.name, today, key)

    return ACME_TLS, certificates.KEY, add_certificate


def _parse_relay_password(settings: Settings, row: bytes) -> bytes:
    """Of a row `[HOST]:PORT USER:PASSWORD`, as `mailkeep.parts.postfix` writes it."""
    user = settings.relay.user if settings.relay else ""
    return row.decode().rstrip("\n").partition(" ")[2].removeprefix(f"{user}:").encode()


def _parse_environment(text: bytes) -> bytes:
    """The lines of an EnvironmentFile, as `mailkeep.parts.certificates` writes it, without its quotes."""
    pairs = (line.partition("=") for line in text.decode().splitlines() if line)
    values = {name: re.sub(r"\\(.)", r"\1", value[1:-1]) for name, _, value in pairs}
    return "".join(f"{name}={value}\n" for name, value in values.items()).encode()


def _replace_vault(inventory: Path, identity: Path, entries: Mapping[str, bytes], today: date) -> Path:
    """Puts a vault with these entries in place of the present one, whose new path is returned. The identity comes last:
    after a run that was killed, the recovery can be repeated."""
    directory = inventory / "secrets"
    former = next(
        path
        for number in range(1000)
        if not (path := inventory / f"secrets.lost-{today:%Y%m%d}{f'-{number}' if number else ''}").exists()
    )
    with tempfile.TemporaryDirectory(prefix=".new-", dir=inventory) as temporary:
        stage = Path(temporary)
        vault = vaults.create_vault(stage / "secrets", stage / vaults.IDENTITY)
        for name, content in entries.items():
            vault.write(name, content)
        if directory.exists():
            directory.rename(former)
        (stage / "secrets").rename(directory)
        vaults.write_identity(identity, (stage / vaults.IDENTITY).read_bytes())
    return former
