"""A mail server's parts, in the order in which they are put in place and started."""

from mailkeep.inventory.secrets import Secrets
from mailkeep.parts import (
    alerts,
    certificates,
    dns_watch,
    dovecot,
    fail2ban,
    firewall,
    guard,
    opendkim,
    postfix,
    resolver,
    server_package,
    ssh,
    system,
    web,
)
from mailkeep.parts.model import Part
from mailkeep.settings.models import Settings


def server(settings: Settings, secrets: Secrets) -> tuple[Part, ...]:
    services = (
        system.part(settings),
        ssh.part(settings),
        firewall.part(settings),
        resolver.part(settings),
        server_package.server_package_part(),
        certificates.part(settings, secrets),
        opendkim.part(secrets.dkim),
        guard.part(settings, secrets.store_password),
        dovecot.part(settings),
        postfix.part(settings, secrets.relay_password),
        fail2ban.part(settings),
        dns_watch.part(settings, secrets),
        web.part(settings),
    )
    return (*services, alerts.part(settings, secrets.webhook, services))
