"""sshd: keys instead of passwords. The user who deploys can still log in afterwards."""

from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit
from mailkeep.settings.models import Settings
from mailkeep.templating import render_template

CONFIG = "/etc/ssh/sshd_config.d/10-mailkeep.conf"
DROP_IN = f"{SYSTEMD}/ssh.service.d"


def build_part(settings: Settings) -> Part:
    config = render_template(
        "ssh/sshd_config.d/10-mailkeep.conf",
        passwords=settings.ssh.passwords,
        never_penalised=("127.0.0.0/8", "::1", *settings.host.addresses, *settings.admin.networks),
    )
    return Part(
        name="ssh",
        packages=("openssh-server",),
        directories=(Directory("/etc/ssh"), Directory("/etc/ssh/sshd_config.d"), Directory(DROP_IN)),
        files=(
            File(CONFIG, config),
            File(f"{DROP_IN}/mailkeep.conf", render_template("ssh/service.d/mailkeep.conf")),
        ),
        # If ssh.socket listens, starting ssh.service stops it (Conflicts=) and leaves its sessions alone. So does a
        # restart (KillMode=process).
        units=(Unit("ssh.service", restart_on=(DROP_IN,), reload_on=(CONFIG,)),),
        checks=(
            Check("sshd -t", reads=("/etc/ssh/",)),
            Check(_ssh_key_check(settings.ssh.passwords), reads=(CONFIG,)),
        ),
    )


def _ssh_key_check(passwords: bool) -> str:
    """A command that fails if the user who is logged in has no key to come back with.

    That is the user of the kernel's loginuid, which sudo does not change; or root, if the kernel keeps none, as in
    containers.
    """
    unless_password = '[ "$user" != root ] || ' if passwords else ""
    return (
        'user=$(id -nu "$(cat /proc/self/loginuid)" 2>/dev/null || echo root); '
        'home=$(getent passwd "$user" | cut -d: -f6); '
        f'{unless_password}[ -s "$home/.ssh/authorized_keys" ] || '
        "sshd -T | grep -Eq '^(authorizedkeyscommand|trustedusercakeys) /' || "
        '{ echo "$user has no SSH key in $home/.ssh/authorized_keys, so you could not log in again. Add one'
        f'{"" if passwords else ", or set ssh.passwords: true"}." >&2; exit 1; }}'
    )
