"""The keys of a server are created once, found again, reported when missing, and never shown."""

import base64
import time
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_public_key,
    load_pem_private_key,
)
from inventory_samples import SELECTOR, TODAY, make_settings

from mailkeep.errors import UserError
from mailkeep.inventory import secrets
from mailkeep.inventory.credentials import save_relay_password
from mailkeep.inventory.dkim_keys import generate_dkim_pem, signing_domains, take_over_dkim_key
from mailkeep.inventory.vault import Vault, open_vault

RELAY = {"host": "smtp.example.net", "user": "us"}


def test_every_mail_domain_and_the_host_get_a_dkim_key_dated_today(inventory: Path) -> None:
    declared = make_settings("example.org", "example.net")
    secrets.create_missing_keys(declared, inventory, TODAY)
    keys = secrets.load_secrets(declared, inventory).dkim
    assert [key.domain for key in keys] == ["example.org", "example.net", "mail.example.org"]
    assert {key.selector for key in keys} == {SELECTOR}
    assert len({key.private_pem for key in keys}) == 3


def test_a_host_name_that_is_a_mail_domain_has_one_key() -> None:
    declared = make_settings().model_copy(update={"domains": ("mail.example.org",)})
    assert signing_domains(declared) == ("mail.example.org",)


def test_the_public_half_verifies_what_the_private_half_signs(complete_inventory: Path) -> None:
    key = secrets.load_secrets(make_settings(), complete_inventory).dkim[0]
    private = load_pem_private_key(key.private_pem, None)
    signature = private.sign(b"mail", padding.PKCS1v15(), hashes.SHA256())
    public = load_der_public_key(base64.b64decode(key.public, validate=True))
    public.verify(signature, b"mail", padding.PKCS1v15(), hashes.SHA256())
    assert public.key_size == 2048


def test_created_keys_are_reported_and_a_second_call_creates_none(inventory: Path) -> None:
    lines = secrets.create_missing_keys(make_settings(), inventory, TODAY)
    assert [line.split(",")[0] for line in lines] == [
        "DKIM key for example.org",
        "DKIM key for mail.example.org",
        "self-signed certificate for mail.example.org",
    ]
    first = secrets.load_secrets(make_settings(), inventory)
    assert secrets.create_missing_keys(make_settings(), inventory, TODAY + timedelta(days=1)) == []
    assert secrets.load_secrets(make_settings(), inventory) == first


def test_a_new_domain_gets_a_key_and_the_others_keep_theirs(inventory: Path) -> None:
    secrets.create_missing_keys(make_settings(), inventory, TODAY)
    before = secrets.load_secrets(make_settings(), inventory)
    both = make_settings("example.org", "example.net")
    assert len(secrets.create_missing_keys(both, inventory, TODAY + timedelta(days=1))) == 1
    after = {key.domain: key for key in secrets.load_secrets(both, inventory).dkim}
    assert after["example.net"].selector == f"s{TODAY + timedelta(days=1):%Y%m%d}"
    assert all(after[key.domain] == key for key in before.dkim)


def test_of_several_selectors_the_newest_signs(complete_inventory: Path) -> None:
    pem = secrets.load_secrets(make_settings(), complete_inventory).dkim[0].private_pem
    newest = f"s{TODAY.year + 1}0301"
    for selector in (newest, "s20251231", "mail", "zeta"):
        open_vault(complete_inventory).write(f"dkim/example.org/{selector}", pem)
    assert secrets.load_secrets(make_settings(), complete_inventory).dkim[0].selector == newest


