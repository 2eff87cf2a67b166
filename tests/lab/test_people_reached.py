"""Mail of strangers that leaves the server again is bounded and never signed; lists count as their members."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import yaml
from clients import STRANGER, SUBMISSIONS, compose_message, deliver_message, is_accepted

from mailkeep.lab import Internet, Lab, Server, poll
from mailkeep.lab.site import Site

ANNA, BEN = "anna@example.test", "ben@example-two.test"
TRIO, CLUB, BOUNCING = "trio@example.test", "club@example.test", "bouncing@example.test"
ADMINISTRATOR = "operator@outside.test"
"""The other one has her mailbox on the server."""
MEMBERS = 6
SETTINGS = {
    "aliases": {
        TRIO: [f"t{number}@outside.test" for number in range(3)],
        CLUB: [TRIO, *(f"c{number}@outside.test" for number in range(MEMBERS - 3))],
        BOUNCING: ["refuse@outside.test"],
    },
    "guard": {
        "limits": {"recipients_per_10_minutes": MEMBERS + 1},
        "local": {"recipients_per_hour": 3, "recipients_per_day": 100},
        "lists": {"recipients_per_hour": 9, "recipients_per_day": 90, "messages_per_hour": 1},
        "server": {"recipients_per_hour": 80},
        "leaving": {"recipients_per_hour": 80},
    },
}
BEN_HOME = "/var/vmail/example-two.test/ben"


@dataclass(frozen=True)
class ReachServer:
    site: Site
    outside: Internet

    @property
    def server(self) -> Server:
        return self.site.server

    def submit(self, to: str, subject: str) -> str:
        text, login = compose_message(ANNA, to, subject), (ANNA, self.site.passphrases[ANNA])
        return deliver_message(str(self.server.ip), SUBMISSIONS, ANNA, [to], text, login=login)

    def receive(self, subject: str, *to: str, author: str = STRANGER, sender: str = STRANGER) -> tuple[int, list[str]]:
        """A stranger's message: the last reply, and the replies to the recipients that were refused."""
        text = compose_message(author, to[0], subject).encode()
        reply = self.outside.send(sender, to, self.server.ip, text)
        return reply.code, [*reply.refused.values()]

    def list_outside(self, subject: str) -> list[str]:
        """The recipients elsewhere who got it."""
        messages = [message for message in self.outside.read_messages() if subject in str(message.message["Subject"])]
        return sorted(recipient for message in messages for recipient in message.recipients)

    def read_status(self, section: str) -> dict[str, int]:
        status = json.loads(self.server.run("mailkeepctl limits --json").stdout)
        return {usage["limit"]: usage["used"] for usage in status[section]}

    def count_in_inbox(self, subject: str) -> int:
        inbox = f"{BEN_HOME}/Maildir/new {BEN_HOME}/Maildir/cur"  # not Dovecot's cache, which has subjects, too
        return int(self.server.run(f"grep -rls 'Subject: {subject}' {inbox} | wc -l").stdout)


@pytest.fixture(scope="module")
def reach_server(lab: Lab, internet: Internet, built_site: Site, built_image: str) -> Iterator[ReachServer]:
    server = lab.boot_server("reach", hostname="mail.example.test", image=built_image)
    internet.resolve_for(server)
    site = built_site.copy_for(server)
    settings = yaml.safe_load(site.settings_file.read_text())
    aliases = {**settings.get("aliases", {}), **SETTINGS["aliases"]}
    trusted = {"trusted": [str(internet.ip)]}  # its mail in Anna's name comes in, and must not be signed as hers
    site.settings_file.write_text(yaml.safe_dump({**settings, **SETTINGS, "aliases": aliases, "inbound": trusted}))
    result = site.deploy()
    assert result.code == 0, result.output
    yield ReachServer(site, internet)
    server.remove()


def test_a_list_counts_as_its_members(reach_server: ReachServer) -> None:
    assert is_accepted(reach_server.submit(CLUB, "to the club"))
    answer = reach_server.submit(CLUB, "once more")
    assert answer.startswith("450 4.7.1")
    assert "anna@example.test may send 7 recipients in 10 minutes; again at" in answer
    poll(lambda: len(reach_server.list_outside("to the club")) == MEMBERS, 20, "the club did not get it once each")


