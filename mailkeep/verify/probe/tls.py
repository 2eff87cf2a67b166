"""Which TLS is spoken, and which certificate is shown."""

import base64
import ssl
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from . import web
from .config import ProbeConfig, unused_client_address
from .smtp_imap import LineClient, anyone, encrypted

PORTS = (25, 465, 587, 143, 993)


def old() -> ssl.SSLContext:
    """Nothing above TLS 1.1. SECLEVEL=0, or our own OpenSSL would not even offer it."""
    context = anyone()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    return context


def weak() -> ssl.SSLContext:
    """TLS 1.2 with what has no forward secrecy, no authentication, no encryption, or SHA-1."""
    context = anyone()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("kRSA:aNULL:eNULL:3DES:SHA1:LOW:@SECLEVEL=0")
    return context


def spoken(given: ProbeConfig) -> list[dict[str, Any]]:
    """For each port what came of a good handshake, one of before TLS 1.2, and one with weak ciphers."""
    ports = (*PORTS, *((web.PORT,) if given.web else ()))
    with ThreadPoolExecutor(len(ports)) as pool:
        return list(pool.map(lambda port: _port(given, port), ports))


def _shake_hands(given: ProbeConfig, port: int, client: ssl.SSLContext) -> tuple[LineClient, ssl.SSLSocket]:
    return encrypted(
        given.address, port, client, unused_client_address(), given.web[0][0] if port == web.PORT else None
    )


def _port(given: ProbeConfig, port: int) -> dict[str, Any]:
    talk, secured = _shake_hands(given, port, anyone())
    with talk:
        certificate = secured.getpeercert(binary_form=True) or b""
        good = str(secured.version())
    return {
        "port": port,
        "good": good,
        "certificate": base64.b64encode(certificate).decode(),
        "old": _outcome(given, port, old),
        "weak": _outcome(given, port, weak),
    }


def _outcome(given: ProbeConfig, port: int, client: Callable[[], ssl.SSLContext]) -> str:
    """`refused`, what was agreed on, or why it could not be tried."""
    try:
        talk, secured = _shake_hands(given, port, client())
    except ssl.SSLError as error:
        # An alert is the server's word, and so is hanging up; any other reason is this side's own.
        told = isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) or "_ALERT_" in (error.reason or "")
        return "refused" if told else f"not tried: {error.reason}"
    except ConnectionResetError:
        return "refused"
    with talk:
        return f"{secured.version()} {(secured.cipher() or ['?'])[0]}"
