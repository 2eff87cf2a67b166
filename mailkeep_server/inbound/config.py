"""What mail.yml says about who may write as whom: `inbound.json`, written by Mailkeep."""

import json
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

from mailkeep_server.common import paths
from mailkeep_server.common.domain_names import is_within
from mailkeep_server.common.networks import is_in_networks

Network = IPv4Network | IPv6Network


class ConfigError(Exception):
    """The message names the file and the fault."""


@dataclass(frozen=True)
class InboundConfig:
    host: str
    """The host's name: its identity in Authentication-Results."""
    domains: tuple[str, ...]
    """The mail domains. They and the host, with all names below them, are ours."""
    trusted_networks: tuple[Network, ...] = ()
    """Clients that may write as our domains."""
    trusted_terms: tuple[str, ...] = ()
    """The same as SPF terms that need the DNS."""
    forwarders: tuple[Network, ...] = ()
    """Clients that bring mail of anybody."""
    trusted_sealers: tuple[str, ...] = ()
    """Domains whose ARC seals are believed."""
    refused_extensions: frozenset[str] = frozenset()
    """Of attachments: lower case, without the dot."""

    def find_own_domain(self, domain: str) -> str:
        """The domain of ours that this is, or is below; empty if there is none."""
        names = (*self.domains, self.host)
        return next((name for name in names if is_within(domain, name)), "")

    def is_forwarder(self, client: str) -> bool:
        return is_in_networks(client, self.forwarders)

    def is_trusted_client(self, client: str) -> bool:
        return is_in_networks(client, self.trusted_networks)


def load_config(path: Path = Path(paths.INBOUND_CONFIG)) -> InboundConfig:
    """Raises ConfigError."""
    try:
        return _parse_config(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: {type(error).__name__}: {error}") from None


def _parse_config(values: dict[str, Any]) -> InboundConfig:
    return InboundConfig(
        host=str(values["host"]),
        domains=tuple(map(str, values["domains"])),
        trusted_networks=tuple(map(ip_network, values["trusted_networks"])),
        trusted_terms=tuple(map(str, values["trusted_terms"])),
        forwarders=tuple(map(ip_network, values["forwarders"])),
        trusted_sealers=tuple(map(str, values["trusted_sealers"])),
        refused_extensions=frozenset(map(str, values["refused_extensions"])),
    )
