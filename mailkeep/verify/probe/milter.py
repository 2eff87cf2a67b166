"""Lets OpenDKIM sign a message of each domain."""

from dataclasses import asdict

from mailkeep_server.common.signing import request_signature

from .config import ProbeConfig

MILTER_TIMEOUT = 10.0


def request_signatures(config: ProbeConfig) -> dict[str, dict[str, str]]:
    """By signing domain, the fields of its SignedMessage."""
    return {domain: asdict(request_signature(f"probe@{domain}", "VERIFY", MILTER_TIMEOUT)) for domain, _ in config.dkim}
