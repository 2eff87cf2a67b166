"""All mail is elsewhere too, comes back from there, and whoever is root on the mail server cannot take it away.

The backups' target is the outside world's machine: a Linux user with borg and one line in its authorized_keys.
"""

import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from backed_up_site import ANNA, BEN, BORG, KEEPER, LOCAL, PATH, BackedUp, accept_backups, declare_backup
from clients import IMAPS, STRANGER, compose_message, is_accepted, log_in

from mailkeep.lab import Internet, Lab, poll
from mailkeep.lab.site import Site
from mailkeep.verify.verification import verify_inventory
from mailkeep_server.common import paths


@pytest.fixture(scope="module")
def backed_up(lab: Lab, internet: Internet, built_site: Site, built_image: str) -> Iterator[BackedUp]:
    server = lab.boot_server("backed-up", hostname="mail.example.test", image=built_image)
    site = built_site.copy_for(server)
    site.publish(internet)
    backed_up = BackedUp(site, internet)
    declare_backup(site, internet)
    site.settings_file.write_text(site.settings_file.read_text() + "spam: light\n")
    code, output = backed_up.run_cli("backup", "--init")
    assert code == 0, output
    [line] = re.findall(r"^command=.*$", output, re.MULTILINE)
    accept_backups(internet, f"{line}\n")
    try:
        deployed = site.deploy()
        assert deployed.code == 0, deployed.output
        code, output = backed_up.run_cli("backup", "--init")
        assert code == 0, output
        assert "Keep on paper" in output
        assert "BORG PAPER KEY" in output
        for account in (ANNA, BEN):
            for number in range(3):
                backed_up.receive(account, f"message {number} to {account}")
        # Dovecot stores a message to several people once, and links it.
        mail = compose_message(STRANGER, ANNA, "to both").encode()
        assert internet.send(STRANGER, (ANNA, BEN), server.ip, mail).code == 250
        for account in (ANNA, BEN):
            poll(lambda account=account: "to both" in backed_up.list_subjects(account), 30, "not arrived")
        backed_up.back_up()
        yield backed_up
    finally:
        built_site.publish(internet)
        server.remove()


def test_both_targets_have_an_archive_and_its_proof_holds(backed_up: BackedUp) -> None:
    code, output = backed_up.run_cli("backup", "--list", "--json")
    assert code == 0, output
    reports = json.loads(output)
    assert [(report["target"], len(report["archives"]), report["faults"]) for report in reports] == [
        ("offsite", 1, []),
        ("disk", 1, []),
    ]
    assert backed_up.prove() == {"offsite": "", "disk": ""}


def test_verify_restores_a_mailbox_from_each_target(backed_up: BackedUp) -> None:
    outcomes = {outcome.check: outcome.status for outcome in verify_inventory(backed_up.site.inventory)}
    assert outcomes["mail_comes_back_from_each_backup"] == "passed"
    assert outcomes["every_target_has_a_backup"] == "passed"
    assert [check for check, status in outcomes.items() if status == "failed"] == []


def test_deleted_mail_comes_back_with_its_flags_and_not_twice(backed_up: BackedUp) -> None:
    server = backed_up.server
    before = sorted(backed_up.read_mail(ANNA))
    server.run(f"doveadm flags add -u {ANNA} '\\Flagged Important' mailbox INBOX SUBJECT 'message 1 to'")
    backed_up.back_up()
    flags = f"doveadm -f tab fetch -u {ANNA} 'uid flags date.received' mailbox INBOX SUBJECT 'message'"
    flagged = server.run(flags).stdout
    assert "Important" in flagged
    server.run(f"doveadm expunge -u {ANNA} mailbox INBOX SUBJECT 'message'")
    code, output = backed_up.run_cli("restore", ANNA)
    assert code == 0, output
    assert "INBOX: 3 restored" in output
    assert sorted(backed_up.read_mail(ANNA)) == before
    restored = server.run(flags).stdout
    assert [line.split("\t")[1:] for line in restored.splitlines()] == [
        line.split("\t")[1:] for line in flagged.splitlines()
    ]
    code, output = backed_up.run_cli("restore", ANNA)
    assert code == 0, output
    assert "INBOX: 0 restored" in output
    assert sorted(backed_up.read_mail(ANNA)) == before


