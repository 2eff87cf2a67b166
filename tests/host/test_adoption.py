"""Before the first change, the host keeps what Mailkeep replaces: once, for root alone, never Mailkeep's own files."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from test_preflight_rules import BUILT, FRESH

from mailkeep.host import adoption
from mailkeep.host.preflight_facts import PASSED_MARK, HostFacts
from mailkeep.parts.model import Directory, File, Part

pytestmark = pytest.mark.slow


PROGRAMS = {
    "dpkg-query": "printf 'ii  exim4 4.98\\nrc  gone 1\\n'; cat packages 2>/dev/null",
    "systemctl": "case $1 in list-unit-files) echo 'exim4.service enabled enabled' ;; *) echo exim4.service x ;; esac",
    "nft": "exit 1",
    "iptables-save": "exit 1",
    "sync": "",
}
Save = Callable[..., Path | None]


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Save:
    """Runs the script of a takeover in a directory that stands for the host's `/`; returns the saved directory."""
    for directory in ("bin", "etc/demo", "etc/exim4", "var"):
        (tmp_path / directory).mkdir(parents=True)
    for name, text in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "etc/demo/main.conf").write_text("mine\n")
    (tmp_path / "etc/demo/key").write_text("secret\n")
    (tmp_path / "etc/demo/key").chmod(0o600)
    (tmp_path / "etc/exim4/exim4.conf").write_text("exim\n")
    monkeypatch.setattr(adoption, "TREES", (f"{tmp_path}/etc/exim4",))
    monkeypatch.setattr(adoption, "OTHER_TREES", (f"{tmp_path}/etc/exim4",))
    files = (File(f"{tmp_path}/etc/demo/main.conf", b"ours\n"), File(f"{tmp_path}/etc/demo/new.conf", b"ours\n"))
    directories = (Directory(f"{tmp_path}/etc/demo"),)
    part = Part("demo", directories=directories, files=files, absent=(f"{tmp_path}/etc/demo/key",))

    def run(facts: HostFacts = FRESH) -> Path | None:
        _run(adoption.save_script(facts, (part,)), tmp_path)
        pointer = tmp_path / "var/lib/mailkeep/adopted"
        return Path(pointer.read_text().strip()) if pointer.exists() else None

    return run


def _run(script: str, root: Path) -> None:
    for path in ("/var/lib/mailkeep", adoption.BACKUPS):
        script = script.replace(path, f"{root}{path}")
    environment = {"PATH": f"{root}/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    subprocess.run(["sh", "-c", script], cwd=root, env=environment, check=True)


def saved_directories(root: Path) -> list[Path]:
    return sorted((root / adoption.BACKUPS.strip("/")).iterdir())


def test_files_owners_packages_and_services_are_saved_for_root_alone(save: Save, tmp_path: Path) -> None:
    saved = save()
    assert saved is not None
    assert saved_directories(tmp_path) == [saved]
    assert [path.stat().st_mode & 0o777 for path in (saved.parent, saved)] == [0o700, 0o700]
    files = saved / "files" / str(tmp_path)[1:] / "etc"
    assert sorted(path.name for path in files.rglob("*") if path.is_file()) == ["exim4.conf", "key", "main.conf"]
    assert (files / "demo/key").stat().st_mode & 0o777 == 0o600
    assert (saved / "packages").read_text() == "exim4 4.98\n"
    assert (saved / "unit-files").read_text().startswith("exim4.service enabled")
    assert (saved / "directories").read_text().endswith(f"{tmp_path}/etc/demo\n")
    assert "mailkeep un-adopt" in (saved / "README").read_text()
    assert Path(f"{tmp_path}{PASSED_MARK}").is_dir()


def test_the_same_is_never_saved_twice_and_a_later_try_saves_what_has_changed(save: Save, tmp_path: Path) -> None:
    save()
    again = save()
    assert saved_directories(tmp_path) == [again]

    _run(
        f"set -eu\n{adoption.mark_script(adoption.PACKAGES_CHANGED)}", tmp_path
    )  # exim is gone, and that deploy failed
    (tmp_path / "packages").write_text("ii  postfix 3.10\n")
    (tmp_path / "etc/demo/main.conf").write_text("mine, edited\n")
    later = save()
    assert later is not None
    assert (later / "files" / str(tmp_path)[1:] / "etc/demo/main.conf").read_text() == "mine, edited\n"
    assert (later / "packages").read_text() == "exim4 4.98\n"
    assert (later / adoption.PACKAGES_CHANGED).exists()


def test_what_mailkeep_wrote_is_never_saved_as_what_was_before(save: Save, tmp_path: Path) -> None:
    saved = save()
    _run(f"set -eu\n{adoption.mark_script(adoption.FILES_REPLACED)}", tmp_path)
    (tmp_path / "etc/demo/main.conf").write_text("ours\n")
    assert save() == saved
    assert saved_directories(tmp_path) == [saved]


def test_a_server_of_an_earlier_version_has_nothing_to_save(save: Save, tmp_path: Path) -> None:
    Path(f"{tmp_path}{PASSED_MARK}").mkdir(parents=True)
    assert save(replace(FRESH, passed_before=True)) is None


def test_another_mail_server_that_came_later_is_copied_and_the_way_back_stays(save: Save, tmp_path: Path) -> None:
    saved = save()
    _run(f"set -eu\n{adoption.mark_script(adoption.FILES_REPLACED)}", tmp_path)
    (tmp_path / "etc/exim4/exim4.conf").write_text("exim again\n")
    for _ in range(2):
        assert save(replace(BUILT, other_mtas=("exim4",))) == saved
    [_, copied] = saved_directories(tmp_path)
    names = [path.name for path in (copied / "files").rglob("*") if path.is_file()]
    assert names == ["exim4.conf"]


def test_a_machine_that_has_gone_back_is_saved_anew(save: Save, tmp_path: Path) -> None:
    saved = save()
    assert saved is not None
    state = Path(f"{tmp_path}{PASSED_MARK}")
    (state / "adopted").unlink()
    (state / "gone-back").touch()
    assert save() not in (None, saved)
    assert not (state / "gone-back").exists()


def test_a_tree_behind_a_symbolic_link_is_saved_with_its_files(save: Save, tmp_path: Path) -> None:
    (tmp_path / "etc/exim4").rename(tmp_path / "srv")
    (tmp_path / "etc/exim4").symlink_to(tmp_path / "srv")
    saved = save()
    assert saved is not None
    assert (saved / "files" / str(tmp_path)[1:] / "etc/exim4/exim4.conf").read_text() == "exim\n"
