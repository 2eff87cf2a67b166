"""Who can log in, where, and as whom they may write."""

import re

from mailkeep.settings.models import Settings
from mailkeep.verify.outcome import fail_if_any
from mailkeep.verify.target import ProbeResult

REFUSED = re.compile(r"535 |a NO \[AUTHENTICATIONFAILED\]")


def test_linux_accounts_cannot_log_in(seen: ProbeResult, deploy: str) -> None:
    """No Linux account can log in to SMTP or IMAP, whatever its password.

    In all four incidents an account of the machine (`test`, `android`, `steam`, `alarm`) was the way in.
    """
    fail_if_any(
        (
            f"port {one['port']}, {'right' if one['right'] else 'wrong'} password: {one['said']}"
            for one in seen["linux account"]
            if not REFUSED.match(one["said"])
        ),
        expected="the answer to a wrong password (535, AUTHENTICATIONFAILED), whichever password was given",
        remedy=f"Dovecot must know the accounts of mail.yml only: {deploy} restores its configuration.",
    )


def test_passwords_are_looked_up_in_the_accounts_file_only(seen: ProbeResult, deploy: str) -> None:
    """Passwords are looked up in the accounts' file only, not in PAM."""
    found = seen["passdbs"]
    fail_if_any(
        (one for one in found if not one.endswith(" passwd-file")),
        expected="`passdb passwd-file` and `userdb passwd-file`, nothing else",
        remedy=f"{deploy} restores /etc/dovecot/dovecot.conf.",
    )
    fail_if_any(
        () if len(found) >= 2 else [f"only {found}"],
        expected="a passdb and a userdb",
        remedy=f"{deploy} restores /etc/dovecot/dovecot.conf.",
    )


def test_no_login_on_port_25(seen: ProbeResult, deploy: str) -> None:
    """Nobody can log in on port 25, encrypted or not."""
    fail_if_any(
        _logins(seen, {"port 25": "503 ", "port 25, encrypted": "503 "}),
        expected="no AUTH among the capabilities, and 503 to an AUTH command",
        remedy=f"smtpd_sasl_auth_enable must be `no` in main.cf: {deploy} restores it.",
    )


def test_no_login_before_encryption(seen: ProbeResult, deploy: str) -> None:
    """No password is taken before the connection is encrypted."""
    before = {"port 587, not encrypted": "530 ", "port 143, not encrypted": "a NO [PRIVACYREQUIRED]"}
    capabilities = seen["login offers"]["port 143, not encrypted"][0]
    fail_if_any(
        [
            *_logins(seen, before),
            *([] if "LOGINDISABLED" in capabilities else [f"port 143 has no LOGINDISABLED: {capabilities}"]),
        ],
        expected="no AUTH on offer; 530 (SMTP), LOGINDISABLED and PRIVACYREQUIRED (IMAP) to a login",
        remedy=f"smtpd_tls_security_level=encrypt (master.cf) and ssl=required (dovecot.conf): {deploy} restores them.",
    )


def _logins(seen: ProbeResult, expected: dict[str, str]) -> list[str]:
    """Where AUTH is on offer, or a login is answered otherwise than with `expected`."""
    found = []
    for where, answer in expected.items():
        capabilities, said = seen["login offers"][where]
        if re.search(r"\bAUTH\b", capabilities):
            found.append(f"{where} offers: {capabilities}".replace("\n", " "))
        if not said.splitlines()[-1].startswith(answer):
            found.append(f"{where} answers a login with: {said}")
    return found


def test_accounts_send_as_themselves_only(seen: ProbeResult, settings: Settings, deploy: str) -> None:
    """An account sends only from addresses that it owns.

    What the submission services are configured to ask, and what their map answers: no password of an account is known
    here, so nobody logs in to try it.
    """
    saw = seen["senders"]
    owners = {address: set(re.split(r"[,\s]+", logins)) for address, logins in saw["owners"].items()}
    fail_if_any(
        [
            *(rule for rule in saw["rules"] if not _checks_owner(rule.partition("= ")[2])),
            *([f"services with a rule: {saw['rules']}"] if len(saw["rules"]) != 2 else ()),
            *(["a map of its own in master.cf"] if saw["overridden"] else ()),
        ],
        expected="reject_sender_login_mismatch on both submission services, before anything permits",
        remedy=f"{deploy} restores main.cf and master.cf.",
    )
    fail_if_any(
        [
            *(f"{spoof} is owned by {saw['owners'][spoof]}" for spoof in saw["spoofs"] if spoof in owners),
            *(
                f"{account.address} is owned by {saw['owners'].get(account.address, 'nobody')}"
                for account in settings.accounts[:50]
                if owners.get(account.address) != {account.address}
            ),
        ],
        expected="every account to own its address, alone, and nobody to own addresses without an account",
        remedy=f"/etc/postfix/sender_login is not as declared: {deploy} restores it.",
    )


def _checks_owner(restrictions: str) -> bool:
    before, found, _ = restrictions.partition("reject_sender_login_mismatch")
    return bool(found) and "permit" not in before
