"""The relay host is tried as Postfix uses it: what stops mail is said, and no password."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from mailkeep_server.common import relay_login
from mailkeep_server.common.relay_login import find_relay_fault, read_credentials

PASSWORD, UMLAUT = "very-secret:with-colon", "gehütet"
PASSWORDS = (PASSWORD.encode(), UMLAUT.encode())


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    key, pem = tmp_path / "key.pem", tmp_path / "certificate.pem"
    files = ["-keyout", str(key), "-out", str(pem), "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    subprocess.run(["openssl", "req", "-x509", *kind, *files], check=True, capture_output=True)
    return key, pem


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    (tmp_path / "relay_password").write_text(f"[localhost]:587 anna:{PASSWORD}\n")
    return tmp_path / "relay_password"


@pytest.fixture
def start_relay(certificate: tuple[Path, Path]) -> Iterator[Callable[..., int]]:
    """Starts a relay host on loopback, which knows one password; returns its port."""
    controllers: list[Any] = []

    def check_login(_server: object, _session: object, _envelope: object, _mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=isinstance(data, LoginPassword) and data.password in PASSWORDS, handled=False)

    def start(*, tls: bool = True) -> int:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate[1], certificate[0])
        options: dict[str, Any] = {"tls_context": context} if tls else {}
        controller: Any = Controller(object(), "localhost", 0, authenticator=check_login, auth_required=tls, **options)
        with socket.create_server(("127.0.0.1", 0)) as free:
            controller.port = free.getsockname()[1]
        controller.start()
        controllers.append(controller)
        return int(controller.port)

    yield start
    for controller in controllers:
        controller.stop()


def test_a_relay_host_that_takes_the_login_has_no_fault(
    start_relay: Callable[..., int],
    certificate: tuple[Path, Path],
    password_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    port = start_relay()
    assert find_relay_fault("localhost", port, str(password_file), "mail.example.org") == ""
    password_file.write_text("[localhost]:587 anna:very-wrong\n")
    fault = find_relay_fault("localhost", port, str(password_file), "mail.example.org")
    assert fault.startswith("refuses the login: 535 ")
    assert "very-wrong" not in fault
    password_file.unlink()
    assert find_relay_fault("localhost", port, str(password_file), "mail.example.org") == ""
    fault = find_relay_fault("127.0.0.1", port, str(password_file), "mail.example.org")
    assert fault.startswith("shows a certificate that does not prove its name: IP address mismatch")


@pytest.mark.parametrize("methods", ["PLAIN LOGIN", "LOGIN"])
def test_a_password_need_not_be_ascii(
    start_relay: Callable[..., int],
    certificate: tuple[Path, Path],
    password_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    methods: str,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    port, offer = start_relay(), relay_login.smtplib.SMTP.ehlo_or_helo_if_needed

    def offer_methods(connection: Any) -> None:
        offer(connection)
        connection.esmtp_features["auth"] = methods

    monkeypatch.setattr(relay_login.smtplib.SMTP, "ehlo_or_helo_if_needed", offer_methods)
    for password, start in ((UMLAUT, ""), ("gehütet?", "refuses the login: 535 ")):
        password_file.write_text(f"[localhost]:587 anna:{password}\n")
        fault = find_relay_fault("localhost", port, str(password_file), "mail.example.org")
        assert fault.startswith(start)
        assert bool(fault) == bool(start)
    methods = "GSSAPI"
    assert find_relay_fault("localhost", port, str(password_file), "mail.example.org") == "offers no login"


def test_a_private_authority_needs_no_more_extensions_than_for_postfix(
    start_relay: Callable[..., int],
    certificate: tuple[Path, Path],
    password_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of Python 3.13, the default context is strict."""
    context = ssl.create_default_context(cafile=str(certificate[1]))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    monkeypatch.setattr(relay_login.ssl, "create_default_context", lambda: context)
    assert find_relay_fault("localhost", start_relay(), str(password_file), "mail.example.org") == ""
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT


def test_a_certificate_of_no_authority_is_a_fault(start_relay: Callable[..., int], password_file: Path) -> None:
    fault = find_relay_fault("localhost", start_relay(), str(password_file), "mail.example.org")
    assert fault == "shows a certificate that does not prove its name: self-signed certificate"


def test_a_relay_host_without_encryption_gets_no_password(start_relay: Callable[..., int], password_file: Path) -> None:
    port = start_relay(tls=False)
    assert find_relay_fault("localhost", port, str(password_file), "mail.example.org") == "offers no STARTTLS"


@pytest.mark.slow
def test_a_relay_host_that_is_silent_refuses_or_is_not_there_is_a_fault(password_file: Path) -> None:
    def find_fault(host: str, port: int) -> str:
        return find_relay_fault(host, port, str(password_file), "mail.example.org", timeout=0.2)

    assert find_fault("relay.invalid", 587) == "has no address in the DNS"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert find_fault("127.0.0.1", port) == "closes the connection, or does not answer within 0 seconds"

        def refuse() -> None:
            for _ in range(2):  # the connection above waits first
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.sendall(b"554 5.7.1 You are blocked\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        assert find_fault("127.0.0.1", port) == "answers with 554 5.7.1 You are blocked"
        thread.join()
    assert find_fault("127.0.0.1", port) == f"cannot be reached on port {port}: Connection refused"


def test_the_password_is_read_as_postfix_reads_it(password_file: Path) -> None:
    assert read_credentials(password_file) == ("anna", PASSWORD)
    assert read_credentials(password_file.with_name("none")) is None
    assert relay_login.IMPLICIT_TLS == 465
