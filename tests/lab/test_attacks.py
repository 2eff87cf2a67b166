"""The built server is attacked from outside and from within, and refuses each attack.

Each attack succeeds once its hardening is removed. That proves that the attack works, and that this hardening stops it.
"""

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import yaml
from clients import (
    IMAP,
    IMAPS,
    OUTSIDE,
    SIEVE,
    SMTP,
    STRANGER,
    SUBMISSION,
    SUBMISSIONS,
    append_messages,
    ask_over_udp,
    compose_message,
    connect_often,
    deliver_message,
    envelope_commands,
    is_accepted,
    log_in,
    make_folders,
    open_ports,
    open_smtp,
    reach_socket,
    run_on,
    send_raw,
    shake_hands,
    talk_smtp,
)

from mailkeep.lab import Attacker, Internet, Lab, Server
from mailkeep.lab.site import Site
from mailkeep.parts.dovecot import MAX_FOLDERS

ANNA, BEN, CARL, DORA = "anna@example.test", "ben@example-two.test", "carl@example.test", "dora@example.test"
ALIAS = "sales@example-two.test"  # of Ben
HOST = "mail.example.test"
INTRUDER, INTRUDER_PASSWORD = "test", "test"  # the Linux account of incident A
FULL = 1 << 20  # bytes: Ben's quota
TOO_LARGE = 27 << 20  # bytes
FREE_FOLDERS = 10  # that Dora may still create
FORGOTTEN = 8080  # the port of a program that an administrator started and forgot
ECHO = f"""
import socket
echo = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
echo.bind(("::", {FORGOTTEN}))
while True:
    echo.sendto(*echo.recvfrom(9))
"""
LINE = "x" * 70 + "\r\n"


@dataclass(frozen=True)
class Target:
    """The server to be attacked and then weakened, and the machines around it.

    `sources` are addresses of the attacker that no test has used.
    """

    site: Site
    attacker: Attacker
    outside: Internet
    sources: Iterator[object]

    @property
    def server(self) -> Server:
        return self.site.server

    @property
    def ip(self) -> str:
        return self.address_of(4)

    def address_of(self, version: int) -> str:
        return str(self.server.ip if version == 4 else self.server.ip6)

    def from_one_network(self, *talks: list[str]) -> str:
        """Hold these SMTP sessions, each from another address of one IPv6 /64; the answer to the last."""
        answer = ""
        for number, commands in enumerate(talks):
            source = self.attacker.ip6 + ((number + 1) << 48)
            self.attacker.run(f"ip -6 addr replace {source}/64 dev eth0 nodad")
            answer = run_on(self.attacker, talk_smtp, self.address_of(6), SMTP, commands, source=source)
        return answer

    @property
    def anna(self) -> tuple[str, str]:
        """Anna's login, which an attacker has learned."""
        return ANNA, self.site.passphrases[ANNA]

    @property
    def carl(self) -> tuple[str, str]:
        """Carl's login; he and Dora have Anna's password and a small mailbox."""
        return CARL, self.site.passphrases[ANNA]

    @property
    def dora(self) -> tuple[str, str]:
        return DORA, self.site.passphrases[ANNA]


@dataclass(frozen=True)
class Attack:
    description: str
    act: Callable[[Target], str]  # the server's last answer
    refusal: str  # a regular expression for the start of that answer
    without: str = ""  # the shell command that removes the hardening; empty if the protocol itself refuses the attack


# --- commands that remove a hardening


def edit_main_cf(*settings: str) -> str:
    return f"postconf -e {shlex.join(settings)}"


def edit_submission(*settings: str) -> str:
    services = ("submission", "submissions")
    edits = shlex.join(f"{service}/inet/{setting}" for service in services for setting in settings)
    return f"postconf -P {edits}"


def append_to_dovecot_conf(text: str) -> str:
    return f"cat >> /etc/dovecot/dovecot.conf <<'END'\n{text}\nEND\n"


