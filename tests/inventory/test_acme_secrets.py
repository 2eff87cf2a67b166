"""For certificates by ACME the vault has the key, and the credentials for a DNS provider."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from inventory_samples import TODAY, make_settings

from mailkeep.errors import UserError
from mailkeep.inventory import secrets
from mailkeep.inventory.credentials import save_dns_credentials
from mailkeep.inventory.vault import Vault
from mailkeep.settings.models import Settings

BY_HTTP = {"tls": {"mode": "acme"}}
BY_DNS = {"tls": {"mode": "acme", "acme": {"challenge": "dns-01", "provider": "rfc2136"}}}


def create_key(inventory: Path, declared: Settings) -> bytes:
    """The public half of the key after `mailkeep keys`."""
    secrets.create_missing_keys(declared, inventory, TODAY)
    key = load_pem_private_key(secrets.load_secrets(declared, inventory).tls.key, None)
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.slow
def test_a_missing_key_is_reported_created_once_and_kept_when_the_host_is_renamed(
    inventory: Path, vault: Vault
) -> None:
    declared = make_settings(**BY_HTTP)
    assert any("mailkeep keys" in line for line in secrets.list_missing(declared, inventory))
    key = create_key(inventory, declared)
    assert create_key(inventory, declared) == key
    renamed = make_settings(host="mx.example.org", **BY_HTTP)
    assert any("mx.example.org" in line for line in secrets.list_missing(renamed, inventory))
    assert create_key(inventory, renamed) == key
    assert secrets.list_missing(renamed, inventory) == []
    assert [name for name in vault.names() if name.startswith("tls/")] == ["tls/acme"]


@pytest.mark.slow
def test_next_and_former_keys_are_published_and_count_as_used(inventory: Path, vault: Vault) -> None:
    declared = make_settings(**BY_HTTP)
    create_key(inventory, declared)
    for state in (".next", ".from-202611251908", ".former"):
        vault.write(f"tls/acme{state}", vault.read("tls/acme"))
    assert len(secrets.load_secrets(declared, inventory).other_tls) == 3
    assert secrets.list_unused(declared, inventory) == []
    secrets.create_missing_keys(make_settings(), inventory, TODAY)
    assert len(secrets.list_unused(make_settings(), inventory)) == 4
    assert secrets.load_secrets(make_settings(), inventory).other_tls == ()


@pytest.mark.slow
def test_credentials_for_a_dns_provider_are_needed_for_dns_01_alone(inventory: Path) -> None:
    create_key(inventory, make_settings(**BY_HTTP))
    [line] = secrets.list_missing(make_settings(**BY_DNS), inventory)
    assert "credentials for rfc2136: run `mailkeep acme" in line
    lines = '\nRFC2136_NAMESERVER=192.0.2.53\n RFC2136_TSIG_SECRET=a=b "c" \\$d\n\n'
    assert save_dns_credentials(inventory, lines) == ["RFC2136_NAMESERVER", "RFC2136_TSIG_SECRET"]
    loaded = secrets.load_secrets(make_settings(**BY_DNS), inventory)
    assert loaded.dns_credentials == {"RFC2136_NAMESERVER": "192.0.2.53", "RFC2136_TSIG_SECRET": 'a=b "c" \\$d'}
    assert "c" not in repr(loaded)[-60:]
    assert secrets.load_secrets(make_settings(**BY_HTTP), inventory).dns_credentials is None
    assert secrets.list_unused(make_settings(**BY_HTTP), inventory) == ["acme"]


@pytest.mark.parametrize(
    "lines", ["", "\n", "hunter2", "token=hunter2", "TOKEN hunter2", "T=hunter2\nT=x", "T=hünter2"]
)
def test_a_line_of_another_form_is_refused_and_not_shown(inventory: Path, lines: str) -> None:
    with pytest.raises(UserError, match="RFC2136_NAMESERVER=") as refused:
        save_dns_credentials(inventory, lines)
    assert "unter2" not in str(refused.value)
