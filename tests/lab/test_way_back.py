"""A machine with mail server, firewall, jail and web server of its owner's becomes a Mailkeep server, and goes back."""

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from clients import IMAP, IMAPS, catch_answer, is_accepted, log_in, open_smtp

from mailkeep.host.adoption import BACKUPS
from mailkeep.lab import Internet, Lab, LabError, Server, poll
from mailkeep.lab.site import DeployResult, Site, create_site

PASSWORD = "violet-kettle-9-orbit-lamp"  # noqa: S105
NFTABLES = """#!/usr/sbin/nft -f
flush ruleset
table inet site {
    chain input {
        type filter hook input priority 10; policy accept;
        tcp dport 8099 drop
    }
}
"""
SHOP_JAIL = (
    "[shop]\nenabled = true\nbackend = polling\nfilter = nginx-http-auth\nport = http\nlogpath = /var/log/shop.log\n"
)
SET_UP = f"""set -eu
export DEBIAN_FRONTEND=noninteractive
echo postfix postfix/main_mailer_type select Internet Site | debconf-set-selections
echo postfix postfix/mailname string example.test | debconf-set-selections
apt-get -qq update
apt-get -qq install -y --no-install-recommends postfix dovecot-imapd nftables fail2ban nginx-light >/dev/null 2>&1
useradd --create-home anna; echo 'anna:{PASSWORD}' | chpasswd
postconf -e myhostname=mail.example.test 'mydestination=$myhostname, example.test, localhost' home_mailbox=Maildir/
printf 'root: anna\\nsales: anna\\n' >/etc/aliases; newaliases
printf '%s\\n' 'mail_driver = maildir' 'mail_path = ~/Maildir' 'mail_inbox_path = ~/Maildir' \\
    >/etc/dovecot/conf.d/99-by-hand.conf
chmod 750 /etc/dovecot/conf.d
printf 'relay of no use\\n' >/etc/postfix/relay_password; chmod 600 /etc/postfix/relay_password
printf '{NFTABLES}' >/etc/nftables.conf
: >/var/log/shop.log; printf '{SHOP_JAIL}' >/etc/fail2ban/jail.d/shop.local
printf '[sshd]\\nenabled = true\\nbackend = systemd\\n' >/etc/fail2ban/jail.local
echo 'the shop' >/var/www/html/index.html
systemctl enable --quiet --now nftables fail2ban nginx postfix dovecot
systemctl restart nftables fail2ban postfix dovecot
"""
# What useradd and APT change is no configuration of the services.
FILES = r"""cd /etc; find . \( -name 'passwd*' -o -name 'group*' -o -name '*shadow*' -o -name '.pwd.lock' \
  -o -name 'sub?id*' -o -name ld.so.cache \
  -o -name resolv.conf -o -name 'aliases.*' -o -path './rc?.d/*' -o -path './ssl/*' \) -prune -o \
  \( -type f -o -type l \) -printf '%p %y %m %u %g %l ' \
  -exec sh -c '[ -L "$1" ] || sha256sum < "$1"' - {} \; -printf '\n'"""
UNITS = "postfix dovecot nftables fail2ban nginx"
STATE = f"systemctl is-active {UNITS}; systemctl is-enabled {UNITS}"
RULES = "nft list tables; nft list table inet site"


@dataclass
class Journey:
    """What the machine had before, what was said, and what a deploy made of it."""

    site: Site
    files: list[str]
    state: str
    plan: str
    deployed: DeployResult

    @property
    def server(self) -> Server:
        return self.site.server