def test_a_stranger_s_mail_to_a_list_is_one_copy_each_and_so_much_an_hour(reach_server: ReachServer) -> None:
    trios = [TRIO, *(f"trio+{number}@example.test" for number in range(4))]
    assert reach_server.receive("to the trio", *trios, CLUB) == (250, [])
    poll(lambda: len(reach_server.list_outside("to the trio")) >= MEMBERS, 20, "it did not arrive")
    # The club's other three members, and the trio's three again: each list has its own nine.
    assert reach_server.receive("second", TRIO)[0] == 250
    assert reach_server.receive("third", TRIO)[0] == 250
    code, (refusal,) = reach_server.receive("fourth", TRIO, BEN)
    assert code == 250, "the other recipient gets it"
    assert "450" in refusal
    assert "trio@example.test takes 9 recipients in an hour" in refusal
    assert len(reach_server.list_outside("to the trio")) == MEMBERS
    assert "trio@example.test" in reach_server.server.run("mailkeepctl events | grep Strangers").stdout


def test_many_addresses_of_one_mailbox_are_few_copies(reach_server: ReachServer) -> None:
    postmasters = [f"postmaster+{number}@mail.example.test" for number in range(12)]
    _, refusals = reach_server.receive("to the postmaster", *postmasters)
    assert [refusal[:3] for refusal in refusals] == ["452"] * 7
    poll(lambda: reach_server.list_outside("to the postmaster"), 20, "no copy")
    _, refusals = reach_server.receive("to ben", *(f"ben+{number}@example-two.test" for number in range(12)))
    assert [refusal[:3] for refusal in refusals] == ["452"] * 7
    poll(lambda: reach_server.count_in_inbox("to ben") == 5, 20, "not five copies")
    assert reach_server.list_outside("to the postmaster") == [ADMINISTRATOR]


def test_what_a_script_sends_on_is_not_signed_not_root_s_and_ends_with_a_freeze(reach_server: ReachServer) -> None:
    server = reach_server.server
    script = 'redirect "friend@outside.test";\n'
    write = f"install -d -o vmail -g vmail -m 700 {BEN_HOME} && cat > {BEN_HOME}/.dovecot.sieve"
    server.run(f"{write} && chown vmail: {BEN_HOME}/.dovecot.sieve", stdin=script)
    local, forwards = reach_server.read_status("local"), reach_server.read_status("forwards")
    for number in range(3):  # half of ben's limit
        assert reach_server.receive(f"forged {number}", BEN, author=ANNA)[0] == 250
    poll(lambda: len(reach_server.list_outside("forged")) == 3, 30, "not redirected")
    for message in reach_server.outside.read_messages():
        if "forged" in str(message.message["Subject"]):
            assert message.message["X-Sieve-Redirected-From"] == BEN
            assert message.message["DKIM-Signature"] is None
    assert reach_server.read_status("local") == local
    assert reach_server.read_status("forwards")["recipients_per_hour"] == forwards["recipients_per_hour"] + 3
    server.run(f"mailkeepctl freeze {BEN}")
    try:
        # Dovecot looks at the list once in a second.
        poll(lambda: "sieve_enabled\tno" in server.run(f"doveadm user {BEN}").stdout, 5, "the script runs still")
        assert reach_server.receive("forged while frozen", BEN, author=ANNA)[0] == 250
        poll(lambda: reach_server.count_in_inbox("forged while frozen") == 1, 30, "not in the inbox")
        assert reach_server.list_outside("forged while frozen") == []
    finally:
        server.run(f"mailkeepctl thaw {BEN}; rm {BEN_HOME}/.dovecot.sieve")
    assert server.run("printf 'Subject: from root\\n\\nx\\n' | sendmail root; sleep 1; mailq").stdout
    poll(lambda: reach_server.list_outside("from root"), 20, "root's mail waits")


