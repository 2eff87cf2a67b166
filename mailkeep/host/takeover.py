"""What a machine with another mail server loses by a first deploy, for the beginning of `plan --adopt`.

That is the accounts, aliases, ports, jails and services that mail.yml does not declare."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pyinfra.api import FactBase

from mailkeep.host.preflight_facts import HostFacts
from mailkeep.host.preflight_rules import OTHER_DAEMONS, list_listeners_cut_off
from mailkeep.host.snapshot import Snapshot
from mailkeep.parts import fail2ban, firewall
from mailkeep.parts.model import Part
from mailkeep.settings.models import Settings

MAX_NAMES = 20  # in a line
_SERVED_ANYWAY = {"abuse", "mailer-daemon", "nobody", "postmaster", "root"}
# Local mailboxes, Dovecot's passwd-files, and the tables of Postfix that are text.
_READ = r"""
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"
for file in /var/mail/*; do [ ! -f "$file" ] || [ ! -s "$file" ] || echo "account ${file##*/}"; done
getent passwd | while IFS=: read -r user _ _ _ _ home _; do [ ! -d "$home/Maildir" ] || echo "account $user"; done
for file in /etc/dovecot/users /etc/dovecot/passwd /etc/dovecot/passwd.db; do
  sed -n 's/^\([^#:][^:]*\):.*/account \1/p' "$file"
done
list_table() {
  for table in $(postconf -h "$1" | tr ',' ' '); do
    case $table in
      hash:/* | btree:/* | lmdb:/* | cdb:/* | texthash:/*)
        sed -n "s/^\([^#[:space:]][^[:space:]]*\).*/$2 \1/p" "${table#*:}" ;;
      ?*:*) echo "unread $table" ;;
    esac
  done
}
list_table virtual_mailbox_maps account
list_table virtual_alias_maps alias
doveconf -n | sed -n '/^\(passdb\|userdb\) /,/^}/ {
  s/^[a-z]* \(sql\|ldap\|lua\|dict\|oauth2\|imap\) {.*/unread Dovecot'\''s \1/p
  s/^[[:space:]]*driver = \(sql\|ldap\|lua\|dict\|oauth2\|imap\)$/unread Dovecot'\''s \1/p
}'
sed -n 's/^\([^#:[:space:]]*\)[[:space:]]*:.*/alias \1/p' /etc/aliases
fail2ban-client status | sed -n 's/.*Jail list:[[:space:]]*//p' | tr ',' '\n' | sed -n 's/^ *\([^ ]\)/jail \1/p'
true"""


@dataclass(frozen=True, slots=True)
class FormerMail:
    """What the other mail server served: names or addresses of accounts and aliases; and the jails that run.

    `unread` names tables such as `mysql:/etc/postfix/users.cf`, whose accounts and aliases are not read.
    """

    accounts: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    jails: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


class TakeoverFact(FactBase[FormerMail]):
    """Reads it as root, and changes nothing."""

    def command(self) -> str:
        return f"exec 2>/dev/null{_READ}"

    def process(self, output: Iterable[str]) -> FormerMail:
        pairs = [line.partition(" ") for line in output]

        def list_names(key: str) -> tuple[str, ...]:
            return tuple(dict.fromkeys(name.strip() for kind, _, name in pairs if kind == key and name.strip()))

        return FormerMail(list_names("account"), list_names("alias"), list_names("jail"), list_names("unread"))


def describe_losses(
    settings: Settings, parts: Iterable[Part], facts: HostFacts, former: FormerMail, actual: Snapshot
) -> tuple[str, ...]:
    """A line for each kind that loses something."""
    declared = {address.partition("@")[0] for address in (*settings.account_addresses, *settings.aliases)}
    declared |= {*settings.account_addresses, *settings.aliases, *_SERVED_ANYWAY}
    kinds = {
        "accounts and mailboxes": [name for name in former.accounts if name.lower() not in declared],
        "aliases": [name for name in former.aliases if name.lower() not in declared],
        "accounts or aliases in these, which plan does not read": former.unread,
        "ports": dict.fromkeys(map(str, (*list_listeners_cut_off(settings, facts), *_former_mail_ports(facts)))),
        "jails that Mailkeep's replace": [name for name in former.jails if name in fail2ban.JAILS],
        "services": [*_list_services(parts, facts, actual)],
    }
    return tuple(f"{kind}: {_join(list(names))}" for kind, names in kinds.items() if names)


def _former_mail_ports(facts: HostFacts) -> Iterator[str]:
    """Of the other mail server, where Mailkeep's listens on none of that number."""
    for listener in facts.listeners or ():
        if set(listener.programs) & OTHER_DAEMONS and listener.port not in firewall.MAIL_PORTS:
            yield str(listener)


def _list_services(parts: Iterable[Part], facts: HostFacts, actual: Snapshot) -> Iterator[str]:
    yield from (f"{package}, removed" for package in (*facts.other_mtas, *facts.other_timekeepers))
    yield from (f"the configuration in {file}, replaced" for file in facts.foreign_files)
    for unit in (unit for part in parts for unit in part.units):
        state = actual.units.get(unit.name)
        if not unit.running and state and state.is_active:
            yield f"{unit.name}, stopped"


def _join(names: list[str]) -> str:
    more = len(names) - MAX_NAMES
    return f"{', '.join(names[:MAX_NAMES])} and {more} more" if more > 1 else ", ".join(names)
