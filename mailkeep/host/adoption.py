"""What a machine had before Mailkeep came: a dated, root-only directory on the host, written before the first change.

`mailkeep un-adopt` goes back to it. Until Mailkeep's files are in place, each deploy saves anew what is there by then.
After that it saves nothing over it: those would be Mailkeep's own files.
"""

from collections.abc import Iterable
from shlex import join

from mailkeep.host.preflight_facts import PASSED_MARK, HostFacts
from mailkeep.parts.model import Part
from mailkeep_server.common.paths import ADOPTED, GONE_BACK

BACKUPS = "/var/backups/mailkeep"
MAIL_TREES = ("/etc/aliases", "/etc/dovecot", "/etc/opendkim", "/etc/postfix")
OTHER_TREES = (
    *("/etc/courier", "/etc/exim4", "/etc/mail", "/etc/msmtprc", "/etc/nullmailer", "/etc/smtpd.conf", "/etc/ssmtp"),
)
"""Of mail servers that Postfix replaces."""
TREES = (*MAIL_TREES, *OTHER_TREES, "/etc/fail2ban", "/etc/nftables.d")
PACKAGES_CHANGED, FILES_REPLACED, REMOVED_PACKAGES = "packages-changed", "files-replaced", "removed-packages"
_README = """\
This is what the machine had before Mailkeep took it over. Only root can read it.

files/              configuration that Mailkeep replaces, removes, or that belongs to services that it replaces
packages            all packages, with their versions
removed-packages    those that APT removed for Mailkeep's
unit-files          which services were enabled
active-units        which services ran
directories         owners and modes
ruleset, iptables   the firewall's rules, to read

To go back, run `mailkeep un-adopt NAME` on the machine that deploys. It stops Mailkeep's services, puts these files
in place, installs the removed packages again, and starts what ran. docs/first-server.md says what stays.

Mail and the queue are not here: Mailkeep leaves both where they are. Keep this directory as long as you may go back.
"""


def list_paths(parts: Iterable[Part]) -> list[str]:
    """The paths that a deploy may write or remove, without what lies below TREES."""
    paths = {path for part in parts for path in (*(file.path for file in part.files), *part.absent)}
    return sorted(path for path in paths if not path.startswith(tuple(f"{tree}/" for tree in TREES)))


def describe_directory() -> str:
    return f"{BACKUPS}/adopted-TIME"


def save_script(facts: HostFacts, parts: tuple[Part, ...]) -> str:
    """The script of a takeover: it saves what is there, and marks the host as one of Mailkeep's."""
    paths = OTHER_TREES if facts.is_built else (*TREES, *list_paths(parts))
    directories = sorted({directory.path for part in parts for directory in part.directories})
    return "\n".join(
        (
            "set -eu",
            "export LC_ALL=C",
            f"adopted={ADOPTED} directories={join([join(directories)])} passed={PASSED_MARK} gone_back={GONE_BACK}",
            f"backups={BACKUPS} is_built={'yes' if facts.is_built else ''}",
            f"set -- {join(paths)}",
            _SAVE.replace("README_TEXT", _README),
        )
    )


_SAVE = f"""
cd /  # cp --parents looks for the parents' owners by relative names
umask 077
save_files() {{  # $1: the new directory; then the paths
  to=$1/files; shift
  mkdir -p "$to"
  for path; do
    if [ -d "$path" ] && [ -L "$path" ]; then mkdir -p "$to$path"; cp -a -- "$path/." "$to$path"
    elif [ -e "$path" ] || [ -L "$path" ]; then cp -a --parents -- "$path" "$to"
    fi
  done
}}
save_lists() {{
  dpkg-query -W -f '${{db:Status-Abbrev}} ${{Package}} ${{Version}}\\n' | sed -n 's/^ii *//p' > "$1/packages"
  systemctl list-unit-files --no-legend --plain > "$1/unit-files"
  systemctl list-units --state=active --type=service,socket,timer,path --no-legend --plain > "$1/active-units"
  for directory in $directories; do
    [ ! -d "$directory" ] || stat -c '%U %G %a %n' -- "$directory"
  done > "$1/directories"
  nft list ruleset > "$1/ruleset" 2> /dev/null || rm -f "$1/ruleset"
  iptables-save > "$1/iptables" 2> /dev/null || rm -f "$1/iptables"
  cat > "$1/README" <<'README'
README_TEXTREADME
}}
save() {{
  former=$(cat "$adopted" 2> /dev/null || true)
  [ -d "$former" ] || former=
  if [ -n "$is_built" ]; then former=$(ls -d "$backups"/adopted-* 2> /dev/null | tail -n 1)
  elif [ -n "$former" ]; then [ ! -e "$former/{FILES_REPLACED}" ] || return 0  # its files are those before Mailkeep's
  else  # without a record, an earlier version of Mailkeep has passed here: what is here may be its own
    [ ! -d "$passed" ] || [ -e "$gone_back" ] || return 0
  fi
  install -d -m 700 "$backups"
  rm -rf "$backups"/*.part
  while :; do
    new=$backups/adopted-$(date -u +%Y-%m-%dT%H%M%S)
    [ -e "$new" ] || break
    sleep 0.2
  done
  save_files "$new.part" "$@"
  same=
  [ -z "$former" ] || ! diff -rq --no-dereference "$former/files" "$new.part/files" > /dev/null || same=yes
  if [ -n "$is_built" ] && [ -n "$same" ]; then rm -rf "$new.part"; return 0; fi
  if [ -z "$is_built" ] && [ -n "$former" ] && [ -e "$former/{PACKAGES_CHANGED}" ]; then  # by a deploy that failed
    find "$former" -mindepth 1 -maxdepth 1 ! -name files -exec cp -a -t "$new.part" {{}} +
  else
    save_lists "$new.part"
  fi
  sync
  mv -T "$new.part" "$new"
  [ -z "$is_built" ] || return 0  # a copy of another mail server that came later; the way back leads further
  mkdir -p -m 755 "$passed"
  printf '%s\\n' "$new" > "$adopted.new"
  mv "$adopted.new" "$adopted"
  [ -z "$same" ] || rm -rf "$former"  # once is enough
}}
save "$@"
umask 022
mkdir -p "$passed"
rm -f "$gone_back" """


def mark_script(name: str) -> str:
    """A line that marks in the saved directory how far the deploy has come. From FILES_REPLACED on, nothing is saved
    over it."""
    return f'[ ! -s {ADOPTED} ] || [ ! -d "$(cat {ADOPTED})" ] || : > "$(cat {ADOPTED})/{name}"'


NOTE_REMOVED = f"""\
  [ ! -s {ADOPTED} ] || [ ! -d "$(cat {ADOPTED})" ] ||
    printf '%s\\n' $packages >> "$(cat {ADOPTED})/{REMOVED_PACKAGES}\""""
"""Of a shell function that knows `packages`, which APT is about to remove."""
