"""People set their own rules by ManageSieve, and nothing else goes through its door. What rules send counts."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import yaml
from clients import (
    SIEVE,
    STRANGER,
    SUBMISSIONS,
    SieveClient,
    compose_message,
    deliver_message,
    install_script,
    is_accepted,
    log_in,
    shake_hands,
)

from mailkeep.lab import Internet, Lab, LabError, Received, Server, poll
from mailkeep.lab.site import Site

ANNA, BEN = "anna@example.test", "ben@example-two.test"
EXTENSIONS = {"vacation", "fileinto", "envelope", "mailbox", "body", "include", "imap4flags", "date", "relational"}
COPY, FRIEND, CHAIR = "copy@outside.test", "friend@outside.test", "chair@outside.test"
STRICT, OPERATOR = "strict@outside.test", "operator@outside.test"
FORGED = "ceo@wary.test"
WARY_ZONE = """\
wary.test. MX 10 mx.outside.test.
_dmarc.wary.test. TXT "v=DMARC1; p=quarantine"
"""
BOARD = "board@example.test"
ROUTES = {
    "aliases": {"shop-*@example.test": BEN, BOARD: [ANNA, CHAIR]},
    "members_only": [BOARD],
    "catch_all": {"example.test": ANNA},
    "catch_all_except": ["old@example.test", "offer-*@example.test"],
}
BENS_LIMITS = {"messages_per_10_minutes": 12, "messages_per_hour": 12, "messages_per_day": 12}
"""His rules may send half of it."""
MANY = [f"{unit}_per_{window}" for unit in ("messages", "recipients") for window in ("10_minutes", "hour", "day")]
REDIRECT = f'redirect "{FRIEND}";\r\n'
VACATION = 'require "vacation";\r\nvacation :days 1 :subject "Away" "I am away until Monday.";\r\n'
FORBIDDEN = ("vnd.dovecot.pipe", "vnd.dovecot.execute", "vnd.dovecot.filter", "enotify", "reject", "editheader")


@dataclass(frozen=True)
class RulesServer:
    site: Site
    outside: Internet

    @property
    def server(self) -> Server:
        return self.site.server

    @property
    def ip(self) -> str:
        return str(self.server.ip)

    def install(self, script: str, account: str = BEN, name: str = "rules") -> str:
        return install_script(self.ip, account, self.site.passphrases[account], script, name)

    def receive(self, subject: str, *, to: str = BEN, author: str = STRANGER) -> tuple[int, list[str]]:
        """A stranger's message: the last reply, and those to refused recipients."""
        text = compose_message(author, to, subject).encode()
        reply = self.outside.send(STRANGER, (to,), self.server.ip, text)
        return reply.code, [*reply.refused.values()]

    def list_outside(self, subject: str) -> list[Received]:
        """What has arrived elsewhere."""
        messages = self.outside.read_messages()
        return [message for message in messages if subject in str(message.message["Subject"])]

    def wait_outside(self, subject: str, number: int = 1) -> list[Received]:
        poll(lambda: len(self.list_outside(subject)) >= number, 20, f"not {number} of: {subject}")
        return self.list_outside(subject)

    def submit(self, subject: str, account: str = BEN, to: str = FRIEND) -> str:
        login = account, self.site.passphrases[account]
        return deliver_message(self.ip, SUBMISSIONS, account, [to], compose_message(account, to, subject), login=login)

    def list_alerts(self, text: str) -> list[str]:
        """The mail to the operator that mentions it."""
        messages = self.outside.read_messages()
        return [
            message.data.decode(errors="replace")
            for message in messages
            if text in str(message.data) and OPERATOR in message.recipients
        ]

    def count_in_inbox(self, account: str, subject: str) -> int:
        local_part, _, domain = account.partition("@")
        home = f"/var/vmail/{domain}/{local_part}/Maildir"
        return int(self.server.run(f"grep -rls 'Subject: {subject}$' {home}/new {home}/cur | wc -l").stdout)

    def count_sent(self, account: str = BEN) -> int:
        """The messages of the account that the guard has counted within a day."""
        status = json.loads(self.server.run("mailkeepctl limits --json").stdout)
        rows = [row["limits"] for row in status["accounts"] if row["account"] == account]
        return sum(use["used"] for limits in rows for use in limits if use["limit"] == "messages_per_day")

    def wait_in_folder(self, subject: str, folder: str, account: str = BEN) -> None:
        """Until the message is in this folder; INBOX is empty."""
        try:
            poll(lambda: self.find_folder(subject, account) == folder, 20, f"{subject} is not in {folder or 'INBOX'}")
        except LabError as error:
            journal = self.server.run("journalctl -n 40 -o cat -u dovecot -u postfix -u mailkeep-guard").stdout
            raise AssertionError(f"{error}, but {self.find_folder(subject, account)}: {journal}") from None

    def find_folder(self, subject: str, account: str = BEN) -> str:
        """Where the message is: the name of the folder, INBOX is empty; if it is in none, `nowhere`."""
        local_part, _, domain = account.partition("@")
        home = f"/var/vmail/{domain}/{local_part}/Maildir"
        paths = self.server.run(f"grep -rls 'Subject: {subject}$' {home} || true").stdout.split()
        places = [path.removeprefix(f"{home}/").split("/")[:-1] for path in paths]
        folders = {"/".join(place[:-1]) for place in places if place[-1:] in (["new"], ["cur"])}  # not Dovecot's cache
        return ", ".join(sorted(folders)) if folders else "nowhere"


