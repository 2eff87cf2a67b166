"""Honest mail passes and arrives as it was sent, also from programs and servers that are careless, old or elsewhere."""

import imaplib
import re
from collections.abc import Iterator

import pytest
import yaml
from clients import (
    OUTSIDE,
    SMTP,
    SUBMISSION,
    SUBMISSIONS,
    deliver_chunks,
    deliver_message,
    envelope_commands,
    greet_as,
    is_accepted,
    open_imap,
    run_on,
    talk_smtp,
)
from test_mail import ANNA, BEN, HOST, MailServer, deploy_site

from mailkeep.lab import Attacker, Internet, Lab
from mailkeep.lab.site import Site

AWAY, ELSEWHERE = "away@example.test", "y@outside.test"  # an alias, and its target
SHOP = "shop.outside.test"
ENDS = {"LF.LF": "\n.\n", "LF.CRLF": "\n.\r\n", "CR.CRLF": "\r.\r\n", "CRLF.LF": "\r\n.\n", "CR.CR": "\r.\r"}
ATTACHED = """\
Return-Path: <spammer@bank.test>
Received: from evil.bank.test ([203.0.113.99])
\tby mx.outside.test with ESMTP id 123; Mon, 23 Nov 2026 10:00:00 +0000
X-Mailer: SpamBlaster 1.0
User-Agent: SpamUA
X-Originating-IP: [203.0.113.99]
From: spammer@bank.test
Subject: spam

buy
""".replace("\n", "\r\n")


@pytest.fixture(scope="module")
def mail_server(
    lab: Lab, internet: Internet, attacker: Attacker, built_site: Site, built_image: str
) -> Iterator[MailServer]:
    """It has an alias to somebody elsewhere, a small mailbox, a shop that sends for it, and a forwarder."""
    internet.clear_messages()
    internet.publish(f"{SHOP}. A {internet.ip}\n", "shop")
    server = lab.boot_server("honest", hostname=HOST, image=built_image)
    site = built_site.copy_for(server)
    settings = yaml.safe_load(site.settings_file.read_text())
    settings["aliases"][AWAY] = ELSEWHERE
    next(account for account in settings["accounts"] if account["address"] == BEN)["quota"] = "1M"
    settings.setdefault("dns", {})["spf"] = [f"a:{SHOP}"]
    settings["forwarders"] = [str(attacker.ip)]
    site.settings_file.write_text(yaml.safe_dump(settings))
    yield MailServer(deploy_site(site), internet)
    server.remove()
    internet.publish("", "shop")


def set_parameter(mail_server: MailServer, parameter: str) -> None:
    mail_server.server.run(f"postconf -e '{parameter}'; systemctl reset-failed; systemctl restart postfix")


def compose(subject: str, text: str, *headers: str, to: str = OUTSIDE) -> str:
    lines = [*headers, f"From: {ANNA}", f"To: {to}", f"Subject: {subject}", "MIME-Version: 1.0", "", text, ""]
    return "\r\n".join(lines)


def submit(mail_server: MailServer, data: str) -> str:
    login = ANNA, mail_server.site.passphrases[ANNA]
    return deliver_message(mail_server.ip, SUBMISSIONS, ANNA, [OUTSIDE], data, login=login)


# --- out


def test_an_attached_message_keeps_its_headers(mail_server: MailServer) -> None:
    def is_whole(subject: str) -> bool:
        parts = f"--b1\r\nContent-Type: message/rfc822\r\nX-Mailer: kept\r\n\r\n{ATTACHED}--b1--"
        headers = 'Content-Type: multipart/mixed; boundary="b1"', "X-Mailer: Gossip"
        assert is_accepted(submit(mail_server, compose(subject, parts, *headers)))
        data = mail_server.wait_outside(subject).data
        assert b"Gossip" not in data
        return parts.encode() in data

    assert is_whole("forwarded as attachment")
    names = ("mime_header_checks", "nested_header_checks")
    mail_server.server.run(f"postconf -X {' '.join(names)}; systemctl restart postfix")
    try:
        assert not is_whole("stripped attachment")
    finally:
        assignments = " ".join(f"{name}=" for name in names)
        mail_server.server.run(f"postconf -e {assignments}; systemctl restart postfix")


def test_a_signature_stays_valid_on_the_way_to_a_server_without_8bitmime(mail_server: MailServer) -> None:
    def is_valid(subject: str) -> bool:
        headers = "Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: 8bit"
        assert is_accepted(submit(mail_server, compose(subject, "Grüße aus München", *headers)))
        return mail_server.is_signature_valid(mail_server.wait_outside(subject).data)

    mail_server.outside.run("touch /opt/outside/old")
    try:
        assert is_valid("eight bits")
        set_parameter(mail_server, "disable_mime_output_conversion = no")
        assert not is_valid("converted")
    finally:
        set_parameter(mail_server, "disable_mime_output_conversion = yes")
        mail_server.outside.run("rm /opt/outside/old")


def test_a_signature_covers_long_lines_as_they_leave(mail_server: MailServer) -> None:
    def list_valid(subject: str) -> list[bool]:
        addresses = ", ".join(f"user{number}@outside.test" for number in range(60))
        messages = {
            "text": compose(f"{subject} text", "<p>" + "word " * 500 + "</p>", "Content-Type: text/html"),
            "word": compose(f"{subject} word", "x" * 2500),
            "header": compose(f"{subject} header", "text", f"Cc: {addresses}"),
        }
        for data in messages.values():
            assert is_accepted(submit(mail_server, data))
        received = [mail_server.wait_outside(f"{subject} {name}").data for name in messages]
        assert max(len(line) for data in received for line in data.split(b"\r\n")) <= 998
        return [mail_server.is_signature_valid(data) for data in received]

    assert list_valid("long") == [True] * 3
    mail_server.server.run("systemctl stop mailkeep-lines.socket mailkeep-lines.service")
    try:
        assert list_valid("without the milter") == [False] * 3
    finally:
        mail_server.server.run("systemctl start mailkeep-lines.socket mailkeep-lines.service")


