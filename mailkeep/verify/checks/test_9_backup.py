"""Whether the mail comes back from the backups."""

from mailkeep.verify.outcome import CheckSkippedError, fail_if_any, warn_if_any
from mailkeep.verify.target import ProbeResult


def test_mail_comes_back_from_each_backup(observed: ProbeResult) -> None:
    """From each backup a random mailbox comes back as it was."""
    targets = observed["backups"]
    if not any(target["made"] for target in targets.values()):
        raise CheckSkippedError("no backup was made yet" if targets else "mail.yml has no `backup`")
    fail_if_any(
        (f"{name}: {target['fault']}" for name, target in targets.items() if target["made"] and target["fault"]),
        expected="every message with the same bytes and flags, and the same UIDs",
        remedy="docs/backup.md says what to do for each fault. Until then do not rely on this target.",
    )


def test_every_target_has_a_backup(observed: ProbeResult, deploy: str) -> None:
    """Every target of mail.yml has taken its last backup."""
    targets = observed["backups"]
    if not targets:
        raise CheckSkippedError("mail.yml has no `backup`")
    warn_if_any(
        (
            f"{name}: {target['last_fault'] or 'no backup yet'}"
            for name, target in targets.items()
            if target["last_fault"] or not target["made"]
        ),
        expected="a backup at each",
        remedy=f"{deploy.replace(' deploy ', ' backup ')} makes one now, and names faults.",
    )
