"""Firewalls and jails that are not Mailkeep's, and a fail2ban that was blinded or overridden: each is told."""

import json
import re
from collections.abc import Callable

import pytest
import yaml

from mailkeep.host.plan import print_plan
from mailkeep.lab import poll
from mailkeep.lab.site import Site
from mailkeep.verify.outcome import Outcome
from mailkeep.verify.verification import verify_inventory

Boot = Callable[[], Site]
ALERT_SECONDS = 20.0
JAILS = "/etc/fail2ban/jail.d"
PROOF = "systemctl start mailkeep-jails; cat /var/lib/mailkeep-watch/jails.json"
# As when fs.inotify.max_user_instances is used up: fail2ban runs and reads no journal.
BLINDED = """
mkdir -p /etc/systemd/system/fail2ban.service.d
printf '[Service]\\nSystemCallFilter=~inotify_init inotify_init1\\nSystemCallErrorNumber=EMFILE\\n' \\
    >/etc/systemd/system/fail2ban.service.d/zz-blind.conf
systemctl daemon-reload; systemctl restart fail2ban"""
OVERRIDDEN = {
    "never bans 0.0.0.0/0": f"printf '[dovecot]\\nignoreip = 0.0.0.0/0 ::/0\\n' >{JAILS}/zz.local; "
    "systemctl restart fail2ban",
    "maxretry = 100000": f"printf '[dovecot]\\nmaxretry = 100000\\n' >{JAILS}/zz.local; systemctl restart fail2ban",
    "bantime = 1": "fail2ban-client set dovecot bantime 1",
    "findtime = 1": "fail2ban-client set dovecot findtime 1",
    "/8 accept": "nft insert rule inet f2b-table f2b-chain ip saddr 192.0.0.0/8 accept; "
    "nft insert rule inet f2b-table f2b-chain ip saddr 203.0.0.0/8 accept; "
    "nft insert rule inet f2b-table f2b-chain ip saddr 198.0.0.0/8 accept",
}
UFW = (
    "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y ufw 2>&1 && ufw allow 22/tcp && "
    "ufw --force enable"
)
OWN_CHAIN = """
nft add table inet own
nft 'add chain inet own input { type filter hook input priority 5; policy drop; }'
nft add rule inet own input iif lo accept
nft add rule inet own input ct state established,related accept
nft add rule inet own input tcp dport '{ 22, 25 }' accept"""
# What docker and a blocklist make, and a monitoring agent listens for.
HARMLESS = """
nft add table ip dockerish
nft 'add chain ip dockerish post { type nat hook postrouting priority srcnat; }'
nft 'add chain ip dockerish forward { type filter hook forward priority filter; policy drop; }'
nft 'add chain ip dockerish raw { type filter hook prerouting priority raw; }'
nft add rule ip dockerish raw ip daddr 172.17.0.2 iifname != docker0 drop
nft add table inet blocklist
nft 'add set inet blocklist bad { type ipv4_addr; flags interval; elements = { 100.64.0.0/10 } }'
nft 'add chain inet blocklist input { type filter hook input priority -5; }'
nft add rule inet blocklist input ip saddr @bad drop"""


def verify(site: Site) -> dict[str, Outcome]:
    return {outcome.check: outcome for outcome in verify_inventory(site.inventory)}