@pytest.mark.parametrize("port", [SUBMISSION, SUBMISSIONS])
def test_a_computer_whose_name_has_an_umlaut_sends(mail_server: MailServer, port: int) -> None:
    login = ANNA, mail_server.site.passphrases[ANNA]
    commands = envelope_commands(ANNA, OUTSIDE)
    assert greet_as(mail_server.ip, port, "Müller-PC", commands, login) == "250 2.1.5 Ok"


def test_no_other_server_has_an_umlaut_in_its_name(mail_server: MailServer) -> None:
    answer = greet_as(mail_server.ip, SMTP, "Müller-PC", envelope_commands("x@outside.test", ANNA))
    assert answer.startswith("501 5.5.2 <M??ller-PC>: Helo command rejected")


# --- in


def test_bare_line_feeds_come_in_by_bdat_and_by_data(mail_server: MailServer) -> None:
    for name, send in {"bdat": deliver_chunks, "data": deliver_message}.items():
        data = f"From: s@outside.test\r\nTo: {ANNA}\r\nSubject: bare by {name}\r\n\r\nline one\nline two\r\n"
        assert is_accepted(send(mail_server.ip, SMTP, "s@outside.test", [ANNA], data))
        assert "line one\nline two" in mail_server.wait_in_mailbox(f"bare by {name}", ANNA).get_content().replace(
            "\r\n", "\n"
        )


@pytest.mark.parametrize("end", ENDS.values(), ids=[*ENDS])
@pytest.mark.parametrize("port", [SMTP, SUBMISSIONS])
def test_no_message_is_smuggled_through_to_a_server_elsewhere(mail_server: MailServer, port: int, end: str) -> None:
    login = (ANNA, mail_server.site.passphrases[ANNA]) if port == SUBMISSIONS else None
    sender, recipient = (ANNA, OUTSIDE) if login else ("s@outside.test", AWAY)
    second = "\r\n".join([*envelope_commands("smuggled@outside.test", ELSEWHERE), "DATA", "Subject: second", "", "two"])
    for name, send in {"bdat": deliver_chunks, "data": deliver_message}.items():
        subject = f"first {name} {port} {end!r}"
        data = f"From: {sender}\r\nTo: {recipient}\r\nSubject: {subject}\r\n\r\none{end}{second}\r\n"
        assert is_accepted(send(mail_server.ip, port, sender, [recipient], data, login=login))
        received = mail_server.wait_outside(subject).data
        assert b"smuggled@outside.test" in received
        assert not re.search(rb"(?<!\r)\n|\r(?!\n)", received)
    assert "smuggled@outside.test" not in {message.sender for message in mail_server.outside.read_messages()}


def test_declared_servers_deliver_mail_from_our_addresses_and_no_others(
    mail_server: MailServer, internet: Internet, attacker: Attacker
) -> None:
    commands = envelope_commands(ANNA, ANNA)
    ip, ip6 = str(mail_server.server.ip), str(mail_server.server.ip6)
    assert run_on(internet, talk_smtp, ip, SMTP, commands) == "250 2.1.5 Ok"
    assert run_on(attacker, talk_smtp, ip, SMTP, commands, source=attacker.ip) == "250 2.1.5 Ok"
    refusal = "554 5.7.1 .*Log in on a submission port"
    assert re.match(refusal, run_on(internet, talk_smtp, ip6, SMTP, commands))
    assert re.match(refusal, run_on(attacker, talk_smtp, ip, SMTP, commands, source=attacker.sources[0]))
    below = envelope_commands("anna@news.example.test", ANNA)
    assert re.match(refusal, run_on(internet, talk_smtp, ip, SMTP, below))


# --- mailboxes


def test_a_full_mailbox_deletes_by_a_copy_to_trash(mail_server: MailServer) -> None:
    with open_imap(mail_server.ip) as mailbox:
        mailbox.login(BEN, mail_server.site.passphrases[BEN])
        message = b"Subject: much\r\n\r\n" + b"x" * 300_000
        answers = [mailbox.append("INBOX", "", "", message)[0] for _ in range(5)]
        assert answers[-1] == "NO"
        mailbox.select("INBOX")
        assert mailbox.uid("COPY", "1", "Sent")[0] == "NO"
        assert mailbox.uid("COPY", "1", "Trash")[0] == "OK"
        assert mailbox.uid("MOVE", "2", "Trash")[0] == "OK"
        assert mailbox.append("INBOX", "", "", message)[0] == "NO"  # the room is in Trash alone


def test_the_log_does_not_call_an_account_frozen_that_is_not(mail_server: MailServer) -> None:
    with open_imap(mail_server.ip) as mailbox:
        assert isinstance(mailbox, imaplib.IMAP4)
        mailbox.login(ANNA, mail_server.site.passphrases[ANNA])
    log = mail_server.server.run("journalctl --unit dovecot --since -1min --output cat").stdout
    assert f"auth({ANNA}" not in log or "freeze-list: unknown user" in log
    assert "frozen: unknown user" not in log
