"""Keeps a server healthy for months without attention: upgrades, bounded logs, the right time."""

from mailkeep.parts.model import Check, File, Part, Unit
from mailkeep.settings.models import Settings
from mailkeep.templating import render_template

APT = "/etc/apt/apt.conf.d/52mailkeep"
JOURNALD = "/etc/systemd/journald.conf.d/mailkeep.conf"
SYSCTL = "/etc/sysctl.d/60-mailkeep.conf"
NEEDRESTART = "/etc/needrestart/conf.d/mailkeep.conf"


def build_part(settings: Settings) -> Part:
    return Part(
        name="system",
        packages=("ca-certificates", "logrotate", "needrestart", "procps", "systemd-timesyncd", "unattended-upgrades"),
        files=(
            File(APT, render_template("system/apt.conf.d/52mailkeep")),
            File(JOURNALD, render_template("system/journald.conf.d/mailkeep.conf", cap=settings.retention.journal)),
            File(SYSCTL, render_template("system/sysctl.d/60-mailkeep.conf")),
            File(NEEDRESTART, render_template("system/needrestart/mailkeep.conf")),
        ),
        units=(
            Unit("systemd-journald.service", restart_on=(JOURNALD,)),
            # The conditions of these two keep them from running in a container.
            Unit("systemd-sysctl.service", restart_on=(SYSCTL,)),
            Unit("systemd-timesyncd.service"),
            Unit("apt-daily.timer"),
            Unit("apt-daily-upgrade.timer"),
            Unit("logrotate.timer"),
        ),
        checks=(
            Check("apt-config dump", reads=(APT,)),
            Check(f"perl -c {NEEDRESTART}", reads=(NEEDRESTART,)),
            # Not by the exit code: it also fails for keys that this kernel does not have.
            Check(f"! sysctl --dry-run --load {SYSCTL} 2>&1 | grep 'invalid syntax'", reads=(SYSCTL,)),
        ),
    )
