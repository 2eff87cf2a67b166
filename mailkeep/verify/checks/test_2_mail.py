"""What strangers can do on port 25."""

from collections.abc import Iterable
from typing import Any

from mailkeep.settings.models import Settings
from mailkeep.verify.outcome import fail_if_any, warn_if_any
from mailkeep.verify.target import ProbeResult

Reply = dict[str, Any]
TOO_OFTEN = "Where a 4xx says that you connect too often, wait a minute and run it again. Otherwise: "


def _not_refused(replies: Iterable[Reply]) -> list[str]:
    """Those that are no refusal for good (5xx)."""
    return [_told(reply) for reply in replies if reply["code"] // 100 != 5]


def _told(reply: Reply) -> str:
    source = f" from {reply['source']}" if "source" in reply else ""
    return f"{reply['command']}{source}: {reply['code'] or ''} {reply['text']}".replace("\n", " ")


def test_nobody_relays(seen: ProbeResult, deploy: str) -> None:
    """Nobody relays who has not logged in, from outside or from the server itself."""
    replies = seen["relay"]
    recipients = [reply for reply in replies if reply["command"].startswith("RCPT")]
    fail_if_any(
        _not_refused(recipients),
        expected="554 Relay access denied, however the recipient is written",
        remedy=f"{TOO_OFTEN}this server is an open relay, or will be taken for one. {deploy} restores main.cf.",
    )


def test_our_names_are_not_spoofed(seen: ProbeResult, deploy: str) -> None:
    """Nobody writes as one of our domains or the host who has not logged in."""
    fail_if_any(
        _not_refused(seen["spoofed senders"]),
        expected="554 Sender address rejected",
        remedy=f"{TOO_OFTEN}smtpd_sender_restrictions must look into own_domains; {deploy} restores it.",
    )


def test_unknown_recipients_are_refused(seen: ProbeResult, deploy: str) -> None:
    """Mail to unknown recipients is refused, not bounced."""
    fail_if_any(
        _not_refused(seen["unknown recipients"]),
        expected="550 to RCPT, for unknown addresses of ours and for Linux accounts of the host",
        remedy=f"{TOO_OFTEN}reject_unlisted_recipient and the maps of main.cf do it; {deploy} restores them.",
    )


def test_the_postmaster_of_the_host_can_be_reached(seen: ProbeResult, settings: Settings, deploy: str) -> None:
    """Strangers can write to the postmaster of the host.

    RFC 5321 section 4.5.1."""
    fail_if_any(
        _not_taken(seen, {settings.host.name}),
        expected="250 to RCPT",
        remedy=f"{TOO_OFTEN}{deploy} restores the aliases of the host; what else refuses is in the log.",
    )


def test_the_postmasters_of_the_domains_can_be_reached(seen: ProbeResult, settings: Settings) -> None:
    """Strangers can write to the postmaster of each mail domain.

    RFC 5321 section 4.5.1."""
    warn_if_any(
        _not_taken(seen, settings.domains),
        expected="250 to RCPT",
        remedy="Declare an alias `postmaster@DOMAIN` in mail.yml: some operators write there before they block you.",
    )


def _not_taken(seen: ProbeResult, domains: Iterable[str]) -> list[str]:
    wanted = {f"RCPT TO:<postmaster@{domain}>" for domain in domains}
    return [_told(reply) for reply in seen["postmaster"] if reply["command"] in wanted and reply["code"] // 100 != 2]


def test_addresses_cannot_be_harvested(seen: ProbeResult, deploy: str) -> None:
    """VRFY, EXPN and ETRN tell nobody which addresses exist."""
    replies = seen["manners"]["verify"]
    fail_if_any(
        [_told(reply) for reply in replies if reply["code"] // 100 not in (4, 5)],
        expected="VRFY command is disabled (502), and no answer of use to the others",
        remedy=f"disable_vrfy_command must be `yes`: {deploy} restores it.",
    )


def test_clients_say_who_they_are(seen: ProbeResult, deploy: str) -> None:
    """No mail from a client that has not said HELO."""
    fail_if_any(
        _not_refused(seen["manners"]["helo"]),
        expected="503 send HELO/EHLO first",
        remedy=f"smtpd_helo_required must be `yes`: {deploy} restores it.",
    )


def test_no_mail_is_smuggled(seen: ProbeResult, deploy: str) -> None:
    """No message can be smuggled behind a bare line feed (CVE-2023-51764)."""
    fail_if_any(
        _not_refused(seen["smuggling"]),
        expected="550 bare <LF> received",
        remedy=f"smtpd_forbid_bare_newline must be `reject`, with no exclusions: {deploy} restores it.",
    )


def test_talking_out_of_turn_is_refused(seen: ProbeResult, deploy: str) -> None:
    """A client that does not wait for its turn, as spam software does, is refused."""
    fail_if_any(
        _not_refused([seen["pipelining"]]),
        expected="554 SMTP protocol synchronization",
        remedy=f"smtpd_forbid_unauth_pipelining must be `yes`: {deploy} restores it.",
    )
