"""A file is replaced whole or not at all, with the mode and the durability that were asked for."""

import os
from pathlib import Path

import pytest

from mailkeep_server.common.files import atomic_write, prepare_spares


def test_a_file_is_replaced_whole_and_leaves_no_other(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    for content in ("old ä\n", b"new\n"):
        atomic_write(file, content)
    assert file.read_bytes() == b"new\n"
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_the_mode_is_exact_whatever_the_umask_and_the_former_file_were(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "secret"
    file.write_text("old")
    file.chmod(0o666)
    umask = os.umask(0o077)
    try:
        atomic_write(file, "new", mode)
    finally:
        os.umask(umask)
    assert file.stat().st_mode & 0o7777 == mode


def test_a_secret_is_never_readable_by_others_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    monkeypatch.setattr(os, "fchmod", lambda descriptor, _mode: modes.append(os.fstat(descriptor).st_mode & 0o777))
    atomic_write(tmp_path / "secret", "new", 0o600)
    assert modes == [0o600]


def test_a_failure_leaves_the_former_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    file = tmp_path / "state.json"
    file.write_text("old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(file, "new")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_a_file_left_by_a_killed_run_is_no_hindrance_and_no_link_is_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "state.json.new").symlink_to(victim)
    atomic_write(tmp_path / "state.json", "new")
    assert (victim.read_text(), (tmp_path / "state.json").read_text()) == ("untouched", "new")


@pytest.mark.parametrize(("durable", "synced"), [(True, ["file", "directory"]), (False, [])])
def test_file_and_directory_reach_the_disk_unless_that_is_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool, synced: list[str]
) -> None:
    order: list[str] = []

    def note(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        order.append("directory" if path.is_dir() else "file")
        assert path.is_dir() or path.read_text() == "new", "what is synced is all of it"
        assert (tmp_path / "state.json").exists() == path.is_dir(), "renamed after the file was synced"

    monkeypatch.setattr(os, "fsync", note)
    atomic_write(tmp_path / "state.json", "new", durable=durable)
    assert order == synced


def test_the_group_is_that_of_a_setgid_directory(tmp_path: Path) -> None:
    groups = [group for group in os.getgroups() if group != os.getegid()]
    if not groups and os.geteuid() != 0:
        pytest.skip("this user is in one group only")
    group = groups[0] if groups else 12345
    directory = tmp_path / "shared"
    directory.mkdir()
    os.chown(directory, -1, group)
    directory.chmod(0o2770)
    atomic_write(directory / "accounts", "new", 0o640)
    assert (directory / "accounts").stat().st_gid == group


def test_spares_are_made_anew_only_when_they_become_too_small(tmp_path: Path) -> None:
    """They have room for the next change, which makes the file somewhat longer."""
    spare, size = tmp_path / "spare", 10_000
    prepare_spares([spare], size)
    first = spare.stat()
    assert first.st_size >= 2 * size
    prepare_spares([spare], size + 5000)
    assert spare.stat().st_ino == first.st_ino
    prepare_spares([spare], first.st_size - 10)
    assert spare.stat().st_size > 2 * first.st_size - 20
