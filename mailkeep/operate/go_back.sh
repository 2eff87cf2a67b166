# The way back from Mailkeep to what the machine had before. un_adopt.py puts its variables before it.
# It prints lines `KEY VALUE`. Each step may be repeated, so a run after a killed one goes on.
set -eu
export LC_ALL=C DEBIAN_FRONTEND=noninteractive PATH="/usr/sbin:/usr/bin:/sbin:/bin"
umask 022
cd /  # cp --parents looks for the parents' owners by relative names
new=.mailkeep-new

install -d -m 700 "$run"
exec 9> "$run/lock"
flock -w 600 9 || { echo "A deploy holds $run/lock on this host. Try again when it has ended." >&2; exit 1; }

if [ ! -s "$adopted" ]; then
  [ ! -e "$gone_back" ] || { echo "done before"; exit 0; }
  echo "nothing saved"
  exit 0
fi
saved=$(cat "$adopted")
[ -d "$saved/files" ] || { echo "nothing $saved"; exit 0; }
echo "saved $saved"

exists() { [ -e "$1" ] || [ -L "$1" ]; }
was_enabled() { awk -v unit="$1" '$1 == unit {print $2}' "$saved/unit-files"; }
was_active() { awk -v unit="$1" '$1 == unit {found = 1} END {exit !found}' "$saved/active-units"; }
is_listed() { unit=$1; shift; case " $* " in *" $unit "*) true ;; *) false ;; esac; }
is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2> /dev/null)" = installed ]; }
add_missing() { mkdir -p "$2"; tar -C "$1" -c . | tar -C "$2" -x -p --skip-old-files -f -; }
count_files() { find "$@" -type f 2> /dev/null | wc -l; }

# --- what there is to do ----------------------------------------------------------------------------------------------

removed=$([ ! -s "$saved/$packages_list" ] || sort -u "$saved/$packages_list")
missing=
for package in $removed; do is_installed "$package" || missing="$missing $package"; done
available=
look_for_packages() {  # prints those that APT has no more
  available=
  for package in $missing; do
    if apt-get -qq -s install --no-install-recommends "$package" > /dev/null 2>&1 9>&-; then
      available="$available $package"
    else echo "lost package $package $(sed -n "s/^$package //p" "$saved/packages")"
    fi
  done
}
list_starts() {  # what ran, and does not run or has other files now; a unit of no file cannot be started
  while read -r unit _; do
    case $unit in ssh.socket | systemd-*.socket | *@*) continue ;; esac
    case $(was_enabled "$unit") in enabled* | alias | generated | static | indirect) ;; *) continue ;; esac
    if is_listed "$unit" $stop; then echo "$unit"
    elif case $(was_enabled "$unit") in enabled* | generated) true ;; *) is_listed "$unit" $units ;; esac &&
      ! systemctl --quiet is-active "$unit"; then echo "$unit"
    fi
  done < "$saved/active-units"
}
restored=0 gone=0
for path in $paths; do
  if exists "$saved/files$path"; then restored=$((restored + 1))
  elif exists "$path"; then gone=$((gone + 1))
  fi
done
echo "files $restored $gone"
echo "queue $(count_files /var/spool/postfix/active /var/spool/postfix/deferred /var/spool/postfix/hold \
  /var/spool/postfix/incoming /var/spool/postfix/maildrop)"
echo "mail $(find /var/vmail -type f \( -path '*/cur/*' -o -path '*/new/*' \) 2> /dev/null | wc -l)"

if [ "$mode" = look ]; then
  look_for_packages
  [ -z "$available" ] || echo "packages$available"
  echo "starts $(list_starts | xargs)"
  exit 0
fi

# --- first what may fail while all still runs -------------------------------------------------------------------------

install_packages() { apt-get -qq -y --no-install-recommends -o Dpkg::Options::=--force-confold \
  -o Dpkg::Options::=--force-confdef install "$@" > /dev/null < /dev/null 9>&-; }
if [ -n "$missing" ]; then
  apt-get -qq update > /dev/null < /dev/null 9>&- || { echo "APT cannot update. Nothing was changed." >&2; exit 1; }
  look_for_packages
  [ -z "$available" ] || install_packages --download-only $available ||
    { echo "APT cannot download$available. Nothing was changed." >&2; exit 1; }
fi

# --- stop Mailkeep ----------------------------------------------------------------------------------------------------

: > "$gone_back"  # a deploy after a killed run takes the machine over anew, and saves nothing over what is saved
starts=$(list_starts) started=
failed=
tables=$(mktemp -d)
trap 'rm -rf "$tables"' EXIT
nft list tables 2> /dev/null | while read -r _ family name; do
  case $name in mailkeep | f2b-table) continue ;; esac
  nft list table "$family" "$name" > "$tables/$family $name"