@pytest.fixture(scope="module")
def rules_server(lab: Lab, internet: Internet, built_site: Site, built_image: str) -> Iterator[RulesServer]:
    internet.publish(WARY_ZONE, "wary")
    server = lab.boot_server("rules", hostname="mail.example.test", image=built_image)
    try:
        internet.resolve_for(server)
        site = built_site.copy_for(server)
        settings = yaml.safe_load(site.settings_file.read_text())
        accounts = {account["address"]: account for account in settings["accounts"]}
        accounts[ANNA]["forward"] = [COPY]
        accounts[BEN]["limits"] = BENS_LIMITS
        accounts[ANNA]["limits"] = dict.fromkeys(MANY, 300)  # she is an administrator: alerts go on, too
        aliases = settings.get("aliases", {}) | ROUTES["aliases"]
        site.settings_file.write_text(yaml.safe_dump({**settings, **ROUTES, "aliases": aliases}))
        result = site.deploy()
        assert result.code == 0, result.output
        site.publish(internet)
        yield RulesServer(site, internet)
    finally:
        server.remove()
        internet.publish("", "wary")
        built_site.publish(internet)


# --- the door


def test_a_script_is_installed_over_tls_and_sorts_mail(rules_server: RulesServer) -> None:
    for address in (rules_server.ip, str(rules_server.server.ip6)):
        assert is_accepted(log_in(address, SIEVE, BEN, rules_server.site.passphrases[BEN]))
    script = (
        'require ["fileinto", "mailbox"];\r\nif header :contains "subject" "list" { fileinto :create "Lists"; }\r\n'
    )
    assert is_accepted(rules_server.install(script))
    assert rules_server.receive("a list") == (250, [])
    rules_server.wait_in_folder("a list", ".Lists")


def test_no_password_is_taken_before_tls(rules_server: RulesServer) -> None:
    with SieveClient(rules_server.ip, tls=False) as client:
        assert '"SASL" ""' in client.greeting
        assert client.log_in(BEN, rules_server.site.passphrases[BEN]).startswith("NO (ENCRYPT-NEEDED)")
    assert not is_accepted(shake_hands(rules_server.ip, SIEVE, "TLSv1_1", "ALL"))
    assert shake_hands(rules_server.ip, SIEVE, "TLSv1_2", "ECDHE+AESGCM") == "OK TLSv1.2"


def test_a_script_runs_no_program_and_is_bounded(rules_server: RulesServer) -> None:
    with SieveClient(rules_server.ip) as client:
        [offer] = [line for line in client.greeting if line.startswith('"SIEVE"')]
        assert set(offer.split('"')[3].split()) >= EXTENSIONS
        assert is_accepted(client.log_in(BEN, rules_server.site.passphrases[BEN]))
        for extension in FORBIDDEN:
            assert extension not in offer
            assert client.command('PUTSCRIPT "x"', f'require "{extension}";\r\n').startswith("NO"), extension
        assert client.command('PUTSCRIPT "large"', "#" * 65_536 + "\r\nkeep;\r\n").startswith("NO (QUOTA")
        answers = [client.command(f'PUTSCRIPT "many-{number}"', "keep;\r\n") for number in range(30)]
        assert answers[-1].startswith("NO (QUOTA/MAXSCRIPTS)")
        for number in range(30):
            client.command(f'DELETESCRIPT "many-{number}"')