SYSTEM_ACCOUNTS = append_to_dovecot_conf(  # as Debian ships it
    "passdb pam {\n}\nuserdb passwd {\n}\nservice auth-worker {\n  user = root\n}"
)
NO_LOGIN_MAP = edit_submission("smtpd_sender_restrictions=", "smtpd_milters=$signing_milter")  # nor the guard's check
ANY_SENDER = edit_main_cf("smtpd_sender_restrictions=")
OPEN_RELAY = edit_main_cf(
    "mynetworks=0.0.0.0/0 [::]/0",
    "smtpd_relay_restrictions=permit_mynetworks, reject",
    "smtpd_recipient_restrictions=",
    "smtpd_reject_unlisted_recipient=no",
    "allow_percent_hack=yes",
)
ANY_RECIPIENT = edit_main_cf("smtpd_reject_unlisted_recipient=no", "smtpd_recipient_restrictions=")
OLD_TLS = (
    edit_main_cf(
        "smtpd_tls_protocols=>=TLSv1",
        "smtpd_tls_mandatory_protocols=>=TLSv1",
        "tls_high_cipherlist=ALL:@SECLEVEL=0",
        "smtpd_tls_exclude_ciphers=",
    )
    + "\n"
    + append_to_dovecot_conf("ssl_min_protocol = TLSv1\nssl_cipher_list = ALL:@SECLEVEL=0")
)
LAX_PROTOCOL = edit_main_cf(
    "smtpd_sasl_auth_enable=yes",
    "smtpd_discard_ehlo_keywords=",
    "smtpd_helo_required=no",
    "smtpd_helo_restrictions=",
    "disable_vrfy_command=no",
    "smtpd_forbid_bare_newline=no",
    "smtpd_forbid_unauth_pipelining=no",
    "smtpd_data_restrictions=",
    "message_size_limit=0",
    "authorized_submit_users=static:anyone",
)
NO_LIMITS = edit_main_cf(
    "smtpd_client_connection_count_limit=0",
    "smtpd_client_connection_rate_limit=0",
    "smtpd_client_message_rate_limit=0",
    "smtpd_client_recipient_rate_limit=0",
    "smtpd_client_auth_rate_limit=0",
    "smtpd_recipient_limit=1000",
    "smtpd_hard_error_limit=100",
    "smtpd_error_sleep_time=0",
)
NO_FIREWALL = "nft delete table inet mailkeep"


# --- attacks


def on_port(port: int, *commands: str, login: bool = False, helo: str = "mx.outside.test") -> Callable[[Target], str]:
    return lambda at: talk_smtp(at.ip, port, commands, login=at.anna if login else None, helo=helo)


def from_inside(host: str, *commands: str, user: str = "root") -> Callable[[Target], str]:
    return lambda at: run_on(at.server, talk_smtp, host, SMTP, commands, user=user)


def login_attacks() -> Iterator[Attack]:
    for name, port in {"IMAP": IMAP, "IMAPS": IMAPS, "submission": SUBMISSION, "submissions": SUBMISSIONS}.items():
        yield Attack(
            f"a Linux account logs in at {name} with its password",
            lambda at, port=port: log_in(at.ip, port, INTRUDER, INTRUDER_PASSWORD),
            "535 5.7.8|NO .*AUTHENTICATIONFAILED",
            SYSTEM_ACCOUNTS,
        )
        yield Attack(
            f"a Linux account logs in at {name} with a wrong password",
            lambda at, port=port: log_in(at.ip, port, INTRUDER, "wrong"),
            "535 5.7.8|NO .*AUTHENTICATIONFAILED",  # the same answer: it must not tell which password is right
        )
    yield Attack(
        "a password is taken in clear at submission",
        lambda at: log_in(at.ip, SUBMISSION, *at.anna, tls=False),
        "530 5.7.0 Must issue a STARTTLS",
        edit_submission("smtpd_tls_security_level=may", "smtpd_tls_auth_only=no"),
    )
    yield Attack(
        "a password is taken in clear at IMAP",
        lambda at: log_in(at.ip, IMAP, *at.anna, tls=False),
        "NO .*PRIVACYREQUIRED",
        append_to_dovecot_conf("ssl = yes\nauth_allow_cleartext = yes"),
    )
    yield Attack(
        "passwords can be tried on port 25",
        lambda at: log_in(at.ip, SMTP, *at.anna),
        "503 5.5.1 Error: authentication not enabled",
        LAX_PROTOCOL,
    )


