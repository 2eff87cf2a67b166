"""Mailboxes of an old server come over: as Maildir, mbox and dbox by SSH, and by IMAP. None is lost, none is twice."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mailkeep.lab import Internet, Lab, Server
from mailkeep.lab.site import Site

OWNER, OTHER = "ben@example-two.test", "anna@example.test"
"""Alerts go to the other, so only the owner's inbox stays empty."""
FIRST_DATE = 1_500_000_000
MANY = 3000
FROM_LINE = "From anna@example.test Fri Jul 14 04:40:0{} 2017\n"
"""In the old server's own time zone."""


@pytest.fixture(scope="module")
def old(lab: Lab) -> Iterator[Server]:
    """A machine that is not ours: bare Debian, with mail on it."""
    server = lab.boot_server("old", hostname="old.example.test")
    server.run("ln -sf /usr/share/zoneinfo/Europe/Berlin /etc/localtime; echo Europe/Berlin > /etc/timezone")
    yield server
    server.remove()


@pytest.fixture(scope="module")
def site(lab: Lab, internet: Internet, built_site: Site, built_image: str) -> Iterator[Site]:
    """A copy of the built server, which gets the mail."""
    server = lab.boot_server("new", hostname="mail.example.test", image=built_image)
    internet.resolve_for(server)
    site = built_site.copy_for(server)
    result = site.deploy()
    assert result.code == 0, result.output
    yield site
    server.remove()


class Import:
    """`mailkeep import` as the operator runs it."""

    def __init__(self, site: Site, old: Server) -> None:
        self.site, self.old = site, old

    def start(self, address: str, source: str, *options: str, password: str = "") -> subprocess.Popen[str]:
        config = ["--ssh-config", str(self.old.ssh_config)] if source.startswith("ssh") else []
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mailkeep", "import", str(self.site.inventory), address, "--from", source),
                *config,
                *options,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdin
        process.stdin.write(f"{password}\n")
        process.stdin.close()
        process.stdin = None
        return process

    def run(self, address: str, source: str, *options: str, password: str = "") -> tuple[int, dict[str, Any], str]:
        """The exit code, the JSON report if there is one, and what it said."""
        process = self.start(address, source, "--json", *options, password=password)
        output, errors = process.communicate(timeout=500)
        report = json.loads(output) if output.startswith("{") else {}
        return process.returncode, report, output + errors


@pytest.fixture(scope="module")
def importing(site: Site, old: Server) -> Import:
    return Import(site, old)


@pytest.fixture
def empty(site: Site) -> None:
    """The account has no mail, and the server knows of no import."""
    site.server.run(
        f"rm -rf /var/lib/mailkeep/imports; for folder in $(doveadm mailbox list -u {OWNER}); do "
        f'[ "$folder" = INBOX ] || doveadm mailbox delete -u {OWNER} -s "$folder"; done; '
        f"doveadm expunge -u {OWNER} mailbox INBOX all; rm -rf /var/vmail/example-two.test/ben"
    )


