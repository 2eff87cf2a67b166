"""Which log lines count against whom. The filters are read as fail2ban reads them, with its tags filled in."""

import re
from configparser import RawConfigParser

import pytest

from mailkeep.parts import fail2ban
from mailkeep.templating import render_template
from mailkeep_server.common.networks import ban_target

ATTACKER, VICTIM = "192.0.2.66", "198.51.100.9"
ADDRESS = r"(?P<ip>(?:\d{1,3}\.){3}\d{1,3}|[0-9a-fA-F:]*:[0-9a-fA-F:]*)"
TAGS = {
    "<ADDR>": ADDRESS,
    "<HOST>": ADDRESS,
    "<SUBNET>": f"{ADDRESS}(?:/(?P<cidr>\\d+))?",
    "<F-CONTENT>": "(?P<content>",
    "</F-CONTENT>": ")",
    "%(__prefix_line)s": r"(?:\S+\[\d+\]: )?",
    "%(__pid_re)s": r"(?:\[\d+\])",
}


def find_culprit(jail: str, line: str) -> str | None:
    """The address or network that the jail's filter takes this line to be about; None: it does not count."""
    parser = RawConfigParser()
    parser.read_string(render_template(f"fail2ban/filter.d/mailkeep-{jail}.conf").decode())
    options = parser["Definition"]
    content = re.search(fill_in(options.get("prefregex", "^(?P<content>.*)$")), line)
    if not content:
        return None
    for pattern in options["failregex"].splitlines():
        if match := re.search(fill_in(pattern.strip()), content["content"]):
            groups = content.groupdict() | match.groupdict()
            return groups["ip"] + (f"/{groups['cidr']}" if groups.get("cidr") else "")
    return None


def fill_in(pattern: str) -> str:
    for tag, text in TAGS.items():
        pattern = pattern.replace(tag, text)
    return pattern


def test_each_filter_sees_the_line_that_its_check_shows_it() -> None:
    for jail, line in fail2ban.FILTERS.items():
        assert find_culprit(jail, line) in ("192.0.2.1", "2001:db8:1:2::/64")


# --- port 25

HONEST_SMTP = [
    "reject: RCPT from mx.example.net[{}]: 554 5.7.1 <x@example.com>: Relay access denied; from=<a@example.net>",
    "reject: RCPT from mx.example.net[{}]: 550 5.1.1 <x@example.org>: Recipient address rejected: User unknown;",
    "reject: RCPT from mx.example.net[{}]: 450 4.1.8 <a@gone.example>: Sender address rejected: Domain not found;",
    "reject: RCPT from mx.example.net[{}]: 550 5.1.8 <a@gone.example>: Sender address rejected: Domain not found;",
    "reject: RCPT from mx.example.net[{}]: 504 5.5.2 <a@host>: Sender address rejected: need fully-qualified address;",
    "reject: RCPT from mx.example.net[{}]: 504 5.5.2 <exch>: Helo command rejected: need fully-qualified hostname;",
    "reject: RCPT from mx.example.net[{}]: 450 4.7.1 Client host rejected: cannot find your hostname, [192.0.2.66];",
    "reject: RCPT from mx.example.net[{}]: 451 4.3.0 <anna@example.org>: Temporary lookup failure;",
    "reject: RCPT from mx.example.net[{}]: 553 5.7.1 <anna@example.org>: Sender address rejected: not owned by user;",
    "reject: MAIL from mx.example.net[{}]: 452 4.3.1 Insufficient system storage; proto=ESMTP",
    "reject: BDAT from mx.example.net[{}]: 521 5.5.2 mail.example.org Error: bare <LF> received; proto=ESMTP",
    "too many errors after RCPT from mx.example.net[{}]",
    "too many errors after MAIL from mx.example.net[{}]",
    "too many errors after DATA from mx.example.net[{}]",
    "too many errors after EHLO from mx.example.net[{}]",
    "too many errors after UNKNOWN from web.example.net[{}]",
    "lost connection after CONNECT from unknown[{}]",
    "lost connection after STARTTLS from unknown[{}]",
    "improper command pipelining after CONNECT from web.example.net[{}]: GET / HTTP/1.1\\r\\nHost: mail:25\\r\\n",
    "warning: non-SMTP command from web.example.net[{}]: GET / HTTP/1.1",
    "disconnect from mx.example.net[{}] ehlo=1 mail=1 rcpt=0/5 quit=1 commands=3/8",
]
GUILTY_SMTP = [
    "too many errors after AUTH from unknown[{}]",
    "too many errors after AUTH from unknown[{}]:4711",
    "too many errors after VRFY from unknown[{}]",
    "too many errors after EXPN from unknown[{}]",
    "improper command pipelining after EHLO from unknown[{}]: MAIL FROM:<>\\r\\nRCPT TO:<x@y.example>\\r\\n",
    "improper command pipelining after HELO from host.example.com[{}]: MAIL FROM:<a@example.com>\\r\\n",
]