def test_a_single_message_is_put_into_a_folder_of_its_own(backed_up: BackedUp) -> None:
    code, output = backed_up.run_cli("restore", BEN, "--subject", "message 2", "--into", "Restored")
    assert code == 0, output
    assert backed_up.list_subjects(BEN, "Restored.INBOX") == [f"message 2 to {BEN}"]
    assert len([s for s in backed_up.list_subjects(BEN) if s.startswith("message")]) == 3


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["nobody@example.test"], "no account of mail.yml"),
        ([ANNA, "--archive", "mail.example.test-1"], "it has no archive mail.example.test-1. The last ones are: mail."),
        ([ANNA, "--folder", "Nothing"], f"has no folder Nothing of {ANNA}: it has INBOX"),
        ([ANNA, "--since", "yesterday"], "a day is written as"),
        ([ANNA, "--target", "moon"], "it has offsite, disk"),
    ],
)
def test_a_restore_that_cannot_be_is_a_clear_error(backed_up: BackedUp, words: list[str], text: str) -> None:
    code, output = backed_up.run_cli("restore", *words)
    assert code == 1
    assert text in output


def test_root_on_the_mail_server_cannot_take_archives_away(backed_up: BackedUp) -> None:
    """As an intruder would try: delete, compact, a shell, another repository. What he deleted is brought back."""
    server, internet = backed_up.server, backed_up.internet
    last = internet.run(f"tail -1 {PATH}/transactions").stdout.split(",")[0].split()[-1]
    files = internet.run(f"cd {PATH}/data && find . -type f ! -name '{last}' | sort | xargs sha256sum").stdout
    borg = (
        "export BORG_PASSCOMMAND='cat /etc/mailkeep/backup/passphrase' BORG_BASE_DIR=/tmp/intruder "
        "BORG_RSH='ssh -F /etc/mailkeep/backup/ssh_config' BORG_DELETE_I_KNOW_WHAT_I_AM_DOING=YES; borg"
    )
    there = f"ssh://{KEEPER}@{internet.ip}:22/home/{KEEPER}"
    server.run(f"{borg} delete --glob-archives '*' {there}/mail; {borg.partition('; ')[2]} compact {there}/mail")
    server.run(f"{borg} delete {there}/mail", check=False)
    assert server.run(f"{borg} init -e none {there}/other", check=False).returncode
    shell = server.run(f"ssh -F /etc/mailkeep/backup/ssh_config {KEEPER}@{internet.ip} id", check=False).stdout
    assert "uid=" not in shell
    names = " ".join(line.split()[1] for line in files.splitlines())
    assert internet.run(f"cd {PATH}/data && sha256sum {names}").stdout == files, "a byte of the archives has changed"

    assert "archive" in backed_up.prove("--quick")["offsite"], "it is not told"
    internet.run(GO_BACK.format(path=PATH, last=last))
    assert backed_up.prove()["offsite"] == ""


