"""Spam is refused or sorted and no mail vanishes; people teach the filter by moving; the filter proves itself."""

import imaplib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage

import pytest
import yaml
from clients import (
    SMTP,
    SUBMISSIONS,
    deliver_message,
    envelope_commands,
    is_accepted,
    open_imap,
    read_mailbox,
    run_on,
    talk_smtp,
)
from test_mail import ANNA, BEN, HOST, STRANGER, MailServer, deploy_site
from test_reruns import deploy_with_contents, server_parts

from mailkeep.lab import Attacker, Internet, Lab, poll
from mailkeep.lab.postfix_reload import RELOAD_POSTFIX
from mailkeep.lab.site import Site
from mailkeep.parts import dovecot, spam
from mailkeep.verify.verification import verify_inventory
from mailkeep_server.common import paths
from mailkeep_server.common.spam_canary import GTUBE, HEADER, JUNK_VALUE

FILTER = "mailkeep-spam.service"
HUNG_SECONDS = 15  # until Postfix answers for a filter that hangs
ALERT_SECONDS = 10
MOVED = 2000
OLD = imaplib.Time2Internaldate(time.time() - 2 * 24 * 60 * 60)
LIST = "listed.outside.test"
LEARNER_PEAK = 30 * 2**20  # bytes
IDLE_MEMORY = 210 * 1024  # KiB, of all processes together (PSS)
PSS_BY_PROCESS = """
for p in /proc/[0-9]*; do
  echo $(awk '/^Pss:/ { print $2 }' $p/smaps_rollup) $(tr '\\0' ' ' <$p/cmdline | cut -c-60)
done 2>/dev/null | sort -rn | head -40
"""
# Without the sessions of SSH by which it is measured.
PSS = """
for p in /proc/[0-9]*; do
  case $(cat $p/comm) in sshd-session) ;; *) cat $p/smaps_rollup ;; esac
done 2>/dev/null | awk '/^Pss:/ { sum += $2 } END { print sum }'
"""


@pytest.fixture(scope="module")
def mail_server(lab: Lab, internet: Internet, built_site: Site, built_image: str) -> Iterator[MailServer]:
    internet.clear_messages()
    server = lab.boot_server("spam", hostname=HOST, image=built_image)
    try:
        site = built_site.copy_for(server)
        set_spam(site, {"filter": "full"})
        result = site.deploy()
        assert result.code == 0, result.output + server.run("journalctl -u mailkeep-spam -n 40 --no-pager").stdout
        yield MailServer(site, internet)
    finally:
        server.remove()


def set_spam(site: Site, spam: dict[str, object]) -> None:
    settings = yaml.safe_load(site.settings_file.read_text())
    settings["spam"] = spam
    site.settings_file.write_text(yaml.safe_dump(settings))


def compose(subject: str, text: str = "Hello Anna, shall we meet on Monday?", *headers: str) -> str:
    stamp = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime())
    lines = [
        *headers,
        f"From: {STRANGER}",
        f"To: {ANNA}",
        f"Subject: {subject}",
        f"Date: {stamp}",
        f"Message-ID: <{subject.replace(' ', '.')}@outside.test>",
        "MIME-Version: 1.0",
        "",
        text,
        "",
    ]
    return "\r\n".join(lines)


def receive(mail_server: MailServer, data: str, to: str = ANNA) -> str:
    """From a mail server elsewhere, as the DNS knows it."""
    reply = mail_server.outside.send(STRANGER, to, mail_server.server.ip, data.encode())
    return f"{reply.code} {reply.text}"


def junk(subject: str) -> str:
    return compose(subject, "Hello.", f"{HEADER}: {JUNK_VALUE}")


def verdicts(message: EmailMessage) -> list[str]:
    return [str(value) for value in message.get_all("X-Mailkeep-Spam", [])]


# --- sorting