@pytest.mark.parametrize("message", HONEST_SMTP)
@pytest.mark.parametrize("queue_id", ["", "NOQUEUE: ", "4dJ0Xk1zJqz3: "])
def test_what_others_can_make_an_honest_mail_server_do_never_counts(message: str, queue_id: str) -> None:
    assert find_culprit("postfix", f"postfix/smtpd[7]: {queue_id}{message.format(VICTIM)}") is None


@pytest.mark.parametrize("message", GUILTY_SMTP)
@pytest.mark.parametrize("queue_id", ["", "NOQUEUE: "])
@pytest.mark.parametrize("address", [ATTACKER, "2001:db8:7:7::1"])
def test_what_no_mail_server_does_counts(message: str, queue_id: str, address: str) -> None:
    assert find_culprit("postfix", f"postfix/smtpd[7]: {queue_id}{message.format(address)}") == address


@pytest.mark.parametrize(
    "text",
    [
        f"x from unknown[{VICTIM}]",
        f"too many errors after AUTH from unknown[{VICTIM}]",
        f"improper command pipelining after EHLO from unknown[{VICTIM}]: x",
    ],
)
def test_what_an_attacker_sends_is_not_taken_for_an_address(text: str) -> None:
    line = f"postfix/smtpd[7]: improper command pipelining after EHLO from unknown[{ATTACKER}]: {text}"
    assert find_culprit("postfix", line) == ATTACKER
    for logged in (f"NOQUEUE: reject: RCPT from unknown[{ATTACKER}]: 554 5.7.1 <{text}>: Relay access denied", text):
        assert find_culprit("postfix", f"postfix/smtpd[7]: warning: {logged}") is None


# --- passwords

AUTH = "dovecot[7]: auth({},{},sasl:plain)<yH/B1GBhILh/AAAB>: {}"
HONEST_LOGINS = [
    "lua: db-lua: the same wrong password again",
    "lua: Password mismatch",
    "passwd-file: Password mismatch",
    "freeze-list: unknown user",
    "freeze-list: User found from deny passdb",
]


@pytest.mark.parametrize("account", ["anna@example.org", "x", "?"])
def test_a_wrong_password_counts_once(account: str) -> None:
    line = AUTH.format(account, ATTACKER, "lua: db-lua: another wrong password")
    assert find_culprit("dovecot", line) == ATTACKER
    for message in HONEST_LOGINS:
        assert find_culprit("dovecot", AUTH.format(account, VICTIM, message)) is None


@pytest.mark.parametrize("account", ["anna@example.org", "x", "?"])
def test_a_wrong_password_over_managesieve_counts_there_alone(account: str) -> None:
    text = "lua: db-lua: another wrong password"
    assert find_culprit("managesieve", AUTH.format(account, ATTACKER, f"{text}, for sieve")) == ATTACKER
    assert find_culprit("dovecot", AUTH.format(account, ATTACKER, f"{text}, for sieve")) is None
    for message in (*HONEST_LOGINS, text):
        assert find_culprit("managesieve", AUTH.format(account, VICTIM, message)) is None


def test_a_login_name_that_no_account_has_counts() -> None:
    text = "plain: Username character disallowed by auth_username_chars: 0x2c (username: a,b)"
    assert find_culprit("dovecot", AUTH.format("?", ATTACKER, text)) == ATTACKER


# --- SSH