done
ours=$(cd /etc/systemd/system && ls -d mailkeep-*.timer mailkeep-*.socket mailkeep-*.service 2> /dev/null || true)
[ -z "$ours" ] || systemctl --quiet disable --now $ours 2> /dev/null || true
for unit in $stop; do
  ! systemctl --quiet is-active "$unit" || systemctl stop "$unit" || failed="$failed $unit"
done
nft delete table inet mailkeep 2> /dev/null || true
nft delete table inet f2b-table 2> /dev/null || true

# --- the files --------------------------------------------------------------------------------------------------------

mkdir -p -m 700 "$saved/of-mailkeep"
for tree in $trees_of_ours "$known_access"; do  # keys and certificates may be needed once more
  exists "$tree" || continue
  case $tree in
    /etc/* | "$known_access") rm -rf "$saved/of-mailkeep$tree"; cp -a --parents -- "$tree" "$saved/of-mailkeep" ;;
  esac
  rm -rf -- "$tree"
done
for path in $paths; do
  rm -f -- "$path$new"
  if [ -d "$saved/files$path" ] && [ ! -L "$saved/files$path" ]; then
    add_missing "$saved/files$path" "$path"
  elif exists "$saved/files$path"; then
    mkdir -p "${path%/*}"
    cp -aT -- "$saved/files$path" "$path$new"
    mv -fT -- "$path$new" "$path"
  elif [ ! -d "$path" ] || [ -L "$path" ]; then rm -f -- "$path"
  fi
done
for tree in $trees; do  # what was purged; what is here stays as it is
  if [ -d "$saved/files$tree" ]; then add_missing "$saved/files$tree" "$tree"
  elif exists "$saved/files$tree" && ! exists "$tree"; then cp -aT -- "$saved/files$tree" "$tree"
  fi
done
for directory in $(printf '%s\n' $directories | sort -r); do
  if ! grep -q " $directory\$" "$saved/directories"; then rmdir "$directory" 2> /dev/null || true; fi
done
while read -r owner group directory_mode directory; do
  [ -d "$directory" ] || continue
  chown "$owner:$group" "$directory" && chmod "$directory_mode" "$directory" || failed="$failed $directory"
done < "$saved/directories"
systemctl daemon-reload
systemctl reset-failed 'mailkeep-*' 2> /dev/null || true  # one that was stopped at its work has failed, and has no file

# --- packages and services --------------------------------------------------------------------------------------------

if [ -n "$available" ] && ! install_packages $available; then failed="$failed$available"; fi
for unit in $(awk '$2 == "enabled" {print $1}' "$saved/unit-files"); do
  [ "$(systemctl is-enabled "$unit" 2> /dev/null)" != disabled ] || systemctl --quiet enable "$unit" || true
done
for unit in $units; do
  case $(was_enabled "$unit") in
    enabled* | static | generated | alias | indirect) ;;
    masked) systemctl --quiet mask "$unit" 2> /dev/null || true ;;
    *) [ "$(systemctl is-enabled "$unit" 2> /dev/null)" != enabled ] || systemctl --quiet disable "$unit" || true ;;
  esac
done
for unit in $starts $(list_starts); do
  case " $started " in *" $unit "*) continue ;; esac
  started="$started $unit"
  ! systemctl --quiet is-failed "$unit" || systemctl reset-failed "$unit"
  systemctl start "$unit" || true
done
for file in "$tables"/*; do  # /etc/nftables.conf mostly begins with `flush ruleset`, also that of docker
  [ -e "$file" ] || continue
  table=${file##*/}
  nft list table ${table} > /dev/null 2>&1 || nft -f "$file" 2> /dev/null || echo "lost table $table"
done
! is_listed systemd-journald.service $units || systemctl try-restart systemd-journald.service
! is_listed ssh.service $units || ! sshd -t || systemctl reload ssh.service || failed="$failed ssh.service"
for unit in $started; do
  if systemctl --quiet is-active "$unit"; then echo "started $unit"; else failed="$failed $unit"; fi
done
for package in $available; do
  version=$(dpkg-query -W -f '${Version}' "$package" 2> /dev/null || true)
  before=$(sed -n "s/^$package //p" "$saved/packages")
  [ "$version" = "$before" ] || echo "version $package $before $version"
done
others=
for package in $packages; do
  grep -q "^$package " "$saved/packages" || ! is_installed "$package" || others="$others $package"
done
[ -z "$others" ] || echo "others$others"

if [ -z "$failed" ]; then
  sync
  rm -f "$adopted"
  echo "back yes"
else echo "failed$failed"
fi
