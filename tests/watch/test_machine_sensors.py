"""A mailbox that cannot be written, and a declared address that the machine does not have, are troubles."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from mailkeep_server.common import own_addresses, refused_logins
from mailkeep_server.watch import machine_sensors
from mailkeep_server.watch.machine_sensors import AddressSensor, MailboxSensor

ACCOUNTS = ("anna@example.org", "ben@example.org", "eve@example.net")


@pytest.fixture
def vmail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    user = SimpleNamespace(pw_uid=os.getuid())
    monkeypatch.setattr(machine_sensors.pwd, "getpwnam", lambda _: user)
    for name in ("anna", "ben"):
        for folder in ("cur", "new", "tmp", ".Sent/cur"):
            (tmp_path / "example.org" / name / "Maildir" / folder).mkdir(parents=True)
        (tmp_path / "example.org" / name / "Maildir/cur/1.M1.mail:2,S").touch(0o400)
        (tmp_path / "example.org" / name / "Maildir/dovecot-uidlist").touch(0o600)
        (tmp_path / "example.org" / name / "Maildir/dovecot-uidvalidity.6b0b2a75").touch(0o444)
    return tmp_path


@pytest.mark.parametrize(
    "path", ["", "example.org", *(f"example.org/ben{path}" for path in ("", "/Maildir", "/Maildir/.Sent/cur"))]
)
def test_a_directory_that_delivery_cannot_write_is_a_trouble_until_it_can(vmail: Path, path: str) -> None:
    sensor = MailboxSensor(ACCOUNTS, str(vmail))
    assert sensor.find_troubles() == {}
    (vmail / path).chmod(0o500)
    text, _ = sensor.find_troubles()["owner"]
    assert text.startswith(f"Mail cannot be stored: {(vmail / path)} has mode 500, and vmail cannot write it")
    (vmail / path).chmod(0o700)
    assert sensor.find_troubles() == {}


def test_a_mailbox_of_another_owner_is_a_trouble(vmail: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_sensors.pwd, "getpwnam", lambda _: SimpleNamespace(pw_uid=os.getuid() + 1))
    text, _ = MailboxSensor(ACCOUNTS, str(vmail)).find_troubles()["owner"]
    assert f"{vmail} belongs to user {os.getuid()}, not to vmail" in text


def test_dovecots_own_files_must_be_writable_and_messages_need_not(vmail: Path) -> None:
    sensor = MailboxSensor(ACCOUNTS, str(vmail))
    assert sensor.find_troubles() == {}
    (vmail / "example.org/ben/Maildir/dovecot-uidlist").chmod(0o400)
    assert "Maildir/dovecot-uidlist has mode 400" in sensor.find_troubles()["owner"][0]


def test_many_mailboxes_are_looked_at_in_turns_and_faulty_ones_each_time(
    vmail: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensor = MailboxSensor(ACCOUNTS, str(vmail))
    monkeypatch.setattr(MailboxSensor, "MAX_PATHS", 3)
    (vmail / "example.org/ben").chmod(0o500)
    samples = [len(sensor.find_troubles()) for _ in range(12)]
    assert samples[0] == 0
    assert samples[-1] == 1
    assert samples == sorted(samples), "a fault stays until it is right"
    text, _ = sensor.find_troubles()["owner"]
    assert f"`chown -RH vmail:vmail {vmail}/example.org/ben`" in text
    (vmail / "example.org/ben").chmod(0o700)
    assert sensor.find_troubles() == {}


def test_a_sample_has_a_bound_of_paths_and_of_time(vmail: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch's loop waits meanwhile, and systemd kills it after 30 seconds without a sign of life."""
    judged: list[str] = []
    monkeypatch.setattr(machine_sensors.mailboxes, "find_fault", lambda path, _: str(judged.append(path)))
    for number in range(2000):
        (vmail / f"example.org/anna/Maildir/.f{number}").mkdir()
    sensor = MailboxSensor(ACCOUNTS, str(vmail))
    monkeypatch.setattr(MailboxSensor, "MAX_SECONDS", 60.0)
    sensor.find_troubles()
    assert len(judged) == MailboxSensor.MAX_PATHS
    sensor.find_troubles()
    assert len(judged) <= 2 * MailboxSensor.MAX_PATHS + MailboxSensor.MAX_FAULTS
    assert len(sensor.faults) == MailboxSensor.MAX_FAULTS
    sensor.faults.clear()
    judged.clear()
    monkeypatch.setattr(MailboxSensor, "MAX_SECONDS", -1.0)
    sensor.find_troubles()
    assert len(judged) == 1


