"""Certificates and keys that the operator brings: bad ones are refused before a server gets them."""

from datetime import timedelta
from pathlib import Path

import pytest
from authority import Authority, create_intermediate, create_root, key_pem, new_key, with_passphrase
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from inventory_samples import make_settings

from mailkeep.errors import UserError
from mailkeep.inventory import secrets
from mailkeep.inventory.tls_keys import TlsPair, import_certificate
from mailkeep.inventory.vault import open_vault

HOST = "mail.example.org"
FILES = make_settings(host=HOST, tls={"mode": "files", "certificate": "tls.pem"})


@pytest.fixture
def issuer() -> Authority:
    return create_intermediate(create_root())


@pytest.fixture
def incoming(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "chain.pem", tmp_path / "key.pem"


def import_pair(inventory: Path, incoming: tuple[Path, Path], chain: bytes, key: bytes) -> list[str]:
    for path, content in zip(incoming, (chain, key), strict=True):
        path.write_bytes(content)
    return import_certificate(FILES, inventory, *incoming)


def read_files(inventory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in inventory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", [HOST, "MAIL.example.org", "*.example.org"])
def test_the_server_gets_the_imported_pair(
    complete_inventory: Path, incoming: tuple[Path, Path], issuer: Authority, name: str
) -> None:
    key = new_key()
    chain = issuer.issue_certificate("www.example.org", name, key=key) + issuer.pem
    import_pair(complete_inventory, incoming, chain, key_pem(key))
    assert secrets.load_secrets(FILES, complete_inventory).tls == TlsPair(chain, key_pem(key))


def test_the_chain_is_read_from_the_file_that_tls_certificate_names(
    complete_inventory: Path, incoming: tuple[Path, Path], issuer: Authority
) -> None:
    key = new_key()
    import_pair(complete_inventory, incoming, issuer.issue_certificate(HOST, key=key), key_pem(key))
    renewed = issuer.issue_certificate(HOST, key=key, end=timedelta(days=90))
    (complete_inventory / "renewed.pem").write_bytes(renewed)
    other_file = make_settings(host=HOST, tls={"mode": "files", "certificate": "renewed.pem"})
    assert secrets.load_secrets(other_file, complete_inventory).tls.certificate == renewed
    assert secrets.load_secrets(FILES, complete_inventory).tls.certificate != renewed


def test_the_certificate_must_cover_names_served_over_https(
    complete_inventory: Path, incoming: tuple[Path, Path], issuer: Authority
) -> None:
    key = new_key()
    import_pair(
        complete_inventory, incoming, issuer.issue_certificate(HOST, "mta-sts.example.org", key=key), key_pem(key)
    )
    tls = {"tls": {"mode": "files", "certificate": "tls.pem"}}
    with pytest.raises(UserError, match=r"must be for autoconfig\.example\.org, autodiscover\.example\.org too"):
        secrets.load_secrets(
            make_settings(host=HOST, dns={"mta_sts": "enforce"}, web={"autoconfig": True}, **tls), complete_inventory
        )
    secrets.load_secrets(make_settings(host=HOST, dns={"mta_sts": "enforce"}, **tls), complete_inventory)


def test_a_renewal_replaces_certificate_and_key(
    complete_inventory: Path, incoming: tuple[Path, Path], issuer: Authority
) -> None:
    for _ in range(2):
        key = new_key()
        import_pair(complete_inventory, incoming, issuer.issue_certificate(HOST, key=key), key_pem(key))
    assert secrets.load_secrets(FILES, complete_inventory).tls.key == key_pem(key)


def test_the_imported_key_is_nowhere_in_clear_text(
    complete_inventory: Path, incoming: tuple[Path, Path], issuer: Authority
) -> None:
    key = new_key()
    import_pair(complete_inventory, incoming, issuer.issue_certificate(HOST, key=key), key_pem(key))
    assert not any(b"PRIVATE KEY" in content for content in read_files(complete_inventory).values())


def test_another_key_is_reported_because_its_record_comes_first(
    complete_inventory: Path, incoming: tuple[Path, Path], issuer: Authority
) -> None:
    key = new_key()
    assert not any(
        "TLSA" in line
        for line in import_pair(complete_inventory, incoming, issuer.issue_certificate(HOST, key=key), key_pem(key))
    )
    assert not any(
        "TLSA" in line
        for line in import_pair(complete_inventory, incoming, issuer.issue_certificate(HOST, key=key), key_pem(key))
    )
    other = new_key()
    lines = import_pair(complete_inventory, incoming, issuer.issue_certificate(HOST, key=other), key_pem(other))
    assert "publish the new TLSA record" in lines[-1]


def test_importing_for_a_self_signed_server_says_what_to_write_in_mail_yml(
    inventory: Path, incoming: tuple[Path, Path], issuer: Authority
) -> None:
    key = new_key()
    for path, content in zip(incoming, (issuer.issue_certificate(HOST, key=key), key_pem(key)), strict=True):
        path.write_bytes(content)
    done = import_certificate(make_settings(host=HOST), inventory, *incoming)
    assert "mode: files\n  certificate: tls.pem" in done[-1]


def make_bad_pairs() -> dict[str, tuple[bytes, bytes, str]]:
    """By fault: chain, key, and the words of the message."""
    above, key, other = create_root(), new_key(), new_key()
    issuer = create_intermediate(above)
    good = issuer.issue_certificate(HOST, key=key)
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505
    pem = key_pem(key)
    edwards = ed25519.Ed25519PrivateKey.generate()
    days = timedelta
    return {
        "another key": (good, key_pem(other), "none of its certificates belongs to the key"),
        "the authority's first": (issuer.pem + good, pem, "is number 2; it must be the first"),
        "a gap in the chain": (good + above.pem, pem, "certificate 1 is not issued by the next"),
        "a stranger in the chain": (good + issuer.pem + good, pem, "certificate 2 is not issued by the next"),
        "same name, other authority": (good + create_intermediate(above).pem, pem, "certificate 1 is not issued"),
        "another host": (
            issuer.issue_certificate("www.example.org", key=key),
            pem,
            "is for www.example.org; it must be for mail.example.org too",
        ),
        "the parent": (issuer.issue_certificate("example.org", "*.org", key=key), pem, "is for example.org, *.org"),
        "a label too many": (issuer.issue_certificate("*.mail.example.org", key=key), pem, "is for *.mail.example.org"),
        "only a common name": (issuer.issue_certificate(key=key, subject=HOST), pem, "no DNS name at all"),
        "expired": (issuer.issue_certificate(HOST, key=key, end=days(seconds=-1)), pem, "certificate 1 expired on"),
        "too early": (issuer.issue_certificate(HOST, key=key, start=days(hours=1)), pem, "is valid only from"),
        "expired issuer": (good + _issue_expired(above, issuer), pem, "certificate 2 expired on"),
        "a key in the chain": (good + pem, pem, "holds a private key"),
        "no certificate": (b"nonsense", pem, "no certificate in PEM form"),
        "half a certificate": (good[:200], pem, "no certificate in PEM form"),
        "no key": (good, b"nonsense", "no private key in PEM form"),
        "half a key": (good, pem[:60], "no private key in PEM form"),
        "a certificate as key": (good, good, "no private key in PEM form"),
        "a passphrase": (good, with_passphrase(key), "has a passphrase"),
        "a short key": (issuer.issue_certificate(HOST, key=short), key_pem(short), "an RSA key of 1024 bits"),
        "a rare kind": (
            good,
            edwards.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            "neither an RSA nor an ECDSA key",
        ),
    }


def _issue_expired(above: Authority, issuer: Authority) -> bytes:
    end = timedelta(days=-1)
    return above.issue_certificate(key=issuer.key, subject=issuer.name, authority=True, end=end)


BAD = make_bad_pairs()


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_pair_is_refused_with_its_reason_and_changes_nothing(
    complete_inventory: Path, incoming: tuple[Path, Path], fault: str
) -> None:
    chain, key, reason = BAD[fault]
    before = read_files(complete_inventory)
    with pytest.raises(UserError) as error:
        import_pair(complete_inventory, incoming, chain, key)
    assert reason in str(error.value)
    assert str(incoming[0]) in str(error.value) or str(incoming[1]) in str(error.value)
    assert "PRIVATE KEY-----\n" not in str(error.value)
    assert read_files(complete_inventory) == before


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_pair_in_the_inventory_is_refused_when_it_is_loaded(complete_inventory: Path, fault: str) -> None:
    chain, key, reason = BAD[fault]
    (complete_inventory / "tls.pem").write_bytes(chain)
    open_vault(complete_inventory).write("tls/key", key)
    with pytest.raises(UserError) as error:
        secrets.load_secrets(FILES, complete_inventory)
    assert reason in str(error.value)


def test_a_missing_chain_file_is_named(complete_inventory: Path) -> None:
    open_vault(complete_inventory).write("tls/key", key_pem(new_key()))
    with pytest.raises(UserError, match=str(complete_inventory / "tls.pem")):
        secrets.load_secrets(FILES, complete_inventory)


def test_a_missing_key_says_how_to_bring_it(complete_inventory: Path) -> None:
    with pytest.raises(UserError, match=r"mailkeep tls .* --certificate CHAIN\.pem --key KEY\.pem"):
        secrets.load_secrets(FILES, complete_inventory)