def run_mailkeep(*arguments: str | Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "mailkeep", *map(str, arguments)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def read_files(server: Server) -> list[str]:
    return sorted(server.run(FILES).stdout.splitlines())


def send(server: Server, subject: str) -> str:
    def act() -> str:
        with open_smtp(str(server.ip), tls=False) as connection:
            connection.sendmail("x@outside.test", ["anna@example.test"], f"Subject: {subject}\r\n\r\nhello\r\n")
        return "250 sent"

    return catch_answer(act)


def read_subjects(server: Server) -> list[str]:
    """Of the former mailbox, as its user reads it."""
    script = (
        f"import imaplib; c = imaplib.IMAP4('127.0.0.1', {IMAP}); c.login('anna', '{PASSWORD}'); c.select(); "
        "print([d[1].decode().strip() for d in c.fetch('1:*', '(BODY[HEADER.FIELDS (SUBJECT)])')[1] if len(d) == 2])"
    )
    done = server.run(f'python3 -c "{script}"', check=False)
    return [text for text in ("before", "after") if text in done.stdout] or [done.stderr[-300:]]


def wait_for_subjects(server: Server, *subjects: str) -> None:
    with suppress(LabError):
        poll(lambda: read_subjects(server) == [*subjects], 15, "")
    assert read_subjects(server) == [*subjects], server.run("journalctl -n 30 -u 'postfix*' -u dovecot").stdout


def read_web(server: Server) -> str:
    with urllib.request.urlopen(f"http://{server.ip}/", timeout=10) as answer:
        return str(answer.read().decode())


@pytest.fixture(scope="module")
def journey(lab: Lab, internet: Internet, built_site: Site) -> Iterator[Journey]:
    server = lab.boot_server("byhand", hostname="mail.example.test")
    server.run("bash -s", stdin=SET_UP, timeout=300)
    internet.resolve_for(server)
    site = create_site(lab, server)
    site.settings_file.write_text(site.settings_file.read_text() + "firewall:\n  open: [80]\n")
    site.publish(internet)
    assert send(server, "before") == "250 sent"
    wait_for_subjects(server, "before")
    files, state = read_files(server), server.run(STATE).stdout
    plan = run_mailkeep("plan", site.inventory, "--adopt")[1]
    yield Journey(site, files, state, plan, site.deploy("--data", "adopt=true"))
    built_site.publish(internet)  # for the tests of other files


def test_it_says_first_what_goes_and_what_stays(journey: Journey) -> None:
    for text in (
        "mail: these stay:",
        "  jails of your own: shop",
        "  firewalls beside Mailkeep's: table inet site",
        "  firewall rules, from the next boot on: those of /etc/nftables.conf",
        "  jails that Mailkeep's replace: sshd",
        "services that are reached as before: nginx",
        "/etc/postfix/main.cf",
    ):
        assert text.replace("mail: ", "byhand: ") in journey.plan, journey.plan
    assert "gone: jails that Mailkeep's replace: sshd" in journey.deployed.output
    assert "stays: jails of your own: shop" in journey.deployed.output


def test_what_is_replaced_is_saved_once_for_root_alone(journey: Journey) -> None:
    server = journey.server
    assert journey.deployed.code == 0, journey.deployed.output
    assert is_accepted(
        log_in(str(server.ip), IMAPS, "anna@example.test", journey.site.passphrases["anna@example.test"])
    )
    assert read_web(server) == "the shop\n"
    assert server.run("fail2ban-client status shop", check=False).returncode == 0
    assert journey.site.deploy().changed == []

    [saved] = server.run(f"ls -d {BACKUPS}/*").stdout.split()
    assert server.run(f"stat -c '%a %U' {BACKUPS} {saved}").stdout == "700 root\n700 root\n"
    assert server.run(f"cat {saved}/files/etc/nftables.conf").stdout == NFTABLES
    assert server.run(f"stat -c %a {saved}/files/etc/postfix/relay_password").stdout == "600\n"
    assert "un-adopt" in server.run(f"cat {saved}/README").stdout


def test_the_way_back_needs_an_agreement_and_leads_to_what_was(journey: Journey) -> None:
    server, inventory = journey.server, journey.site.inventory
    code, output = run_mailkeep("un-adopt", inventory)
    assert (code, "nothing was changed" in output) == (1, True), output
    assert journey.site.deploy().changed == []

    # As after a run that was killed when Mailkeep had ended, and nothing was put back.
    server.run(
        "touch /var/lib/mailkeep/gone-back; systemctl stop mailkeep-watch postfix dovecot; rm /etc/nftables.conf"
    )
    code, output = run_mailkeep("un-adopt", inventory, "--yes")
    assert code == 0, output

    assert server.run(STATE).stdout == journey.state
    assert sorted(set(journey.files) - set(read_files(server))) == []
    assert server.run("systemctl list-units --failed --plain --no-legend").stdout == ""
    assert server.run("ls -d /usr/lib/mailkeep /etc/mailkeep /etc/systemd/system/mailkeep*", check=False).stdout == ""
    assert send(server, "after") == "250 sent"
    wait_for_subjects(server, "before", "after")
    assert "tcp dport 8099 drop" in server.run(RULES).stdout
    assert "mailkeep" not in server.run(RULES).stdout
    assert sorted(server.run("fail2ban-client status | sed -n 's/.*list:.//p'").stdout.replace(",", "").split()) == [
        "shop",
        "sshd",
    ]
    assert read_web(server) == "the shop\n"

    code, output = run_mailkeep("un-adopt", inventory, "--yes")
    assert (code, "it has gone back already" in output) == (0, True), output
    code, output = run_mailkeep("plan", inventory)
    assert (code, "/etc/postfix/main.cf exists and Mailkeep did not write it" in output) == (1, True), output


def test_it_is_the_same_after_a_reboot_and_can_be_taken_over_again(journey: Journey) -> None:
    server = journey.server
    server.restart()
    poll(lambda: server.run(STATE, check=False).stdout == journey.state, 20, "not all runs again")
    assert "tcp dport 8099 drop" in server.run(RULES).stdout
    assert read_subjects(server) == ["before", "after"]

    deployed = journey.site.deploy("--data", "adopt=true")
    assert deployed.code == 0, deployed.output
    assert len(server.run(f"ls -d {BACKUPS}/*").stdout.split()) == 2