def test_a_frozen_account_cannot_change_its_rules(rules_server: RulesServer) -> None:
    password = rules_server.site.passphrases[BEN]
    with SieveClient(rules_server.ip) as client:
        assert is_accepted(client.log_in(BEN, password))
        assert BEN in rules_server.server.run("doveadm who").stdout
        rules_server.server.run(f"mailkeepctl freeze {BEN}")
        try:
            poll(lambda: not is_accepted(log_in(rules_server.ip, SIEVE, BEN, password)), 15, "it can log in")
            poll(lambda: BEN not in rules_server.server.run("doveadm who").stdout, 15, "its session goes on")
        finally:
            rules_server.server.run(f"mailkeepctl thaw {BEN}")
            # Dovecot looks at the list of freezes once in a second.
            poll(lambda: is_accepted(log_in(rules_server.ip, SIEVE, BEN, password)), 15, "it cannot log in again")


# --- the script for all


def test_junk_is_sorted_before_rules_send_anything(rules_server: RulesServer) -> None:
    assert is_accepted(rules_server.install(REDIRECT))
    assert rules_server.receive("wary one", author=FORGED) == (250, [])
    assert rules_server.receive("wary two", author=FORGED, to=ANNA) == (250, [])
    rules_server.wait_in_folder("wary one", ".Junk")
    rules_server.wait_in_folder("wary two", ".Junk", ANNA)
    assert rules_server.list_outside("wary") == []
    # vmail keeps the script compiled: no delivery complains.
    journal = rules_server.server.run("journalctl -u dovecot -o cat -g 'svbin|sieve: .*[Ee]rror' || true").stdout
    assert "svbin" not in journal
    assert rules_server.server.run("ls /var/vmail/.sieve").stdout.split() == [
        "bulk.svbin",
        "forwards.svbin",
        "junk.svbin",
    ]


# --- what rules send


def test_a_copy_goes_on_and_counts_as_the_account_s(rules_server: RulesServer) -> None:
    before = rules_server.count_sent(ANNA)
    assert rules_server.receive("to both", to=ANNA) == (250, [])
    [message] = rules_server.wait_outside("to both")
    assert (message.sender, message.recipients) == (ANNA, (COPY,)), "the account's envelope: SPF passes"
    assert message.message["From"] == STRANGER
    assert message.message["DKIM-Signature"] is None
    rules_server.wait_in_folder("to both", "", ANNA)
    assert rules_server.count_sent(ANNA) == before + 1


def test_a_redirect_passes_spf_as_the_account_s(rules_server: RulesServer) -> None:
    assert is_accepted(rules_server.install(f'redirect "{STRICT}";\r\n'))
    assert rules_server.receive("sent on") == (250, [])
    [message] = rules_server.wait_outside("sent on")
    assert (message.sender, message.results["spf"]) == (BEN, "pass")
    queue_log = rules_server.server.run("journalctl -u postfix -o cat -g 'sasl_username='").stdout
    assert f"sasl_method=XCLIENT, sasl_username={BEN}" in queue_log, "the log says whose mail it is"


def test_a_new_redirect_is_told_to_its_owner_and_to_the_operator_once(rules_server: RulesServer) -> None:
    """Whatever the rules say: these would make the notice vanish."""
    target = "thief@outside.test"
    script = f'require "copy";\r\nredirect :copy "{target}";\r\ndiscard;\r\n'
    assert is_accepted(rules_server.install(script, ANNA))
    for number in range(2):
        assert rules_server.receive(f"private {number}", to=ANNA) == (250, [])
    rules_server.wait_in_folder(f"Your mail is now sent on to {target}", "", ANNA)
    poll(lambda: rules_server.list_alerts(target), 20, "no alert")
    rules_server.wait_outside("private 1")
    events = rules_server.server.run("mailkeepctl events --json").stdout
    assert events.count(target) == 1, "once"
    assert rules_server.count_in_inbox(ANNA, f"Your mail is now sent on to {target}") == 1
    # A stranger cannot pass for the notice: no rule would hold for his mail.
    sender = "mailkeep-notice@mail.example.test"
    reply = rules_server.outside.send(sender, (ANNA,), rules_server.server.ip, b"Subject: forged\r\n\r\nx\r\n")
    assert (reply.stage, reply.code) == ("RCPT", 554)
    assert is_accepted(rules_server.install("", ANNA))


