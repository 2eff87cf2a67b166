"""unbound: the host's own validating resolver. DANE and blocklists need it for true answers."""

from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit
from mailkeep.settings.models import Settings
from mailkeep.templating import render_template

CONFIG = "/etc/unbound/unbound.conf.d/mailkeep.conf"
DHCLIENT_HOOK = "/etc/dhcp/dhclient-enter-hooks.d/mailkeep"
DHCPCD_HOOK = "/etc/dhcpcd.enter-hook"
DROP_IN = f"{SYSTEMD}/unbound.service.d"


def build_part(settings: Settings) -> Part:
    """With `resolver: system`, remove our files of an earlier setting; the package stays, with Debian's own files. The
    earlier /etc/resolv.conf is not known, so the preflight asks the operator to set it first."""
    if settings.resolver == "system":
        return Part(name="resolver", absent=(CONFIG, f"{DROP_IN}/mailkeep.conf", DHCLIENT_HOOK, DHCPCD_HOOK))
    return Part(
        name="resolver",
        packages=("dns-root-data", "unbound"),
        directories=(Directory("/etc/unbound"), Directory("/etc/unbound/unbound.conf.d"), Directory(DROP_IN)),
        files=(
            File(CONFIG, render_template("unbound/unbound.conf.d/mailkeep.conf")),
            File(f"{DROP_IN}/mailkeep.conf", render_template("unbound/service.d/mailkeep.conf")),
            # The rename replaces a symbolic link to a file of systemd-resolved or resolvconf.
            File("/etc/resolv.conf", render_template("unbound/resolv.conf")),
            File(DHCLIENT_HOOK, render_template("unbound/dhclient-enter-hook")),
            File(DHCPCD_HOOK, render_template("unbound/dhcpcd.enter-hook")),
        ),
        units=(
            Unit("unbound.service", restart_on=("/etc/unbound/", DROP_IN)),
            # Debian's cloud images run it: nss-resolve would ask it, and it would ask the provider's resolvers.
            Unit("systemd-resolved.service", enabled=False, running=False),
        ),
        checks=(
            # Debian's file names a trust anchor, which only unbound's first start creates.
            Check("/usr/libexec/unbound-helper root_trust_anchor_update; unbound-checkconf", reads=("/etc/unbound/",)),
            *(Check(f"sh -n {hook}", reads=(hook,)) for hook in (DHCLIENT_HOOK, DHCPCD_HOOK)),
        ),
    )
