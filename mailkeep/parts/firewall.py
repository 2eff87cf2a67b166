"""nftables: only SSH and the mail ports are open, and only Postfix connects to other mail servers."""

from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit
from mailkeep.settings.models import Settings
from mailkeep.settings.numbers import SERVICES
from mailkeep.templating import render_template
from mailkeep_server.common import paths

RULES = "/etc/nftables.conf"
DROP_IN = f"{SYSTEMD}/nftables.service.d"
HTTP = SERVICES["http"]
MAIL_PORTS = tuple(SERVICES[name] for name in ("smtp", "imap", "submissions", "submission", "imaps"))
HTTPS = SERVICES["https"]


def published_ports(settings: Settings) -> tuple[int, ...]:
    """The ports of Mailkeep's services: mail, and HTTPS if it serves any page."""
    return (*MAIL_PORTS, *((HTTPS,) if settings.https_names else ()))


def owned_ports(settings: Settings) -> tuple[int, ...]:
    """The ports that no other program may use: the published ones, and port 80 if the ACME authority asks there."""
    return (*published_ports(settings), *((HTTP,) if settings.tls.answers_on_port_80 else ()))


def build_rules(settings: Settings) -> bytes:
    """The rules, for nft(8)."""
    return render_template(
        "nftables/nftables.conf",
        ports=sorted(open_ports(settings)),
        blocked={
            version: [network for network in settings.firewall.block if network.version == version]
            for version in (4, 6)
        },
    )


def build_part(settings: Settings) -> Part:
    return Part(
        name="firewall",
        packages=("nftables",),
        directories=(Directory(DROP_IN),),
        files=(
            File(RULES, build_rules(settings), mode=0o755),
            File(
                f"{DROP_IN}/mailkeep.conf",
                render_template("nftables/service.d/mailkeep.conf", loaded=paths.LOADED_FIREWALL),
            ),
        ),
        # Reload, never restart: a reload is one transaction, so there is no moment without rules.
        units=(Unit("nftables.service", reload_on=(RULES, DROP_IN)),),
        checks=(
            Check(f"nft --check --file {RULES}", reads=(RULES,)),
            Check(_ssh_port_check(settings.ssh.port), reads=(RULES,)),
        ),
    )


def open_ports(settings: Settings) -> set[int]:
    """The TCP ports that are open to everyone."""
    return {settings.ssh.port, *owned_ports(settings), *settings.firewall.open}


def _ssh_port_check(port: int) -> str:
    """A command that fails if sshd does not listen on `ssh.port`: the rules would lock its users out."""
    return (
        f"ports=$(sshd -T | sed -n 's/^port //p'); echo \"$ports\" | grep -qx {port} || "
        f'{{ echo "sshd listens on port $ports, but mail.yml says ssh.port: {port}. '
        f'The firewall would lock you out. Set ssh.port to the port of sshd." >&2; exit 1; }}'
    )
