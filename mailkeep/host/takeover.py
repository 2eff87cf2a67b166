"""What a machine with another mail server loses by a first deploy, and what stays, for the beginning of `plan --adopt`
and of `deploy --adopt`.

Lost are the accounts, aliases, ports, jails and services that mail.yml does not declare."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pyinfra.api import FactBase

from mailkeep.host import diff
from mailkeep.host.adoption import describe_directory
from mailkeep.host.preflight_facts import HostFacts
from mailkeep.host.preflight_rules import OTHER_DAEMONS, OUR_DAEMONS, WEB_SERVER, is_takeover, list_listeners_cut_off
from mailkeep.host.snapshot import Snapshot
from mailkeep.parts import fail2ban, firewall
from mailkeep.parts.model import Part
from mailkeep.settings.models import Settings
from mailkeep_server.common import nft_ruleset

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


def is_told(facts: HostFacts) -> bool:
    """Whether the deploy takes the host over from somebody: losses and what stays are told first."""
    return is_takeover(facts) and bool(facts.other_mtas or facts.foreign_files)


def describe_losses(
    settings: Settings, parts: Iterable[Part], facts: HostFacts, former: FormerMail, actual: Snapshot
) -> tuple[str, ...]:
    """A line for each kind that loses something."""
    parts = tuple(parts)
    declared = {address.partition("@")[0] for address in (*settings.account_addresses, *settings.aliases)}
    declared |= {*settings.account_addresses, *settings.aliases, *_SERVED_ANYWAY}
    kinds = {
        "accounts and mailboxes": [name for name in former.accounts if name.lower() not in declared],
        "aliases": [name for name in former.aliases if name.lower() not in declared],
        "accounts or aliases in these, which plan does not read": former.unread,
        "ports": dict.fromkeys(map(str, (*list_listeners_cut_off(settings, facts), *_former_mail_ports(facts)))),
        "jails that Mailkeep's replace": [name for name in former.jails if name in fail2ban.JAILS],
        "services": [*_list_services(parts, facts, actual)],
        "firewall rules, from the next boot on": [*_list_firewall_files(parts, actual)],
    }
    return tuple(f"{kind}: {_join(list(names))}" for kind, names in kinds.items() if names)


def _list_firewall_files(parts: Iterable[Part], actual: Snapshot) -> Iterator[str]:
    """nftables.service loads one file, which becomes Mailkeep's. Debian's own is loaded only by who enables it."""
    state = actual.units.get("nftables.service")
    for change in (change for part in parts for change in diff.changed_files(part, actual)):
        if change.file.path == firewall.RULES and change.kind == "content" and state and state.is_enabled:
            yield f"those of {firewall.RULES}; put them into a file and a service of their own"


def describe_kept(
    settings: Settings, parts: Iterable[Part], facts: HostFacts, former: FormerMail, actual: Snapshot
) -> tuple[str, ...]:
    """A line for each kind that stays, and that an operator may fear for."""
    parts = tuple(parts)
    files = [change.file.path for part in parts for change in diff.changed_files(part, actual) if change.kind != "new"]
    files += [path for part in parts for path in diff.paths_to_remove(part, actual)]
    stopped = set(_list_stopped(parts, actual))
    reached = [
        listener
        for listener in facts.listeners or ()
        if ("tcp", listener.port, "") in firewall.list_doors(settings)
        and not {*listener.programs} & {*OTHER_DAEMONS, *OUR_DAEMONS, "sshd", "systemd"}
        and not (WEB_SERVER in listener.programs and "nginx.service" in stopped)
    ]
    kinds = {
        "firewalls beside Mailkeep's": (*facts.running_firewalls, *_list_foreign_tables(facts)),
        "jails of your own": [name for name in former.jails if name not in fail2ban.JAILS],
        "services that are reached as before": [*dict.fromkeys(map(str, reached))],
        "mail": ("mailboxes and the queue, which stay where they are",) if former.accounts else (),
        f"a copy in {describe_directory()}, of what is replaced or removed": files,
    }
    return tuple(f"{kind}: {_join(list(names))}" for kind, names in kinds.items() if names)


def _list_foreign_tables(facts: HostFacts) -> Iterator[str]:
    """Such as `table inet filter`. Those of fail2ban and of an earlier deploy are not foreign."""
    chains = nft_ruleset.parse_ruleset(facts.nft_ruleset).chains if facts.nft_ruleset else []
    tables = dict.fromkeys(f"table {chain['family']} {chain['table']}" for chain in chains)
    yield from (table for table in tables if table.split()[2] not in ("mailkeep", "f2b-table"))


def _former_mail_ports(facts: HostFacts) -> Iterator[str]:
    """Of the other mail server, where Mailkeep's listens on none of that number."""
    for listener in facts.listeners or ():
        if set(listener.programs) & OTHER_DAEMONS and listener.port not in firewall.MAIL_PORTS:
            yield str(listener)


def _list_services(parts: Iterable[Part], facts: HostFacts, actual: Snapshot) -> Iterator[str]:
    yield from (f"{package}, removed" for package in (*facts.other_mtas, *facts.other_timekeepers))
    yield from (f"the configuration in {file}, replaced" for file in facts.foreign_files)
    yield from (f"{name}, stopped" for name in _list_stopped(parts, actual))


def _list_stopped(parts: Iterable[Part], actual: Snapshot) -> Iterator[str]:
    for unit in (unit for part in parts for unit in part.units):
        state = actual.units.get(unit.name)
        if not unit.running and state and state.is_active:
            yield unit.name


def _join(names: list[str]) -> str:
    more = len(names) - MAX_NAMES
    return f"{', '.join(names[:MAX_NAMES])} and {more} more" if more > 1 else ", ".join(names)
