"""Whether a stolen password is of little use."""

import json

from mailkeep.verify.outcome import fail_if_any, warn_if_any
from mailkeep.verify.target import ProbeResult, Target
from mailkeep_server.common.guard_summary import summarise_config
from mailkeep_server.common.paths import GUARD_CONFIG, GUARD_INCOMING_SOCKET

GUARD_SOCKET = "/run/mailkeep-guard."


def test_the_guard_bounds_what_accounts_send(observed: ProbeResult, deploy: str) -> None:
    """Every account has sending limits, and is frozen if it keeps exceeding them.

    In all four incidents the attacker could send as much as the machine could.
    """
    guard = observed["guard"]
    unknown, known = guard["unknown account"], guard["known account"]
    fail_if_any(
        [
            *(f"{name} = {value}" for name, value in guard["submission"].items() if GUARD_SOCKET not in value),
            *([] if unknown.startswith("action=450") else [f"about an unknown account the guard answers: {unknown}"]),
            *([] if _is_about_account(known) else [f"about a known account the guard answers: {known}"]),
        ],
        expected="both submission services ask the guard about recipients, messages and senders, and it answers",
        remedy=f"`systemctl status mailkeep-guard`; {deploy} restores main.cf and master.cf.",
    )


def _is_about_account(answer: str) -> bool:
    """Whether the guard knows the account: it has no objection, or the account is frozen or over a limit."""
    return answer in ("", "action=DUNNO") or "is frozen" in answer or " may send " in answer


def test_the_guard_runs_as_declared(observed: ProbeResult, target: Target, deploy: str) -> None:
    """The running guard has the mode, limits and accounts that mail.yml declares."""
    declared = summarise_config(json.loads(target.find_file(GUARD_CONFIG).content))
    running = observed["guard config"]
    fail_if_any(
        (
            f"{name}: {running.get(name, 'unknown')}, declared {value}"
            for name, value in declared.items()
            if running.get(name) != value
        ),
        expected="the values of mail.yml",
        remedy="`systemctl reload mailkeep-guard` makes it read its file again; if it differs still, look at "
        f"`journalctl -u mailkeep-guard`. {deploy} restores the file.",
    )
    until = running.get("careful_until")  # a guard of a former version does not tell it
    warn_if_any(
        [f"counts were lost: until {until}, each account may send half of its limits"] if until else [],
        expected="counts of the whole last day",
        remedy="Nothing to do: the limits of mail.yml hold again then. `mailkeepctl events` says what was lost.",
    )


def test_local_programs_have_a_limit(observed: ProbeResult, deploy: str) -> None:
    """Programs on the server have sending limits, too."""
    milters = observed["guard"]["non_smtpd_milters"]
    fail_if_any(
        [] if GUARD_SOCKET in milters else [f"non_smtpd_milters = {milters}"],
        expected="the guard's milter in non_smtpd_milters",
        remedy=f"{deploy} restores main.cf.",
    )


def test_mail_that_comes_in_is_bounded(observed: ProbeResult, deploy: str) -> None:
    """An account gets so much mail at most, and a mail bomb goes to a folder."""
    incoming = observed["guard"]["incoming"]
    expected = {
        "smtpd_milters": GUARD_INCOMING_SOCKET,
        "answer": "O",
        "mark of strangers": "IGNORE",
        "mark of accounts": "IGNORE",
        "scripts": "bulk.sieve",
    }
    fail_if_any(
        (f"{name}: {incoming[name] or 'nothing'}" for name, value in expected.items() if value not in incoming[name]),
        expected="Postfix asks the guard on port 25, and removes its mark from others' mail; Dovecot files by the mark",
        remedy=f"`systemctl status mailkeep-guard`; {deploy} restores main.cf, master.cf and dovecot.conf.",
    )


def test_who_is_frozen_cannot_log_in(observed: ProbeResult, deploy: str) -> None:
    """A frozen account cannot log in."""
    passdb = observed["guard"]["first passdb"]
    fail_if_any(
        [] if "deny = yes" in passdb and "/frozen/accounts" in passdb else [passdb or "no passdb"],
        expected="the first passdb is the list of frozen accounts, with `deny = yes`",
        remedy=f"{deploy} restores /etc/dovecot/dovecot.conf.",
    )


def test_nobody_is_frozen(observed: ProbeResult) -> None:
    """No account is frozen."""
    warn_if_any(
        (", since ".join((fields[0], *fields[4:5])) for fields in observed["guard"]["freeze list"]),
        expected="no frozen account",
        remedy="The account was taken over, or its limits are too low: see docs/after-a-break-in.md. "
        "After a new password, `mailkeep account thaw` ends the freeze.",
    )
