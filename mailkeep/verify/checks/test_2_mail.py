"""What a stranger can do on port 25."""

from collections.abc import Iterable
from typing import Any

from mailkeep.settings.models import Settings
from mailkeep.verify.outcome import fail_if_any, warn_if_any
from mailkeep.verify.target import ProbeResult

Reply = dict[str, Any]
STILL_IN_DATA = 354
IF_TOO_MANY = "If a 4xx reply says that you connect too often, wait a minute and run it again. Otherwise: "


def find_accepted(replies: Iterable[Reply]) -> list[str]:
    """The replies that are not a permanent refusal (5xx)."""
    return [_format_reply(reply) for reply in replies if reply["code"] // 100 != 5]


def _format_reply(reply: Reply) -> str:
    source = f" from {reply['source']}" if "source" in reply else ""
    return f"{reply['command']}{source}: {reply['code'] or ''} {reply['text']}".replace("\n", " ")


def test_nobody_relays(observed: ProbeResult, deploy: str) -> None:
    """Nobody relays who has not logged in, from outside or from the server itself."""
    recipients = [reply for reply in observed["relay"] if reply["command"].startswith("RCPT")]
    fail_if_any(
        find_accepted(recipients),
        expected="554 Relay access denied, in whatever notation the recipient is written",
        remedy=f"{IF_TOO_MANY}this server is an open relay, or will be taken for one. {deploy} restores main.cf.",
    )


def test_our_names_are_not_spoofed(observed: ProbeResult, deploy: str) -> None:
    """Nobody sends as one of our domains or the host who has not logged in."""
    fail_if_any(
        find_accepted(observed["spoofed senders"]),
        expected="554 Sender address rejected",
        remedy=f"{IF_TOO_MANY}smtpd_sender_restrictions must look into own_domains; {deploy} restores it.",
    )


def test_unknown_recipients_are_refused(observed: ProbeResult, deploy: str) -> None:
    """Mail to unknown recipients is refused, not bounced."""
    fail_if_any(
        find_accepted(observed["unknown recipients"]),
        expected="550 to RCPT, for unknown addresses of ours and for Linux accounts of the host",
        remedy=f"{IF_TOO_MANY}reject_unlisted_recipient and the maps of main.cf do it; {deploy} restores them.",
    )


def test_the_postmaster_of_the_host_can_be_reached(observed: ProbeResult, settings: Settings, deploy: str) -> None:
    """Strangers can write to the postmaster of the host.

    RFC 5321 section 4.5.1.
    """
    fail_if_any(
        _find_refused_postmasters(observed, {settings.host.name}),
        expected="250 to RCPT",
        remedy=f"{IF_TOO_MANY}{deploy} restores the host's aliases; other reasons are in the log.",
    )


def test_the_postmasters_of_the_domains_can_be_reached(observed: ProbeResult, settings: Settings) -> None:
    """Strangers can write to the postmaster of each mail domain.

    RFC 5321 section 4.5.1.
    """
    warn_if_any(
        _find_refused_postmasters(observed, settings.domains),
        expected="250 to RCPT",
        remedy="Declare an alias `postmaster@DOMAIN` in mail.yml: some operators write there before they block you.",
    )


def _find_refused_postmasters(observed: ProbeResult, domains: Iterable[str]) -> list[str]:
    commands = {f"RCPT TO:<postmaster@{domain}>" for domain in domains}
    replies = [reply for reply in observed["postmaster"] if reply["command"] in commands]
    return [_format_reply(reply) for reply in replies if reply["code"] // 100 != 2]


def test_every_mailbox_can_be_written(observed: ProbeResult) -> None:
    """Every mailbox belongs to vmail, so that mail can be stored."""
    fail_if_any(
        observed["mailboxes"]["faults"],
        expected="all directories of a mailbox owned by vmail, with mode 700",
        remedy="`chown -R vmail:vmail PATH` and `chmod -R u+rwX PATH` on the server; `postqueue -f` delivers then.",
    )
    unseen = observed["mailboxes"]["unseen"]
    warn_if_any(
        [f"{unseen} mailboxes were not looked at: the time did not suffice"] if unseen else [],
        expected="a look at every mailbox",
        remedy="The watch looks at all of them, one after another. Disks that are slow now may be quicker later.",
    )


def test_addresses_cannot_be_harvested(observed: ProbeResult, deploy: str) -> None:
    """VRFY, EXPN and ETRN do not reveal which addresses exist."""
    fail_if_any(
        [_format_reply(reply) for reply in observed["address queries"] if reply["code"] // 100 not in (4, 5)],
        expected="502 VRFY command is disabled, and a refusal of the others",
        remedy=f"disable_vrfy_command must be `yes`: {deploy} restores it.",
    )


def test_clients_say_who_they_are(observed: ProbeResult, deploy: str) -> None:
    """No mail is accepted from a client that has not sent HELO."""
    fail_if_any(
        find_accepted(observed["missing helo"]),
        expected="503 send HELO/EHLO first",
        remedy=f"smtpd_helo_required must be `yes`: {deploy} restores it.",
    )


def test_no_mail_is_smuggled(observed: ProbeResult, deploy: str) -> None:
    """No message can be smuggled behind a bare line feed (CVE-2023-51764)."""
    fail_if_any(
        [_format_reply(reply) for reply in observed["smuggling"] if reply["code"] != STILL_IN_DATA],
        expected="no answer: only <CR><LF>.<CR><LF> ends a message",
        remedy=f"smtpd_forbid_bare_newline must be `normalize`, with no exclusions: {deploy} restores it.",
    )


def test_talking_out_of_turn_is_refused(observed: ProbeResult, deploy: str) -> None:
    """A client that does not wait for its turn, as spam software does, is refused."""
    fail_if_any(
        find_accepted([observed["early commands"]]),
        expected="554 SMTP protocol synchronization",
        remedy=f"smtpd_forbid_unauth_pipelining must be `yes`: {deploy} restores it.",
    )
