"""Other firewalls and the operator's own jails on a host, as the preflight names them.

They go on working beside Mailkeep's. An accept of one firewall does not undo a drop of another.
"""

from collections.abc import Iterable, Iterator, Mapping
from configparser import Error as ConfigError
from configparser import RawConfigParser

from mailkeep.parts import fail2ban, firewall
from mailkeep.settings.models import Settings
from mailkeep_server.common import iptables_rules, nft_ruleset, packet_path
from mailkeep_server.common.nft_ruleset import Ruleset

OUR_JAIL_FILE = "/etc/fail2ban/jail.d/mailkeep.local"
_REMEDIES = {
    "ufw": "run `ufw disable`, or `ufw allow {ports}/tcp`",
    "firewalld": "run `systemctl disable --now firewalld`, or open them with `firewall-cmd --permanent --add-port`",
    "csf": "run `csf -x`, or add them to TCP_IN in /etc/csf/csf.conf",
}
_OTHER_REMEDY = "open these ports there too, or remove that firewall"


def describe_firewalls(
    settings: Settings, ruleset: str, iptables: Mapping[str, Iterable[str]], running: Iterable[str], interface: str
) -> Iterator[str]:
    """A warning for each firewall that drops, or may drop, what mail.yml opens. One that runs, and whose rules were
    read, is judged by these alone.

    `ruleset` is the output of `nft -j -t list ruleset`, `iptables` those of the iptables-save programs, by
    name. `running` are the firewall services that run.
    """
    ports = sorted(firewall.open_ports(settings))
    addresses = [str(address) for address in settings.host.addresses]
    rules = _read_rules(ruleset, iptables)
    for chain in packet_path.find_foreign_chains(rules, addresses, ports, interface):
        yield _describe_chain(chain)
    for program in sorted({*running} - packet_path.find_owners(rules)):
        yield (
            f"{program} runs. It goes on working beside Mailkeep's firewall, and may drop what that lets in (TCP "
            f"{_join(ports)}): {_remedy(program, ports)}. `mailkeep verify` tries it from outside."
        )


def describe_forwarding(settings: Settings, ruleset: str, iptables: Mapping[str, Iterable[str]]) -> Iterator[str]:
    """A warning if the host gives its address to forwarded packets, and none of these may send."""
    is_masked = '"masquerade"' in ruleset or any(
        "-j MASQUERADE" in line for lines in iptables.values() for line in lines
    )
    if is_masked and not settings.firewall.may_send:
        yield (
            "It forwards packets of containers, virtual machines or VPN clients. After the deploy, these no longer "
            "connect to port 25 of other mail servers. To let a network do so, name it under `firewall.may_send` in "
            "mail.yml."
        )


def _describe_chain(chain: packet_path.ForeignChain) -> str:
    verb, ports = ("drops", chain.closed) if chain.closed else ("may drop", chain.doubtful)
    return (
        f"Another firewall {verb} what Mailkeep's lets in: {chain}, packets to TCP {_join(ports)}. An accept by "
        f"Mailkeep's firewall does not undo that. {_remedy(chain.owner, ports).capitalize()}."
    )


def _remedy(owner: str, ports: Iterable[int]) -> str:
    return _REMEDIES.get(owner, _OTHER_REMEDY).format(ports=",".join(map(str, ports)))


def _join(ports: Iterable[int]) -> str:
    return ", ".join(map(str, ports))


def _read_rules(ruleset: str, iptables: Mapping[str, Iterable[str]]) -> Ruleset:
    parsed = nft_ruleset.parse_ruleset(ruleset) if ruleset else Ruleset([], [], [])
    saved = {
        program: iptables_rules.parse_iptables("\n".join(lines), program.partition("tables")[0])
        for program, lines in iptables.items()
    }
    parsed = iptables_rules.merge_iptables(parsed, [rules for program, rules in saved.items() if "-nft-" in program])
    return iptables_rules.add_legacy(parsed, [rules for program, rules in saved.items() if "-legacy-" in program])


def describe_jails(files: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A warning for each file of fail2ban, by path and text, that sets options of Mailkeep's jails.

    fail2ban reads jail.local, then jail.d/*.local by name: the last one wins (jail.conf(5)).
    """
    for path, text in files:
        parser = RawConfigParser(strict=False, allow_no_value=True)
        try:
            parser.read_string(text)
        except ConfigError:
            yield f"{path} cannot be read as fail2ban reads it: look at `fail2ban-client --test`."
            continue
        for jail in fail2ban.JAILS:
            if not parser.has_section(jail):
                continue
            options = sorted(set(parser.options(jail)) - set(parser.defaults()))
            wins = path.startswith("/etc/fail2ban/jail.d/") and path.endswith(".local") and path > OUR_JAIL_FILE
            effect = (
                "it overrides Mailkeep's jail, which may then ban nobody. Remove that section"
                if wins
                else "Mailkeep's own settings of this jail override it. For other values, make a jail of another name"
            )
            yield f"{path} sets {', '.join(options)} of the jail {jail}: {effect}."
