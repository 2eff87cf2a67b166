"""Whether the spam filter does what mail.yml says."""

from mailkeep.settings.models import Settings
from mailkeep.verify.outcome import CheckSkippedError, fail_if_any
from mailkeep.verify.target import ProbeResult
from mailkeep_server.common.paths import GUARD_MILTER_SOCKET, SPAM_MILTER_SOCKET


def test_spam_is_refused_or_sorted(observed: ProbeResult, settings: Settings, deploy: str) -> None:
    """Spam is refused or reaches Junk, and other mail INBOX."""
    if not settings.spam.is_on:
        raise CheckSkippedError("mail.yml has no spam filter (spam.filter)")
    fail_if_any(
        (f"the test message {canary} {fault}" for canary, fault in observed["spam filter"].items()),
        expected="`plain` in INBOX and `junk` in Junk, each with a verdict, and `gtube` refused",
        remedy=f"`journalctl -u mailkeep-spam -u mailkeep-canary` may say why; {deploy} restores the filter.",
    )


def test_spam_of_accounts_counts(observed: ProbeResult, settings: Settings, deploy: str) -> None:
    """The spam filter sees what accounts send, and the guard counts what it finds."""
    if settings.spam.filter != "full":
        raise CheckSkippedError("without `spam: full` in mail.yml, nothing judges what accounts send")
    milters = {name: value for name, value in observed["guard"]["submission"].items() if "smtpd_milters" in name}
    fail_if_any(
        (
            f"{name} = {value}"
            for name, value in milters.items()
            if SPAM_MILTER_SOCKET not in value.partition(GUARD_MILTER_SOCKET)[0]
        ),
        expected="Postfix asks the spam filter on the submission ports, before the guard",
        remedy=f"{deploy} restores main.cf and master.cf.",
    )
