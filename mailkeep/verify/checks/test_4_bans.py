"""Whether fail2ban bans clients that guess passwords, and never the server itself."""

from mailkeep.parts.fail2ban import JAILS
from mailkeep.settings.models import Settings
from mailkeep.verify.outcome import CheckSkippedError, fail_if_any, warn_if_any
from mailkeep.verify.target import ProbeResult


def test_every_jail_bans_in_the_firewall(observed: ProbeResult, deploy: str) -> None:
    """Each jail of Mailkeep notices a refused login, and bans in the firewall.

    In one incident a jail with an invalid port name had banned nobody for a year, and looked healthy.
    """
    fail_if_any(
        [fault for jail in JAILS for fault in observed["jails"][jail]],
        expected="a test address that a service refuses is noticed, banned after the declared number of failures, "
        "dropped by nft before anything accepts it, and let go after the unban",
        remedy=f"`journalctl -u fail2ban` says what it noticed, and what nft refused. {deploy} restores the jails; "
        "other files in /etc/fail2ban/jail.d may override them. `nft list table inet f2b-table` shows the rules.",
    )


def test_jails_of_the_operator_ban_too(observed: ProbeResult) -> None:
    """The jails that are not Mailkeep's ban in the firewall, too."""
    foreign = {jail: faults for jail, faults in observed["jails"].items() if jail not in JAILS}
    if not foreign:
        raise CheckSkippedError("fail2ban has no other jails")
    warn_if_any(
        [fault for faults in foreign.values() for fault in faults],
        expected=f"a test address that {', '.join(foreign)} bans is dropped",
        remedy="`journalctl -u fail2ban` says what failed. A port in the jail's file must be a number, or a name in "
        "/etc/services. A jail that is not proven may ban all the same: look at its rules after its next ban.",
    )


def test_fail2ban_would_start_again(observed: ProbeResult) -> None:
    """fail2ban can start again with all jails in its files."""
    fault = observed["fail2ban start"]
    fail_if_any(
        [fault] if fault else [],
        expected="`fail2ban-client --test` accepts the files in /etc/fail2ban",
        remedy="Mend the jail that it names, or set `enabled = false` in its file. One such jail keeps all from "
        "starting.",
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