def test_what_is_no_spam_reaches_the_inbox_with_one_header_that_says_why(mail_server: MailServer) -> None:
    assert is_accepted(receive(mail_server, compose("plain", "Hello.", "X-Mailkeep-Spam: not spam, says a stranger")))
    message = mail_server.wait_in_mailbox("plain", ANNA)
    (verdict,) = verdicts(message)
    print(verdict)
    assert verdict.startswith("not spam, ")
    assert "X-Mailkeep-Junk" not in message
    others = [name for name in message if name.lower().startswith(("x-spam", "x-rspam"))]
    assert others == []


def test_what_is_probably_spam_reaches_junk_with_its_reasons(mail_server: MailServer) -> None:
    assert is_accepted(receive(mail_server, junk("probable")))
    message = mail_server.wait_in_mailbox("probable", ANNA, "Junk")
    (verdict,) = verdicts(message)
    assert verdict.startswith("probably spam, ")
    assert "it is a test of the filter (+" in verdict


def test_what_is_surely_spam_is_refused_in_the_dialogue(mail_server: MailServer) -> None:
    assert receive(mail_server, compose("sure", GTUBE)).startswith("554 5.7.1 ")


def test_the_filter_listens_on_no_port(mail_server: MailServer) -> None:
    listeners = mail_server.server.run("ss -Hltunp").stdout
    assert "rspamd" not in listeners
    assert "rspamd" in mail_server.server.run("ss -Hlxp").stdout


# --- the proof


def run_canary(mail_server: MailServer) -> dict[str, str]:
    mail_server.server.run("systemctl start mailkeep-canary; systemctl start mailkeep-canary")
    faults: dict[str, str] = json.loads(mail_server.server.run(f"cat {paths.CANARY_PROOF}").stdout)["faults"]
    return faults


def test_canaries_prove_the_filter_and_leave_nothing(mail_server: MailServer) -> None:
    assert run_canary(mail_server) == {}
    assert (
        mail_server.server.run(f"find {paths.CANARY_MAILBOX} -type f -path '*/new/*' -o -path '*/cur/*'").stdout == ""
    )
    junk_script = "/etc/dovecot/sieve/junk.sieve"
    start = time.time()
    mail_server.server.run(f"cp -p {junk_script} /root/; echo 'keep;' >{junk_script}")
    try:
        assert [*run_canary(mail_server)] == ["junk"]
        alert = "what is probably spam does not reach Junk"
        poll(lambda: find_alert(mail_server, alert, start), ALERT_SECONDS, "no alert of the canary")
    finally:
        mail_server.server.run(f"cp -p /root/junk.sieve {junk_script}; touch {junk_script}")
    assert run_canary(mail_server) == {}


def test_verify_passes_and_notices_a_filter_that_does_not_sort(mail_server: MailServer) -> None:
    def list_failed() -> list[str]:
        outcomes = verify_inventory(mail_server.site.inventory)
        return [f"{outcome.check}: {outcome.observed}" for outcome in outcomes if outcome.status == "failed"]

    assert list_failed() == []
    rules, main_cf = "/etc/mailkeep/spam/mailkeep.lua", "/etc/postfix/main.cf"
    restart = f"systemctl restart mailkeep-spam; {RELOAD_POSTFIX}"
    scores = "local JUNK_SCORE, REJECT_SCORE = 60, 99"
    mail_server.server.run(f"cp -p {rules} {main_cf} /root/; sed -i 's/^local JUNK_SCORE, .*/{scores}/' {rules}")
    mail_server.server.run(f"postconf -e 'login_milters = $submission_milters'; {restart}")
    try:
        failed = dict(line.split(": ", 1) for line in list_failed())
        assert "the test message junk landed in INBOX, not in Junk" in failed["spam_is_refused_or_sorted"]
        assert "submission smtpd_milters = " in failed["spam_of_accounts_counts"]
    finally:
        mail_server.server.run(f"cp -p /root/mailkeep.lua {rules}; cp -p /root/main.cf {main_cf}; {restart}")