def make_tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    """Files by their paths, with content and time of change; each cur has its new and tmp."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        for path, (content, changed) in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mtime, member.mode = len(content), changed, 0o600
            archive.addfile(member, io.BytesIO(content))
    return output.getvalue()


def make_maildir(count: int) -> dict[str, tuple[bytes, int]]:
    files = {
        f"cur/{FIRST_DATE + n}.M{n}.old:2,{'S' if n % 2 else 'a'}": (
            f"Message-ID: <{n}@old.example.test>\nSubject: {n}\n\ntext {n}\n".encode() * (1 + n % 3),
            FIRST_DATE + n,
        )
        for n in range(count)
    }
    uids = "".join(f"{10 + 2 * n} :{FIRST_DATE + n}.M{n}.old\n" for n in range(min(count, 40)))
    uids += "".join(f"{100 + n} :{FIRST_DATE + n}.M{n}.old\n" for n in range(40, count))
    return {
        **files,
        "dovecot-uidlist": (f"3 V1234567 N{200 + count} G0123456789abcdef\n{uids}".encode(), 0),
        "dovecot-keywords": (b"0 $Forwarded\n", 0),
        ".Gesendet/cur/1.S.old:2,S": (b"Subject: sent\r\n\r\nwith CRLF\r\n", FIRST_DATE),
        ".Gr&APYA3w-e.2020/new/1.N.old": (b"Subject: deep\n\n\xff\xfe 8 bit\n", FIRST_DATE + 7),
        ".Tom & Jerry/cur/1.T.old:2,FR": (b"Subject: odd name\n\n", FIRST_DATE + 8),
        "cur/.DS_Store": (b"x", 0),
    }


def put_files(server: Server, directory: str, files: dict[str, tuple[bytes, int]]) -> None:
    server.run(f"rm -rf {directory}; mkdir -p {directory}; tar -C {directory} -x", stdin=make_tar(files))


def hash_folders(site: Site, address: str) -> dict[str, list[str]]:
    """By the directory of each folder, the sorted hashes of the files in it, which Dovecot has written with LF."""
    local_part, _, domain = address.partition("@")
    # A file may get another name meanwhile.
    find = "find . -type f -path '*/[cn]??/*' -exec sha256sum {} + 2>/dev/null || true"
    output = site.server.run(
        f"cd /var/vmail/{domain}/{local_part}/Maildir 2>/dev/null || exit 0; {find}", timeout=600
    ).stdout
    folders: dict[str, list[str]] = {}
    for line in output.splitlines():
        digest, _, path = line.partition("  ")
        folders.setdefault(path.rsplit("/", 2)[0], []).append(digest)
    return {folder: sorted(digests) for folder, digests in folders.items()}


@pytest.mark.usefixtures("empty")
def test_a_maildir_comes_over_whole_although_the_import_is_killed(importing: Import, old: Server, site: Site) -> None:
    files = make_maildir(MANY)
    put_files(old, "/home/anna/Maildir", files)
    source = "ssh://old/home/anna/Maildir"
    before = old.run("cd /home/anna && find . -printf '%p %s %T@ %C@\\n' | sort | sha256sum").stdout
    code, report, output = importing.run(OWNER, source, "--dry-run")
    assert code == 0, output
    assert {row["folder"]: row["messages"] for row in report["planned"]}["INBOX"] == MANY
    for count in (1, 600, 1200):
        process = importing.start(OWNER, source)
        while len(hash_folders(site, OWNER).get(".", ())) < count and process.poll() is None:
            time.sleep(0.05)
        process.kill()
        process.communicate()
    deliver = f"for n in 1 2 3 4 5; do echo Subject: new $n | doveadm save -u {OWNER} -m INBOX; sleep 0.3; done"
    delivering = subprocess.Popen(
        ["ssh", "-F", str(site.server.ssh_config), site.server.name, deliver], stdin=subprocess.DEVNULL
    )
    code, report, output = importing.run(OWNER, source)
    assert delivering.wait() == 0
    assert code == 0, output
    assert report["differences"] == []
    rows = {row["folder"]: row for row in report["folders"]}
    assert rows["INBOX"]["messages"] == MANY
    assert rows["INBOX"]["uids"] in ("kept", "partly"), "mail arrived meanwhile"
    assert rows["Gesendet"]["target"] == "Sent"
    assert "cur/new" not in output
    folders = hash_folders(site, OWNER)
    expected = sorted(hashlib.sha256(files[path][0]).hexdigest() for path in files if path.startswith("cur/1"))
    assert len(folders["."]) == MANY + 5
    assert not set(expected) - set(folders["."])
    code, report, output = importing.run(OWNER, source)
    assert (code, sum(row["added"] for row in report["folders"])) == (0, 0), output
    assert len(hash_folders(site, OWNER)["."]) == MANY + 5
    assert before == old.run("cd /home/anna && find . -printf '%p %s %T@ %C@\\n' | sort | sha256sum").stdout


@pytest.mark.usefixtures("empty")
def test_uids_and_uidvalidity_are_kept_in_an_empty_mailbox(importing: Import, old: Server, site: Site) -> None:
    put_files(old, "/home/anna/Maildir", make_maildir(60))
    code, report, output = importing.run(OWNER, "ssh://old/home/anna/Maildir")
    assert code == 0, output
    assert {row["folder"]: row["uids"] for row in report["folders"]}["INBOX"] == "kept"
    status = site.server.run(f"doveadm mailbox status -u {OWNER} 'uidvalidity uidnext messages' INBOX").stdout
    assert "uidvalidity=1234567" in status
    uids = site.server.run(f"doveadm -f flow fetch -u {OWNER} uid mailbox INBOX").stdout.split()
    assert uids[:3] == ["uid=10", "uid=12", "uid=14"]


@pytest.mark.usefixtures("empty")
def test_an_mbox_and_a_directory_of_them_come_over(importing: Import, old: Server, site: Site) -> None:
    first = FROM_LINE.format(1) + "Message-ID: <1@x>\nStatus: RO\n\nFrom here\n\n"
    broken = (
        FROM_LINE.format(2) + "Message-ID: <2@x>\n\n\0half\n" + "\0" * 50 + FROM_LINE.format(3) + "Subject: 3\n\nx\n"
    )
    put_files(old, "/var/mail", {"anna": ((first + broken).encode(), FIRST_DATE)})
    put_files(
        old,
        "/home/anna/mail",
        {"Sent Items": (first.encode(), 0), "work/2019": (first.encode(), 0), "notes.txt": (b"no mail", 0)},
    )
    code, report, output = importing.run(OWNER, "ssh://old/var/mail/anna")
    assert report["folders"][0]["messages"] == 3, output
    assert {item["kind"] for item in report["differences"]} <= {"bytes"}, output
    dates = site.server.run(f"doveadm -f flow fetch -u {OWNER} 'date.received.unixtime' mailbox INBOX").stdout
    assert f"={FIRST_DATE + 1}" in dates
    code, report, output = importing.run(OWNER, "ssh://old/home/anna/mail")
    assert code == 0, output
    assert {row["folder"]: row["target"] for row in report["folders"]} == {
        "Sent Items": "Sent",
        "work/2019": "work.2019",
    }


@pytest.mark.usefixtures("empty")
def test_a_dbox_comes_over_with_our_own_dovecot(importing: Import, old: Server, site: Site) -> None:
    options = "-o mail_driver=sdbox -o mail_path=/var/vmail/dbox"
    site.server.run(
        f"cd /; mkdir -p /var/vmail/dbox; chown vmail: /var/vmail/dbox; for n in 1 2 3; do "
        f"printf 'Subject: dbox %s\\n\\nx\\n' $n | doveadm {options} save -u {OWNER} -m INBOX; done; "
        f"doveadm {options} flags add -u {OWNER} '\\Seen' mailbox INBOX 1; "
        f"doveadm {options} mailbox create -u {OWNER} 'Gesendet'; "
        f"echo Subject: sent | doveadm {options} save -u {OWNER} -m Gesendet"
    )
    archive = subprocess.run(
        ["ssh", "-F", str(site.server.ssh_config), site.server.name, "tar -C /var/vmail/dbox -c ."],
        capture_output=True,
        check=True,
    )
    subprocess.run(
        ["ssh", "-F", str(old.ssh_config), old.name, "mkdir -p /srv/dbox && tar -C /srv/dbox -x"],
        input=archive.stdout,
        check=True,
    )
    site.server.run("rm -rf /var/vmail/dbox")
    code, report, output = importing.run(OWNER, "ssh://old/srv/dbox")
    assert code == 0, output
    rows = {row["folder"]: (row["target"], row["messages"], row["uids"]) for row in report["folders"]}
    assert rows["INBOX"] == ("INBOX", 3, "kept")
    assert rows["Gesendet"][0] == "Sent"
    assert ".import" not in site.server.run("ls -A /var/vmail").stdout, "the copy is gone"


@pytest.mark.usefixtures("empty")
def test_an_imap_server_is_read_by_the_new_server(importing: Import, site: Site) -> None:
    site.server.run(
        f"doveadm mailbox create -u {OTHER} -s Old Gesendet; echo Subject: sent | doveadm save -u {OTHER} -m Gesendet; "
        f"for n in 1 2 3; do printf 'Subject: imap %s\\n\\nx\\n' $n | doveadm save -u {OTHER} -m Old; done; "
        f"doveadm flags add -u {OTHER} '\\Flagged work' mailbox Old 2"
    )
    source = f"imaps://{OTHER}@mail.example.test"
    password = site.passphrases[OTHER]
    code, _, output = importing.run(OWNER, source, password=password)
    assert code == 3
    assert "--certificate " in output
    certificate = output.rpartition("--certificate ")[2].split()[0]
    code, _, output = importing.run(OWNER, source, "--certificate", certificate, password="wrong")  # noqa: S106
    assert code == 3
    assert "refuses the login" in output
    code, report, output = importing.run(OWNER, source, "--certificate", certificate, password=password)
    assert code == 0, output
    rows = {row["folder"]: (row["target"], row["messages"], row["uids"]) for row in report["folders"]}
    assert rows["Old"] == ("Old", 3, "kept")
    assert rows["Gesendet"][:2] == ("Sent", 1)
    new, former = hash_folders(site, OWNER), hash_folders(site, OTHER)
    assert (new["./.Old"], new["./.Sent"]) == (former["./.Old"], former["./.Gesendet"])
    code, report, output = importing.run(OWNER, source, "--certificate", certificate, password=password)
    added = {row["folder"]: row["added"] for row in report["folders"]}
    assert (code, added["Old"], added["Gesendet"]) == (0, 0, 0), output


@pytest.mark.usefixtures("empty")
def test_what_has_no_room_is_told_before_it_begins(importing: Import, old: Server, site: Site) -> None:
    old.run("rm -rf /home/anna/Maildir; mkdir -p /home/anna/Maildir/cur /home/anna/Maildir/new /home/anna/Maildir/tmp")
    old.run("truncate -s 1200M /home/anna/Maildir/cur/1.A.old:2,S")
    code, _, output = importing.run(OWNER, "ssh://old/home/anna/Maildir")
    assert code == 4
    assert "Set `quota: 2G` or more" in output
    assert site.server.run(f"doveadm mailbox status -u {OWNER} messages INBOX").stdout.strip().endswith("=0")
    code, _, output = importing.run(OWNER, "ssh://old/home/nobody/Maildir")
    assert (code, "no such file or directory" in output) == (3, True)


@pytest.mark.usefixtures("empty")
def test_a_disk_that_fills_up_meanwhile_loses_nothing(importing: Import, old: Server, site: Site) -> None:
    put_files(old, "/home/anna/Maildir", make_maildir(MANY))
    disk = "/var/vmail/example-two.test"
    site.server.run(
        f"mount -t tmpfs -o size=500M,nr_inodes=1200,uid=vmail,gid=vmail,mode=700 tmpfs {disk}; doveadm reload"
    )
    try:
        code, _, output = importing.run(OWNER, "ssh://old/home/anna/Maildir")
        assert (code, "no room for the next message" in output) == (4, True), output
        site.server.run(f"mount -o remount,nr_inodes=100000 {disk}")
        code, report, output = importing.run(OWNER, "ssh://old/home/anna/Maildir")
        assert code == 0, output
        assert {row["folder"]: row["known"] > 100 for row in report["folders"]}["INBOX"]
    finally:
        site.server.run(f"umount -l {disk}")