SPOOFED = {
    "another account": BEN,
    "an alias of hers that she may not send from": "team@example-two.test",
    "an unknown address of our domain": "nobody@example.test",
    "the host's own name": f"test@{HOST}",
    "root": f"root@{HOST}",
    "a foreign domain": "boss@bank.test",
    "a subdomain": "anna@sub.example.test",
    "another account behind a source route": f"@example.test:{BEN}",
    "another account in quotes": '"ben"@example-two.test',
    "another account in capitals": BEN.upper(),
    "another account with a trailing dot": f"{BEN}.",
    "another account's extension": "ben+anna@example-two.test",
    "an address within hers": f'"{BEN}"@example.test',
    "an address before hers": f"{BEN}@example.test",
    "hers before an address": f"{ANNA}@bank.test",
    "a percent path": "anna%bank.test@example.test",
    "a bang path": "bank.test!anna@example.test",
    "an address literal": "anna@[192.0.2.1]",
    "a name without a domain": "anna",
    "an overlong address": f"{'a' * 250}@example.test",
}


def spoof_attacks() -> Iterator[Attack]:
    for variant, sender in SPOOFED.items():
        yield Attack(
            f"Anna's login sends as {variant}",
            on_port(SUBMISSION, *envelope_commands(sender, OUTSIDE), login=True),
            "55[34] 5.7.1|504 5.5.2|501 5.1.7",
            NO_LOGIN_MAP,
        )
    yield Attack(
        "Anna's login sends as nobody, as only a read receipt may",
        lambda at: deliver_message(
            at.ip, SUBMISSION, "", [OUTSIDE], compose_message(ANNA, OUTSIDE, "from nobody"), login=at.anna
        ),
        "553 5.7.1 Without a sender, only read receipts",
        NO_LOGIN_MAP,
    )
    yield Attack(
        "Anna's login sends as the host's own name at submissions",
        on_port(SUBMISSIONS, *envelope_commands(f"test@{HOST}", OUTSIDE), login=True),
        "553 5.7.1",
        NO_LOGIN_MAP,
    )
    for variant, sender in {
        "a null byte": "anna\0@example.test",
        "an overlong domain": f"anna@{'a' * 300}.test",
    }.items():
        yield Attack(
            f"Anna's login sends as an address with {variant}",
            on_port(SUBMISSION, *envelope_commands(sender, OUTSIDE), login=True),
            "501 5.1.7",
        )
    yield Attack(
        "mail is submitted without a login",
        on_port(SUBMISSION, *envelope_commands(STRANGER, OUTSIDE)),
        "554 5.7.1 .*Client host rejected",
        edit_main_cf(
            "mynetworks=0.0.0.0/0",
            "submission_client_restrictions=",
            "submission_relay_restrictions=permit_mynetworks, reject",
            "guard=",
        ),
    )


OURS = {
    "an account": ANNA,
    "an account in capitals": ANNA.upper(),
    "an account in quotes": '"anna"@example.test',
    "an account with a trailing dot": f"{ANNA}.",
    "an account behind a source route": f"@outside.test:{ANNA}",
    "an unknown address": "nobody@example-two.test",
    "a subdomain": "anna@sub.example.test",
    "the host": f"root@{HOST}",
    "a name below the host's": f"x@sub.{HOST}",
    "a domain that does not exist": "x@nowhere.test",
    "a name without a domain": "anna",
}


def stranger_attacks() -> Iterator[Attack]:
    for variant, sender in OURS.items():
        yield Attack(
            f"a stranger sends us mail as {variant}",
            on_port(SMTP, *envelope_commands(sender, ANNA)),
            "554 5.7.1 .*Log in on a submission port|450 4.1.8|504 5.5.2",
            ANY_SENDER,
        )
    yield Attack(
        "a stranger sends us mail as an account at our address",
        lambda at: talk_smtp(at.ip, SMTP, envelope_commands(f"anna@[{at.site.settings.host.addresses[0]}]", ANNA)),
        "554 5.7.1 .*Log in on a submission port",
        ANY_SENDER,
    )
    yield Attack(
        "a stranger sends us mail as an account at our address, written otherwise",
        lambda at: talk_smtp(at.ip, SMTP, envelope_commands(f"anna@[IPv6:{at.server.ip6.exploded}]", ANNA)),
        "554 5.1.7 .*needs a domain name",
        ANY_SENDER,
    )


