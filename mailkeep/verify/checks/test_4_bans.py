"""Whether who guesses passwords is locked out, and the server never locks itself out."""

from mailkeep.parts.fail2ban import JAILS
from mailkeep.settings.models import Settings
from mailkeep.verify.outcome import fail_if_any
from mailkeep.verify.target import ProbeResult


def test_every_jail_bans_in_the_firewall(seen: ProbeResult, deploy: str) -> None:
    """A ban of every fail2ban jail reaches the firewall, and goes with it.

    In one incident a jail with an invalid port name had banned nobody for a year, and looked healthy.
    """
    fail_if_any(
        [fault for jail in JAILS for fault in seen["jails"][jail]],
        expected="a banned test address in nft's set, a rule that drops it, and both gone when it is unbanned",
        remedy=f"`journalctl -u fail2ban` says what nft refused; {deploy} restores the jails.",
    )


def test_every_jail_notices_guesses(seen: ProbeResult, deploy: str) -> None:
    """Every fail2ban jail notices what it is there for.

    A failed login, or (recidive) a ban by another jail."""
    fail_if_any(
        (f"jail {jail}: nothing in its log" for jail, lines in seen["noticed"].items() if not lines),
        expected="each jail to log the failures that were made just now",
        remedy=f"Its filter does not match what the service logs, or reads another log. {deploy} restores both; "
        "`fail2ban-client status JAIL` tells what it has seen.",
    )


def test_the_server_does_not_ban_itself(seen: ProbeResult, settings: Settings, deploy: str) -> None:
    """fail2ban never bans the server itself."""
    own = {*map(str, settings.host.addresses), seen["address"]}
    fail_if_any(
        (
            line
            for jail, lines in seen["noticed"].items()
            if jail != "recidive"
            for line in lines
            for found in [line.partition("Found ")[2].split(" ")[0]]
            if found in own or found.startswith("127.")
        ),
        expected="`Ignore`, not `Found`, for its own addresses",
        remedy=f"`ignoreself` and `ignoreip` of jail.d/mailkeep.local do it: {deploy} restores them.",
    )
