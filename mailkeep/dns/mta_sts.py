"""MTA-STS (RFC 8461): what a web server has to say at a mail domain so that others insist on TLS to its servers."""

import hashlib
import http.client
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from mailkeep.settings.models import Settings

PATH = "/.well-known/mta-sts.txt"
# Seconds that others remember the policy: RFC 8461 §3.2 wants weeks, §8.3 an end while it is tried out.
_SECONDS, _LARGEST = 10, 65_536  # for a connection; octets of a policy (§3.3)
_MAX_AGE = {"testing": 86_400, "enforce": 30 * 86_400}


def policy_host(domain: str) -> str:
    """Where the policy of a mail domain is served (§3.3)."""
    return f"mta-sts.{domain}"


def policy_url(domain: str) -> str:
    return f"https://{policy_host(domain)}{PATH}"


def policy_text(settings: Settings) -> str:
    """The text to serve at `url`, the same for all mail domains; empty where MTA-STS is off."""
    mode = settings.dns.mta_sts
    if mode == "off":
        return ""
    lines = ("version: STSv1", f"mode: {mode}", f"mx: {settings.host.name}", f"max_age: {_MAX_AGE[mode]}")
    return "".join(f"{line}\r\n" for line in lines)


def policy_id(settings: Settings) -> str:
    """What the record says of the policy: another one for another policy, or nobody would fetch it (§3.1)."""
    return hashlib.sha256(policy_text(settings).encode()).hexdigest()[:20]


def list_instructions(settings: Settings) -> Iterator[str]:
    """What to do beside publishing the records, where the policy is served elsewhere."""
    text = policy_text(settings)
    if text and not settings.serves_mta_sts_policy:
        places = "\n".join(f"  {policy_url(domain)}" for domain in settings.domains)
        served = "\n".join(f"  {line}" for line in text.splitlines())
        yield (
            "MTA-STS: serve this text, as text/plain, over HTTPS with a certificate that the world trusts, at\n"
            f"{places}\n\n{served}"
        )


@dataclass(frozen=True, slots=True)
class ServedPolicy:
    """A policy as a web server hands it out, or the `error` that keeps others from it."""

    text: str = ""
    error: str = ""


def fetch_policy(domain: str, addresses: list[str]) -> ServedPolicy:
    """As RFC 8461 §3.3 has it: HTTPS with a certificate for mta-sts.DOMAIN, and no redirection is followed."""
    if not addresses:
        return ServedPolicy(error=f"mta-sts.{domain} has no address")
    where = urlsplit(policy_url(domain))
    try:
        with (
            socket.create_connection((addresses[0], 443), _SECONDS) as plain,
            ssl.create_default_context().wrap_socket(plain, server_hostname=where.hostname) as tls,
        ):
            connection = http.client.HTTPConnection(str(where.hostname))
            connection.sock = tls
            connection.request("GET", where.path)
            reply = connection.getresponse()
            text = reply.read(_LARGEST).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return ServedPolicy(error=str(error))
    return ServedPolicy(text) if reply.status == 200 else ServedPolicy(error=f"the web server answers {reply.status}")