RELAYED = {
    "plain": OUTSIDE,
    "by percent at our domain": "x%outside.test@example.test",
    "by percent at the host": f"x%outside.test@{HOST}",
    "by bang": "outside.test!x",
    "by bang at our domain": "outside.test!x@example.test",
    "by source route": f"@example.test:{OUTSIDE}",
    "by source route over the host": f"@{HOST}:{OUTSIDE}",
    "in quotes at our domain": f'"{OUTSIDE}"@example.test',
    "in quotes at the host": f'"{OUTSIDE}"@{HOST}',
    "before our domain": f"{OUTSIDE}@example.test",
    "to an address literal": "x@[192.0.2.1]",
    "to a subdomain of ours": "x@sub.example.test",
}


def relay_attacks() -> Iterator[Attack]:
    for how, recipient in RELAYED.items():
        yield Attack(
            f"a stranger relays {how}",
            on_port(SMTP, *envelope_commands(STRANGER, recipient)),
            "554 5.7.1 .*Relay access denied",
            OPEN_RELAY,
        )
    for loopback in ("127.0.0.1", "::1", HOST):
        yield Attack(
            f"a local program relays through {loopback}",
            from_inside(loopback, *envelope_commands(STRANGER, OUTSIDE), user=INTRUDER),
            "554 5.7.1 .*Relay access denied",
            OPEN_RELAY,
        )


def recipient_attacks() -> Iterator[Attack]:
    unlisted = {
        "an unknown address": "unknown@example.test",
        "an account of another domain of ours": "anna@example-two.test",
    }
    system = {"a Linux account": f"{INTRUDER}@{HOST}", "a file": f"/var/x@{HOST}", "a program": f'"|id"@{HOST}'}
    for variant, recipient in (unlisted | system).items():
        yield Attack(
            f"mail to {variant} is taken",
            on_port(SMTP, *envelope_commands(STRANGER, recipient)),
            "550 5.1.1",
            ANY_RECIPIENT,
        )
    yield Attack(
        "mail to a full mailbox is taken",
        on_port(SMTP, f"MAIL FROM:<{STRANGER}> SIZE={FULL // 2}", f"RCPT TO:<{BEN}>"),
        "552 5.2.2",
        ANY_RECIPIENT,
    )
    yield Attack(
        "mail to an alias of a full mailbox is taken",
        on_port(SMTP, f"MAIL FROM:<{STRANGER}> SIZE={FULL // 2}", f"RCPT TO:<{ALIAS}>"),
        "552 5.2.2",
        ": > /etc/dovecot/aliases",
    )
    for variant, byte in {"a control character": "\x01", "a delete": "\x7f", "a tab": "\t"}.items():
        yield Attack(
            f"mail is taken for an address with {variant}, which Dovecot's LMTP does not take",
            on_port(SMTP, *envelope_commands(STRANGER, f'"anna+{byte}"@example.test')),
            "500 5.5.2",
            edit_main_cf("smtpd_command_filter="),
        )
    yield Attack(
        "a notification of success is sent to any address",
        on_port(SMTP, f"MAIL FROM:<{STRANGER}>", f"RCPT TO:<{ANNA}> NOTIFY=SUCCESS"),
        "501 5.7.1 DSN support is disabled",
        LAX_PROTOCOL,
    )


def smuggle_message(end: str) -> Callable[[Target], str]:
    """Send a message with a second one inside, as a careless server forwards it (CVE-2023-51764).

    The attack returns the answer to the second message.
    """
    commands = ["EHLO mx.outside.test", *envelope_commands(STRANGER, ANNA), "DATA"]
    second = "\r\n".join([*envelope_commands("smuggled@outside.test", ANNA), "BDAT 14 LAST", "Subject: two\r\n"])
    whole = f"Subject: one\r\n\r\none{end}{second}\r\n.\r\n"
    return lambda at: send_raw(at.ip, SMTP, *(f"{command}\r\n" for command in commands), whole, "", "", "")


