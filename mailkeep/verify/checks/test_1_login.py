"""Who can log in, on which ports, and from which addresses an account may send."""

import re

from mailkeep.parts import dovecot
from mailkeep.settings.models import Settings
from mailkeep.verify.outcome import fail_if_any
from mailkeep.verify.target import ProbeResult
from mailkeep_server.common.paths import FREEZE_LIST

REFUSAL = re.compile(r"535 |a NO \[AUTHENTICATIONFAILED\]|NO \"Authentication failed")
PASSWORD_DATABASES = (
    f"passdb passwd-file {FREEZE_LIST}",
    f"passdb passwd-file {dovecot.USERS}",
    f"passdb lua {dovecot.REPEATS}",
    f"userdb passwd-file {FREEZE_LIST}",
    f"userdb passwd-file {dovecot.USERS}",
)
CANARY_DATABASE = f"userdb passwd-file {dovecot.CANARY_USERS}"
"""Of the spam filter's test mailbox: it has no password, and only delivery asks it."""
MAX_ACCOUNTS = 50  # whose addresses are checked; the probe asks for as many


def test_linux_accounts_cannot_log_in(observed: ProbeResult, deploy: str) -> None:
    """No Linux account can log in to a mail service, whatever its password.

    In all four incidents the attacker logged in as an account of the machine (`test`, `android`, `steam`, `alarm`).
    """
    fail_if_any(
        (
            f"port {attempt['port']}, {attempt['password']} password: {attempt['answer']}"
            for attempt in observed["linux account"]
            if not REFUSAL.match(attempt["answer"])
        ),
        expected="the refusal of a wrong password (535, AUTHENTICATIONFAILED), for the right password too",
        remedy=f"Dovecot must know only the accounts of mail.yml: {deploy} restores its configuration.",
    )


def test_passwords_are_looked_up_in_the_accounts_file_only(
    observed: ProbeResult, settings: Settings, deploy: str
) -> None:
    """Passwords are looked up in the accounts' file only, not in PAM or elsewhere."""
    databases = observed["password databases"]
    expected = (*PASSWORD_DATABASES, *([CANARY_DATABASE] if settings.spam.is_on else ()))
    fail_if_any(
        [
            *(f"undeclared: {database}" for database in databases if database not in expected),
            *(f"missing: {database}" for database in expected if database not in databases),
        ],
        expected=", ".join(expected),
        remedy=f"Whoever is in another database can log in. {deploy} restores /etc/dovecot/dovecot.conf.",
    )


def test_no_login_on_port_25(observed: ProbeResult, deploy: str) -> None:
    """Nobody can log in on port 25, encrypted or not."""
    fail_if_any(
        _find_login_offers(observed, {"port 25": "503 ", "port 25, encrypted": "503 "}),
        expected="no AUTH among the capabilities, and 503 to an AUTH command",
        remedy=f"smtpd_sasl_auth_enable must be `no` in main.cf: {deploy} restores it.",
    )


def test_no_login_before_encryption(observed: ProbeResult, deploy: str) -> None:
    """No password is accepted before the connection is encrypted."""
    refusals = {
        "port 587, not encrypted": "530 ",
        "port 143, not encrypted": "a NO [PRIVACYREQUIRED]",
        "port 4190, not encrypted": "NO (ENCRYPT-NEEDED)",
    }
    capabilities = observed["forbidden logins"]["port 143, not encrypted"][0]
    mechanisms = observed["forbidden logins"]["port 4190, not encrypted"][0]
    fail_if_any(
        [
            *_find_login_offers(observed, refusals),
            *([] if "LOGINDISABLED" in capabilities else [f"port 143 has no LOGINDISABLED: {capabilities}"]),
            *([] if '"SASL" ""' in mechanisms else [f"port 4190 offers: {mechanisms}".replace("\n", " ")]),
        ],
        expected="no offer of AUTH; a login answered with 530 (SMTP), LOGINDISABLED and PRIVACYREQUIRED (IMAP), "
        "ENCRYPT-NEEDED (ManageSieve)",
        remedy=f"smtpd_tls_security_level=encrypt (master.cf) and ssl=required (dovecot.conf): {deploy} restores them.",
    )


def _find_login_offers(observed: ProbeResult, refusals: dict[str, str]) -> list[str]:
    """A sentence for each port that offers AUTH, or answers a login otherwise than with its refusal."""
    offers = []
    for port, refusal in refusals.items():
        capabilities, answer = observed["forbidden logins"][port]
        if re.search(r"\bAUTH\b", capabilities):
            offers.append(f"{port} offers: {capabilities}".replace("\n", " "))
        if not answer.splitlines()[-1].startswith(refusal):
            offers.append(f"{port} answers a login with: {answer}")
    return offers


def test_accounts_send_as_themselves_only(observed: ProbeResult, settings: Settings, deploy: str) -> None:
    """An account sends only from addresses that it owns.

    Judged by the configuration of the submission services and the answers of their login map. The probe knows no
    account's password, so it cannot log in and try.
    """
    login_map = observed["login map"]
    owners = {address: set(re.split(r"[,\s]+", logins)) for address, logins in login_map["owners"].items()}
    fail_if_any(
        [
            *(rule for rule in login_map["rules"] if not _checks_owner(rule.partition("= ")[2])),
            *([f"services with a rule: {login_map['rules']}"] if len(login_map["rules"]) != 2 else ()),
            *(["a login map of its own in master.cf"] if login_map["overrides"] else ()),
        ],
        expected="reject_sender_login_mismatch on both submission services, before anything permits",
        remedy=f"{deploy} restores main.cf and master.cf.",
    )
    fail_if_any(
        [
            *(f"{spoof} is owned by {login_map['owners'][spoof]}" for spoof in login_map["spoofs"] if spoof in owners),
            *(
                f"{account.address} is owned by {login_map['owners'].get(account.address, 'nobody')}"
                for account in settings.accounts[:MAX_ACCOUNTS]
                if owners.get(account.address) != {account.address}
            ),
        ],
        expected="every account owns its address alone; an address without an account has no owner",
        remedy=f"/etc/postfix/sender_login is not as declared: {deploy} restores it.",
    )


def _checks_owner(restrictions: str) -> bool:
    before, restriction, _ = restrictions.partition("reject_sender_login_mismatch")
    return bool(restriction) and "permit" not in before
