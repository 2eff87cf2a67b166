"""What somebody can do who has a shell on the server, but no rights."""

from mailkeep.settings.models import Settings
from mailkeep.verify.outcome import CheckFailedError, CheckSkippedError, fail_if_any
from mailkeep.verify.target import ProbeResult


def test_local_programs_cannot_send(seen: ProbeResult, settings: Settings, deploy: str) -> None:
    """Programs of Linux users that mail.yml does not name cannot send mail."""
    sent = seen["stranger"]["sent"]
    if sent["code"] == 0 or "not allowed to submit" not in sent["said"]:
        raise CheckFailedError(
            "sendmail: User … is not allowed to submit mail",
            f"exit {sent['code']}: {sent['said'] or 'the message was taken'}",
            f"authorized_submit_users must be `{', '.join(settings.local_senders)}`: {deploy} restores it.",
        )


def test_local_programs_cannot_reach_other_mail_servers(seen: ProbeResult, deploy: str) -> None:
    """Nobody but root and Postfix connects to other mail servers."""
    saw = seen["stranger"]
    fail_if_any(
        [
            *(said for said in saw["out"] if said == "connected"),
            *(() if saw["rejected"] else (f"no packet was rejected; the connections failed with {saw['out']}",)),
        ],
        expected="the firewall to reject connections to port 25",
        remedy=f"The chain `output` of the table `mailkeep` does it: {deploy} restores the firewall.",
    )


def test_secrets_are_private(seen: ProbeResult, deploy: str) -> None:
    """No other Linux user reads keys, password hashes or mailboxes."""
    fail_if_any(
        seen["stranger"]["read"],
        expected="Permission denied",
        remedy=f"{deploy} restores owners and modes. What was readable may have been read: replace keys and passwords.",
    )


def test_private_sockets_are_private(seen: ProbeResult, deploy: str) -> None:
    """No other Linux user reaches the sockets for passwords, signing, delivery."""
    fail_if_any(
        seen["stranger"]["reached"],
        expected="Permission denied",
        remedy=f"{deploy} restores the services' configuration; restart what owns the socket.",
    )


def test_ssh_takes_no_passwords(seen: ProbeResult, settings: Settings, deploy: str) -> None:
    """SSH takes keys only."""
    if settings.ssh.passwords:
        raise CheckSkippedError("mail.yml says `ssh.passwords: true`")
    said = seen["ssh"]
    if "Permission denied (publickey)" not in said:
        raise CheckFailedError(
            "Permission denied (publickey)",
            said,
            f"PasswordAuthentication and KbdInteractiveAuthentication must be `no`: {deploy} restores them.",
        )