def test_a_key_of_another_server_signs_under_its_selector_and_no_key_is_created_beside_it(inventory: Path) -> None:
    vault = open_vault(inventory)
    pem = rsa.generate_private_key(public_exponent=65537, key_size=1024).private_bytes(  # noqa: S505 - as old servers have
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
    )
    assert take_over_dkim_key(vault, "example.org", "Mail", pem, "mail.private")[1] == 1024
    created = secrets.create_missing_keys(make_settings(), inventory, TODAY)
    assert [line for line in created if line.startswith("DKIM")] == [
        f"DKIM key for mail.example.org, selector {SELECTOR} (RSA 2048)"
    ]
    loaded = secrets.load_secrets(make_settings(), inventory)
    assert (loaded.dkim[0].domain, loaded.dkim[0].selector) == ("example.org", "mail")
    assert secrets.list_unused(make_settings(), inventory) == []
    with pytest.raises(UserError, match=r"has a key of example\.org already"):
        take_over_dkim_key(vault, "example.org", "other", pem, "mail.private")


@pytest.mark.parametrize("selector", ["a.b", "mail.next", "mail.until-20260101", "-a", "", "ä", "x" * 64])
def test_a_selector_that_the_vault_could_confuse_is_refused(inventory: Path, selector: str) -> None:
    with pytest.raises(UserError, match="not one label"):
        take_over_dkim_key(open_vault(inventory), "example.org", selector, generate_dkim_pem(), "mail.private")


