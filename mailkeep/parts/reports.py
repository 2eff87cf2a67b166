"""The reader of DMARC and TLS reports, and of complaints. The programs are in `mailkeep_server.reports`.

Postfix gives a copy of each message at the published address to `report-intake`, which puts it into a directory. The
message itself goes where mail.yml leads it: to an account, or to administrators elsewhere. So the reader needs no right
to any mailbox, and no mail waits for it or is lost by it.
"""

import json

from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit, User, unit_check
from mailkeep.parts.server_package import DIRECTORY, PYTHON
from mailkeep.settings.models import Settings
from mailkeep.templating import render_template
from mailkeep_server.common import paths

SERVICE, TIMER = (f"{SYSTEMD}/mailkeep-reports.{kind}" for kind in ("service", "timer"))
CONFIG = paths.REPORTS_CONFIG


def build_part(settings: Settings) -> Part:
    """Nothing where reports arrive at another server."""
    if not settings.reads_reports:
        return Part(name="reports", absent=(SERVICE, TIMER, CONFIG))
    user = paths.REPORTS_USER
    service = render_template(
        "reports/mailkeep-reports.service",
        python=PYTHON,
        user=user,
        state=paths.REPORTS_STATE,
    )
    return Part(
        name="reports",
        packages=("python3",),
        users=(User(user, home=paths.REPORTS_STATE),),
        directories=(
            Directory(paths.ETC),
            Directory(paths.REPORTS_STATE, user, user, 0o700),
            Directory(paths.REPORTS_SPOOL, user, user, 0o700),
        ),
        files=(
            File(CONFIG, _build_config(settings)),
            File(SERVICE, service),
            File(TIMER, render_template("reports/mailkeep-reports.timer")),
        ),
        units=(Unit("mailkeep-reports.timer", restart_on=(TIMER,)),),
        checks=(
            Check(f"{PYTHON} report-reader --check", reads=(f"{DIRECTORY}/", CONFIG)),
            unit_check(SERVICE, SERVICE),  # the timer starts it; a unit that is enabled is checked without this
        ),
        kept=(paths.REPORTS_DATABASE, paths.REPORTS_ANNOUNCEMENTS),
    )


def _build_config(settings: Settings) -> bytes:
    """`mailkeep_server.reports.config.ReportsConfig`. Of dns.spf only addresses and networks: a report says itself
    whether SPF passed, and so whether a name in dns.spf stands for its source."""
    terms = [term.partition(":") for term in settings.spf_terms]
    networks = {
        "own": [str(address) for address in settings.host.addresses],
        "spf": [value for kind, _, value in terms if kind in ("ip4", "ip6")],
        "forwarder": [str(network) for network in settings.forwarders],
    }
    domains = [*settings.domains, settings.host.name, *settings.dns.never_send]
    config = {
        "address": settings.report_address,
        "domains": domains,
        "networks": networks,
        "host": settings.host.name,
    }
    return f"{json.dumps(config, indent=1)}\n".encode()
