"""All mail is elsewhere too, comes back from there, and whoever is root on the mail server cannot take it away.

The backups' target is the outside world's machine: a Linux user with borg and one line in its authorized_keys.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import yaml
from clients import IMAPS, STRANGER, compose_message, open_imap, read_mailbox
from typer.testing import CliRunner

from mailkeep.cli.app import app
from mailkeep.lab import Internet, Lab, Server, poll
from mailkeep.lab.site import Site
from mailkeep.verify.verification import verify_inventory

ANNA, BEN = "anna@example.test", "ben@example-two.test"
KEEPER, PATH = "keeper", "/home/keeper/mail"
SERVERS_COMMAND = "python3 -IB /usr/lib/mailkeep backup"
LOCAL = "/srv/backup"


@dataclass(frozen=True)
class BackedUp:
    """A server with two targets: `offsite` over SSH, `disk` on itself."""

    site: Site
    internet: Internet

    @property
    def server(self) -> Server:
        return self.site.server

    def run_cli(self, *words: str) -> tuple[int, str]:
        """Exit code and output of `mailkeep …` for this inventory, which is the first argument after the command."""
        command, *options = words
        result = CliRunner().invoke(app, [command, str(self.site.inventory), *options])
        if result.exception and not isinstance(result.exception, SystemExit):
            return 1, f"{result.output}{result.exception}"
        return result.exit_code, result.output

    def receive(self, recipient: str, subject: str) -> None:
        mail = compose_message(STRANGER, recipient, subject).encode()
        assert self.internet.send(STRANGER, recipient, self.server.ip, mail).code == 250
        poll(lambda: subject in self.list_subjects(recipient), 30, f"{subject!r} has not arrived")

    def read_mail(self, account: str, folder: str = "INBOX") -> list[bytes]:
        return read_mailbox(str(self.server.ip), IMAPS, account, self.site.passphrases[account], folder=folder)

    def list_subjects(self, account: str, folder: str = "INBOX") -> list[str]:
        text = b"\n".join(self.read_mail(account, folder)).decode()
        return re.findall(r"^Subject: (.*?)\r?$", text, re.MULTILINE)

    def back_up(self) -> None:
        code, output = self.run_cli("backup")
        assert code == 0, output

    def prove(self, *options: str) -> dict[str, str]:
        faults: dict[str, str] = json.loads(
            self.server.run(f"{SERVERS_COMMAND} --json prove {' '.join(options)}", check=False).stdout
        )
        return faults

    def read_troubles(self) -> str:
        reports = json.loads(self.server.run("cat /run/mailkeep-watch/looked.json").stdout)
        return "\n".join(reports["backup"]["troubles"])


def accept_backups(internet: Internet, line: str) -> None:
    """Prepares the target as docs/backup.md says."""
    internet.run(f"id {KEEPER} 2>/dev/null || useradd --create-home --shell /bin/sh {KEEPER}")
    directory = f"install -d -o {KEEPER} -g {KEEPER} -m 700 ~{KEEPER}/.ssh"
    internet.run(f"rm -rf {PATH}; {directory} && cat > ~{KEEPER}/.ssh/authorized_keys", stdin=line)


@pytest.fixture(scope="module")
def backed_up(lab: Lab, internet: Internet, built_site: Site, built_image: str) -> Iterator[BackedUp]:
    server = lab.boot_server("backed-up", hostname="mail.example.test", image=built_image)
    site = built_site.copy_for(server)
    site.publish(internet)
    backed_up = BackedUp(site, internet)
    declare_backup(site, internet)
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


def declare_backup(site: Site, internet: Internet) -> None:
    host_key = " ".join(internet.run("cat /etc/ssh/ssh_host_ed25519_key.pub").stdout.split()[:2])
    offsite = {"name": "offsite", "path": PATH, "host": str(internet.ip), "user": KEEPER, "host_key": host_key}
    backup = {"targets": [offsite, {"name": "disk", "path": f"{LOCAL}/mail"}]}
    text = site.settings_file.read_text()
    site.settings_file.write_text(text + yaml.safe_dump({"backup": backup}))


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
    backed_up.back_up()


def test_a_machine_that_is_lost_is_rebuilt_with_its_mail_by_one_command(backed_up: BackedUp, lab: Lab) -> None:
    server, internet = backed_up.server, backed_up.internet
    server.run(f"mailkeepctl freeze {BEN} --why 'sends spam'; fail2ban-client set dovecot banip 203.0.113.250")
    list_uids = f"doveadm -f tab fetch -u {ANNA} 'uid flags' ALL | sed 's, *.Recent,,'"
    before, uids = backed_up.read_mail(ANNA), server.run(list_uids).stdout.splitlines()
    backed_up.back_up()
    server.remove()
    bare = lab.boot_server("backed-up", hostname="mail.example.test", ip=server.ip)
    internet.resolve_for(bare)
    code, output = backed_up.run_cli("rebuild")
    assert code == 0, output
    assert "messages of 2 accounts are back" in output
    # The new machine's alerts have come since, with UIDs that the lost one cannot have given.
    after, uids_after = backed_up.read_mail(ANNA), bare.run(list_uids).stdout.splitlines()
    assert set(before) <= set(after)
    assert len(after) == len(set(after))
    assert set(uids) <= set(uids_after)
    assert all(int(line.split("\t")[0]) > 100_000 for line in set(uids_after) - set(uids))
    assert BEN in bare.run("cat /var/lib/mailkeep-guard/frozen/accounts").stdout
    assert "203.0.113.250" in bare.run("nft list ruleset").stdout
    bare.run(f"mailkeepctl thaw {BEN}")
    open_imap(str(bare.ip)).login(BEN, backed_up.site.passphrases[BEN])
    assert backed_up.prove("--quick")["offsite"] == ""
    code, output = backed_up.run_cli("rebuild")
    assert code == 1
    assert "it is no new one" in output