def test_an_answer_is_signed_passes_dmarc_and_does_not_answer_itself(rules_server: RulesServer) -> None:
    assert is_accepted(rules_server.install(VACATION, ANNA))
    before = rules_server.count_sent(ANNA)
    text = compose_message(STRICT, ANNA, "are you there").encode()
    for _ in range(2):
        assert rules_server.outside.send(STRICT, (ANNA,), rules_server.server.ip, text).code == 250
    [answer] = rules_server.wait_outside("Away")
    assert (answer.sender, answer.recipients) == ("", (STRICT,))
    assert answer.message["Auto-Submitted"] == "auto-replied (vacation)"
    assert (answer.results["dkim"], answer.results["dmarc"]) == ("pass", "pass")
    assert rules_server.count_sent(ANNA) == before + 3, "two copies to her other address, and one answer"
    # A notice of failure has no sender, and gets no answer.
    assert rules_server.outside.send("", (ANNA,), rules_server.server.ip, text.replace(b"there", b"gone")).code == 250
    rules_server.wait_in_folder("are you gone", "", ANNA)
    assert len(rules_server.list_outside("Away")) == 1


def test_an_answer_in_somebody_else_s_name_is_not_sent(rules_server: RulesServer) -> None:
    forged = VACATION.replace(":days 1", f':days 1 :from "{BEN}"').replace("Away", "Forged")
    assert is_accepted(rules_server.install(forged, ANNA, "forged"))
    assert rules_server.receive("hello there", to=ANNA) == (250, [])
    rules_server.wait_in_folder("hello there", "", ANNA)
    journal = "journalctl -u dovecot -u postfix -o cat -g 'answer as somebody else' || true"
    poll(lambda: rules_server.server.run(journal).stdout, 20, "not refused")
    assert rules_server.list_outside("Forged") == []
    assert is_accepted(rules_server.install("", ANNA))


def test_a_redirect_that_is_refused_comes_back_to_whoever_set_it(rules_server: RulesServer) -> None:
    """The sender may be forged. No notice goes on and on."""
    assert is_accepted(rules_server.install('redirect "refuse@outside.test";\r\n', ANNA))
    before = len(rules_server.list_outside("Undelivered"))
    assert rules_server.receive("refused there", to=ANNA) == (250, [])
    rules_server.wait_in_folder("Undelivered Mail Returned to Sender", "", ANNA)
    poll(lambda: not rules_server.server.run("postqueue -j").stdout, 20, "it goes on")
    assert len(rules_server.list_outside("Undelivered")) == before
    assert is_accepted(rules_server.install("", ANNA))


# --- who gets mail, and who may write


def test_patterns_exceptions_and_lists_of_members(rules_server: RulesServer) -> None:
    assert is_accepted(rules_server.install(""))
    assert rules_server.receive("to a shop", to="shop-7+x@example.test") == (250, [])
    rules_server.wait_in_folder("to a shop", "", BEN)
    assert rules_server.receive("to anybody", to="anybody@example.test") == (250, [])
    rules_server.wait_in_folder("to anybody", "", ANNA)
    for excepted in ("old@example.test", "offer-1@example.test", "OLD+x@example.test"):
        code, refusals = rules_server.receive("refused", to=excepted)
        assert refusals[0].startswith("550 5.1.1"), (code, refusals)
    _, refusals = rules_server.receive("to the board", to=BOARD)
    assert refusals == [f"554 5.7.1 <{STRANGER}>: Sender address rejected: Only its members may write to this list"]
    text = compose_message(CHAIR, BOARD, "from the chair").encode()
    assert rules_server.outside.send(CHAIR, (BOARD,), rules_server.server.ip, text).code == 250
    assert is_accepted(rules_server.submit("from anna", ANNA, BOARD))
    assert "Only its members" in rules_server.submit("from ben", BEN, BOARD)
    for subject in ("from the chair", "from anna"):
        rules_server.wait_in_folder(subject, "", ANNA)
    # Nor by the rules of somebody who is no member.
    assert is_accepted(rules_server.install(f'redirect "{BOARD}";\r\n'))
    assert rules_server.receive("by a rule") == (250, [])
    poll(lambda: "Only its members" in rules_server.server.run("journalctl -u dovecot -o cat -n 50").stdout, 20, "no")
    assert rules_server.find_folder("by a rule", ANNA) == "nowhere"