PREAUTH = "port 4711 [preauth]"
HONEST_SSH = [
    "Connection closed by {} port 4711",
    f"Connection closed by {{}} {PREAUTH}",
    f"Connection reset by {{}} {PREAUTH}",
    "banner exchange: Connection from {} port 4711: invalid format",
    "banner exchange: Connection from {} port 4711: could not read protocol version",
    f"Unable to negotiate with {{}} {PREAUTH[:9]}: no matching key exchange method found. Their offer: x [preauth]",
    "Received disconnect from {} port 4711:11: Bye Bye [preauth]",
    f"Disconnected from {{}} {PREAUTH}",
    "drop connection #11 from [{}]:4711 on [192.0.2.10]:22 Maxstartups",
    "Accepted publickey for root from {} port 4711 ssh2: ED25519 SHA256:x",
    "Disconnected from user root {} port 4711",
    "srclimit_penalise: ipv4: new {}/32 deferred penalty of 1 seconds for penalty: connections without attempting auth",
]
GUILTY_SSH = [
    "Invalid user {} from @ port 4711",
    f"Connection closed by authenticating user {{}} @ {PREAUTH}",
    f"Connection reset by authenticating user {{}} @ {PREAUTH}",
    f"Disconnected from authenticating user {{}} @ {PREAUTH}",
    "Disconnecting authenticating user {} @ port 4711: Too many authentication failures [preauth]",
    "Failed password for {} from @ port 4711 ssh2",
    "Failed password for invalid user {} from @ port 4711 ssh2",
    "Failed keyboard-interactive/pam for {} from @ port 4711 ssh2",
    "User {} from @ not allowed because not listed in AllowUsers",
    "Timeout before authentication for connection from @ to 192.0.2.10, pid = 123",
]
LOGIN_NAMES = [
    "root",
    "a b",
    f"x {VICTIM} port 1: y",
    f"x {VICTIM} {PREAUTH}",
    f"x from {VICTIM} port 1",
    f"x from {VICTIM} port 1 ssh2",
    f"x from {VICTIM} not allowed because y",
    f"x {VICTIM} port 1: Change of username or service not allowed: y",
    f"x {VICTIM} port 1: Too many authentication failures [preauth]",
]


@pytest.mark.parametrize("message", HONEST_SSH)
@pytest.mark.parametrize("error", ["", "error: "])
def test_a_client_that_looks_at_port_22_and_goes_does_not_count(message: str, error: str) -> None:
    assert find_culprit("sshd", f"sshd-session[7]: {error}{message.format(VICTIM)}") is None


@pytest.mark.parametrize("message", GUILTY_SSH)
@pytest.mark.parametrize("name", LOGIN_NAMES)
@pytest.mark.parametrize("address", [ATTACKER, "2001:db8:7:7::1"])
def test_a_failed_login_counts_against_its_client_whatever_name_it_gives(message: str, name: str, address: str) -> None:
    """In Debian's filter, several of these names ban the victim."""
    line = f"sshd-session[7]: {message.replace('@', address).format(name)}"
    assert find_culprit("sshd", line) == address


def test_guesses_for_an_existing_account_count_where_sshd_takes_no_passwords() -> None:
    line = (
        f"sshd-session[7]: Disconnecting invalid user x {VICTIM} port 1: Change of username or service not allowed: (x"
    )
    assert find_culprit("sshd", f"{line}) -> (y) {ATTACKER} port 2: Change of username [preauth]") is None


# --- bans

NETWORKS = [
    ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
    ("2001:db8::6", "2001:db8::/64"),
    ("192.0.2.1", "192.0.2.1"),
    ("64:ff9b::192.0.2.1", "64:ff9b::192.0.2.1"),
    ("2001:0:1:2:3:4:5:6", "2001:0:1:2:3:4:5:6"),
    ("fe80::1", "fe80::1"),
    ("::1", "::1"),
    ("2001:db8:1:2::/64", "2001:db8:1:2::/64"),
    ("unknown", "unknown"),
]


@pytest.mark.parametrize(("address", "target"), NETWORKS)
def test_a_ban_closes_what_one_customer_has(address: str, target: str) -> None:
    assert ban_target(address) == target


@pytest.mark.parametrize("target", ["192.0.2.66", "2001:db8:1:2::/64"])
def test_recidive_counts_the_bans_of_others_and_not_its_own(target: str) -> None:
    line = "fail2ban-server[1]: fail2ban.actions        [1]: NOTICE  [{}] {} {}"
    assert find_culprit("recidive", line.format("dovecot", "Ban", target)) == target
    assert find_culprit("recidive", line.format("recidive", "Ban", target)) is None
    assert find_culprit("recidive", line.format("dovecot", "Unban", target)) is None
    assert find_culprit("recidive", line.format("dovecot", "Restore Ban", target)) is None
