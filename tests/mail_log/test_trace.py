"""A trace says in words where each message came from, and what became of each recipient."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from mailkeep_server.mail_log import trace_command
from mailkeep_server.mail_log.meanings import explain_refusal, explain_remote, name_remote
from mailkeep_server.mail_log.sources import Chunk
from mailkeep_server.mail_log.trace import TraceQuery, trace_messages
from mailkeep_server.mail_log.trace_text import build_json, describe_trace

JOURNAL = (Path(__file__).parents[1] / "docs" / "journal.txt").read_bytes()
BEGINNING = "2026-11-29T01:40:00"
HEAD = "2026-11-29T02:00:0{}+00:00 mail "


def open_journal() -> Iterator[Chunk]:
    return iter([Chunk(JOURNAL, date(2026, 12, 1))])


def describe(query: TraceQuery, log: bytes = JOURNAL) -> str:
    trace = trace_messages(query, lambda: iter([Chunk(log, date(2026, 12, 1))]))
    return "\n".join(describe_trace(trace, query, BEGINNING, "home"))


def make_log(*lines: str) -> bytes:
    return "".join(f"{HEAD.format(number % 10)}{line}\n" for number, line in enumerate(lines)).encode()


def test_all_messages_of_an_address_are_found_and_no_others() -> None:
    trace = trace_messages(TraceQuery("anna@example.org"), open_journal)
    assert [story.queue_id for story in trace.stories] == [
        *("E52ED22E07F", "E8DF922E07F", "0ABCD22E080", "F0DF922E07F", "F21E622E07F", "F3EB522E07F"),
    ]
    assert [refusal.sender for refusal in trace.refusals] == ["friend@example.net", "anna@example.org"]
    assert not trace_messages(TraceQuery("anna@example.or"), open_journal).stories


def test_sender_recipient_and_time_narrow_it_down() -> None:
    def ids(**options: str) -> list[str]:
        trace = trace_messages(TraceQuery("anna@example.org", **options), open_journal)
        return [story.queue_id for story in trace.stories]

    assert ids(sender="friend@example.net") == ["F3EB522E07F"]
    assert ids(recipient="other@example.net") == ["E8DF922E07F"]
    assert ids(since="2026-11-29T01:49:00") == ["F0DF922E07F"], "it was tried again then"
    assert ids(until="2026-11-29T01:44:03") == ["E52ED22E07F"]


def test_each_fate_is_said_with_its_meaning() -> None:
    text = describe(TraceQuery("anna@example.org"))
    for line in (
        "2026-11-29 01:44:03  E8DF922E07F  anna@example.org sent it from 192.0.2.66, 304 bytes to 3 recipients",
        "  friend@example.net: mx.example.net has it since 2026-11-29 01:44:03.",
        "  refuse@example.net: given up at 2026-11-29 01:44:03; the sender got a notice.",
        "    mx.example.net refuses it: there is no such mailbox.",
        "  friend@bogus.test: waits, and is tried again; 2 tries since 2026-11-29 01:44:04.",
        "mx.example.net [192.0.2.27] brought it from <Friend@Example.net>, 328 bytes to 1 recipient",
        "  anna@example.org: it is in the mailbox since 2026-11-29 01:44:06.",
        "  The login may not write as this address. Next: add it to send_as of the account in mail.yml",
        "  The account is frozen. Next: mailkeepctl status",
    ):
        assert line in text, text


def test_a_log_that_does_not_reach_back_says_so() -> None:
    assert "it NO LONGER REACHES back to 2026-11-01 00:00:00" in describe(
        TraceQuery("x@y.example", since="2026-11-01T00:00:00")
    )
    text = describe(TraceQuery("x@y.example"))
    assert "The log has no message of x@y.example." in text
    assert "`mailkeep dns home --check`" in text
    assert text.endswith("The log reaches back to 2026-11-29 01:40:00 UTC.")


def test_what_came_in_shows_its_verdict_and_what_the_mailbox_did() -> None:
    log = make_log(
        "postfix/smtpd[1]: 4fXyZ1: client=mx.example.net[192.0.2.27]",
        "postfix/cleanup[2]: 4fXyZ1: message-id=<a@example.net>",
        "python3[3]: 4fXyZ1: client=192.0.2.27 from=<eve@example.net> author=eve@example.net spf=pass dkim=none "
        "dmarc=fail policy=quarantine arc=none action=junk",
        "postfix/qmgr[4]: 4fXyZ1: from=<eve@example.net>, size=9, nrcpt=1 (queue active)",
        "dovecot[5]: lmtp(anna@example.org)<1><x>: sieve: msgid=<a@example.net>: stored mail into mailbox 'Junk'",
        "postfix/lmtp[6]: 4fXyZ1: to=<anna@example.org>, orig_to=<info@example.org>, "
        "relay=mail.example.org[private/dovecot-lmtp], delay=0, delays=0/0/0/0, dsn=2.0.0, status=sent (250 Saved)",
        "postfix/qmgr[4]: 4fXyZ1: removed",
        "dovecot[5]: lmtp(bert@example.org)<1><x>: sieve: msgid=<a@example.net>: stored mail into mailbox 'INBOX'",
    )
    text = describe(TraceQuery("info@example.org"), log)
    assert (
        "  judged: From: eve@example.net; spf=pass dkim=none dmarc=fail policy=quarantine arc=none action=junk" in text
    )
    assert "  anna@example.org (by info@example.org): it is in the mailbox since " in text
    assert "  mailbox of anna@example.org: stored mail into mailbox 'Junk'" in text
    assert "bert@example.org" not in text, "another message with an ID that its writer chose"


def test_held_deleted_and_expired_mail_has_its_own_words() -> None:
    log = make_log(
        "postfix/pickup[1]: A1B2C3: uid=0 from=<root>",
        "postfix/qmgr[2]: A1B2C3: from=<root@mail.example.org>, size=9, nrcpt=2 (queue active)",
        "postfix/smtp[3]: A1B2C3: to=<a@example.net>, relay=none, delay=1, delays=0/0/1/0, dsn=4.4.1, status=deferred "
        "(connect to mx.example.net[192.0.2.27]:25: Connection timed out)",
        "postfix/postsuper[4]: A1B2C3: placed on hold",
    )
    text = describe(TraceQuery("a@example.net"), log)
    assert "a program of uid 0 sent it as <root@mail.example.org>" in text
    assert "a@example.net: held since 2026-11-29 02:00:03; 1 try since" in text
    assert "its server does not answer." in text
    assert "1 recipient waits for its first try" in text
    deleted = log + make_log("postfix/postsuper[4]: A1B2C3: removed")
    assert "a@example.net: deleted from the queue by hand at " in describe(TraceQuery("a@example.net"), deleted)
    expired = log + make_log(
        "postfix/qmgr[2]: A1B2C3: from=<root@mail.example.org>, status=expired, returned to sender"
    )
    assert "a@example.net: given up at " in describe(TraceQuery("a@example.net"), expired)


def test_mail_to_strangers_on_hold_is_found_by_its_recipient() -> None:
    log = make_log(
        "postfix/submissions/smtpd[1]: A1B2C3: client=pc[192.0.2.9], sasl_method=PLAIN, sasl_username=anna@example.org",
        "postfix/cleanup[2]: A1B2C3: message-id=<a@pc>",
        "postfix/cleanup[2]: A1B2C3: milter-hold: END-OF-MESSAGE from pc[192.0.2.9]: milter triggers HOLD action; "
        "from=<anna@example.org> to=<stranger@example.net> proto=ESMTP helo=<pc>",
    )
    text = describe(TraceQuery("stranger@example.net"), log)
    assert "on hold since 2026-11-29 02:00:02: it is not sent until it is released." in text
    assert "  Next: mailkeepctl why anna@example.org" in text


def test_the_json_has_meanings_and_says_whether_it_is_complete() -> None:
    query = TraceQuery("refuse@example.net", since="2026-11-01T00:00:00")
    answer = build_json(trace_messages(query, open_journal), query, BEGINNING)
    [message] = answer["messages"]
    recipients = {recipient["address"]: recipient for recipient in message["recipients"]}
    assert recipients["refuse@example.net"]["fate"] == "bounced"
    assert recipients["refuse@example.net"]["meaning"] == "there is no such mailbox"
    assert not answer["is_complete"]


@pytest.mark.parametrize(
    ("words", "meaning", "remedy"),
    [
        ("550-5.7.25 The IP address sending this message does not have a PTR record", "no reverse DNS", "mailkeep dns"),
        ("550-5.7.26 This mail has been blocked because the sender is unauthenticated", "SPF, DKIM or DMARC", "dns"),
        ("554 5.7.1 Service unavailable; Client host blocked using zen.spamhaus.org", "blocklist", "blocklists"),
        ("550 5.7.1 Unfortunately, messages from [203.0.113.25] weren't sent. S3140", "blocklist", "blocklists"),
        ("421 4.7.0 [TSS05] Messages from 203.0.113.25 temporarily deferred", "slows your mail down", "report"),
        ("450 4.2.0 Greylisted, see https://example.net", "second try", ""),
        ("552 5.2.2 Mailbox full", "mailbox is full", ""),
        ("550 5.1.1 User unknown", "no such mailbox", ""),
        ("mail for example.net loops back to myself", "this server", "dns"),
        ("connect to mx[192.0.2.27]:25: Connection timed out", "does not answer", ""),
    ],
)
def test_words_of_other_servers_are_explained(words: str, meaning: str, remedy: str) -> None:
    explained = explain_remote(words)
    assert explained
    assert meaning in explained.text
    assert remedy in explained.remedy
    assert explain_remote("zzz") is None


def test_our_own_refusals_are_explained() -> None:
    refusal = explain_refusal(
        "550 5.1.1 <x@example.org>: Recipient address rejected: User unknown in virtual mailbox table"
    )
    assert refusal
    assert refusal.text == "no account and no alias has this address"


def test_large_providers_have_their_names() -> None:
    assert name_remote("gmail-smtp-in.l.google.com") == "Gmail"
    assert name_remote("evil-google.com") == "evil-google.com"


def test_the_program_reads_files_and_names_one_that_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mail.log"
    path.write_bytes(JOURNAL)
    assert trace_command.main([f"--file={path}", "F0DF922E07F"]) == 0
    assert "friend@bogus.test: waits" in capsys.readouterr().out
    assert trace_command.main([f"--file={tmp_path}/none", "F0DF922E07F"]) == 1
    assert capsys.readouterr().err == f"{tmp_path}/none: No such file or directory\n"


@pytest.mark.parametrize("name", ["", " ", "anna @example.org"])
def test_what_names_no_message_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing would be in each line."""
    path = tmp_path / "mail.log"
    path.write_bytes(JOURNAL)
    with pytest.raises(SystemExit):
        trace_command.main([f"--file={path}", name])
    assert "expected an address, a message ID or a queue ID" in capsys.readouterr().err
