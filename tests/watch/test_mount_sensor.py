from pathlib import Path

import pytest

from mailkeep_server.watch.mount_sensor import MACHINE_MOUNTS, MountSensor

ROOT = "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
LOGS = "40 21 0:41 / /var/log rw,relatime shared:9 - tmpfs tmpfs rw\n"
OTHER = "41 21 0:42 / /mnt/my\\040disk rw - tmpfs tmpfs rw\n"


def test_the_watch_ends_when_a_file_system_of_mail_or_logs_is_mounted_or_gone(tmp_path: Path) -> None:
    file = tmp_path / "mountinfo"
    file.write_text(ROOT)
    sensor = MountSensor(("/", "/var/log"), file)
    file.write_text(ROOT + OTHER)
    assert sensor.find_troubles() == {}, "another file system is nobody's trouble"
    file.write_text(ROOT + LOGS)
    with pytest.raises(SystemExit) as ended:
        sensor.find_troubles()
    assert ended.value.code == 0, "nothing has failed"
    sensor = MountSensor(("/", "/var/log"), file)
    assert sensor.find_troubles() == {}
    file.write_text(ROOT)
    with pytest.raises(SystemExit):
        sensor.find_troubles()


def test_the_machines_own_mounts_can_be_read() -> None:
    assert MountSensor(("/",), MACHINE_MOUNTS).first