def test_what_belongs_to_no_account_is_not_ours(vmail: Path) -> None:
    """As `lost+found` of a disk of its own, snapshots, and a removed domain."""
    for name in ("lost+found", ".snapshots/1", "removed.example/ben", "example.org/.backup"):
        (vmail / name).mkdir(parents=True)
        (vmail / name).chmod(0o500)
    sensor = MailboxSensor(ACCOUNTS, str(vmail))
    assert [sensor.find_troubles() for _ in range(3)] == [{}, {}, {}]


@pytest.mark.parametrize("name", ["", "example.org", "example.org/ben"])
def test_mail_may_be_on_another_disk_by_a_link_unless_it_leads_nowhere(vmail: Path, name: str) -> None:
    disk = vmail.with_name(f"{vmail.name}-disk")
    (vmail / name).rename(disk)
    Path(vmail / name).symlink_to(disk)
    sensor = MailboxSensor(ACCOUNTS, str(vmail))
    assert sensor.find_troubles() == {}
    disk.chmod(0o500)
    assert f"{Path(vmail / name)} has mode 500" in sensor.find_troubles()["owner"][0]
    disk.chmod(0o700)
    disk.rename(f"{disk}-away")
    assert f"{Path(vmail / name)} is a link to nothing" in sensor.find_troubles()["owner"][0]


def test_a_home_that_is_created_by_the_first_mail_is_no_trouble_before(vmail: Path) -> None:
    (vmail / "example.net").mkdir()
    assert MailboxSensor(ACCOUNTS, str(vmail)).find_troubles() == {}
    assert MailboxSensor(ACCOUNTS, str(vmail / "none")).find_troubles() == {}


@pytest.mark.parametrize(
    ("source", "end"),
    [
        ("198.51.100.60", "mail leaves from 198.51.100.60, and SPF may fail"),
        ("", "nobody reaches it there"),
        ("10.0.0.5", None),
        ("100.64.0.1", None),
    ],
)
def test_a_declared_address_that_is_not_there_is_a_trouble_except_behind_nat(
    monkeypatch: pytest.MonkeyPatch, source: str, end: str | None
) -> None:
    monkeypatch.setattr(own_addresses, "find_source_address", lambda _: source or None)
    troubles = AddressSensor(["127.0.0.1", "192.0.2.1"], has_relay=False).find_troubles()
    assert {*troubles} == ({"192.0.2.1"} if end else set())
    assert not end or end in troubles["192.0.2.1"][0]


def test_with_a_relay_host_a_missing_address_says_nothing_of_spf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_addresses, "find_source_address", lambda _: "198.51.100.60")
    troubles = AddressSensor(["192.0.2.1"], has_relay=True).find_troubles()
    assert "nobody reaches it there" in troubles["192.0.2.1"][0]


def test_mail_does_not_leave_from_a_link_local_address(monkeypatch: pytest.MonkeyPatch) -> None:
    client = MagicMock()
    client.__enter__.return_value.getsockname.side_effect = [("fe80::1", 9, 0, 2), ("2001:db8::9", 9, 0, 0)]
    monkeypatch.setattr(own_addresses.socket, "socket", lambda *_: client)
    assert own_addresses.find_source_address(6) is None
    assert own_addresses.find_source_address(6) == "2001:db8::9"


def test_without_ipv6_in_the_kernel_no_address_of_ipv6_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(own_addresses.socket, "socket", refuse)
    assert not own_addresses.is_local_address("2001:db8::1")
    assert not refused_logins.has_ipv6()
