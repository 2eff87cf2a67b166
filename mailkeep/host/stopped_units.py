"""Services of packages that APT removes, such as another mail server's: stopped last, named, and started again when a
later step fails.

Shell functions for the deploy's scripts. The units are written down before they are stopped, and until the deploy has
ended. So a run after a killed one knows them, and a reboot brings them back.
"""

from mailkeep.host.adoption import NOTE_REMOVED
from mailkeep.host.snapshot import RUN
from mailkeep_server.common.paths import STOPPED_UNITS

BRING_BACK = f"""
comes_back() {{  # a package that is removed and not purged leaves its init script, which does nothing and succeeds
  systemctl start "$1" 2> /dev/null || return 1
  script=$(systemctl show --property SourcePath --value "$1")
  case $script in /etc/init.d/*) ;; *) return 0 ;; esac
  package=$(dpkg -S "$script" 2> /dev/null | sed 's/: .*//') || package=
  state=$(dpkg-query --show --showformat '${{db:Status-Status}}' "$package" 2> /dev/null) || state=
  [ "$state" = config-files ] || return 0
  systemctl stop "$1"
  return 1
}}
bring_back() {{
  [ -s {STOPPED_UNITS} ] || return 0
  gone=
  for unit in $(sed -n 's/^unit //p' {STOPPED_UNITS} | sort -u); do
    if comes_back "$unit"; then echo "$unit had been stopped, and runs again." >&2
    else gone="$gone $unit"
    fi
  done
  packages=$(sed -n 's/^package //p' {STOPPED_UNITS} | sort -u | xargs)
  if [ -z "$gone" ]; then rm {STOPPED_UNITS}
  else
    echo "Stopped, and cannot be started again:$gone. Until a deploy succeeds, mail may not flow." >&2
    echo "APT has removed, or began to: $packages. Deploy again. To give up Mailkeep instead, bring them back;" >&2
    echo "that removes Postfix where it is installed: apt-get install $packages" >&2
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
{NOTE_REMOVED}
  files=$(dpkg -L $packages 2> /dev/null || true)
  names=$(
    printf '%s\\n' "$files" |
      sed -n 's,^\\(/usr\\)\\?/lib/systemd/system/\\([^/@]*[.][a-z]*\\)$,\\2,p
        s,^/etc/init[.]d/\\([^/]*\\)$,\\1.service,p'
    # Their units may be the operator's own. Not those where cron or a web server has called sendmail.
    for process in /proc/[0-9]*; do
      program=$(readlink "$process/exe") && printf '%s\\n' "$files" | grep -qxF "$program" || continue
      unit=$(sed -n 's,.*/\\([^/]*[.]service\\)$,\\1,p' "$process/cgroup" 2> /dev/null | head -n 1)
      [ -n "$unit" ] || continue
      main=$(systemctl show --property MainPID --value "$unit")
      [ "$main" != "${{process##*/}}" ] || printf '%s\\n' "$unit"
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
