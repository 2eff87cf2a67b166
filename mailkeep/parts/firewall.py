"""nftables: SSH and the mail ports are open, nothing else; only Postfix talks to other mail servers."""

from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit
from mailkeep.settings.fields import SERVICES
from mailkeep.settings.models import Settings
from mailkeep.templating import render_template

RULES = "/etc/nftables.conf"
DROP_IN = f"{SYSTEMD}/nftables.service.d"
HTTP = SERVICES["http"]
MAIL_PORTS = tuple(SERVICES[name] for name in ("smtp", "imap", "submissions", "submission", "imaps"))
HTTPS = SERVICES["https"]


def published_ports(settings: Settings) -> tuple[int, ...]:
    """The ports of what Mailkeep serves: mail, and HTTPS where there is something to be had by it."""
    return (*MAIL_PORTS, *((HTTPS,) if settings.https_names else ()))


def owned_ports(settings: Settings) -> tuple[int, ...]:
    """The ports that must be ours: those, and the one on which a certificate authority asks."""
    return (*published_ports(settings), *((HTTP,) if settings.tls.answers_on_port_80 else ()))


def build_part(settings: Settings) -> Part:
    ssh = settings.ssh.port
    rules = render_template(
        "nftables/nftables.conf",
        ports=sorted(open_ports(settings)),
        blocked={version: [n for n in settings.firewall.block if n.version == version] for version in (4, 6)},
    )
    return Part(
        name="firewall",
        packages=("nftables",),
        directories=(Directory(DROP_IN),),
        files=(
            File(RULES, rules, mode=0o755),
            File(f"{DROP_IN}/mailkeep.conf", render_template("nftables/service.d/mailkeep.conf")),
        ),
        # Reload, never restart: it is one transaction, with no moment without rules.
        units=(Unit("nftables.service", reload_on=(RULES,)),),
        checks=(
            Check(f"nft --check --file {RULES}", reads=(RULES,)),
            Check(_reachable(ssh), reads=(RULES,)),
        ),
    )


def open_ports(settings: Settings) -> set[int]:
    """The TCP ports that are open to everyone."""
    return {settings.ssh.port, *owned_ports(settings), *settings.firewall.open}


def _reachable(port: int) -> str:
    """Fails when SSH listens elsewhere than `ssh.port` says: the rules would lock its users out."""
    return (
        f"ports=$(sshd -T | sed -n 's/^port //p'); echo \"$ports\" | grep -qx {port} || "
        f'{{ echo "sshd listens on port $ports, and mail.yml says ssh.port: {port}. '
        f'The firewall would lock you out: set ssh.port to where sshd listens." >&2; exit 1; }}'
    )