def test_nobody_else_writes_to_the_canary(mail_server: MailServer) -> None:
    answer = deliver_message(mail_server.ip, SMTP, STRANGER, ["canary@mailkeep.invalid"], compose("to the canary"))
    assert answer.startswith("554 ")


def find_alert(mail_server: MailServer, text: str, since: float) -> bool:
    journal = mail_server.server.run(f"journalctl -u mailkeep-watch --no-pager -o cat --since @{since:.0f}").stdout
    return text.lower() in journal.lower()


# --- a filter that is down


def await_calm(mail_server: MailServer) -> None:
    """Until the watch sees no trouble of the filter's: one that is open already is not told again."""

    def is_calm() -> bool:
        reports = json.loads(mail_server.server.run(f"cat {paths.SENSOR_REPORTS}").stdout)
        return not any(FILTER in text for sensor in ("unit", "spam") for text in reports[sensor]["troubles"])

    poll(is_calm, 60, "the watch goes on seeing trouble")


def test_mail_waits_while_the_filter_is_dead_and_you_are_told(mail_server: MailServer) -> None:
    await_calm(mail_server)
    start = time.time()
    mail_server.server.run(f"systemctl kill --signal=KILL {FILTER}; systemctl stop {FILTER}")
    try:
        poll(lambda: find_alert(mail_server, f"{FILTER} is down", start), ALERT_SECONDS, "no alert")
        print(f"dead: told after {time.time() - start:.1f} s")
        assert receive(mail_server, compose("dead")).startswith("45")
    finally:
        mail_server.server.run(f"systemctl start {FILTER}")
    assert is_accepted(receive(mail_server, compose("alive")))


def test_mail_waits_while_the_filter_hangs_and_you_are_told(mail_server: MailServer) -> None:
    await_calm(mail_server)
    start = time.time()
    mail_server.server.run(f"systemctl kill --signal=STOP {FILTER}")
    try:
        poll(lambda: find_alert(mail_server, f"{FILTER} does not answer", start), ALERT_SECONDS, "no alert")
        print(f"hung: told after {time.time() - start:.1f} s")
        start = time.time()
        assert receive(mail_server, compose("hung")).startswith("45")
        assert time.time() - start < HUNG_SECONDS
    finally:
        mail_server.server.run(f"systemctl kill --signal=CONT {FILTER}")
    assert is_accepted(receive(mail_server, compose("well again")))


# --- what accounts send


def send_as_ben(mail_server: MailServer, data: str) -> str:
    login = (BEN, mail_server.site.passphrases[BEN])
    return deliver_message(mail_server.ip, SUBMISSIONS, BEN, [ANNA], data, login=login)


def write_as_ben(subject: str, *headers: str) -> str:
    return "\r\n".join((*headers, f"From: {BEN}", f"To: {ANNA}", f"Subject: {subject}", "", "See you on Monday.", ""))


BEN_SPAM = f"From: {BEN}\r\n{HEADER}: {JUNK_VALUE}\r\n\r\n\r\n"
"""Without subject and recipients, and with a header that is worth points."""


def list_spam_events(mail_server: MailServer) -> list[str]:
    events = mail_server.server.run("mailkeepctl events").stdout.splitlines()
    return [line for line in events if BEN in line and "looks like spam" in line]


def test_spam_of_an_account_goes_until_it_freezes_the_account(mail_server: MailServer) -> None:
    forged = write_as_ben("honest", "X-Mailkeep-Outgoing-Spam: 99.0 points")
    assert is_accepted(send_as_ben(mail_server, forged))
    message = mail_server.wait_in_mailbox("honest", ANNA)
    assert "X-Mailkeep-Outgoing-Spam" not in message
    assert "X-Mailkeep-Spam" in message
    assert list_spam_events(mail_server) == []
    threshold = mail_server.site.settings.guard.freeze.spam_messages
    answers = [send_as_ben(mail_server, BEN_SPAM) for _ in range(threshold)]
    print(answers[0], answers[-1], *list_spam_events(mail_server), sep="\n")
    assert all(map(is_accepted, answers[:-1])), answers
    assert answers[-1].startswith("521 5.7.1 "), answers
    assert len(list_spam_events(mail_server)) == 1
    mail_server.server.run(f"mailkeepctl thaw {BEN}")
    poll(lambda: is_accepted(send_as_ben(mail_server, write_as_ben("thawed"))), 30, "the account stays frozen")


