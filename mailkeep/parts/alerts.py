"""The watch: looks after the machine, carries out freezes, tells the administrators; and the proof of every jail."""

import json
from collections.abc import Iterable
from pathlib import Path

from mailkeep.parts import certificates, dns_watch, fail2ban, guard, postfix, server_package
from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit, unit_check
from mailkeep.settings.models import Settings
from mailkeep.templating import render_template

CONFIG = "/etc/mailkeep/watch.json"
WEBHOOK = "/etc/mailkeep/webhook"
CONTROL = "/run/mailkeep-guard/control"
WATCH, FAILED, PROOF, TIMER = (
    f"mailkeep-{name}" for name in ("watch.service", "watch-failed.service", "jails.service", "jails.timer")
)
UNIT_FILES = (WATCH, FAILED, PROOF, TIMER)


def build_part(settings: Settings, webhook: str | None, services: Iterable[Part]) -> Part:
    """`webhook` is needed when `settings.alerts` names one; the units of `services` are watched."""
    units = [unit.name for service in services for unit in service.units if unit.running]
    started_by_others = [f"{SYSTEMD}/{name}" for name in (FAILED, PROOF)]
    return Part(
        name="alerts",
        packages=("python3",),
        directories=(Directory("/etc/mailkeep"),),
        files=(
            File(CONFIG, _config(settings, [*units, TIMER]), mode=0o600),
            *([File(WEBHOOK, webhook.encode(), mode=0o600, secret=True)] if webhook else ()),
            *(
                File(f"{SYSTEMD}/{name}", render_template(f"watch/{name}", python=server_package.PYTHON))
                for name in UNIT_FILES
            ),
        ),
        absent=() if webhook else (WEBHOOK,),
        units=(
            Unit(WATCH, restart_on=(f"{server_package.DIRECTORY}/", CONFIG, WEBHOOK, f"{SYSTEMD}/{WATCH}")),
            Unit(TIMER, restart_on=(f"{SYSTEMD}/{TIMER}",)),
        ),
        checks=(
            Check(f"{server_package.PYTHON} watch --check", reads=(f"{server_package.DIRECTORY}/", CONFIG, WEBHOOK)),
            *(unit_check(file, file) for file in started_by_others),
        ),
    )


def _config(settings: Settings, units: list[str]) -> bytes:
    alerts = settings.alerts
    hook = alerts.webhook
    written = {
        "host": settings.host.name,
        "admins": settings.admin.addresses,
        "accounts": {account.address: (account.address, *account.send_as) for account in settings.accounts},
        "units": units,
        "jails": fail2ban.banned_ports_by_jail(settings),
        "own": [str(one) for one in (*settings.host.addresses, *settings.admin.networks)],
        "certificate": certificates.PEM,
        "certificate_days": alerts.certificate_days,
        "queue": alerts.queue,
        "disk": alerts.disk,
        "failures": alerts.failed_logins,
        "control": CONTROL,
        "frozen": guard.FROZEN,
        "smtp": postfix.ALERTS,
        "world": dns_watch.TROUBLES,
        "renewal": certificates.TROUBLES if settings.tls.mode == "acme" else "",
        "webhook": hook and {"format": hook.format, "template": hook.template or "", "secret": Path(WEBHOOK).name},
    }
    return f"{json.dumps(written, indent=2)}\n".encode()
