"""A mail server's parts, in the order in which they are put in place and started."""

from mailkeep.part import Part
from mailkeep.parts import (
    certificates,
    dns_watch,
    dovecot,
    fail2ban,
    firewall,
    opendkim,
    postfix,
    resolver,
    ssh,
    system,
)
from mailkeep.secrets import Secrets
from mailkeep.settings import Settings


def server(settings: Settings, secrets: Secrets) -> tuple[Part, ...]:
    return (
        system.part(settings),
        ssh.part(settings),
        firewall.part(settings),
        resolver.part(settings),
        certificates.part(secrets.tls),
        opendkim.part(secrets.dkim),
        dovecot.part(settings),
        postfix.part(settings, secrets.relay_password),
        fail2ban.part(settings),
        dns_watch.part(settings, secrets),
    )
