"""Whether a stolen password is of little use."""

from mailkeep.verify.outcome import fail_if_any, warn_if_any
from mailkeep.verify.target import ProbeResult


def test_the_guard_bounds_what_accounts_send(seen: ProbeResult, deploy: str) -> None:
    """What an account sends is bounded, and who goes on is frozen.

    In all four incidents whoever had the password sent as much as the machine could.
    """
    saw = seen["guard"]
    fail_if_any(
        [
            *(f"{where}: {told}" for where, told in saw["asked"].items() if "/run/mailkeep-guard." not in told),
            *([] if saw["stranger"].startswith("action=450") else [f"about a stranger it says: {saw['stranger']}"]),
            *([] if _knows(saw["account"]) else [f"about an account it says: {saw['account']}"]),
        ],
        expected="both submission services to ask the guard about recipients, messages and senders, and it to answer",
        remedy=f"`systemctl status mailkeep-guard`; {deploy} restores main.cf and master.cf.",
    )


def _knows(answer: str) -> bool:
    """Whether this is about an account: nothing against it, frozen, or over a limit."""
    return answer in ("", "action=DUNNO") or "is frozen" in answer or " may send " in answer


def test_local_programs_have_a_limit(seen: ProbeResult, deploy: str) -> None:
    """What programs on the server send is bounded too."""
    milters = seen["guard"]["local"]
    fail_if_any(
        [] if "/run/mailkeep-guard." in milters else [f"non_smtpd_milters = {milters}"],
        expected="the guard's milter in non_smtpd_milters",
        remedy=f"{deploy} restores main.cf.",
    )


def test_who_is_frozen_cannot_log_in(seen: ProbeResult, deploy: str) -> None:
    """Who is frozen cannot log in."""
    passdb = seen["guard"]["denied"]
    fail_if_any(
        [] if "deny = yes" in passdb and "/frozen/accounts" in passdb else [passdb or "no passdb"],
        expected="the first passdb to be the list of frozen accounts, with `deny = yes`",
        remedy=f"{deploy} restores /etc/dovecot/dovecot.conf.",
    )


def test_nobody_is_frozen(seen: ProbeResult) -> None:
    """No account is frozen."""
    warn_if_any(
        (f"{account}, since {why}" for account, _, _, _, why, *_ in seen["guard"]["frozen"]),
        expected="nobody: a frozen account was taken over, or has limits too low for it",
        remedy="docs/after-a-break-in.md. `mailkeep account thaw` ends a freeze, after a new password.",
    )
