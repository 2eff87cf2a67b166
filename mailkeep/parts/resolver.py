"""unbound: a validating resolver of this machine's own, so that DANE and blocklists give true answers."""

from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit
from mailkeep.settings.models import Settings
from mailkeep.templating import render_template

CONFIG = "/etc/unbound/unbound.conf.d/mailkeep.conf"
DHCLIENT_HOOK = "/etc/dhcp/dhclient-enter-hooks.d/mailkeep"
DHCPCD_HOOK = "/etc/dhcpcd.enter-hook"
DROP_IN = f"{SYSTEMD}/unbound.service.d"


def build_part(settings: Settings) -> Part:
    """Where `resolver: system`, what an earlier setting left is removed; the package stays, with Debian's own files.
    What /etc/resolv.conf was before nobody knows: the preflight wants it set right first."""
    if settings.resolver == "system":
        return Part(name="resolver", absent=(CONFIG, f"{DROP_IN}/mailkeep.conf", DHCLIENT_HOOK, DHCPCD_HOOK))
    return Part(
        name="resolver",
        packages=("dns-root-data", "unbound"),
        directories=(Directory(DROP_IN),),
        files=(
            File(CONFIG, render_template("unbound/unbound.conf.d/mailkeep.conf")),
            File(f"{DROP_IN}/mailkeep.conf", render_template("unbound/service.d/mailkeep.conf")),
            # Renamed into place: a symlink to what systemd-resolved or resolvconf writes is replaced.
            File("/etc/resolv.conf", render_template("unbound/resolv.conf")),
            File(DHCLIENT_HOOK, render_template("unbound/dhclient-enter-hook")),
            File(DHCPCD_HOOK, render_template("unbound/dhcpcd.enter-hook")),
        ),
        units=(
            Unit("unbound.service", restart_on=("/etc/unbound/", DROP_IN)),
            # Debian's cloud images run it; nss-resolve would ask it, and it the provider's resolvers.
            Unit("systemd-resolved.service", enabled=False, running=False),
        ),
        checks=(
            # Before its first start, which makes it, the trust anchor that Debian's file names is not there.
            Check("/usr/libexec/unbound-helper root_trust_anchor_update; unbound-checkconf", reads=("/etc/unbound/",)),
            *(Check(f"sh -n {hook}", reads=(hook,)) for hook in (DHCLIENT_HOOK, DHCPCD_HOOK)),
        ),
    )
