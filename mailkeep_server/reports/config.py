"""The configuration, `/etc/mailkeep/reports.json`, as `mailkeep.parts.reports` writes it."""

import json
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

from mailkeep_server.common import paths
from mailkeep_server.common.domain_names import is_within

FILE = Path(paths.REPORTS_CONFIG)

Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class ReportsConfig:
    """`address` is where reports arrive. `domains` are ours. `networks`, by kind of source: `own`, `spf` and
    `forwarder`. `host` is this server's name: its identity in Authentication-Results."""

    address: str
    domains: tuple[str, ...]
    networks: dict[str, tuple[Network, ...]] = field(default_factory=dict)
    host: str = ""

    def find_domain(self, name: str) -> str:
        """Our domain that this name is or is below, the longest; "" if there is none."""
        return max((domain for domain in self.domains if is_within(name, domain)), key=len, default="")

    def find_kind(self, source: str) -> str:
        """The kind of a source by its address; "" of a stranger."""
        address = ip_address(source)
        for kind, networks in self.networks.items():
            if any(address in network for network in networks):
                return kind
        return ""


def load_config(file: Path = FILE) -> ReportsConfig:
    """Raises OSError, ValueError, KeyError or TypeError for a file that is not as `mailkeep deploy` writes it."""
    fields = json.loads(file.read_text())
    networks = {
        kind: tuple(ip_network(network, strict=False) for network in listing)
        for kind, listing in fields["networks"].items()
    }
    return ReportsConfig(str(fields["address"]), tuple(fields["domains"]), networks, str(fields["host"]))
