"""Whether fail2ban bans clients that guess passwords, and never the server itself."""

from mailkeep.parts.fail2ban import JAILS
from mailkeep.settings.models import Settings
from mailkeep.verify.outcome import fail_if_any
from mailkeep.verify.target import ProbeResult


def test_every_jail_bans_in_the_firewall(observed: ProbeResult, deploy: str) -> None:
    """A ban of every fail2ban jail reaches the firewall, and ends there too.

    In one incident a jail with an invalid port name had banned nobody for a year, and looked healthy.
    """
    fail_if_any(
        [fault for jail in JAILS for fault in observed["jails"][jail]],
        expected="a banned test address in nft's set, a rule that drops it, and both gone after the unban",
        remedy=f"`journalctl -u fail2ban` says what nft refused; {deploy} restores the jails.",
    )


def test_every_jail_notices_guesses(observed: ProbeResult, deploy: str) -> None:
    """Every fail2ban jail notices the failures that it watches for.

    These are failed logins, or for recidive the bans by other jails.
    """
    fail_if_any(
        (f"jail {jail}: nothing in its log" for jail, lines in observed["failures"].items() if not lines),
        expected="each jail logs the failures that were made just now",
        remedy=f"Its filter does not match the service's log, or it reads another log. {deploy} restores both; "
        "`fail2ban-client status JAIL` shows what the jail has read.",
    )


def test_the_server_does_not_ban_itself(observed: ProbeResult, settings: Settings, deploy: str) -> None:
    """fail2ban never bans the server itself."""
    own_addresses = {*map(str, settings.host.addresses), observed["address"]}
    fail_if_any(
        (
            line
            for jail, lines in observed["failures"].items()
            if jail != "recidive"
            for line in lines
            for address in [line.partition("Found ")[2].split(" ")[0]]
            if address in own_addresses or address.startswith("127.")
        ),
        expected="`Ignore` instead of `Found` for the server's own addresses",
        remedy=f"`ignoreself` and `ignoreip` of jail.d/mailkeep.local do it: {deploy} restores them.",
    )
