"""People set their own rules by ManageSieve, and nothing else goes through its door."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from clients import SIEVE, STRANGER, SieveClient, compose_message, install_script, is_accepted, log_in, shake_hands

from mailkeep.lab import Internet, Lab, LabError, Server, poll
from mailkeep.lab.site import Site

ANNA, BEN = "anna@example.test", "ben@example-two.test"
EXTENSIONS = {"vacation", "fileinto", "envelope", "mailbox", "body", "include", "imap4flags", "date", "relational"}
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

    def receive(self, subject: str, *headers: str, to: str = BEN) -> tuple[int, list[str]]:
        """A stranger's message: the last reply, and those to refused recipients."""
        text = compose_message(STRANGER, to, subject, *headers).encode()
        reply = self.outside.send(STRANGER, (to,), self.server.ip, text)
        return reply.code, [*reply.refused.values()]

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
    server = lab.boot_server("rules", hostname="mail.example.test", image=built_image)
    try:
        internet.resolve_for(server)
        site = built_site.copy_for(server)
        result = site.deploy()
        assert result.code == 0, result.output
        yield RulesServer(site, internet)
    finally:
        server.remove()


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
