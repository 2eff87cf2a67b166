"""The milter of port 25 that judges who a message is from. The program is `mailkeep_server.inbound`."""

import json
from collections.abc import Iterable

from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit
from mailkeep.parts.server_package import DIRECTORY, PYTHON
from mailkeep.settings.attachment_kinds import EXTENSIONS
from mailkeep.settings.models import Settings
from mailkeep.templating import render_template
from mailkeep_server.common import paths

SERVICE_FILE, SOCKET_FILE = f"{SYSTEMD}/mailkeep-inbound.service", f"{SYSTEMD}/mailkeep-inbound.socket"
PACKAGES = ("python3", "python3-dkim", "python3-nacl", "python3-spf")
"""python3-nacl verifies Ed25519 (RFC 8463) for dkimpy, which only recommends it."""
MEMORY = 160 * 2**20  # bytes: 150 messages at once, each with 256 KiB of headers, which are copied twice


def build_part(settings: Settings) -> Part:
    return Part(
        name="inbound",
        packages=PACKAGES,
        directories=(Directory(paths.ETC),),
        files=(
            File(paths.INBOUND_CONFIG, _build_config(settings)),
            File(SERVICE_FILE, render_template("inbound/mailkeep-inbound.service", python=PYTHON, memory=MEMORY)),
            File(SOCKET_FILE, render_template("inbound/mailkeep-inbound.socket", milter=paths.INBOUND_MILTER_SOCKET)),
        ),
        units=(
            Unit("mailkeep-inbound.socket", restart_on=(SOCKET_FILE,)),
            Unit(
                "mailkeep-inbound.service",
                restart_on=(f"{DIRECTORY}/", paths.INBOUND_CONFIG, SERVICE_FILE),
                socket=paths.INBOUND_MILTER_SOCKET,
            ),
        ),
        checks=(Check(f"{PYTHON} inbound --check", reads=(f"{DIRECTORY}/", paths.INBOUND_CONFIG)),),
    )


def _build_config(settings: Settings) -> bytes:
    kinds = settings.inbound.refused_attachments
    refused = {extension for kind in kinds for extension in EXTENSIONS.get(kind, (kind,))}
    values = {
        "host": settings.host.name,
        "domains": settings.domains,
        "trusted_networks": [*settings.own_sender_networks, *_format_all(settings.forwarders)],
        "trusted_terms": settings.own_sender_lookups,
        "forwarders": _format_all(settings.forwarders),
        "trusted_sealers": settings.inbound.trusted_sealers,
        "refused_extensions": sorted(refused),
    }
    return f"{json.dumps(values, indent=2)}\n".encode()


def _format_all(networks: Iterable[object]) -> list[str]:
    return [str(network) for network in networks]
