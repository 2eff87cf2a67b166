"""What a Linux user with a shell on the server, but without rights, can do."""

from mailkeep.settings.models import Settings
from mailkeep.verify.outcome import CheckFailedError, CheckSkippedError, fail_if_any
from mailkeep.verify.target import ProbeResult


def test_local_programs_cannot_send(observed: ProbeResult, settings: Settings, deploy: str) -> None:
    """Programs of Linux users that mail.yml does not name cannot send mail."""
    sendmail = observed["unprivileged"]["sendmail"]
    if sendmail["code"] == 0 or "not allowed to submit" not in sendmail["output"]:
        raise CheckFailedError(
            "sendmail: User … is not allowed to submit mail",
            f"exit {sendmail['code']}: {sendmail['output'] or 'the message was accepted'}",
            f"authorized_submit_users must be `{', '.join(settings.local_senders)}`: {deploy} restores it.",
        )


def test_local_programs_cannot_reach_other_mail_servers(observed: ProbeResult, deploy: str) -> None:
    """Nobody but root and Postfix connects to other mail servers."""
    attempts = observed["unprivileged"]
    connections = attempts["connections"]
    fail_if_any(
        [
            *(result for result in connections if result == "connected"),
            *(() if attempts["rejected"] else (f"no packet was rejected; the connections failed with {connections}",)),
        ],
        expected="the firewall rejects connections to port 25",
        remedy=f"The chain `output` of the table `mailkeep` does it: {deploy} restores the firewall.",
    )


def test_secrets_are_private(observed: ProbeResult, deploy: str) -> None:
    """No other Linux user reads keys, password hashes or mailboxes."""
    fail_if_any(
        observed["unprivileged"]["readable"],
        expected="Permission denied",
        remedy=f"{deploy} restores owners and modes. Readable files may have been read: replace keys and passwords.",
    )


def test_private_sockets_are_private(observed: ProbeResult, deploy: str) -> None:
    """No other Linux user reaches the sockets for passwords, signing, delivery."""
    fail_if_any(
        observed["unprivileged"]["connectable"],
        expected="Permission denied",
        remedy=f"{deploy} restores the services' configuration; then restart the service that owns the socket.",
    )


def test_ssh_takes_no_passwords(observed: ProbeResult, settings: Settings, deploy: str) -> None:
    """SSH accepts keys only."""
    if settings.ssh.passwords:
        raise CheckSkippedError("mail.yml says `ssh.passwords: true`")
    answer = observed["ssh"]
    if "Permission denied (publickey)" not in answer:
        raise CheckFailedError(
            "Permission denied (publickey)",
            answer,
            f"PasswordAuthentication and KbdInteractiveAuthentication must be `no`: {deploy} restores them.",
        )
