"""The watch: looks after the machine, enforces freezes, alerts the administrators. The proof of every jail, and the
weekly mail."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from mailkeep.inventory import dkim_keys
from mailkeep.parts import certificates, dns_watch, fail2ban, firewall, postfix, server_package
from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit, unit_check
from mailkeep.settings.models import Settings
from mailkeep.templating import render_template
from mailkeep_server.common import paths

CONFIG = paths.WATCH_CONFIG
WEBHOOK = f"{paths.ETC}/webhook"
"""URL and token, a line each; absent where alerts go by mail alone."""
WATCH, WATCH_FAILED = "mailkeep-watch.service", "mailkeep-watch-failed.service"
JAIL_PROOF, JAIL_PROOF_TIMER = "mailkeep-jails.service", "mailkeep-jails.timer"
BACKUP_SLACK_HOURS = 2
"""How much later than planned a backup may end."""
WEEKLY, WEEKLY_TIMER = "mailkeep-weekly.service", "mailkeep-weekly.timer"
UNIT_FILES = (WATCH, WATCH_FAILED, JAIL_PROOF, JAIL_PROOF_TIMER)
WEEKLY_FILES = (WEEKLY, WEEKLY_TIMER)


def build_part(settings: Settings, webhook: str | None, services: Iterable[Part]) -> Part:
    """Watches the units of `services`. `webhook`, URL and token, is needed when `settings.alerts` has one."""
    units = [unit for service in services for unit in service.units if unit.running]
    weekly = WEEKLY_FILES if settings.alerts.weekly else ()
    started_by_others = [f"{SYSTEMD}/{name}" for name in (WATCH_FAILED, JAIL_PROOF, *weekly[:1])]
    python, package = server_package.PYTHON, f"{server_package.DIRECTORY}/"
    return Part(
        name="alerts",
        packages=("python3",),
        directories=(Directory(paths.ETC),),
        files=(
            File(CONFIG, _build_config(settings, units, [JAIL_PROOF_TIMER, *weekly[1:]]), mode=0o600),
            *([File(WEBHOOK, webhook.encode(), mode=0o600, secret=True)] if webhook else ()),
            *(
                File(f"{SYSTEMD}/{name}", render_template(f"watch/{name}", python=python))
                for name in (*UNIT_FILES, *weekly)
            ),
        ),
        absent=(
            *(() if webhook else (WEBHOOK,)),
            *(() if weekly else (f"{SYSTEMD}/{name}" for name in WEEKLY_FILES)),
        ),
        kept=(paths.FREEZE_SAMPLES, paths.WATCH_SAVED_STATE),
        units=(
            Unit(WATCH, restart_on=(package, CONFIG, WEBHOOK, f"{SYSTEMD}/{WATCH}")),
            Unit(JAIL_PROOF_TIMER, restart_on=(f"{SYSTEMD}/{JAIL_PROOF_TIMER}",)),
            *(Unit(name, restart_on=(f"{SYSTEMD}/{name}",)) for name in weekly[1:]),
        ),
        checks=(
            Check(f"{python} watch --check", reads=(package, CONFIG, WEBHOOK)),
            *(unit_check(file, file) for file in started_by_others),
        ),
    )


def _build_config(settings: Settings, units: list[Unit], timers: list[str]) -> bytes:
    """`mailkeep_server.watch.config.WatchConfig`."""
    alerts = settings.alerts
    webhook = alerts.webhook
    config = {
        "host": settings.host.name,
        "admins": settings.admin.addresses,
        "accounts": {account.address: (account.address, *account.send_as) for account in settings.accounts},
        "confirm_at": settings.confirmation_addresses,
        "units": [*(unit.name for unit in units), *timers],
        "on_demand": [unit.name for unit in units if unit.socket],
        "jails": fail2ban.banned_ports_by_jail(settings),
        "jail_rules": {jail: asdict(rules) for jail, rules in fail2ban.rules_by_jail(settings).items()},
        "open_ports": sorted(firewall.open_ports(settings)),
        "never_ban": [str(network) for network in settings.never_banned],
        "certificate_file": certificates.PEM,
        "min_certificate_days": alerts.certificate_days,
        "max_queued_messages": alerts.queue,
        "max_disk_percent": alerts.disk,
        "max_failed_logins": alerts.failed_logins,
        "max_leaving": {
            "max_per_hour": settings.max_leaving.recipients_per_hour,
            "max_per_day": settings.max_leaving.recipients_per_day,
        },
        "domains": [*settings.domains, settings.host.name, "localhost"],
        "control_socket": paths.GUARD_CONTROL_SOCKET,
        "freeze_list": paths.FREEZE_LIST,
        "smtp_socket": postfix.ALERTS,
        "unsigned_smtp_socket": postfix.UNSIGNED_ALERTS,
        "signing_domains": list(dkim_keys.signing_domains(settings)),
        "relay": settings.relay
        and {"host": settings.relay.host, "port": settings.relay.port, "password_file": postfix.RELAY_PASSWORD},
        "local_resolver": settings.resolver == "local",
        "addresses": [str(address) for address in settings.host.addresses],
        "dns_troubles_file": dns_watch.TROUBLES if settings.resolver == "local" else "",
        "report_announcements_file": paths.REPORTS_ANNOUNCEMENTS if settings.reads_reports else "",
        "renewal_troubles_file": certificates.TROUBLES if settings.tls.mode == "acme" else "",
        "spam_filter": settings.spam.filter,
        "backup": settings.backup
        and {
            "targets": [target.name for target in settings.backup.targets],
            "max_age_hours": settings.backup.every_hours + BACKUP_SLACK_HOURS,
        },
        "webhook": webhook
        and {"format": webhook.format, "template": webhook.template or "", "secret_file": Path(WEBHOOK).name},
    }
    return f"{json.dumps(config, indent=2)}\n".encode()
