"""Whether the spam filter does what mail.yml says."""

from mailkeep.settings.models import Settings
from mailkeep.verify.outcome import CheckSkippedError, fail_if_any
from mailkeep.verify.target import ProbeResult


def test_spam_is_refused_or_sorted(observed: ProbeResult, settings: Settings, deploy: str) -> None:
    """Spam is refused or reaches Junk, and other mail INBOX."""
    if not settings.spam.is_on:
        raise CheckSkippedError("mail.yml has no spam filter (spam.filter)")
    fail_if_any(
        (f"the test message {canary} {fault}" for canary, fault in observed["spam filter"].items()),
        expected="`plain` in INBOX and `junk` in Junk, each with a verdict, and `gtube` refused",
        remedy=f"`journalctl -u mailkeep-spam -u mailkeep-canary` may say why; {deploy} restores the filter.",
    )
