"""MTA-STS (RFC 8461): what a web server has to say at a mail domain so that others insist on TLS to its servers."""

import hashlib
from collections.abc import Iterator

from mailkeep.settings import Settings

# Seconds that others remember the policy: RFC 8461 §3.2 wants weeks, §8.3 an end while it is tried out.
_MAX_AGE = {"testing": 86_400, "enforce": 30 * 86_400}


def url(domain: str) -> str:
    return f"https://mta-sts.{domain}/.well-known/mta-sts.txt"


def policy(settings: Settings) -> str:
    """The text to serve at `url`, the same for all mail domains; empty where MTA-STS is off."""
    mode = settings.dns.mta_sts
    if mode == "off":
        return ""
    lines = ("version: STSv1", f"mode: {mode}", f"mx: {settings.host.name}", f"max_age: {_MAX_AGE[mode]}")
    return "".join(f"{line}\r\n" for line in lines)


def policy_id(settings: Settings) -> str:
    """What the record says of the policy: another one for another policy, or nobody would fetch it (§3.1)."""
    return hashlib.sha256(policy(settings).encode()).hexdigest()[:20]


def instructions(settings: Settings) -> Iterator[str]:
    """What to do beside publishing the records."""
    if text := policy(settings):
        places = "\n".join(f"  {url(domain)}" for domain in settings.domains)
        served = "\n".join(f"  {line}" for line in text.splitlines())
        yield (
            "MTA-STS: serve this text, as text/plain, over HTTPS with a certificate that the world trusts, at\n"
            f"{places}\n\n{served}"
        )