def test_a_forged_sender_gets_few_bounces_with_headers_only(reach_server: ReachServer) -> None:
    for number in range(5):
        assert reach_server.receive(f"bounced {number}", BOUNCING, sender="victim@outside.test")[0] == 250
    poll(lambda: reach_server.list_outside("Undelivered").count("victim@outside.test") == 3, 30, "not three bounces")
    poll(lambda: "MAILER-DAEMON" not in reach_server.server.run("postqueue -j").stdout, 20, "bounces wait")
    bounce = reach_server.outside.wait_for(lambda received: received.recipients == ("victim@outside.test",))
    assert b"Hello." not in bounce.data
    assert b"Subject: bounced" in bounce.data
    assert bounce.message["DKIM-Signature"] is None
    waiting = [json.loads(line) for line in reach_server.server.run("postqueue -j").stdout.splitlines()]
    assert len([row for row in waiting if row["sender"] == "victim@outside.test"]) == 2, waiting
    reach_server.server.run("postsuper -d ALL")


def test_without_the_guard_lists_wait_and_all_else_comes_in(reach_server: ReachServer) -> None:
    reach_server.server.run("systemctl stop mailkeep-guard.socket mailkeep-guard.service")
    try:
        _, (refusal,) = reach_server.receive("without the guard", CLUB, BEN, "ben+x@example-two.test")
        assert refusal.startswith("451 4.3.5")
        poll(lambda: reach_server.count_in_inbox("without the guard") == 2, 20, "not in the inbox")
    finally:
        reach_server.server.run("systemctl start mailkeep-guard.socket mailkeep-guard.service")


def test_what_leaves_past_the_guard_is_stopped(reach_server: ReachServer) -> None:
    """As a process of Postfix's own: alerts ask no guard, and count to what leaves."""
    server = reach_server.server
    assert is_accepted(reach_server.submit("defer@outside.test", "waits"))
    program = f"""
import smtplib, socket
from mailkeep_server.common.unix_smtp import UnixSmtp
with UnixSmtp("/var/spool/postfix/private/alerts-unsigned", local_hostname="localhost", timeout=20) as client:
    for number in range(85):
        client.sendmail("root@mail.example.test", ["{ADMINISTRATOR}"], b"Subject: flood\\n\\nx\\n")
"""
    server.run("PYTHONPATH=/usr/lib/mailkeep python3 -", stdin=program)
    poll(lambda: "hold" in server.run("postqueue -j").stdout, 30, "nothing is on hold")
    server.run("cat /var/lib/mailkeep-watch/stopped; postsuper -H - < /var/lib/mailkeep-watch/stopped")
    poll(lambda: reach_server.list_outside("[mail.example.test]"), 20, "no alert")


def test_a_silent_server_elsewhere_uses_up_one_connection_a_try(reach_server: ReachServer) -> None:
    """The kernel repeats each SYN. A stranger who names a silent server must not use up the connections of all."""
    server = reach_server.server
    server.run("nft -f /etc/nftables.conf")  # all of the burst, a quarter of connections_per_hour, is free again
    server.run(
        "ip link add silent type veth peer name peer && ip link set silent up && ip link set peer up &&"
        " ip route add 203.0.113.9 dev silent && ip neigh add 203.0.113.9 lladdr 02:00:00:00:00:09 dev silent"
    )
    program = """
import errno, pathlib, socket, time
def connect():
    client = socket.socket()
    client.setblocking(False)
    return client, client.connect_ex(("203.0.113.9", 25))
clients = [connect() for number in range(40)]
assert {error for _, error in clients} == {errno.EINPROGRESS}, clients
deadline = time.monotonic() + 30
packets = pathlib.Path("/sys/class/net/silent/statistics/tx_packets")
while int(packets.read_text()) < 140:  # 40 first ones, and three repeats after 1, 3 and 7 seconds
    assert time.monotonic() < deadline, packets.read_text()
    time.sleep(0.1)
print([errno.errorcode[connect()[1]] for number in range(10)])
"""
    try:
        answers = server.run("runuser -u postfix -- python3 -", stdin=program).stdout
    finally:
        server.run("ip link delete silent; nft -f /etc/nftables.conf")
    assert answers.split() == ["['EINPROGRESS',", *["'EINPROGRESS',"] * 8, "'EINPROGRESS']"]
