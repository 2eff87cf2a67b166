"""After real mail of each fate, `mailkeep report` counts it rightly, and `mailkeep trace` says what became of it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from clients import IMAPS, STRANGER, SUBMISSIONS, compose_message, deliver_message, is_accepted, log_in

from mailkeep.lab import Internet, Lab, Server, poll
from mailkeep.lab.site import Site

ANNA, BEN = "anna@example.test", "ben@example-two.test"
FRIEND, REFUSING, DEFERRING = "friend@outside.test", "refuse@outside.test", "defer@outside.test"
NOBODY, FORGED = "nobody@example.test", "boss@bank.test"


@dataclass(frozen=True)
class HistoryServer:
    site: Site
    outside: Internet

    @property
    def server(self) -> Server:
        return self.site.server

    def submit(self, *recipients: str, author: str = ANNA) -> str:
        text = compose_message(author, recipients[0], "what happened")
        login = ANNA, self.site.passphrases[ANNA]
        return deliver_message(str(self.server.ip), SUBMISSIONS, author, [*recipients], text, login=login)

    def ask(self, command: str, *arguments: str) -> str:
        """`mailkeep COMMAND`, on the operator's machine."""
        words = [sys.executable, "-m", "mailkeep", command, str(self.site.inventory), *arguments]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def count(self, *arguments: str) -> dict[str, dict[str, Any]]:
        [report] = json.loads(self.ask("report", "--by", "account", "--json", *arguments))
        return {row["key"]: row for row in report["rows"]}


@pytest.fixture(scope="module")
def history(lab: Lab, internet: Internet, built_site: Site, built_image: str) -> Iterator[HistoryServer]:
    """Anna has written to four people: it is delivered, refused, deferred, and in a mailbox. Two tries are refused."""
    server = lab.boot_server("history", hostname="mail.example.test", image=built_image)
    try:
        internet.resolve_for(server)
        site = built_site.copy_for(server)
        deployed = site.deploy()
        assert deployed.code == 0, deployed.output
        history = HistoryServer(site, internet)
        assert is_accepted(history.submit(FRIEND, REFUSING, DEFERRING, BEN))
        assert history.submit(FRIEND, author=FORGED).startswith("553")
        text = compose_message(STRANGER, NOBODY, "who are you").encode()
        assert NOBODY in internet.send(STRANGER, NOBODY, server.ip, text).refused
        assert is_accepted(log_in(str(server.ip), IMAPS, ANNA, site.passphrases[ANNA]))
        assert not is_accepted(log_in(str(server.ip), IMAPS, ANNA, "wrong"))
        poll(lambda: has_all_fates(history.count().get(ANNA, {})), 40, "not all of Anna's mail has its fate in the log")
        yield history
    finally:
        server.remove()


def has_all_fates(row: dict[str, Any]) -> bool:
    return (row.get("delivered"), row.get("bounced"), row.get("deferred")) == (2, 1, 1)


def test_the_report_counts_each_fate_once(history: HistoryServer) -> None:
    rows = history.count()
    anna = rows[ANNA]
    assert (anna["messages"], anna["people"]) == (1, 4)
    assert (anna["logins"], anna["failed_logins"]) == (2, 1)
    assert rows["(no login)"]["rejected"] == 2, "Postfix's line of what a milter refuses at MAIL has no login"
    assert rows["(this server)"]["delivered"] >= 1, "the notice to Anna, and what alerts there are"
    assert history.count("--account", ANNA).keys() == {ANNA}
    assert history.count("--until", "2020-01-01") == {}


def test_the_servers_own_command_says_the_same(history: HistoryServer) -> None:
    words = ["--by", "account", "--until", history.server.run("date +@%s").stdout.strip()]
    on_server = history.server.run(f"mailkeepctl report {' '.join(words)}").stdout
    assert on_server.rstrip() in history.ask("report", *words)
    assert "delivered" in on_server


def test_a_trace_says_where_each_message_is(history: HistoryServer) -> None:
    answer = history.ask("trace", ANNA)
    for line in (
        f"{ANNA} sent it from ",
        f"  {FRIEND}: mx.outside.test has it since ",
        f"  {REFUSING}: given up at ",
        "    mx.outside.test refuses it: there is no such mailbox.",
        f"  {DEFERRING}: waits, and is tried again; ",
        f"  {BEN}: it is in the mailbox since ",
        "  a notice of this server",
        "The log reaches back to ",
    ):
        assert line in answer, answer


def test_a_trace_finds_a_message_by_each_of_its_names(history: HistoryServer) -> None:
    [answer] = json.loads(history.ask("trace", FRIEND, "--json"))
    [message] = [message for message in answer["messages"] if message["recipients"]]
    assert message["login"] == ANNA
    for name in (message["queue_id"], message["message_id"]):
        [same] = json.loads(history.ask("trace", name, "--json"))
        assert [each["queue_id"] for each in same["messages"]] == [message["queue_id"]]
    assert message["mailbox"], "Dovecot has said where it put Ben's copy"


def test_who_is_refused_at_the_door_is_found(history: HistoryServer) -> None:
    answer = history.ask("trace", NOBODY)
    assert "No account and no alias has this address." in answer
    assert f"from <{STRANGER}> to <{NOBODY}>" in answer
    answer = history.ask("trace", FORGED)
    assert "refused at the door (MAIL): " in answer
    assert "The login may not write as this address." in answer


def test_a_log_that_does_not_reach_back_says_so(history: HistoryServer) -> None:
    answer = history.ask("trace", "who@outside.test", "--since", "2020-01-01")
    assert "The log has no message of who@outside.test." in answer
    assert "it NO LONGER REACHES back to 2020-01-01 00:00:00" in answer


def test_the_journal_and_the_kept_lines_say_the_same(history: HistoryServer) -> None:
    """The log keeper's copy is read where there is one: without it, the journal."""
    before = history.count()[ANNA]
    history.server.run("systemctl stop mailkeep-logs; mv /var/log/mailkeep /var/log/mailkeep.away")
    try:
        without = history.count()[ANNA]
    finally:
        history.server.run("mv /var/log/mailkeep.away /var/log/mailkeep; systemctl start mailkeep-logs")
    assert without == before


def test_exported_lines_of_the_journal_are_read_anywhere(history: HistoryServer, tmp_path: Any) -> None:
    for form in ("export", "json", "short-iso"):
        path = tmp_path / form
        path.write_text(history.server.run(f"journalctl --unit postfix --unit dovecot --output {form}").stdout)
        words = [sys.executable, "-m", "mailkeep", "report", "--file", str(path), "--by", "account", "--json"]
        [report] = json.loads(subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout)
        assert has_all_fates(next(row for row in report["rows"] if row["key"] == ANNA)), form


def test_the_service_that_keeps_the_numbers_of_days_can_do_so(history: HistoryServer) -> None:
    """In its sandbox; the log of this server has no whole day yet."""
    history.server.run("systemctl start mailkeep-history.service")
    assert "numbers of 0 days are kept anew" in history.server.run("journalctl -u mailkeep-history -o cat").stdout
    assert history.server.run("stat -c %a /var/lib/mailkeep-history").stdout.strip() == "700"
    assert "mailkeep-history.timer" in history.server.run("systemctl list-timers --all").stdout
    forgotten = history.server.run("mailkeepctl forget bert@example.test").stdout
    assert forgotten == "The numbers of bert@example.test of 0 days are now those of (removed).\n"
    refused = history.server.run(f"mailkeepctl forget {ANNA}", check=False)
    assert (refused.returncode, "is still in mail.yml" in refused.stderr) == (1, True)