def read_warnings(site: Site, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    print_plan(site.inventory, json=True)
    (host,) = json.loads(capsys.readouterr().out)["hosts"].values()
    assert not host["error"], "pyinfra reads the SSH configuration of a name once in a process"
    return "\n".join(host["warnings"])


def wait_for_trouble(site: Site, text: str) -> None:
    poll(
        lambda: text in site.server.run("cat /run/mailkeep-watch/looked.json").stdout,
        ALERT_SECONDS,
        f"no trouble: {text}",
    )


def read_proof(site: Site) -> dict[str, list[str]]:
    faults: dict[str, list[str]] = json.loads(site.server.run(PROOF).stdout)["faults"]
    return faults


def test_a_fail2ban_that_reads_no_journal_is_told_by_verify_and_by_the_servers_own_proof(boot_copy: Boot) -> None:
    site = boot_copy()
    site.server.run(BLINDED)
    outcome = verify(site)["every_jail_bans_in_the_firewall"]
    assert outcome.status == "failed"
    assert "jail dovecot: it did not notice that the service refused" in outcome.observed
    assert "did not notice" in read_proof(site)["dovecot"][0]
    wait_for_trouble(site, "The jail dovecot does not ban: it did not notice")


@pytest.mark.parametrize("sign", OVERRIDDEN)
def test_a_jail_that_bans_nobody_although_its_file_is_right_is_told(boot_copy: Boot, sign: str) -> None:
    site = boot_copy()
    site.server.run(OVERRIDDEN[sign])
    outcome = verify(site)["every_jail_bans_in_the_firewall"]
    assert outcome.status == "failed"
    assert sign in outcome.observed
    assert read_proof(site)["dovecot"]


def test_rules_for_one_user_in_our_output_chain_are_told(boot_copy: Boot) -> None:
    site = boot_copy()
    site.server.run("nft insert rule inet mailkeep output meta skuid daemon accept")
    outcome = verify(site)["the_firewall_is_exactly_as_declared"]
    assert (outcome.status, outcome.observed) == ("failed", "`meta skuid 1 accept`")
    wait_for_trouble(site, "rules were changed by hand")
    site.server.run("systemctl reload nftables")
    poll(lambda: "changed by hand" not in site.server.run("cat /run/mailkeep-watch/looked.json").stdout, 20, "not over")


@pytest.mark.parametrize(("script", "name"), [(UFW, "of ufw"), (OWN_CHAIN, "inet own")], ids=["ufw", "own-chain"])
def test_another_firewall_is_told_by_plan_verify_and_watch(
    boot_copy: Boot, capsys: pytest.CaptureFixture[str], script: str, name: str
) -> None:
    site = boot_copy(name.split()[-1])
    site.server.run(script)
    warnings = read_warnings(site, capsys)
    assert "Another firewall drops what Mailkeep's lets in" in warnings
    assert name in warnings
    outcomes = verify(site)
    for check in ("no_other_firewall_closes_our_ports", "strangers_reach_every_service"):
        assert outcomes[check].status == "failed"
        assert re.search(r"port (\d+, )*465\b", outcomes[check].observed)
    wait_for_trouble(site, "Another firewall drops what Mailkeep")


def test_containers_and_blocklists_are_no_trouble(boot_copy: Boot, capsys: pytest.CaptureFixture[str]) -> None:
    site = boot_copy("containers")
    site.server.run(HARMLESS)
    outcomes = verify(site)
    told = {name: outcome.observed for name, outcome in outcomes.items() if outcome.status in ("failed", "warning")}
    assert told == {}
    assert "firewall" not in read_warnings(site, capsys)


def test_a_jail_of_the_operators_that_reads_another_groups_log_does_not_stop_ours(boot_copy: Boot) -> None:
    site = boot_copy()
    jail = (
        "[mine]\\nenabled = true\\nbackend = polling\\nfilter = nginx-http-auth\\nlogpath = /var/log/mine/error.log\\n"
    )
    site.server.run(
        f"mkdir -m 750 /var/log/mine; chown www-data:adm /var/log/mine; install -o www-data -g adm -m 640 /dev/null "
        f"/var/log/mine/error.log; printf '{jail}port = http\\n' >{JAILS}/mine.conf; systemctl restart fail2ban"
    )
    outcomes = verify(site)
    assert outcomes["jails_of_the_operator_ban_too"].status == "passed"
    assert outcomes["every_jail_bans_in_the_firewall"].status == "passed"
    site.server.run(f"sed -i 's/^port.*/port = imap3/' {JAILS}/mine.conf; systemctl restart fail2ban")
    outcomes = verify(site)
    assert "no service is called imap3" in outcomes["jails_of_the_operator_ban_too"].observed
    assert "no service is called imap3" in read_proof(site)["mine"][0]


def test_a_deploy_that_would_leave_fail2ban_unable_to_start_is_refused(boot_copy: Boot) -> None:
    site = boot_copy()
    site.server.run(
        f"printf '[mine]\\nenabled = true\\nbackend = polling\\nfilter = sshd\\nfailregex = ^(x <HOST>\\n"
        f"logpath = /var/log/dpkg.log\\n' >{JAILS}/mine.conf"
    )
    settings = yaml.safe_load(site.settings_file.read_text())
    settings["admin"]["networks"].append("100.64.0.0/24")
    site.settings_file.write_text(yaml.safe_dump(settings))
    done = site.deploy()
    assert done.code == 1
    assert "jail mine" in done.output
    assert "fail2ban would start no jail at all" in done.output
    assert site.server.run("fail2ban-client status").stdout.count("dovecot") == 1
