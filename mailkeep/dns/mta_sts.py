"""MTA-STS (RFC 8461): the policy with which a mail domain has other servers insist on TLS."""

import hashlib
import http.client
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

from mailkeep.settings.models import Settings

PATH = "/.well-known/mta-sts.txt"
CONNECT_TIMEOUT = 10  # seconds
MAX_POLICY_OCTETS = 65_536  # RFC 8461 §3.3
# Seconds for which others remember the policy. RFC 8461 §3.2 wants weeks, but §8.3 a short time during trials.
_MAX_AGE = {"testing": 86_400, "enforce": 30 * 86_400}


def policy_host(domain: str) -> str:
    """The name that serves the policy of a mail domain (RFC 8461 §3.3)."""
    return f"mta-sts.{domain}"


def policy_url(domain: str) -> str:
    return f"https://{policy_host(domain)}{PATH}"


def policy_text(settings: Settings) -> str:
    """The text to serve at `policy_url`, the same for all mail domains; empty if MTA-STS is off."""
    mode = settings.dns.mta_sts
    if mode == "off":
        return ""
    lines = ("version: STSv1", f"mode: {mode}", f"mx: {settings.host.name}", f"max_age: {_MAX_AGE[mode]}")
    return "".join(f"{line}\r\n" for line in lines)


def policy_id(settings: Settings) -> str:
    """The policy's id in the record. Others fetch a changed policy only if its id has changed (RFC 8461 §3.1)."""
    return hashlib.sha256(policy_text(settings).encode()).hexdigest()[:20]


def list_instructions(settings: Settings) -> Iterator[str]:
    """How to serve the policy, if this server does not."""
    text = policy_text(settings)
    if text and not settings.serves_mta_sts_policy:
        urls = "\n".join(f"  {policy_url(domain)}" for domain in settings.domains)
        lines = "\n".join(f"  {line}" for line in text.splitlines())
        yield (f"MTA-STS: serve this text as text/plain, over HTTPS with a trusted certificate, at\n{urls}\n\n{lines}")


@dataclass(frozen=True, slots=True)
class ServedPolicy:
    """A policy as a web server serves it, or the `error` for which others cannot fetch it."""

    text: str = ""
    error: str = ""


def fetch_policy(domain: str, addresses: list[str]) -> ServedPolicy:
    """Fetch it as RFC 8461 §3.3 requires: over HTTPS, with a certificate for mta-sts.DOMAIN, without redirections."""
    host = policy_host(domain)
    if not addresses:
        return ServedPolicy(error=f"{host} has no address")
    try:
        with (
            socket.create_connection((addresses[0], 443), CONNECT_TIMEOUT) as plain,
            ssl.create_default_context().wrap_socket(plain, server_hostname=host) as tls,
        ):
            connection = http.client.HTTPConnection(host)
            connection.sock = tls
            connection.request("GET", PATH)
            response = connection.getresponse()
            text = response.read(MAX_POLICY_OCTETS).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return ServedPolicy(error=str(error))
    if response.status != 200:
        return ServedPolicy(error=f"the web server answers {response.status}")
    return ServedPolicy(text)
