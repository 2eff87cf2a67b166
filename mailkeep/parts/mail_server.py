"""All parts of a mail server, in the order in which they are put in place and started."""

from mailkeep.inventory.secrets import Secrets
from mailkeep.parts import (
    alerts,
    backup,
    certificates,
    dns_watch,
    dovecot,
    fail2ban,
    firewall,
    guard,
    inbound,
    lines,
    logs,
    opendkim,
    postfix,
    reports,
    resolver,
    server_package,
    spam,
    ssh,
    system,
    web,
)
from mailkeep.parts.model import Part
from mailkeep.settings.models import Settings


def build_parts(settings: Settings, secrets: Secrets) -> tuple[Part, ...]:
    """The watch comes last: it needs the units of all other parts."""
    services = (
        system.build_part(settings),
        ssh.build_part(settings),
        firewall.build_part(settings),
        resolver.build_part(settings),
        server_package.build_part(),
        logs.build_part(settings),
        certificates.build_part(settings, secrets),
        opendkim.build_part(secrets.dkim, settings.retention.queue_days),
        guard.build_part(settings, secrets.shared_store_password),
        lines.build_part(settings),
        inbound.build_part(settings),
        dovecot.build_part(settings),
        reports.build_part(settings),
        spam.build_part(settings),
        postfix.build_part(settings, secrets.relay_password),
        fail2ban.build_part(settings),
        dns_watch.build_part(settings, secrets),
        web.build_part(settings),
    )
    kept = (*services, alerts.build_part(settings, secrets.webhook, services))
    backups = backup.build_part(settings, secrets.backup, kept)
    return (*services, backups, alerts.build_part(settings, secrets.webhook, (*services, backups)))
