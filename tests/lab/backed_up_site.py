"""A server with two backup targets: the outside world's machine over SSH, and a disk of its own."""

import json
import re
from dataclasses import dataclass
from datetime import datetime

import yaml
from clients import IMAPS, STRANGER, SUBMISSIONS, compose_message, deliver_message, read_mailbox
from typer.testing import CliRunner

from mailkeep.cli.app import app
from mailkeep.lab import Internet, Received, Server, poll
from mailkeep.lab.site import Site

ANNA, BEN = "anna@example.test", "ben@example-two.test"
STRICT = "strict@outside.test"
KEEPER, PATH = "keeper", "/home/keeper/mail"
SERVERS_COMMAND = "python3 -IB /usr/lib/mailkeep backup"
LOCAL = "/srv/backup"
BORG = (
    "BORG_PASSCOMMAND='cat /etc/mailkeep/backup/passphrase' BORG_BASE_DIR=/var/lib/mailkeep-backup "
    "BORG_RSH='ssh -F /etc/mailkeep/backup/ssh_config' borg"
)


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

    def send_as_anna(self, subject: str) -> Received:
        """To a server that checks signatures. Returns the message as it arrived there."""
        mail, login = compose_message(ANNA, STRICT, subject), (ANNA, self.site.passphrases[ANNA])
        answer = deliver_message(str(self.server.ip), SUBMISSIONS, ANNA, [STRICT], mail, login=login)
        assert answer.startswith("250"), answer
        return self.internet.wait_for(lambda message: message.message["Subject"] == subject)

    def count_sent_messages(self, server: Server) -> int:
        """What the guard has counted for ANNA."""
        status = json.loads(server.run("mailkeepctl limits --json").stdout)
        [limits] = [account["limits"] for account in status["accounts"] if account["account"] == ANNA]
        return max(int(limit["used"]) for limit in limits if "message" in limit["limit"])

    def back_up(self) -> None:
        code, output = self.run_cli("backup")
        assert code == 0, output

    def prove(self, *options: str) -> dict[str, str]:
        faults: dict[str, str] = json.loads(
            self.server.run(f"{SERVERS_COMMAND} --json prove {' '.join(options)}", check=False).stdout
        )
        return faults

    def run_servers_command(self, *words: str, lock_wait: int = 600) -> tuple[int, str]:
        """`backup …` as the units run it; `lock_wait` is how many seconds borg waits for a lock."""
        program = f"""
import sys
sys.dont_write_bytecode = True
sys.path.insert(0, "/usr/lib/mailkeep")
from mailkeep_server.backup import borg, command
borg.LOCK_WAIT = {lock_wait}
sys.exit(command.main({list(words)!r}))
"""
        done = self.server.run("cd / && python3 -I -", stdin=program, check=False)
        return done.returncode, done.stdout + done.stderr

    def make_archives(self, place: str, *archives: tuple[str, datetime]) -> None:
        """Archives of a single file, each with its name and date (UTC)."""
        commands = (
            f"{BORG} create --timestamp {time:%Y-%m-%dT%H:%M:%S} {place}::{name} /etc/hostname"
            for name, time in archives
        )
        self.server.run(" && ".join(commands))

    def fill_mailbox(self, megabytes: int) -> None:
        """Messages for Anna that neither compress nor repeat."""
        directory = "/var/vmail/example.test/anna/Maildir/cur"
        self.server.run(
            f"for number in $(seq {megabytes}); do name={directory}/1$(date +%s%N | cut -c2-10).R$number.mail:2,S; "
            "{ printf 'Subject: filler\\n\\n'; head -c 760000 /dev/urandom | base64; } > $name; "
            "chown vmail: $name; done"
        )

    def remove_filler(self) -> None:
        self.server.run(f"doveadm expunge -u {ANNA} mailbox INBOX subject filler")

    def hash_mail(self) -> str:
        """Of all messages, whatever their flags."""
        files = "find /var/vmail -path '*/.backup' -prune -o -type f -path '*/[cn][ue][rw]/*' -print0"
        return self.server.run(f"{files} | xargs -0 sha256sum | cut -d' ' -f1 | sort").stdout

    def read_troubles(self) -> str:
        reports = json.loads(self.server.run("cat /run/mailkeep-watch/looked.json").stdout)
        return "\n".join(reports["backup"]["troubles"])


def accept_backups(internet: Internet, line: str) -> None:
    """Prepares the target as docs/backup.md says."""
    internet.run(f"id {KEEPER} 2>/dev/null || useradd --create-home --shell /bin/sh {KEEPER}")
    directory = f"install -d -o {KEEPER} -g {KEEPER} -m 700 ~{KEEPER}/.ssh"
    # Else it refuses all connections for a while after a few wrong keys (sshd_config(5), PerSourcePenalties).
    internet.write("/etc/ssh/sshd_config.d/backups.conf", "PerSourcePenalties no\n")
    internet.run("systemctl reload ssh")
    internet.run(f"rm -rf {PATH}; {directory} && cat > ~{KEEPER}/.ssh/authorized_keys", stdin=line)


def declare_backup(site: Site, internet: Internet) -> None:
    host_key = " ".join(internet.run("cat /etc/ssh/ssh_host_ed25519_key.pub").stdout.split()[:2])
    offsite = {"name": "offsite", "path": PATH, "host": str(internet.ip), "user": KEEPER, "host_key": host_key}
    backup = {"targets": [offsite, {"name": "disk", "path": f"{LOCAL}/mail"}]}
    text = site.settings_file.read_text()
    site.settings_file.write_text(text + yaml.safe_dump({"backup": backup}))
