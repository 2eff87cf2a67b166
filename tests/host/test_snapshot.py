"""The snapshot's script, run by this machine's own shell, reports the actual state."""

import grp
import hashlib
import os
import pwd
import subprocess
from pathlib import Path

import pytest

from mailkeep.host.snapshot import NEW_SUFFIX, POLICY_RC_D, PathState, Snapshot, UnitState, build_script, parse_snapshot
from mailkeep.parts.model import Directory, File, Part, User

ME, MY_GROUP = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name


def take_snapshot(part: Part) -> Snapshot:
    process = subprocess.run(["sh", "-c", build_script((part,))], capture_output=True, text=True, check=True)
    snapshot = parse_snapshot(process.stdout.splitlines(), [])
    snapshot.paths.pop(POLICY_RC_D.path, None)  # this machine's own
    return snapshot


@pytest.mark.parametrize("name", ["plain", "with space", "with'quote", 'with"quotes"', "a|b", "$(touch x)", "-n", "ü"])
def test_a_file_of_any_name_is_reported_with_its_digest_and_mode(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"content\n")
    path.chmod(0o640)
    expected = PathState("regular file", ME, MY_GROUP, 0o640, hashlib.sha256(b"content\n").hexdigest())
    assert take_snapshot(Part("demo", files=(File(str(path), b""),))).paths == {str(path): expected}


def test_an_empty_file_a_missing_one_and_a_special_mode(tmp_path: Path) -> None:
    empty, missing, special = (tmp_path / name for name in ("empty", "missing", "special"))
    empty.touch()
    special.mkdir()
    special.chmod(0o2750)
    part = Part(
        "demo", files=tuple(File(str(p), b"") for p in (empty, missing)), directories=(Directory(str(special)),)
    )
    paths = take_snapshot(part).paths
    assert paths[str(empty)].digest == hashlib.sha256(b"").hexdigest()
    assert str(missing) not in paths
    assert paths[str(special)] == PathState("directory", ME, MY_GROUP, 0o2750)


def test_a_symbolic_link_is_no_file_but_may_be_a_directory(tmp_path: Path) -> None:
    """So the link /etc/resolv.conf of systemd-resolved is replaced, and mail may be on another disk."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "directory").mkdir(mode=0o700)
    file, directory = tmp_path / "file-link", tmp_path / "directory-link"
    file.symlink_to("file")
    directory.symlink_to("directory")
    paths = take_snapshot(Part("demo", files=(File(str(file), b""),), directories=(Directory(str(directory)),))).paths
    assert (paths[str(file)].kind, paths[str(file)].digest) == ("symbolic link", "")
    assert (paths[str(directory)].kind, paths[str(directory)].mode) == ("directory", 0o700)


def test_absent_paths_and_half_written_files_are_reported(tmp_path: Path) -> None:
    (tmp_path / "unwanted").touch()
    (tmp_path / f"file{NEW_SUFFIX}").touch()
    part = Part("demo", files=(File(str(tmp_path / "file"), b""),), absent=(str(tmp_path / "unwanted"),))
    assert set(take_snapshot(part).paths) == {str(tmp_path / "unwanted"), str(tmp_path / f"file{NEW_SUFFIX}")}


def test_only_existing_packages_and_users_are_reported() -> None:
    snapshot = take_snapshot(
        Part("demo", packages=("dpkg", "no-such-package"), users=(User("root"), User("no-such-user")))
    )
    assert snapshot.packages == {"dpkg"}
    assert snapshot.users == {"root"}


def test_members_of_a_group_are_reported() -> None:
    with_members = next((group for group in grp.getgrall() if group.gr_mem), None)
    if with_members is None:
        pytest.skip("no group of this machine has members")
    memberships = tuple((user, with_members.gr_name) for user in with_members.gr_mem)
    assert take_snapshot(Part("demo", memberships=memberships)).members == set(memberships)


def test_units_keep_the_order_of_the_query() -> None:
    lines = [f"== {name}" for name in ("paths", "digests", "packages", "unconfigured", "users", "groups", "pending")]
    lines += ["== units", "Id=a.service", "ActiveState=active", "", "Id=b.service", "ActiveState=failed"]
    units = parse_snapshot(lines, ["a.service", "alias-of-b.service"]).units
    assert units["a.service"] == UnitState({"Id": "a.service", "ActiveState": "active"})
    assert units["alias-of-b.service"].is_failed


def test_the_script_is_short_enough_for_one_argument_with_hundreds_of_domains() -> None:
    """Linux takes at most 128 KiB in one argument (MAX_ARG_STRLEN)."""
    keys = tuple(File(f"/etc/opendkim/keys/domain-{n:04}.example.org.s20260101.pem", b"") for n in range(1000))
    assert len(build_script((Part("demo", files=keys),))) < 100_000