def test_mail_of_accounts_goes_while_the_filter_is_dead_or_hangs(mail_server: MailServer) -> None:
    for stop, start in (("stop", "start"), ("kill --signal=STOP", "kill --signal=CONT")):
        mail_server.server.run(f"systemctl {stop} {FILTER}")
        try:
            began = time.monotonic()
            assert is_accepted(send_as_ben(mail_server, write_as_ben(f"after {stop}")))
            print(f"{stop}: {time.monotonic() - began:.1f} s")
            assert time.monotonic() - began < HUNG_SECONDS
        finally:
            mail_server.server.run(f"systemctl {start} {FILTER}")


def test_an_account_may_send_what_every_filter_refuses_and_it_is_marked(mail_server: MailServer) -> None:
    assert is_accepted(send_as_ben(mail_server, write_as_ben("pattern") + GTUBE + "\r\n"))
    message = mail_server.wait_in_mailbox("pattern", ANNA)
    assert message["X-Mailkeep-Outgoing-Spam"].endswith(" points")


# --- learning


def count_learned(mail_server: MailServer, account: str) -> tuple[int, int]:
    """Messages that this account has taught as spam, and as ham."""
    lessons = mail_server.server.run(f"cat {paths.SPAM_WORDS}/{account}/learned || true").stdout.split()
    return lessons.count("spam"), lessons.count("ham")


def await_lessons(mail_server: MailServer, spam: int, ham: int) -> None:
    """That Anna has taught so much, and no more."""
    server = mail_server.server
    poll(lambda: not server.run(f"ls {paths.LEARN_SPOOL}/new").stdout, 60, "nothing is learned")
    poll(lambda: server.run("systemctl is-active mailkeep-learn || true").stdout.strip() == "inactive", 60, "no end")
    journal = server.run("journalctl -u mailkeep-learn -n 20 --no-pager -o cat").stdout
    assert count_learned(mail_server, ANNA) == (spam, ham), journal


def append(mail_server: MailServer, folder: str, subjects: list[str], flags: str = "", date: str = "") -> None:
    with open_imap(mail_server.ip) as mailbox:
        mailbox.login(ANNA, mail_server.site.passphrases[ANNA])
        for subject in subjects:
            words = " ".join(f"{subject}{number}" for number in range(60))
            mailbox.append(folder, flags, date, compose(subject, words).encode())


def move(mail_server: MailServer, word: str, source: str, target: str) -> float:
    """Move the messages with this word in their subjects: an alert may be beside them. Returns the seconds it took."""
    with open_imap(mail_server.ip) as mailbox:
        mailbox.login(ANNA, mail_server.site.passphrases[ANNA])
        mailbox.socket().settimeout(300)
        mailbox.select(source)
        numbers = mailbox.uid("SEARCH", "SUBJECT", word)[1][0].decode().replace(" ", ",")
        start = time.monotonic()
        answer = mailbox.uid("MOVE", numbers, target)
        assert answer[0] == "OK", answer
        return time.monotonic() - start


def assert_sorted_by_words(mail_server: MailServer, subject: str, reason: str) -> None:
    """Words that Anna has called spam reach her Junk, and Ben's INBOX."""
    words = " ".join(f"pills1{number}" for number in range(60))
    for account, folder in ((ANNA, "Junk"), (BEN, "INBOX")):
        assert is_accepted(receive(mail_server, compose(subject, words), account))
        (verdict,) = verdicts(mail_server.wait_in_mailbox(subject, account, folder))
        assert verdict.startswith("probably spam, " if account == ANNA else "not spam"), verdict
        assert (reason in verdict) == (account == ANNA), verdict


