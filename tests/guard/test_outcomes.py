"""What a line of Postfix's log says of a message's fate."""

import pytest

from mailkeep_server.guard.outcomes import Fate, Outcome, count_voice, read_outcome

HEAD = "4dGk000001: to=<You@example.net>, relay=mx.example.net[192.0.2.27]:25, delay=0.8, delays=0.03/0/0.1/0.6, "


def read_fate(code: str, status: str, answer: str) -> Fate | None:
    outcome = read_outcome(f"{HEAD}dsn={code}, status={status} ({answer})")
    return outcome.fate if outcome else None


SAID = "host mx.example.net[192.0.2.27] said: "


@pytest.mark.parametrize(
    ("code", "status", "answer", "fate"),
    [
        ("2.0.0", "sent", "250 2.0.0 Ok: queued as 1234", Fate.SENT),
        ("5.1.1", "bounced", f"{SAID}550 5.1.1 <you@example.net>: rejected (in reply to RCPT TO command)", Fate.DEAD),
        ("5.0.0", "bounced", f"{SAID}550 No such user here (in reply to RCPT TO command)", Fate.DEAD),
        ("5.2.1", "bounced", f"{SAID}550 5.2.1 The email account is disabled (in reply to RCPT TO command)", Fate.DEAD),
        ("5.4.4", "bounced", "Host or domain name not found. Name service error for name=x type=A", Fate.DEAD),
        ("5.1.10", "bounced", "Domain example.net does not accept mail (nullMX)", Fate.DEAD),
        (
            "5.7.1",
            "bounced",
            f"{SAID}554 5.7.1 Message refused as spam (in reply to end of DATA command)",
            Fate.REFUSED,
        ),
        ("5.7.1", "bounced", f"{SAID}550 5.7.1 Service unavailable, client is blocklisted", Fate.REFUSED),
        ("5.2.2", "bounced", f"{SAID}552 5.2.2 Mailbox full (in reply to RCPT TO command)", None),
        ("5.7.26", "bounced", f"{SAID}550 5.7.26 unauthenticated mail is not accepted", None),
        ("4.7.28", "deferred", f"{SAID}421 4.7.28 Our system has detected an unusual rate of mail", Fate.SLOWED),
        ("4.7.0", "deferred", f"{SAID}421 4.7.0 temporarily deferred due to user complaints", Fate.SLOWED),
        ("4.7.1", "deferred", f"{SAID}450 4.7.1 Greylisted: too many messages, try later", None),
        ("4.4.1", "deferred", "connect to mx.example.net[192.0.2.27]:25: Connection timed out", None),
    ],
)
def test_the_fate_of_a_delivery(code: str, status: str, answer: str, fate: Fate | None) -> None:
    assert read_fate(code, status, answer) == fate


def test_a_list_member_is_named_and_not_the_list() -> None:
    text = HEAD.replace("relay=", "orig_to=<club@example.org>, relay=") + "conn_use=2, dsn=2.0.0, status=sent (250 ok)"
    assert read_outcome(text) == Outcome("4dGk000001", "you@example.net", Fate.SENT)


@pytest.mark.parametrize(
    "text",
    [
        "4dGk000001: from=<anna@example.org>, size=549, nrcpt=1 (queue active)",
        HEAD.replace("mx.example.net[192.0.2.27]:25", "mail.example.org[private/dovecot-lmtp]")
        + "dsn=2.0.0, status=sent (250 2.0.0 Saved)",
        f"4dGk000001: host mx.example.net said: {HEAD}dsn=5.1.1, status=bounced (user unknown)",
    ],
)
def test_other_lines_are_no_outcome(text: str) -> None:
    assert read_outcome(text) is None


def test_a_domain_is_one_voice_and_a_provider_of_many_is_not() -> None:
    assert count_voice("a@example.net") == count_voice("b@Example.NET") == "example.net"
    assert count_voice("a@gmail.com") != count_voice("b@gmail.com")
