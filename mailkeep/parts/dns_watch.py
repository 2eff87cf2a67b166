"""The daily check of the server's DNS records and of blocklists, from the server: no other host uses its resolver."""

import hashlib
import json
from pathlib import Path

from mailkeep.dns import blocklists, records
from mailkeep.inventory.secrets import Secrets
from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit, unit_check
from mailkeep.parts.server_package import DIRECTORY, PYTHON
from mailkeep.settings.models import Settings
from mailkeep.templating import render_template
from mailkeep_server.common import paths

CONFIG = f"{paths.ETC}/dns.json"
STATE = "/var/lib/mailkeep-dns"
TROUBLES = f"{STATE}/troubles.json"
SERVICE, TIMER = "mailkeep-dns.service", "mailkeep-dns.timer"


def build_part(settings: Settings, secrets: Secrets) -> Part:
    """Nothing with `resolver: system`: blocklists do not answer through a provider's resolver."""
    service = f"{SYSTEMD}/{SERVICE}"
    units = (service, f"{SYSTEMD}/{TIMER}")
    if settings.resolver == "system":
        return Part(name="DNS watch", absent=(*units, CONFIG))
    variables = {"python": PYTHON, "config": CONFIG, "state": STATE}
    return Part(
        name="DNS watch",
        packages=("bind9-dnsutils", "python3"),
        directories=(Directory(paths.ETC),),
        files=(
            File(CONFIG, _build_config(settings, secrets)),
            *(File(file, render_template(f"dns_watch/{Path(file).name}", **variables)) for file in units),
        ),
        kept=(STATE,),
        units=(Unit(TIMER, restart_on=(f"{DIRECTORY}/", CONFIG, *units)),),
        checks=(
            Check(f"{PYTHON} dns-monitor --check {CONFIG}", reads=(f"{DIRECTORY}/", CONFIG)),
            unit_check(service, service),  # the timer starts it; a unit that is enabled is checked without this
        ),
    )


def _build_config(settings: Settings, secrets: Secrets) -> bytes:
    """The configuration of `mailkeep_server.dns_monitor`: names and types of records, and entries of blocklists."""
    declared = records.all_records(settings, secrets)
    lists = [
        {
            "zone": blocklist.zone,
            "subject": subject,
            "entry": blocklists.entry_name(blocklist, subject),
            "must_list": blocklists.entry_name(blocklist, blocklist.must_list),
            "must_not_list": blocklists.entry_name(blocklist, blocklist.must_not_list),
            "delisting": blocklist.delisting,
        }
        for blocklist in blocklists.LISTS
        if not blocklist.is_allowlist
        for subject in blocklists.list_subjects(blocklist, settings)
    ]
    names = list(dict.fromkeys((record.name, record.type) for record in declared))
    # The monitor starts anew with another configuration: so it does when only a declared value has changed.
    values = sorted((record.name, record.type, record.value) for record in declared)
    digest = hashlib.sha256(repr(values).encode()).hexdigest()
    return f"{json.dumps({'records': names, 'values': digest, 'lists': lists}, indent=1)}\n".encode()