def test_moves_teach_the_filter_of_that_account_alone(mail_server: MailServer) -> None:
    for folder in ("INBOX", "Junk", "Trash"):
        append(mail_server, folder, [])
    with open_imap(mail_server.ip) as mailbox:
        mailbox.login(ANNA, mail_server.site.passphrases[ANNA])
        for folder in ("INBOX", "Junk"):
            mailbox.select(folder)
            mailbox.uid("STORE", "1:*", "+FLAGS", "(\\Deleted)")
            mailbox.expunge()
        mailbox.create("Kept")
    append(mail_server, "INBOX", [f"pills{number}" for number in range(15)])
    append(mail_server, "INBOX", [f"unread{number}" for number in range(3)], date=OLD)
    append(mail_server, "INBOX", [f"kept{number}x" for number in range(30)], "\\Seen", OLD)
    move(mail_server, "pills", "INBOX", "Junk")
    await_lessons(mail_server, 15, 30)
    move(mail_server, "pills", "Junk", "Trash")
    append(mail_server, "Junk", [f"friends{number}" for number in range(12)])
    move(mail_server, "friends", "Junk", "Kept")
    await_lessons(mail_server, 15, 42)
    move(mail_server, "kept7x", "INBOX", "Junk")
    await_lessons(mail_server, 16, 41)
    assert count_learned(mail_server, BEN) == (0, 0)
    assert_sorted_by_words(mail_server, "by words and rules", "points (Junk from 7): its words ")
    assert mail_server.server.run(f"ls {paths.LEARN_SPOOL}/new").stdout == ""


def test_2000_moves_are_learned_in_the_background_by_one_small_program(mail_server: MailServer) -> None:
    before = count_learned(mail_server, ANNA)[1]
    append(mail_server, "Junk", [f"many{number}x" for number in range(MOVED)])
    memory = int(mail_server.server.run(PSS).stdout)
    start, peak = time.monotonic(), 0
    with ThreadPoolExecutor(1) as pool:
        moved = pool.submit(move, mail_server, "many", "Junk", "Kept")
        while count_learned(mail_server, ANNA)[1] < before + MOVED:
            assert time.monotonic() - start < 600
            peak = max(peak, int(mail_server.server.run(PSS).stdout))
            assert int(mail_server.server.run("pgrep -P 1 -fc '[s]pam-learner' || true").stdout) <= 1
    learned = time.monotonic() - start
    print(
        f"{MOVED} moves took {moved.result():.1f} s, were learned after {learned:.1f} s; memory {memory} -> {peak} KiB"
    )
    assert (peak - memory) * 1024 <= LEARNER_PEAK


# --- memory


def test_the_whole_server_idles_in_little_memory(mail_server: MailServer) -> None:
    mail_server.server.run("systemctl restart mailkeep-spam")
    poll(lambda: run_canary(mail_server) == {}, 60, "the filter does not work")

    def measure() -> int:
        return int(mail_server.server.run(PSS).stdout)

    # Processes of Postfix and Dovecot stay for some minutes after their last work.
    try:
        poll(lambda: measure() <= IDLE_MEMORY, 240, "the server does not come down to the bound")
    finally:
        print(f"idle: {measure()} KiB\n" + mail_server.server.run(PSS_BY_PROCESS).stdout)


# --- broken files

BROKEN_LAST = spam.LUA
"""rspamd names only the first fault of its files."""


def test_a_broken_file_of_the_filter_reaches_no_service(mail_server: MailServer) -> None:
    (part,) = (part for part in server_parts(mail_server.site) if part.name == "spam")
    files = {file.path: file.content.decode() for file in part.files}
    judge = f"{dovecot.SIEVE}/judge.sieve"
    files[judge] = mail_server.server.run(f"cat {judge}").stdout
    for paths_of_round in (files.keys() - {BROKEN_LAST}, {BROKEN_LAST}):
        broken = {path: files[path].replace("[Unit]", "[Unit]\nNonsense=1") + "\nif ( {\n" for path in paths_of_round}
        result = deploy_with_contents(mail_server.site, broken)
        assert result.code != 0
        assert [path for path in broken if path not in result.output] == []
    assert mail_server.server.run(f"cat {' '.join(files)}").stdout == "".join(files.values())
    assert run_canary(mail_server) == {}