def protocol_attacks() -> Iterator[Attack]:
    greeting = envelope_commands(STRANGER, ANNA)
    yield Attack(
        "a client does not say who it is",
        lambda at: send_raw(at.ip, SMTP, f"MAIL FROM:<{STRANGER}>\r\n"),
        "503 5.5.1",
        LAX_PROTOCOL,
    )
    for variant, helo in {"no name": "a_b", "a name without a domain": "friend"}.items():
        yield Attack(
            f"a client says {variant}",
            on_port(SMTP, *greeting, helo=helo),
            "50[14] 5.5.2 .*Helo command rejected",
            LAX_PROTOCOL,
        )
    yield Attack(
        "addresses are harvested with VRFY",
        on_port(SMTP, f"VRFY {ANNA}"),
        "502 5.5.1",
        LAX_PROTOCOL,
    )
    yield Attack(
        "addresses are harvested with RCPT in one connection",
        lambda at: talk_smtp(
            at.ip, SMTP, [*greeting, *["RCPT TO:<guess@example.test>"] * 21, greeting[1]], insist=True
        ),
        "dropped",
        NO_LIMITS,
    )
    yield Attack(
        "a client does not wait for answers",
        lambda at: send_raw(at.ip, SMTP, "EHLO mx.outside.test\r\n" + "\r\n".join([*greeting, "DATA", ""])),
        "554 5.5.0 .*synchronization",
        LAX_PROTOCOL,
    )
    for name, end in {"LF . CR LF": "\n.\r\n", "LF . LF": "\n.\n", "CR LF . LF": "\r\n.\n"}.items():
        yield Attack(
            f"a second message is smuggled behind {name}",
            smuggle_message(end),
            "dropped: .*timed out",  # there is one message, and so one answer
            LAX_PROTOCOL,
        )
    for name, end in {"CR . CR LF": "\r.\r\n", "CR . CR": "\r.\r", "CR LF . CR": "\r\n.\r"}.items():
        yield Attack(f"a second message is smuggled behind {name}", smuggle_message(end), "dropped: .*timed out")
    yield Attack(
        "a message is announced that is too large",
        on_port(SMTP, f"MAIL FROM:<{STRANGER}> SIZE={TOO_LARGE}"),
        "552 5.3.4",
        LAX_PROTOCOL,
    )
    yield Attack(
        "a message is too large",
        lambda at: deliver_message(
            at.ip, SMTP, STRANGER, [ANNA], compose_message(STRANGER, ANNA, "large") + LINE * (TOO_LARGE // len(LINE))
        ),
        "552 5.3.4",
        LAX_PROTOCOL,
    )
    yield Attack(
        "a message has more than 100 recipients",
        on_port(SMTP, *greeting, *greeting[1:] * 100),
        "452 4.5.3 .*too many recipients",
        NO_LIMITS,
    )


def flood_attacks() -> Iterator[Attack]:
    """Each comes from another address, because the limits are per client."""

    def from_new_address(act: Callable[..., str], *arguments: object, times: int = 1) -> Callable[[Target], str]:
        return lambda at: run_on(at.attacker, act, at.ip, SMTP, *arguments, times=times, source=next(at.sources))

    mail, recipient = envelope_commands(STRANGER, ANNA)
    yield Attack(
        "one address connects more than 60 times a minute",
        from_new_address(connect_often, 61, False),
        "421 4.7.0 .*too many connections",
        NO_LIMITS,
    )
    yield Attack(
        "one address holds more than 10 connections",
        from_new_address(connect_often, 11, True),
        "421 4.7.0 .*too many connections",
        NO_LIMITS,
    )
    yield Attack(
        "one address sends more than 100 messages a minute",
        from_new_address(talk_smtp, [mail, "RSET"] * 17, times=6),
        "450 4.7.1 .*too much mail",
        NO_LIMITS,
    )
    yield Attack(
        "one address sends to more than 100 recipients a minute",
        from_new_address(talk_smtp, [mail, *[recipient] * 25, "RSET"] * 4 + [mail, recipient]),
        "450 4.7.1 .*too many recipients",
        NO_LIMITS,
    )
    yield Attack(
        "two addresses of one /64 send to more than 100 recipients a minute",
        lambda at: at.from_one_network([mail, *[recipient] * 25, "RSET"] * 4, [mail, recipient]),
        "450 4.7.1 .*too many recipients",
        edit_main_cf("smtpd_client_ipv6_prefix_length=84"),
    )
    yield Attack(
        "one address logs in more than 20 times a minute",
        lambda at: run_on(at.attacker, log_in, at.ip, SUBMISSIONS, *at.anna, times=21, source=next(at.sources)),
        "450 4.7.1 .*too many AUTH",
        NO_LIMITS,
    )


def mailbox_attacks() -> Iterator[Attack]:
    """By the owner of an account, whose quota in bytes does not stop them."""
    yield Attack(
        "a mailbox takes messages without end, if they are small",
        lambda at: append_messages(at.ip, *at.carl, 140),
        "NO .*OVERQUOTA",
        "sed -i 's/ userdb_quota_message_count=[0-9]*//' /etc/dovecot/users",
    )
    yield Attack(
        "a mailbox takes folders without end",
        lambda at: make_folders(at.ip, *at.dora, 2 * FREE_FOLDERS),
        "NO .*LIMIT",
        append_to_dovecot_conf("quota_mailbox_count = 5000"),
    )


def handshake_attacks() -> Iterator[Attack]:
    weak = {
        "TLS 1.0": ("TLSv1", "ALL"),
        "TLS 1.1": ("TLSv1_1", "ALL"),
        "no authentication of the server": ("TLSv1_2", "aNULL"),
        "CBC and SHA-1": ("TLSv1_2", "ECDHE+SHA1"),
    }
    for port in (SMTP, SUBMISSION, SUBMISSIONS, IMAP, IMAPS):
        for variant, (version, ciphers) in weak.items():
            yield Attack(
                f"port {port} agrees to {variant}",
                lambda at, tls=(port, version, ciphers): shake_hands(at.ip, *tls),
                "dropped: .*(ALERT_PROTOCOL_VERSION|HANDSHAKE_FAILURE)",
                OLD_TLS,
            )


def inside_attacks() -> Iterator[Attack]:
    """By a Linux user of the server who is not among the local senders."""
    yield Attack(
        "an unlisted Linux user sends with sendmail",
        lambda at: run_sendmail(at, INTRUDER),
        "exit 75",
        LAX_PROTOCOL,
    )
    for version in (4, 6):
        yield Attack(
            f"an unlisted Linux user's program speaks SMTP to the outside over IPv{version}",
            lambda at, v=version: run_on(
                at.server, send_raw, str(at.outside.ip if v == 4 else at.outside.ip6), SMTP, user=INTRUDER
            ),
            "dropped: .*(No route to host|Permission denied)",
            NO_FIREWALL,
        )
        yield Attack(
            f"a forgotten program is reached over IPv{version}",
            lambda at, version=version: reach_program(at, version),
            "dropped: .*timed out",
            NO_FIREWALL,
        )
    unused = {"lmtp": "lmtp", "indexer": "indexer", "imap-urlauth-login": "imap-urlauth", "dns-client": "dns-client"}
    sockets = {
        f"/run/dovecot/{socket}": append_to_dovecot_conf(
            f"service {service} {{\n  unix_listener {socket} {{\n    mode = 0666\n  }}\n}}"
        )
        for service, socket in unused.items()
    } | {
        "/run/opendkim/opendkim.sock": "chmod o+x /run/opendkim; chmod o+w /run/opendkim/opendkim.sock",
        "/var/spool/postfix/private/auth": "chmod o+x /var/spool/postfix/private\n"
        + append_to_dovecot_conf(
            "service auth {\n  unix_listener /var/spool/postfix/private/auth {\n    mode = 0666\n  }\n}"
        ),
    }
    for path, without in sockets.items():
        yield Attack(
            f"a Linux user speaks to {path}",
            lambda at, path=path: run_on(at.server, reach_socket, path, user=INTRUDER),
            "dropped: (PermissionError|FileNotFoundError)",
            without,
        )
    for path in (
        "/etc/mailkeep/tls/server.pem",
        "/etc/opendkim/keys",
        "/etc/dovecot/users",
        "/var/vmail",
        "/var/spool/postfix/maildrop",
    ):
        yield Attack(
            f"a Linux user reads {path}",
            lambda at, path=path: find_readable(at, path),
            "nothing",
            f"chmod -R a+rX {path}",
        )


def reach_program(at: Target, version: int) -> str:
    """Reach the forgotten program over TCP and UDP; "OK" if either works."""
    ports = run_on(at.attacker, open_ports, at.address_of(version), FORGOTTEN, FORGOTTEN)
    answer = run_on(at.attacker, ask_over_udp, at.address_of(version), FORGOTTEN)
    return "OK" if ports or is_accepted(answer) else answer


def run_sendmail(at: Target, user: str) -> str:
    text = compose_message(ANNA, OUTSIDE, f"by {user}").replace("\r", "")
    process = at.server.run(f"runuser -u {user} -- sendmail -f {ANNA} {OUTSIDE}", stdin=text, check=False)
    return f"exit {process.returncode}: {process.stderr}" if process.returncode else "OK"


def find_readable(at: Target, path: str) -> str:
    path_read = at.server.run(
        f"runuser -u {INTRUDER} -- find {path} -readable ! -type l -print -quit", check=False
    ).stdout
    return f"OK {path_read}" if path_read else "nothing"


ATTACKS = [
    attack
    for kind in (
        login_attacks,
        spoof_attacks,
        stranger_attacks,
        relay_attacks,
        recipient_attacks,
        protocol_attacks,
        flood_attacks,
        mailbox_attacks,
        handshake_attacks,
        inside_attacks,
    )
    for attack in kind()
]


# --- the server that is attacked


@pytest.fixture(scope="module")
def target(lab: Lab, internet: Internet, attacker: Attacker, built_site: Site, built_image: str) -> Iterator[Target]:
    """A copy of the built server with a Linux account whose password is known, and a full mailbox."""
    server = lab.boot_server("attacked", hostname=HOST, image=built_image)
    site = built_site.copy_for(server)
    settings = yaml.safe_load(site.settings_file.read_text())
    accounts = {account["address"]: account for account in settings["accounts"]}
    accounts[ANNA]["send_as"] = ["info@example.test"]
    accounts[BEN]["quota"] = FULL
    small_mailbox = {"password": accounts[ANNA]["password"], "quota": FULL}
    settings["accounts"] += [{"address": CARL} | small_mailbox, {"address": DORA} | small_mailbox]
    settings["aliases"][ALIAS] = BEN
    settings["guard"] = {"freeze": {"foreign_senders": 1000}}  # else the account is frozen after ten attacks
    site.settings_file.write_text(yaml.safe_dump(settings))
    result = site.deploy()
    assert result.code == 0, result.output
    for listener in (f"-m http.server --bind :: {FORGOTTEN}", shlex.join(["-c", ECHO])):
        server.run(f"systemd-run --quiet python3 {listener}")
    server.run(f"useradd --create-home --shell /bin/bash {INTRUDER} && echo {INTRUDER}:{INTRUDER_PASSWORD} | chpasswd")
    for _ in range(2):  # a message may exceed a quota that is not yet reached (quota_storage_grace)
        server.run(f"/usr/lib/dovecot/dovecot-lda -d {BEN}", stdin="Subject: much\n\n" + LINE * (FULL // len(LINE)))
    folders = f"/var/vmail/example.test/dora/Maildir/.folder-{{1..{MAX_FOLDERS - FREE_FOLDERS}}}/{{cur,new,tmp}}"
    # The first look at all these folders takes seconds, for which a client would not wait.
    server.run(f"runuser -u vmail -- bash -c 'umask 077; mkdir -p {folders}' && doveadm quota get -u {DORA}")
    yield Target(site, attacker, internet, iter(attacker.sources))
    server.remove()


@pytest.fixture(scope="module")
def answers(target: Target) -> Mapping[str, Future[str]]:
    """The answer to each attack, by its description. All run at once, because the server delays most answers."""
    target.outside.clear_messages()
    with ThreadPoolExecutor(12) as pool:
        return {attack.description: pool.submit(attack.act, target) for attack in ATTACKS}


@pytest.fixture(scope="module")
def remove_hardening(target: Target, answers: object) -> Callable[[str], None]:
    """Removes a hardening and restores the one removed before; all attacks on the whole server are over by then."""
    assert answers
    target.server.run("tar -cf /root/etc.tar /etc/postfix /etc/dovecot /etc/opendkim /etc/mailkeep")
    removed = ""

    def remove(command: str) -> None:
        nonlocal removed
        if command != removed:
            edited = {"postfix": "postconf ", "dovecot": "/etc/dovecot/"}
            services = " ".join(name for name, sign in edited.items() if sign in removed + command)
            # A reload would let old processes serve on. reset-failed, because systemd limits the number of restarts.
            restart = f"systemctl reset-failed; systemctl restart {services}" if services else ""
            target.server.run(f"tar -xpf /root/etc.tar -C /; nft -f /etc/nftables.conf\n{command}\n{restart}")
            removed = command

    return remove


@pytest.mark.parametrize(
    "sender",
    [ANNA, ANNA.upper(), "anna+shop@example.test", "info@example.test"],
    ids=["her address", "in capitals", "her extension", "an address given to her"],
)
@pytest.mark.parametrize("port", [SUBMISSION, SUBMISSIONS])
def test_an_account_sends_as_itself(target: Target, port: int, sender: str) -> None:
    assert talk_smtp(target.ip, port, envelope_commands(sender, OUTSIDE), login=target.anna) == "250 2.1.5 Ok"


def test_ports_that_are_open_are_those_of_ssh_and_mail_and_no_other(target: Target) -> None:
    with ThreadPoolExecutor() as pool:
        ports = pool.map(lambda version: run_on(target.attacker, open_ports, target.address_of(version)), (4, 6))
        assert list(ports) == [[22, SMTP, IMAP, SUBMISSIONS, SUBMISSION, IMAPS, SIEVE]] * 2


def test_authentication_is_offered_only_where_it_is_encrypted_and_never_on_port_25(target: Target) -> None:
    def offers_auth(port: int, tls: bool) -> bool:
        with open_smtp(target.ip, port, tls=tls) as connection:
            return connection.has_extn("auth")

    sessions = {(SMTP, False), (SMTP, True), (SUBMISSION, False), (SUBMISSION, True), (SUBMISSIONS, True)}
    assert {session for session in sessions if offers_auth(*session)} == {(SUBMISSION, True), (SUBMISSIONS, True)}


def attack_name(attack: Attack) -> str:
    return attack.description


@pytest.mark.parametrize("attack", ATTACKS, ids=attack_name)
def test_it_is_refused_that(attack: Attack, answers: Mapping[str, Future[str]]) -> None:
    assert re.match(attack.refusal, answers[attack.description].result())


def test_refused_mail_leaves_nothing_in_the_queue_and_no_bounces(target: Target, answers: object) -> None:
    assert answers
    operator = ["operator@outside.test"]  # who gets the watch's alerts, as Anna does
    queued = [json.loads(line) for line in target.server.run("postqueue -j").stdout.splitlines()]
    bounces = [message for message in queued if message["sender"] == f"postmaster@{HOST}"]
    assert all(
        {recipient["address"] for recipient in message["recipients"]} <= {*operator, ANNA} for message in bounces
    )
    assert [message for message in queued if message not in bounces] == []
    left = [
        message
        for message in target.outside.read_messages()
        if message.peer in (target.address_of(4), target.address_of(6))
    ]
    assert [message for message in left if list(message.recipients) != operator] == []


@pytest.mark.parametrize("attack", [attack for attack in ATTACKS if attack.without], ids=attack_name)
def test_without_its_hardening_it_happens_that(
    attack: Attack, target: Target, remove_hardening: Callable[[str], None]
) -> None:
    remove_hardening(attack.without)
    answer = attack.act(target)
    assert is_accepted(answer), answer
