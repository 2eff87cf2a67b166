"""Services of packages that APT removes, such as another mail server's: stopped last, named, and started again when a
later step fails.

Shell functions for the deploy's scripts. The units are written down before they are stopped, and until the deploy has
ended. So a run after a killed one knows them, and a reboot brings them back.
"""

from mailkeep.host.snapshot import RUN
from mailkeep_server.common.paths import STOPPED_UNITS

BRING_BACK = f"""
bring_back() {{
  [ -s {STOPPED_UNITS} ] || return 0
  gone=
  for unit in $(sed -n 's/^unit //p' {STOPPED_UNITS} | sort -u); do
    if systemctl start "$unit" 2> /dev/null; then echo "$unit had been stopped, and runs again." >&2
    else gone="$gone $unit"
    fi
  done
  packages=$(sed -n 's/^package //p' {STOPPED_UNITS} | sort -u | xargs)
  if [ -z "$gone" ]; then rm {STOPPED_UNITS}
  else
    echo "Stopped, and cannot be started again:$gone. Until a deploy succeeds, nothing does their work." >&2
    echo "APT has removed, or began to: $packages. Deploy again, or bring them back: apt-get install $packages" >&2
  fi
}}"""
"""Starts the units again, and says so; names those that cannot be started."""

BRING_BACK_NOW = f"""{BRING_BACK}
install -d -m 700 {RUN}
exec 9> {RUN}/lock
! flock -n 9 || bring_back"""
"""Unless another deploy is at work."""

BRING_BACK_IF_IT_FAILS = f"{BRING_BACK}\ntrap '[ $? = 0 ] || bring_back' EXIT"

STOP_REPLACED = f"""
stop_replaced() {{  # arguments of apt-get; policy-rc.d keeps APT from stopping the services of what it removes
  packages=$(apt-get -s -qq -y "$@" 2> /dev/null 9>&- | sed -n 's/^Remv \\([^ ]*\\) .*/\\1/p')
  [ -n "$packages" ] || return 0
  files=$(dpkg -L $packages 2> /dev/null || true)
  names=$(
    printf '%s\\n' "$files" |
      sed -n 's,^\\(/usr\\)\\?/lib/systemd/system/\\([^/@]*[.][a-z]*\\)$,\\2,p
        s,^/etc/init[.]d/\\([^/]*\\)$,\\1.service,p'
    for process in /proc/[0-9]*; do  # their units may be the operator's own
      program=$(readlink "$process/exe") && printf '%s\\n' "$files" | grep -qxF "$program" || continue
      sed -n 's,.*/\\([^/]*[.]service\\)$,\\1,p' "$process/cgroup" 2> /dev/null | head -n 1
    done
  )
  units=
  for unit in $(printf '%s\\n' "$names" | sort -u); do
    ! systemctl --quiet is-active "$unit" || units="$units $unit"
  done
  [ -n "$units" ] || return 0
  mkdir -p {STOPPED_UNITS.rpartition("/")[0]}
  {{ printf 'unit %s\\n' $units; printf 'package %s\\n' $packages; }} >> {STOPPED_UNITS}
  sync {STOPPED_UNITS}
  systemctl stop $units
}}
forget_failures() {{  # of units whose files are gone: they would stay failed for ever
  [ -s {STOPPED_UNITS} ] || return 0
  for unit in $(sed -n 's/^unit //p' {STOPPED_UNITS}); do
    ! systemctl --quiet is-failed "$unit" || systemctl reset-failed "$unit"
  done
}}"""
