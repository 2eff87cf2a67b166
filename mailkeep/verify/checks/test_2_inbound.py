"""Who a message is from: what a stranger can make readers believe."""

import re

from mailkeep.verify.checks.test_2_mail import IF_TOO_MANY, find_accepted
from mailkeep.verify.outcome import CheckSkippedError, fail_if_any
from mailkeep.verify.target import ProbeResult


def test_our_domains_are_not_forged_in_from(observed: ProbeResult, deploy: str) -> None:
    """Nobody writes as one of our domains in From: without our signature or server."""
    fail_if_any(
        find_accepted(observed["forged authors"]),
        expected="550 5.7.1 From: shows a domain of this server",
        remedy=f"{IF_TOO_MANY}smtpd_milters must name the milter mailkeep-inbound; {deploy} restores it.",
    )


def test_forgeries_are_refused_as_their_domain_asks(observed: ProbeResult, deploy: str) -> None:
    """Mail that forges a domain is refused if its owner asks for that (DMARC)."""
    tried = observed["strict author"]
    if not any(re.match(r"v=DMARC1;.*\bp=reject", record) for record in tried["records"]):
        raise CheckSkippedError(f"the DNS has no DMARC record of {tried['domain']} that asks for it now")
    fail_if_any(
        find_accepted([tried["reply"]]),
        expected=f"550 5.7.1 {tried['domain']} asks to refuse mail …",
        remedy=f"{IF_TOO_MANY}smtpd_milters must name the milter mailkeep-inbound; {deploy} restores it.",
    )


def test_nobody_writes_results_in_our_name(observed: ProbeResult, deploy: str) -> None:
    """No result of checks comes in that a stranger has written in this host's name."""
    claims = observed["claims"]
    fail_if_any(
        [*claims["kept"], *([] if claims["result"] else ["no result of this host is written"])],
        expected="each Authentication-Results in this host's name removed, in every spelling, and ours written",
        remedy=f"`systemctl restart mailkeep-inbound`; {deploy} restores the program and its configuration.",
    )
