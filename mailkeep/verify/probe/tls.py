"""The TLS versions, ciphers and certificate of each port."""

import base64
import ssl
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from . import web
from .config import ProbeConfig, unused_client_address
from .smtp_imap import SIEVE_PORT, LineClient, open_encrypted, unverified_context

MAIL_PORTS = (25, 465, 587, 143, 993, SIEVE_PORT)


def old_context() -> ssl.SSLContext:
    """TLS 1.0 and 1.1 alone. SECLEVEL=0, or the OpenSSL of this machine would not offer them."""
    context = unverified_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    return context


def weak_context() -> ssl.SSLContext:
    """TLS 1.2 with ciphers that lack forward secrecy, authentication or encryption, or that use SHA-1."""
    context = unverified_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("kRSA:aNULL:eNULL:3DES:SHA1:LOW:@SECLEVEL=0")
    return context


def examine_ports(config: ProbeConfig) -> list[dict[str, Any]]:
    """For each port the version and certificate of a modern handshake, and the results of `old` and `weak` ones."""
    ports = (*MAIL_PORTS, *((web.PORT,) if config.web else ()))
    with ThreadPoolExecutor(len(ports)) as pool:
        return list(pool.map(lambda port: _examine_port(config, port), ports))


def _shake_hands(config: ProbeConfig, port: int, context: ssl.SSLContext) -> tuple[LineClient, ssl.SSLSocket]:
    name = config.web[0][0] if port == web.PORT else None
    return open_encrypted(config.address, port, context, unused_client_address(), name)


def _examine_port(config: ProbeConfig, port: int) -> dict[str, Any]:
    client, connection = _shake_hands(config, port, unverified_context())
    with client:
        certificate = connection.getpeercert(binary_form=True) or b""
        version = str(connection.version())
    return {
        "port": port,
        "version": version,
        "certificate": base64.b64encode(certificate).decode(),
        "old": _try_handshake(config, port, old_context),
        "weak": _try_handshake(config, port, weak_context),
    }


def _try_handshake(config: ProbeConfig, port: int, make_context: Callable[[], ssl.SSLContext]) -> str:
    """`refused`, the agreed version and cipher, or why the handshake could not be tried."""
    try:
        client, connection = _shake_hands(config, port, make_context())
    except ssl.SSLError as error:
        # The server refuses by an alert or by hanging up. Any other reason is this side's own.
        is_refused = isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) or "_ALERT_" in (error.reason or "")
        return "refused" if is_refused else f"not tried: {error.reason}"
    except ConnectionResetError:
        return "refused"
    with client:
        return f"{connection.version()} {(connection.cipher() or ['?'])[0]}"