GO_BACK = """
cd {path}
for file in data/*/*; do [ "${{file##*/}}" -le {last} ] || rm "$file"; done
rm -f index.* hints.* integrity.*
"""
"""As in docs/backup.md: the repository as it was after this transaction."""
FAULTS = {
    "a flipped byte": (
        "file=$(ls -S PATH/data/0/* | head -1); cp -p $file /root/kept; size=$(stat -c %s $file); "
        "printf '\\377' | dd of=$file bs=1 seek=$((size / 2)) conv=notrunc",
        "cp -p /root/kept $(ls -S PATH/data/0/* | head -1)",
        "damaged",
    ),
    "a missing segment": (
        "file=$(ls -S PATH/data/0/* | head -1); echo $file > /root/name; mv $file /root/kept",
        "mv /root/kept $(cat /root/name)",
        "",
    ),
    "a repository that is gone": ("mv PATH PATH.away", "mv PATH.away PATH", "there is no repository"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damage_at_a_target_is_told_by_the_next_proof_and_its_end_too(backed_up: BackedUp, fault: str) -> None:
    damage, mend, text = (part.replace("PATH", f"{LOCAL}/mail") for part in FAULTS[fault])
    server = backed_up.server
    server.run(damage)
    try:
        server.run("systemctl start mailkeep-backup-proof", check=False)
        poll(lambda: "The backups at disk cannot be trusted" in backed_up.read_troubles(), 15, "not told")
        assert text in backed_up.read_troubles()
        assert "offsite" not in backed_up.read_troubles()
    finally:
        server.run(mend)
    server.run("systemctl start mailkeep-backup-proof", check=False)
    poll(lambda: backed_up.read_troubles() == "", 15, "the end is not seen")


def test_a_backup_takes_no_room_beside_the_mail(backed_up: BackedUp) -> None:
    """A link that stays would keep the space of mail that somebody deletes, on a disk that is full."""
    links = "find /var/vmail -type f -path '*/cur/*' -links +2 -o -type f -path '*/.backup/mail/*'"
    assert backed_up.server.run(links).stdout == ""


def test_a_late_backup_is_told_within_ten_seconds(backed_up: BackedUp) -> None:
    late = (
        "python3 - <<'P'\nimport json\np='/var/lib/mailkeep-backup/status.json'\ns=json.load(open(p))\n"
        "s['targets']['disk']['succeeded'] -= 26 * 3600\njson.dump(s, open(p, 'w'))\nP"
    )
    backed_up.server.run(late)
    poll(lambda: "The last backup to disk is 26 hours old" in backed_up.read_troubles(), 10, "not told")
    backed_up.back_up()
    poll(lambda: backed_up.read_troubles() == "", 10, "the end is not seen")


def test_an_unreachable_target_keeps_no_other_from_its_backup(backed_up: BackedUp) -> None:
    backed_up.internet.run(f"mv ~{KEEPER}/.ssh ~{KEEPER}/.ssh-away")
    try:
        code, output = backed_up.run_cli("backup", "--json")
        assert code == 1
        reports = {report["target"]: report for report in json.loads(output[output.index("[") :])}
        assert "refuses this server's SSH key" in reports["offsite"]["faults"][0]
        assert reports["disk"]["faults"] == []
        poll(lambda: "The last backup to offsite failed" in backed_up.read_troubles(), 15, "not told")
        statuses = {outcome.check: outcome.status for outcome in verify_inventory(backed_up.site.inventory)}
        assert statuses["every_target_has_a_backup"] == "warning"
        assert statuses["mail_comes_back_from_each_backup"] == "failed"
    finally:
        backed_up.internet.run(f"mv ~{KEEPER}/.ssh-away ~{KEEPER}/.ssh")
    backed_up.back_up()  # exit code 0, although the last proof has failed
    assert backed_up.prove("--quick") == {"offsite": "", "disk": ""}


def test_a_full_target_is_told_with_what_to_do_and_the_next_backup_passes(backed_up: BackedUp) -> None:
    server, place = backed_up.server, f"{LOCAL}/mail"
    server.run(
        f"mv {place} {place}.kept && mkdir {place} && mount -t tmpfs -o size=$(($(du -sk {place}.kept | cut -f1) + "
        f"1500))k,mode=700 tmpfs {place} && cp -a {place}.kept/. {place}/"
    )
    before = list_names(backed_up, "disk")
    backed_up.fill_mailbox(3)
    try:
        code, output = backed_up.run_cli("backup")
        assert code == 1
        assert re.search(r"disk \(/srv/backup/mail\)", output)
        assert "FAULT: the disk there is full: make room on it, or run `mailkeep backup NAME --prune`" in output
        assert "Traceback" not in output
        assert len(output.splitlines()) < 24
        poll(
            lambda: "The last backup to disk failed: the disk there is full" in backed_up.read_troubles(),
            15,
            "not told",
        )
        # borg wants room for a whole segment, 500 MB, where it could compact ten.
        server.run(f"mount -o remount,size=1g {place}")
        backed_up.back_up()
        poll(lambda: backed_up.read_troubles() == "", 15, "the end is not seen")
        assert list_names(backed_up, "disk")[: len(before)] == before
        assert backed_up.prove()["disk"] == ""
    finally:
        server.run(
            f"rm -rf {place}.kept && cp -a {place} {place}.kept && umount {place} && rmdir {place} && "
            f"mv {place}.kept {place}"
        )
        backed_up.remove_filler()


def list_names(backed_up: BackedUp, target: str) -> list[str]:
    [report] = [
        report
        for report in json.loads(backed_up.run_cli("backup", "--list", "--json")[1])
        if report["target"] == target
    ]
    return [archive["name"] for archive in report["archives"]]


ETC = "/etc/mailkeep/backup"
WRONG_CREDENTIALS = {
    "passphrase": (f"echo wrong > {ETC}/passphrase", f"{ETC}/passphrase", "disk: the passphrase is wrong"),
    "key of the repository": (
        f"sed -i 's/^key = .*/key = changed/' {LOCAL}/mail/config",
        f"{LOCAL}/mail/config",
        "disk: its data are damaged, or its key was changed",
    ),
    "key of another repository": (
        f"borg init -e repokey-blake2 /root/other; sed -i '/^key = /,$d' {LOCAL}/mail/config; "
        f"sed -n '/^key = /,$p' /root/other/config >> {LOCAL}/mail/config; rm -r /root/other",
        f"{LOCAL}/mail/config",
        "disk: its data are damaged, or its key was changed",
    ),
    "SSH key": (
        f"rm {ETC}/ssh_key; ssh-keygen -q -t ed25519 -N '' -f {ETC}/ssh_key; rm {ETC}/ssh_key.pub",
        f"{ETC}/ssh_key",
        "offsite: it refuses this server's SSH key",
    ),
    "host key": (
        f"ssh-keygen -q -t ed25519 -N '' -f /root/new; set -- $(cat /root/new.pub); rm /root/new*; "
        f'sed -i "s,ssh-ed25519 .*,ssh-ed25519 $2," {ETC}/known_hosts',
        f"{ETC}/known_hosts",
        "offsite: it shows another SSH host key than mail.yml has",
    ),
}


@pytest.mark.parametrize("kind", WRONG_CREDENTIALS)
def test_wrong_credentials_are_a_clear_error_and_no_secret_is_shown(backed_up: BackedUp, kind: str) -> None:
    damage, file, text = WRONG_CREDENTIALS[kind]
    server = backed_up.server
    secrets = server.run(f"cat {ETC}/passphrase; sed -n 2p {ETC}/ssh_key").stdout.split()
    server.run(
        f"cp -p {file} /root/kept; export BORG_BASE_DIR=/tmp/b BORG_PASSCOMMAND='cat {ETC}/passphrase'; {damage}"
    )
    try:
        code, output = backed_up.run_servers_command("run")
        assert code == 1
        assert text in output
        assert len(output.splitlines()) == 2, output
        assert not any(secret in output for secret in secrets)
    finally:
        server.run(f"cp -p /root/kept {file}")


def test_a_lock_of_the_dead_is_removed_and_one_of_the_living_never(backed_up: BackedUp) -> None:
    server, place = backed_up.server, f"{LOCAL}/mail"
    environment = BORG.removesuffix("borg")
    server.run(f"{environment} setsid borg with-lock {place} sleep 300 > /dev/null 2>&1 < /dev/null &")
    poll(lambda: server.run(f"ls {place}/lock.exclusive", check=False).stdout, 20, "no lock")
    code, output = backed_up.run_servers_command("run", lock_wait=1)
    assert code == 1
    assert "disk: another program has used it for ten minutes" in output
    assert f"`borg break-lock {place}` removes it" in output
    arguments = server.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
    assert "with-lock" in arguments
    assert server.run(f"cat {ETC}/passphrase").stdout.strip() not in arguments
    assert server.run(f"ls {place}/lock.exclusive", check=False).stdout, "a lock of the living is broken"
    server.run("pkill -KILL -x borg; pkill -x sleep")
    assert server.run(f"ls {place}/lock.exclusive", check=False).stdout
    code, output = backed_up.run_servers_command("run", lock_wait=1)
    assert code == 0, output

    server.run(f"mkdir {place}/lock.exclusive && touch {place}/lock.exclusive/elsewhere.example@1234.4711-0")
    code, output = backed_up.run_servers_command("run", lock_wait=1)
    assert code == 1
    [command] = re.findall(r"`(borg break-lock .*?)`", output)
    server.run(command)
    code, output = backed_up.run_servers_command("run", lock_wait=1)
    assert code == 0, output


SLOW_BORG = """#!/bin/sh
case " $* " in *" create "*) exec /usr/bin/borg "$@" --checkpoint-interval=1 --upload-ratelimit=1000 ;; esac
exec /usr/bin/borg "$@"
"""


@pytest.fixture
def slow_borg(backed_up: BackedUp) -> Iterator[None]:
    """Backups that last several seconds, and write down each second what they have."""
    server = backed_up.server
    server.write("/usr/sbin/borg", SLOW_BORG, 0o755)
    backed_up.fill_mailbox(8)
    yield
    server.run("rm -f /usr/sbin/borg")
    backed_up.remove_filler()


@pytest.mark.usefixtures("slow_borg")
def test_a_backup_that_is_cut_is_told_and_leaves_no_archive(backed_up: BackedUp) -> None:
    """Killed after it has written down a part, as borg does on a long way."""
    server, internet = backed_up.server, backed_up.internet
    count = f"wc -l < {PATH}/transactions"
    commits = int(internet.run(count).stdout)
    server.run("systemctl start --no-block mailkeep-backup")
    poll(lambda: int(internet.run(count).stdout) > commits, 30, "no checkpoint")
    server.run("pkill -KILL -x borg")
    poll(
        lambda: "activating" not in server.run("systemctl is-active mailkeep-backup", check=False).stdout, 60, "goes on"
    )
    log = server.run("journalctl -u mailkeep-backup -n 8 -o cat --no-pager").stdout
    assert "offsite: borg was killed (SIGKILL). The next run goes on" in log
    server.run("rm /usr/sbin/borg")
    backed_up.back_up()
    assert backed_up.prove("--quick") == {"offsite": "", "disk": ""}


CUT_NETWORK = """
add table inet cut
add chain inet cut output {{ type filter hook output priority filter; }}
add rule inet cut output ip daddr {target} tcp dport 22 quota over 2 mbytes drop
"""


@pytest.mark.usefixtures("slow_borg")
def test_a_network_that_is_cut_is_told_and_the_next_backup_passes(backed_up: BackedUp) -> None:
    """Neither end hears of it. Each notices the silence, here within seconds, and the target's lock goes with it."""
    server, internet, quick = backed_up.server, backed_up.internet, "s/\\(AliveInterval\\|Timeout\\) 30/\\1 2/"
    internet.run("echo 'ClientAliveInterval 1' >> /etc/ssh/sshd_config.d/backups.conf; systemctl reload ssh")
    server.run(
        f"cp -p {ETC}/ssh_config /root/kept; sed -i '{quick}' {ETC}/ssh_config; grep 'Interval 2$' {ETC}/ssh_config"
    )
    before = list_names(backed_up, "offsite")
    server.run("nft -f -", stdin=CUT_NETWORK.format(target=internet.ip))
    try:
        code, output = backed_up.run_servers_command("run")
        assert code == 1
        assert "offsite: the connection has ended" in output
        assert "Traceback" not in output
    finally:
        server.run(f"nft delete table inet cut; cp -p /root/kept {ETC}/ssh_config; rm /usr/sbin/borg")
    code, output = backed_up.run_servers_command("run", lock_wait=20)
    assert code == 0, output
    assert len(list_names(backed_up, "offsite")) == len(before) + 1
    assert backed_up.prove("--quick") == {"offsite": "", "disk": ""}


def test_archives_of_a_wrong_clock_or_another_server_mislead_nobody(backed_up: BackedUp) -> None:
    place, (*_, last) = f"{LOCAL}/mail", list_names(backed_up, "disk")
    ahead, other = "mail.example.test-20400101T000000Z", "mail.example.test-two.example-20260101T000000Z"
    now = datetime.now(UTC)
    backed_up.make_archives(place, (ahead, datetime(2040, 1, 1)), (other, now - timedelta(days=1)), (f"{other}x", now))
    try:
        code, output = backed_up.run_cli("backup", "--list")
        assert code == 0, output
        assert f"{ahead}  dated later than now: a clock was or is wrong" in output
        code, output = backed_up.run_cli("restore", ANNA, "--target", "disk")
        assert code == 1
        assert f"{ahead} is dated later than now" in output
        assert f"the last one before now is {last}" in output
        code, output = backed_up.run_cli(
            "restore", ANNA, "--target", "disk", "--archive", last, "--subject", "message 1"
        )
        assert code == 0, output
        code, output = backed_up.run_cli("restore", ANNA, "--target", "disk", "--archive", other)
        assert code == 1
        assert f"{other} is of another server, mail.example.test-two.example. This one is mail.example.test" in output
        assert backed_up.prove("--quick")["disk"] == ""
        code, output = backed_up.run_servers_command("prune", "--daily=1", "--weekly=1", "--monthly=1")
        assert code == 1
        assert "so nothing is deleted" in output
    finally:
        backed_up.server.run(f"{BORG} delete {place} {ahead}")
    code, output = backed_up.run_servers_command("prune", "--daily=1", "--weekly=1", "--monthly=1")
    assert code == 0, output
    names = backed_up.server.run(f"{BORG} list --short {place}").stdout.split()
    assert {other, f"{other}x", last} <= set(names), "another server's archive is deleted"


def test_a_restore_without_room_says_so_before_it_writes(backed_up: BackedUp) -> None:
    server, scratch = backed_up.server, "/var/lib/mailkeep-backup/restore"
    backed_up.fill_mailbox(2)
    backed_up.back_up()
    backed_up.remove_filler()
    server.run(f"mkdir -p {scratch} && mount -t tmpfs -o size=2m tmpfs {scratch}")
    try:
        code, output = backed_up.run_cli("restore", ANNA)
        assert code == 1
        assert f"there is no room for the mail of {ANNA}: restoring takes" in output
    finally:
        server.run(f"umount {scratch}")
    server.run(f"cp -p {USERS} /root/users; sed -i '/^{ANNA}:/ s/$/ userdb_quota_storage_size=1M/' {USERS}")
    try:
        code, output = backed_up.run_cli("restore", ANNA)
        assert code == 1
        assert f"{ANNA}: its quota has room for" in output
        assert "so nothing was restored. Raise `quota` in mail.yml" in output
        assert "filler" not in backed_up.list_subjects(ANNA)
    finally:
        server.run(f"cp -p /root/users {USERS}; touch {USERS}")
    code, output = backed_up.run_cli("restore", ANNA)
    assert code == 0, output
    assert "INBOX: 2 restored" in output
    backed_up.remove_filler()


USERS = "/etc/dovecot/users"


def test_pruning_keeps_seven_days_five_weeks_and_twelve_months(
    backed_up: BackedUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the target that the server may only add to, the operator's borg deletes, with a key of his own."""
    internet = backed_up.internet
    newest = datetime.now(UTC).replace(hour=0, minute=0, second=1)
    ages = (*range(1, 9), 14, 21, 28, 35, 42, 80, 500)
    times = [newest - timedelta(days=age) for age in ages]
    archives = [(f"mail.example.test-{time:%Y%m%dT%H%M%SZ}", time) for time in times]
    remote = f"ssh://{KEEPER}@{internet.ip}:22{PATH}"
    backed_up.make_archives(f"{LOCAL}/mail", *archives)
    backed_up.make_archives(remote, *archives[:3], (f"{archives[0][0][:-2]}9Z", times[0] + timedelta(seconds=8)))
    last = {target: list_names(backed_up, target)[-1] for target in ("disk", "offsite")}
    let_operator_in(internet, tmp_path, monkeypatch)

    code, output = backed_up.run_cli("backup", "--prune")
    assert code == 0, output
    disk, offsite = list_names(backed_up, "disk"), list_names(backed_up, "offsite")
    assert disk == [*keep_by_rules([name for name, _ in reversed(archives)], last["disk"])]
    assert offsite[-1] == last["offsite"]


def keep_by_rules(names: list[str], last: str) -> list[str]:
    """From the oldest to the newest: the newest of seven days, then of five weeks, then of twelve months.

    The oldest, too, where these are fewer (borg-prune(1))."""
    kept: list[str] = []
    dated = [(datetime.strptime(name[-16:], "%Y%m%dT%H%M%SZ"), name) for name in reversed([*names, last])]
    for period, count in (("%Y-%m-%d", 7), ("%G-%V", 5), ("%Y-%m", 12)):
        former, number = "", 0
        for time, name in dated:
            if time.strftime(period) != former and number < count:
                former = time.strftime(period)
                if name not in kept:
                    kept.append(name)
                    number += 1
        if number < count and dated[-1][1] not in kept:
            kept.append(dated[-1][1])
    return sorted(kept)


def let_operator_in(internet: Internet, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `borg` of this machine, which runs on the outside world's, with a key of all rights at the repository."""
    internet.run("rm -f ~/.ssh/id_ed25519; ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519")
    internet.run(f"ssh-keyscan -t ed25519 {internet.ip} > ~/.ssh/known_hosts 2>/dev/null")
    internet.run(f"cat ~/.ssh/id_ed25519.pub >> ~{KEEPER}/.ssh/authorized_keys")
    script = f"""#!/bin/sh
printf '%s' "$BORG_PASSPHRASE" | ssh -F '{internet.ssh_config.resolve()}' {internet.name} "BORG_PASSPHRASE_FD=0 borg $*"
"""
    (directory / "borg").write_text(script)
    (directory / "borg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


KILL_AFTER_FIRST_MAILBOX = """
import os, sys
sys.path.insert(0, "/usr/lib/mailkeep")
from mailkeep_server.backup import command, placing
def place_and_die(new, home, origin):
    (new / placing.MARKER).write_text(origin)
    placing._make_parent(home.parent)
    new.rename(home)
    os.kill(os.getpid(), 9)
placing.place_mailbox = place_and_die
command.main(["rebuild"])
"""


TEACH = (
    "printf 'Subject: a\\n\\npills of the casino\\n' | setpriv --reuid vmail --regid vmail --clear-groups "
    f"/usr/local/lib/mailkeep-sieve/learn spam {ANNA}"
)
LESSONS = f"cd {paths.SPAM_WORDS}/{ANNA} && cat learned && bogoutil -d wordlist.db | sort"


def test_a_machine_that_is_lost_is_rebuilt_with_its_mail_by_one_command(backed_up: BackedUp, lab: Lab) -> None:
    """The first run is killed just after a mailbox has been put in place."""
    server, internet = backed_up.server, backed_up.internet
    backed_up.send_as_anna("before the loss")
    sent = backed_up.count_sent_messages(server)
    assert sent
    server.run(f"mailkeepctl freeze {BEN} --why 'sends spam'; fail2ban-client set dovecot banip 203.0.113.250")
    list_uids = f"doveadm -f tab fetch -u {ANNA} 'uid flags' ALL | sed 's, *.Recent,,'"
    server.run(TEACH)
    poll(lambda: server.run(LESSONS, check=False).stdout, 60, "nothing is learned")
    lessons = server.run(LESSONS).stdout
    before, uids = backed_up.read_mail(ANNA), server.run(list_uids).stdout.splitlines()
    backed_up.back_up()
    uids_at_the_end = server.run(list_uids).stdout.splitlines()  # the alert of the freeze may have come meanwhile
    server.remove()
    bare = lab.boot_server("backed-up", hostname="mail.example.test", ip=server.ip)
    internet.resolve_for(bare)
    deployed = backed_up.site.deploy("--data", "allow_older=true")
    assert deployed.code == 0, deployed.output
    killed = bare.run("cd / && python3 -IB - 2>/dev/null; echo $?", stdin=KILL_AFTER_FIRST_MAILBOX)
    assert killed.stdout.split()[-1] == "137"  # 128 and SIGKILL
    code, output = backed_up.run_cli("rebuild")
    assert code == 0, output
    assert "messages of 2 accounts are back" in output
    # The new machine's alerts have come since, with UIDs that the lost one cannot have given.
    after, uids_after = backed_up.read_mail(ANNA), bare.run(list_uids).stdout.splitlines()
    assert set(before) <= set(after)
    assert len(after) == len(set(after))
    assert set(uids) <= set(uids_after)
    assert all(int(line.split("\t")[0]) > 100_000 for line in set(uids_after) - set(uids_at_the_end))
    assert BEN in bare.run("cat /var/lib/mailkeep-guard/frozen/accounts").stdout
    assert "203.0.113.250" in bare.run("nft list ruleset").stdout
    assert backed_up.count_sent_messages(bare) == sent
    assert "casino" in lessons
    assert bare.run(LESSONS).stdout == lessons
    received = backed_up.send_as_anna("after the loss")
    assert received.results["dkim"] == "pass"  # by the records of before
    bare.run(f"mailkeepctl thaw {BEN}")
    poll(lambda: is_accepted(log_in(str(bare.ip), IMAPS, BEN, backed_up.site.passphrases[BEN])), 10, "Ben is kept out")
    assert backed_up.prove("--quick")["offsite"] == ""
    code, output = backed_up.run_cli("rebuild")
    assert code == 1
    assert "it is no new one" in output