# --- what holds only by its part


@pytest.fixture
def without(rules_server: RulesServer) -> Iterator[Callable[[str], None]]:
    """Takes a part away by a shell command; all comes back after the test."""
    server, saved = rules_server.server, "/run/etc-saved"
    server.run(
        f"mkdir -p {saved} && cp -a /etc/dovecot/dovecot.conf /etc/postfix/main.cf /etc/postfix/master.cf {saved}"
    )
    yield lambda command: server.run(f"{command}; systemctl restart postfix dovecot").check_returncode()
    server.run(
        f"cp -a {saved}/dovecot.conf /etc/dovecot/; cp -a {saved}/main.cf {saved}/master.cf /etc/postfix/; "
        "systemctl reset-failed; systemctl restart postfix dovecot"
    )


def test_without_the_script_for_all_junk_is_sent_on(rules_server: RulesServer, without: Callable[[str], None]) -> None:
    assert is_accepted(rules_server.install(REDIRECT, ANNA))
    without("sed -i '/^sieve_script junk {/,/^}/d' /etc/dovecot/dovecot.conf")
    assert rules_server.receive("junk sent on", author=FORGED, to=ANNA) == (250, [])
    rules_server.wait_outside("junk sent on")
    assert is_accepted(rules_server.install("", ANNA))


def test_without_the_account_as_login_nothing_is_sent_and_nothing_is_lost(
    rules_server: RulesServer, without: Callable[[str], None]
) -> None:
    assert is_accepted(rules_server.install(REDIRECT, ANNA))
    without("postconf -PX forwards/unix/smtpd_authorized_xclient_hosts")
    assert rules_server.receive("nobody's", to=ANNA) == (250, [])
    poll(lambda: "deferred" in rules_server.server.run("postqueue -j").stdout, 20, "it does not wait")
    assert rules_server.list_outside("nobody's") == []
    assert is_accepted(rules_server.install("", ANNA))
    rules_server.server.run("postsuper -d ALL deferred")


def test_without_the_account_s_envelope_a_redirect_is_the_stranger_s(
    rules_server: RulesServer, without: Callable[[str], None]
) -> None:
    assert is_accepted(rules_server.install(REDIRECT, ANNA))
    without("sed -i '/^sieve_redirect_envelope_from/d' /etc/dovecot/dovecot.conf")
    assert rules_server.receive("of a stranger", to=ANNA) == (250, [])
    assert [message.sender for message in rules_server.wait_outside("of a stranger", 2)] == [STRANGER] * 2
    assert is_accepted(rules_server.install("", ANNA))


def test_without_the_guard_an_answer_has_any_author_and_without_its_table_a_list_any_writer(
    rules_server: RulesServer, without: Callable[[str], None]
) -> None:
    forged = VACATION.replace(":days 1", f':days 1 :from "{BEN}"').replace("Away", "Forged")
    assert is_accepted(rules_server.install(forged, ANNA, "forged"))
    without(
        "postconf -P 'answers/unix/smtpd_milters=$signing_milter'; postconf -e 'recipient_access = permit_mynetworks'"
    )
    text = compose_message(FRIEND, ANNA, "hello again").encode()
    assert rules_server.outside.send(FRIEND, (ANNA,), rules_server.server.ip, text).code == 250
    rules_server.wait_outside("Forged")
    assert rules_server.receive("to the board after all", to=BOARD) == (250, [])
    assert is_accepted(rules_server.install("", ANNA))


# --- a flood: the last, as it uses ben's limits up


def test_a_redirect_counts_in_half_of_the_account_s_limits_and_the_owner_has_the_rest(
    rules_server: RulesServer,
) -> None:
    assert is_accepted(rules_server.install(REDIRECT))
    before = rules_server.count_sent()
    for number in range(8):
        assert rules_server.receive(f"flood {number}") == (250, [])
    rules_server.wait_outside("flood", 6 - before)
    poll(lambda: "deferred" in rules_server.server.run("postqueue -j").stdout, 20, "nothing waits")
    assert rules_server.count_sent() == 6
    assert len(rules_server.list_outside("flood")) == 6 - before
    waiting = rules_server.server.run("postqueue -j").stdout
    assert waiting.count(BEN) >= 2, "nothing is lost"
    assert is_accepted(rules_server.submit("of my own"))
    events = rules_server.server.run("mailkeepctl events").stdout
    assert "its rules are over 6 messages in a day" in events