# --- another setting


def test_mail_comes_in_with_a_header_while_the_filter_is_dead_if_the_operator_says_so(mail_server: MailServer) -> None:
    set_spam(mail_server.site, {"filter": "full", "when_down": "pass"})
    deploy_site(mail_server.site)
    assert is_accepted(receive(mail_server, compose("looked at"), BEN))
    (verdict,) = verdicts(mail_server.wait_in_mailbox("looked at", BEN))
    assert verdict.startswith("not spam, ")
    mail_server.server.run(f"systemctl stop {FILTER}")
    try:
        assert is_accepted(receive(mail_server, compose("while it was dead"), BEN))
    finally:
        mail_server.server.run(f"systemctl start {FILTER}")
    message = mail_server.wait_in_mailbox("while it was dead", BEN)
    journal = mail_server.server.run(
        "journalctl -u postfix -n 25 --no-pager -o cat; postconf -P; postconf -n | grep milter"
    )
    assert verdicts(message) == ["nobody looked: the spam filter was down"], f"{message.items()}\n{journal.stdout}"


def test_the_light_filter_judges_by_what_the_account_has_taught(mail_server: MailServer) -> None:
    set_spam(mail_server.site, {"filter": "light"})
    deploy_site(mail_server.site)
    faults = run_canary(mail_server)
    units = "-u mailkeep-learn -u mailkeep-canary -u dovecot"
    assert faults == {}, mail_server.server.run(f"journalctl {units} -n 60 --no-pager -o cat").stdout
    assert is_accepted(receive(mail_server, compose("untaught", "orchid vintage teapot"), BEN))
    (verdict,) = verdicts(mail_server.wait_in_mailbox("untaught", BEN))
    assert verdict == "not spam: the filter of this account was not taught enough yet"
    assert_sorted_by_words(mail_server, "by words alone", "points (Junk from 3.2): its words ")
    assert mail_server.server.run("pgrep -l 'rspamd|bogofilter' || true").stdout == "", "it runs for a moment only"


def test_a_listed_address_is_refused_and_an_open_resolver_is_no_listing(
    mail_server: MailServer, internet: Internet, attacker: Attacker
) -> None:
    set_spam(mail_server.site, {"filter": "light", "dnsbls": [LIST]})
    deploy_site(mail_server.site)

    def name_entry(address: object) -> str:
        return f"{'.'.join(reversed(str(address).split('.')))}.{LIST}."

    internet.publish(f"{name_entry(internet.ip)} A 127.0.0.2\n{name_entry(attacker.ip)} A 127.255.255.254\n", "dnsbl")
    try:
        commands = envelope_commands(STRANGER, ANNA)
        assert receive(mail_server, compose("listed")).startswith("554 5.7.1 Service unavailable; Client host")
        answer = run_on(attacker, talk_smtp, mail_server.ip, SMTP, commands, source=attacker.ip)
        assert answer == "250 2.1.5 Ok"
    finally:
        internet.publish("", "dnsbl")


def test_without_the_filter_nothing_of_it_is_left(mail_server: MailServer) -> None:
    set_spam(mail_server.site, {"filter": "off"})
    deploy_site(mail_server.site)
    assert is_accepted(receive(mail_server, compose("no filter")))
    assert verdicts(mail_server.wait_in_mailbox("no filter", ANNA)) == []
    assert mail_server.server.run("pgrep -c rspamd || true").stdout.strip() == "0"
    assert read_mailbox(mail_server.ip, 993, ANNA, mail_server.site.passphrases[ANNA], "Junk")
