"""What can be reached on the server, and what can be reached from it."""

from typing import Any

from mailkeep.parts import firewall
from mailkeep.settings.models import Settings
from mailkeep.verify import ruleset
from mailkeep.verify.outcome import CheckFailedError, CheckSkippedError, fail_if_any, warn_if_any
from mailkeep.verify.target import ProbeResult

DHCP_CLIENTS = (68, 546)


def _listens(settings: Settings, one: dict[str, Any]) -> bool:
    """Whether it may. On port 80 lego does, while a certificate authority asks."""
    if one["protocol"] != "tcp":
        return one["port"] in DHCP_CLIENTS
    only_lego = one["port"] == firewall.HTTP and settings.tls.answers_on_port_80
    return one["port"] in firewall.open_ports(settings) and (one["process"] == "lego" or not only_lego)


def test_nothing_else_listens(seen: ProbeResult, settings: Settings) -> None:
    """Nothing listens but SSH, mail and what mail.yml has served or opens."""
    strangers = [one for one in seen["listeners"] if not one["address"].startswith(("127.", "::1"))]
    fail_if_any(
        sorted(
            {
                f"{one['protocol'].upper()} port {one['port']} ({one['process'] or 'process not known'})"
                for one in strangers
                if not _listens(settings, one)
            }
        ),
        expected=f"TCP {', '.join(map(str, sorted(firewall.open_ports(settings))))} and no other",
        remedy="Stop it, have it listen on 127.0.0.1, or name its port under `firewall.open` in mail.yml.",
    )


def test_mail_is_served_on_every_declared_address(seen: ProbeResult, settings: Settings, deploy: str) -> None:
    """SSH and every mail service listen on all declared addresses."""
    listening = {(one["address"], one["port"]) for one in seen["listeners"] if one["protocol"] == "tcp"}
    anywhere = {4: ("0.0.0.0", "*"), 6: ("::", "*")}  # noqa: S104
    fail_if_any(
        (
            f"{address} port {port}: nothing listens"
            for address in settings.host.addresses
            for port in (settings.ssh.port, *firewall.published_ports(settings))
            if not any((own, port) in listening for own in (str(address), *anywhere[address.version]))
        ),
        expected="a service on each",
        remedy=f"`systemctl status postfix dovecot ssh` says why not; {deploy} starts them.",
    )


def test_the_firewall_lets_in_the_declared_ports_only(seen: ProbeResult, settings: Settings, deploy: str) -> None:
    """The firewall lets in SSH, mail and what mail.yml opens, nothing else."""
    chains = [chain for chain in seen["firewall"]["chains"] if (chain["table"], chain["name"]) == ("mailkeep", "input")]
    if not any(chain.get("hook") == "input" and chain.get("policy") == "drop" for chain in chains):
        raise CheckFailedError(
            "a chain `input` of the table `mailkeep` whose policy is drop",
            f"{chains or 'no such chain'}",
            f"Everything that listens can be reached! {deploy} restores the firewall.",
        )
    rules = [rule for rule in seen["firewall"]["rules"] if (rule["table"], rule["chain"]) == ("mailkeep", "input")]
    opened = [found for rule in rules if (found := ruleset.lets_in(rule)) is not None]
    let_in = {port for found in opened if not isinstance(found, str) for port in found}
    fail_if_any(
        [
            *(found for found in opened if isinstance(found, str)),
            *(f"open, and not declared: {port}" for port in sorted(let_in - firewall.open_ports(settings))),
            *(f"declared, and not open: {port}" for port in sorted(firewall.open_ports(settings) - let_in)),
        ],
        expected=f"TCP {', '.join(map(str, sorted(firewall.open_ports(settings))))}, and no other",
        remedy=f"{deploy} restores the firewall. More ports are named under `firewall.open` in mail.yml.",
    )


def test_blocked_networks_are_blocked(seen: ProbeResult, settings: Settings, deploy: str) -> None:
    """The firewall blocks the networks that mail.yml names, and no others."""
    declared = ruleset.networks(str(network) for network in settings.firewall.block)
    blocked = ruleset.networks(seen["firewall"]["blocked"])
    fail_if_any(
        [
            *(f"declared, and not blocked: {network}" for network in declared - blocked),
            *(f"blocked, and not declared: {network}" for network in blocked - declared),
        ],
        expected=", ".join(map(str, settings.firewall.block)) or "none",
        remedy=f"{deploy} restores the firewall.",
    )


def test_the_resolver_validates_and_is_private(seen: ProbeResult, settings: Settings, deploy: str) -> None:
    """The resolver validates DNSSEC and answers nobody else."""
    if settings.resolver != "local":
        raise CheckSkippedError("mail.yml says `resolver: system`")
    saw = seen["resolver"]
    fail_if_any(
        [
            *(f"asked: {server}" for server in saw["servers"] if not server.startswith("127.")),
            *(() if saw["validated"] else ("an answer for the DNS root that is not validated",)),
            *(f"it answers on {address}" for address in saw["open"]),
        ],
        expected="127.0.0.1 only, with validated (AD) answers",
        remedy=f"{deploy} restores unbound and /etc/resolv.conf; DNSSEC also needs the right time.",
    )


def test_mail_gets_out(seen: ProbeResult, settings: Settings) -> None:
    """The server reaches mail servers elsewhere."""
    saw = seen["outbound"]
    if not saw["tried"]:
        raise CheckSkippedError("mail.yml names no address elsewhere to try it with")
    relay = f"The relay host {saw['tried']} must be reachable: see `relay` in mail.yml."
    blocked = "Many providers block outbound port 25 until asked. Ask yours, or set `relay` in mail.yml."
    warn_if_any(
        [] if saw["connected"] else [saw["said"] or "no answer"],
        expected=f"a connection to the mail server of {saw['tried']}",
        remedy=relay if settings.relay else blocked,
    )
