"""A daily look at the server's own DNS records and at blocklists, from the server: its resolver is nobody else's."""

import hashlib
import json
from pathlib import Path

from mailkeep.dns import blocklists, records
from mailkeep.inventory.secrets import Secrets
from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit, unit_check
from mailkeep.parts.server_package import DIRECTORY, PYTHON
from mailkeep.settings.models import Settings
from mailkeep.templating import render

CONFIG = "/etc/mailkeep/dns.json"
STATE = "/var/lib/mailkeep-dns"
TROUBLES = f"{STATE}/troubles.json"
SERVICE, TIMER = "mailkeep-dns.service", "mailkeep-dns.timer"


def build_part(settings: Settings, secrets: Secrets) -> Part:
    """Nothing where `resolver: system`: blocklists answer nobody who asks through a provider's resolver."""
    service = f"{SYSTEMD}/{SERVICE}"
    units = (service, f"{SYSTEMD}/{TIMER}")
    if settings.resolver == "system":
        return Part(name="DNS watch", absent=(*units, CONFIG))
    paths = {"python": PYTHON, "config": CONFIG, "state": STATE}
    return Part(
        name="DNS watch",
        packages=("bind9-dnsutils", "python3"),
        directories=(Directory("/etc/mailkeep"),),
        files=(
            File(CONFIG, _config(settings, secrets)),
            *(File(file, render(f"dns_watch/{Path(file).name}", **paths)) for file in units),
        ),
        units=(Unit(TIMER, restart_on=(f"{DIRECTORY}/", CONFIG, *units)),),
        checks=(
            Check(f"{PYTHON} dns-monitor --check {CONFIG}", reads=(f"{DIRECTORY}/", CONFIG)),
            unit_check(service, service),  # the timer starts it; the timer itself is checked as every unit is
        ),
    )


def _config(settings: Settings, secrets: Secrets) -> bytes:
    """What `mailkeep_server.dns_monitor` reads: which records to look at, and which entries of which lists."""
    listed = records.all_records(settings, secrets)
    lists = [
        {
            "list": one.zone,
            "subject": subject,
            "entry": blocklists.entry_name(one, subject),
            "test": blocklists.entry_name(one, one.must_list),
            "never": blocklists.entry_name(one, one.must_not_list),
            "off": one.delisting,
        }
        for one in blocklists.LISTS
        if not one.is_allowlist
        for subject in blocklists.list_subjects(one, settings)
    ]
    names = list(dict.fromkeys((record.name, record.type) for record in listed))
    # Other values are other records too: then what is seen next counts as right.
    values = hashlib.sha256(repr(sorted((one.name, one.type, one.value) for one in listed)).encode()).hexdigest()
    return f"{json.dumps({'records': names, 'values': values, 'lists': lists}, indent=1)}\n".encode()