def test_a_key_of_another_kind_is_not_taken_over(inventory: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for text in (pem, b"-----BEGIN nothing"):
        with pytest.raises(UserError, match=r"mail\.private"):
            take_over_dkim_key(open_vault(inventory), "example.org", "mail", text, "mail.private")


def test_the_self_signed_certificate_satisfies_a_client_that_trusts_it(complete_inventory: Path) -> None:
    tls = secrets.load_secrets(make_settings(), complete_inventory).tls
    leaf = x509.load_pem_x509_certificate(tls.certificate)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["mail.example.org"]
    assert leaf.not_valid_before_utc.date() < TODAY
    assert leaf.not_valid_after_utc.date() > TODAY + timedelta(days=9 * 365)
    leaf.verify_directly_issued_by(leaf)
    private = load_pem_private_key(tls.key, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert private.curve.name == "secp256r1"
    assert private.public_key() == leaf.public_key()


def test_a_new_host_name_needs_a_new_certificate(complete_inventory: Path) -> None:
    renamed = make_settings(host="mx.example.org")
    assert any("certificate for mx.example.org" in line for line in secrets.list_missing(renamed, complete_inventory))
    assert any(
        "certificate for mx.example.org" in line
        for line in secrets.create_missing_keys(renamed, complete_inventory, TODAY)
    )
    assert secrets.list_missing(renamed, complete_inventory) == []


def test_a_host_that_is_renamed_there_and_back_keeps_its_tls_key(complete_inventory: Path) -> None:
    before = secrets.load_secrets(make_settings(), complete_inventory).tls
    for host in ("mx.example.org", "mail.example.org"):
        secrets.create_missing_keys(make_settings(host=host), complete_inventory, TODAY)
        after = secrets.load_secrets(make_settings(host=host), complete_inventory).tls
        assert after.key == before.key
        assert after.certificate != before.certificate


def test_an_expired_self_signed_certificate_counts_as_missing(inventory: Path) -> None:
    secrets.create_missing_keys(make_settings(), inventory, TODAY - timedelta(days=3660))
    assert any("certificate" in line for line in secrets.list_missing(make_settings(), inventory))
    secrets.create_missing_keys(make_settings(), inventory, TODAY)
    assert secrets.list_missing(make_settings(), inventory) == []


def test_loading_an_empty_vault_says_all_that_is_missing_and_what_to_run(inventory: Path) -> None:
    with pytest.raises(UserError) as error:
        secrets.load_secrets(make_settings(relay=RELAY), inventory)
    text = str(error.value)
    assert "DKIM key for example.org, mail.example.org" in text
    assert "self-signed certificate for mail.example.org" in text
    assert f"mailkeep keys {inventory}" in text
    assert f"mailkeep relay {inventory}" in text


def test_a_dkim_key_that_is_lost_is_restored_and_a_new_one_published_first(inventory: Path) -> None:
    secrets.create_missing_keys(make_settings(), inventory, TODAY)
    open_vault(inventory).delete(f"dkim/example.org/{SELECTOR}")
    [line] = secrets.list_missing(make_settings(), inventory)
    positions = [line.index(text) for text in ("restore it from git", "mailkeep keys", "mailkeep dns", "then deploy")]
    assert positions == sorted(positions)


def test_commands_name_an_inventory_as_the_user_would(inventory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(inventory.parent.parent)
    with pytest.raises(UserError, match="`mailkeep keys first`"):
        secrets.load_secrets(make_settings(), Path("inventories/first"))


def test_the_relay_password_is_needed_only_with_a_relay_user(inventory: Path) -> None:
    secrets.create_missing_keys(make_settings(), inventory, TODAY)
    assert secrets.load_secrets(make_settings(relay={"host": "smtp.example.net"}), inventory).relay_password is None
    with pytest.raises(UserError, match="relay"):
        secrets.load_secrets(make_settings(relay=RELAY), inventory)
    password = "pass word ü:%"  # noqa: S105
    save_relay_password(inventory, password)
    assert secrets.load_secrets(make_settings(relay=RELAY), inventory).relay_password == password


@pytest.mark.parametrize("password", ["", " ", "two\nlines", "trailing\n", "nul\0", " leading", "\x1b[0m"])
def test_a_password_that_no_password_map_can_carry_is_refused_and_not_repeated(
    inventory: Path, vault: Vault, password: str
) -> None:
    with pytest.raises(UserError) as error:
        save_relay_password(inventory, password)
    assert not password.strip() or repr(password)[1:-1] not in repr(str(error.value))
    assert vault.names() == []


def test_no_repr_shows_private_material(inventory: Path) -> None:
    declared = make_settings(relay=RELAY)
    secrets.create_missing_keys(declared, inventory, TODAY)
    save_relay_password(inventory, "relay-password")
    loaded = secrets.load_secrets(declared, inventory)
    private = [*(key.private_pem for key in loaded.dkim), loaded.tls.key]
    lines = [line for pem in private for line in pem.decode().splitlines()] + ["relay-password"]
    for shown in (repr(loaded), str(loaded), f"{loaded.dkim} {loaded.tls}"):
        assert not [line for line in lines if line in shown]
    assert "example.org" in repr(loaded)


def test_a_damaged_dkim_key_is_named(complete_inventory: Path) -> None:
    vault = open_vault(complete_inventory)
    vault.write(f"dkim/example.org/{SELECTOR}", b"nonsense")
    with pytest.raises(UserError, match=str(vault.directory / f"dkim/example.org/{SELECTOR}.age")):
        secrets.load_secrets(make_settings(), complete_inventory)


def test_unused_secrets_are_reported_and_harmless(inventory: Path, vault: Vault) -> None:
    both = make_settings("example.org", "example.net", relay=RELAY)
    secrets.create_missing_keys(both, inventory, TODAY)
    save_relay_password(inventory, "relay-password")
    vault.write("notes", b"by hand")
    assert secrets.list_unused(both, inventory) == ["notes"]
    assert secrets.list_unused(make_settings(), inventory) == [f"dkim/example.net/{SELECTOR}", "notes", "relay"]
    assert [key.domain for key in secrets.load_secrets(make_settings(), inventory).dkim] == [
        "example.org",
        "mail.example.org",
    ]


def test_twenty_domains_load_in_no_time(complete_inventory: Path) -> None:
    pem = secrets.load_secrets(make_settings(), complete_inventory).dkim[0].private_pem
    declared = make_settings(*(f"d{number}.example.org" for number in range(20)))
    for domain in declared.domains:
        open_vault(complete_inventory).write(f"dkim/{domain}/{SELECTOR}", pem)
    start = time.perf_counter()
    loaded = secrets.load_secrets(declared, complete_inventory)
    assert time.perf_counter() - start < 0.5
    assert len(loaded.dkim) == 21
