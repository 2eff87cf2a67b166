"""The way back: files, owners, services and packages as they were, and nothing of Mailkeep's."""

import io
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from mailkeep.cli.common import ask_agreement
from mailkeep.errors import UserError
from mailkeep.operate import un_adopt
from mailkeep.operate.un_adopt import WayBack, build_program, describe_after, describe_before, parse_answer
from mailkeep.parts.model import Directory, File, Part, Unit

# A unit is enabled, or active, if `enabled` or `active` has its name.
PROGRAMS = {
    "systemctl": """echo "systemctl $*" >> log
while case ${1:-} in -*) true ;; *) false ;; esac; do shift; done
verb=$1; shift
[ "${1:-}" != --now ] || shift
case $verb in
  is-active) grep -qx "$1" active ;;
  is-enabled) grep -qx "$1" enabled && echo enabled || { echo disabled; exit 1; } ;;
  is-failed) false ;;
  start) ! grep -qx "$1" broken 2>/dev/null && echo "$1" >> active ;;
  stop) sed -i "/^$1\\$/d" active ;;
  enable) echo "$1" >> enabled ;;
  disable) for unit; do sed -i "/^$unit\\$/d" enabled active; done ;;
esac""",
    "apt-get": """echo "apt-get $*" >> log
case "$*" in
  *update*) [ ! -e no-download ] ;;
  *-s*gone) exit 100 ;;
  *-s*) ;;
  *download-only*) ;;
  *install*) echo exim4 >> installed; echo exim4.service >> active ;;
esac""",
    "dpkg-query": """[ "$4" != exim4 ] || grep -qx exim4 installed || exit 1
case $3 in *Status*) [ "$4" != gone ] && printf installed ;; *) printf 4.99 ;; esac""",
    "nft": '[ "$1" != delete ] || echo "nft $*" >> log; [ "$1" != list ]',
    "sshd": "",
    "sync": "",
}
FORMER_UNITS = ("exim4.service", "nginx.service", "ssh.service", "fail2ban.service", "own.service")
Host = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Stands for `/` of a Mailkeep server, with what the first deploy saved."""
    saved = tmp_path / "var/backups/mailkeep/adopted-1"
    for directory in (
        "bin",
        "etc/demo",
        "etc/mailkeep/tls",
        "etc/new",
        "usr/lib/mailkeep",
        "run",
        "etc/systemd/system",
    ):
        (tmp_path / directory).mkdir(parents=True)
    for name, text in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\ncd {tmp_path}\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    former = saved / "files" / str(tmp_path)[1:] / "etc"
    (former / "demo").mkdir(parents=True)
    (former / "demo/main.conf").write_text("mine\n")
    (former / "demo/main.conf").chmod(0o640)
    (former / "demo/purged.conf").write_text("mine, too\n")
    (former / "resolv.conf").symlink_to("../run/resolv.conf")
    for name, content in {
        "etc/demo/main.conf": "ours\n",
        "etc/demo/edited.conf": "edited since\n",
        "etc/new/new.conf": "ours\n",
        "etc/resolv.conf": "ours\n",
        "etc/mailkeep/tls/server.pem": "key\n",
        "etc/systemd/system/mailkeep-watch.service": "ours\n",
        "enabled": "postfix.service\nmailkeep-watch.service\nfail2ban.service\nssh.service\n",
        "active": "postfix.service\nmailkeep-watch.service\nfail2ban.service\nssh.service\nnginx.service\n",
        "installed": "",
    }.items():
        (tmp_path / name).write_text(content)
    for name, content in {
        "removed-packages": "exim4\nexim4\ngone\n",
        "packages": "exim4 4.98\ngone 1.0\n",
        "unit-files": "".join(f"{unit} enabled x\n" for unit in FORMER_UNITS),
        "active-units": "".join(f"{unit} loaded active\n" for unit in (*FORMER_UNITS, "run-1.service")),
        "directories": f"{tmp_path.owner()} {tmp_path.group()} 750 {tmp_path}/etc/demo\n",
    }.items():
        (saved / name).write_text(content)
    state = tmp_path / "var/lib/mailkeep"
    state.mkdir(parents=True)
    (state / "adopted").write_text(f"{saved}\n")
    (state / "root-access.json").write_text("{}")
    return tmp_path


@pytest.fixture
def host(root: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr("mailkeep.host.adoption.TREES", (f"{root}/etc/demo",))
    etc = f"{root}/etc"
    part = Part(
        "demo",
        packages=("postfix",),
        directories=(Directory(f"{etc}/demo"), Directory(f"{etc}/new")),
        files=tuple(
            File(f"{etc}/{name}", b"ours\n")
            for name in ("demo/main.conf", "new/new.conf", "resolv.conf", "systemd/system/mailkeep-watch.service")
        ),
        units=tuple(
            Unit(f"{name}.service") for name in ("mailkeep-watch", "postfix", "fail2ban", "ssh", "systemd-journald")
        ),
    )

    def run(mode: str) -> subprocess.CompletedProcess[str]:
        program = build_program((part,), mode)
        for path in ("/var/lib/mailkeep", "/run/mailkeep", "/usr/lib/mailkeep", "/var/spool", "/var/vmail"):
            program = program.replace(path, f"{root}{path}")
        for path in ("/etc/mailkeep", "/etc/systemd"):
            program = program.replace(f"{root}{path}", path).replace(path, f"{root}{path}")
        program = program.replace("    /etc/* |", f"    {root}/etc/* |").replace('PATH="', f'PATH="{root}/bin:')
        return subprocess.run(["sh", "-s"], input=program, cwd=root, capture_output=True, text=True, check=False)

    return run


def read_tree(root: Path) -> dict[str, str]:
    files = [path for path in (root / "etc").rglob("*") if not path.is_dir()]
    return {
        str(path.relative_to(root / "etc")): str(path.readlink()) if path.is_symlink() else path.read_text()
        for path in files
    }


@pytest.mark.slow
def test_looking_says_what_would_happen_and_changes_nothing(host: Host, root: Path) -> None:
    before = read_tree(root)
    done = host("look")
    assert (done.returncode, done.stderr) == (0, "")
    way = parse_answer(done.stdout.splitlines())
    assert (way.restored, way.removed, way.packages, way.lost) == (2, 2, ("exim4",), ("package gone 1.0",))
    assert way.starts == ("exim4.service", "fail2ban.service", "own.service")
    assert read_tree(root) == before
    assert not [line for line in (root / "log").read_text().splitlines() if " stop " in line or "disable" in line]


@pytest.mark.slow
def test_files_services_and_packages_are_as_before_and_changes_of_the_operator_stay(host: Host, root: Path) -> None:
    done = host("go")
    assert (done.returncode, done.stderr) == (0, "")
    assert read_tree(root) == {
        "demo/main.conf": "mine\n",
        "demo/purged.conf": "mine, too\n",
        "demo/edited.conf": "edited since\n",
        "resolv.conf": "../run/resolv.conf",
    }
    assert (root / "etc/demo/main.conf").stat().st_mode & 0o777 == 0o640
    assert (root / "etc/demo").stat().st_mode & 0o777 == 0o750
    assert not (root / "etc/new").exists()
    assert {*(root / "enabled").read_text().split()} == {*FORMER_UNITS}
    assert {*(root / "active").read_text().split()} == {*FORMER_UNITS}
    saved = root / "var/backups/mailkeep/adopted-1/of-mailkeep"
    assert [path.read_text() for path in saved.rglob("server.pem")] == ["key\n"]
    assert sorted(path.name for path in (root / "var/lib/mailkeep").iterdir()) == ["gone-back"]
    assert "nft delete table inet mailkeep" in (root / "log").read_text()
    way = parse_answer(done.stdout.splitlines())
    assert (way.versions, way.others, way.failed) == (("exim4 4.98 4.99",), ("postfix",), ())

    assert parse_answer(host("go").stdout.splitlines()).done


@pytest.mark.slow
def test_ssh_is_never_stopped_and_the_watch_ends_first(host: Host, root: Path) -> None:
    host("go")
    log = (root / "log").read_text()
    assert "stop ssh.service" not in log
    assert "systemctl reload ssh.service" in log
    assert log.index("disable --now mailkeep-watch.service") < log.index("stop postfix.service")


def test_nothing_changes_without_the_packages(host: Host, root: Path) -> None:
    before = read_tree(root)
    (root / "no-download").touch()
    done = host("go")
    assert (done.returncode, done.stderr) == (1, "APT cannot update. Nothing was changed.\n")
    assert read_tree(root) == before
    assert "stop postfix.service" not in (root / "log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("call", range(8, 45, 3))
def test_a_run_after_a_killed_one_ends_as_if_nothing_had_happened(call: int, host: Host, root: Path) -> None:
    """Killed at this call of systemctl; Mailkeep begins to end at about the tenth."""
    text = (root / "bin/systemctl").read_text()
    count = f'echo x >> {root}/calls; [ "$(wc -l < {root}/calls)" -ne {call} ] || kill -KILL $PPID\n'
    (root / "bin/systemctl").write_text(text.replace("verb=$1", f"{count}verb=$1"))
    host("go")
    (root / "bin/systemctl").write_text(text)
    done = host("go")
    assert done.returncode == 0, done.stderr
    test_tree = read_tree(root)
    assert (test_tree["demo/main.conf"], test_tree["resolv.conf"]) == ("mine\n", "../run/resolv.conf")
    assert "mailkeep" not in "".join(test_tree)
    assert {*(root / "active").read_text().split()} == {*FORMER_UNITS}
    assert not (root / "var/lib/mailkeep/adopted").exists()


@pytest.mark.slow
def test_a_service_that_does_not_start_is_named_and_another_run_tries_again(host: Host, root: Path) -> None:
    (root / "broken").write_text("own.service\n")
    way = parse_answer(host("go").stdout.splitlines())
    assert way.failed == ("own.service",)
    assert any("failed: own.service" in line for line in describe_after("mail", way))
    (root / "broken").unlink()
    way = parse_answer(host("go").stdout.splitlines())
    assert (way.failed, way.starts[-1]) == ((), "own.service")


@pytest.mark.parametrize(("answer", "text"), [("saved", "no way back: a version"), ("/var/x", "/var/x, in which")])
def test_without_saved_files_there_is_no_way_back(answer: str, text: str) -> None:
    assert text in parse_answer([f"nothing {answer}"]).obstacle


def test_the_text_says_what_stays_and_what_is_lost() -> None:
    way = WayBack(
        saved="/saved", mail=1, queue=2, lost=("package gone 1.0", "table ip nat"), others=("postfix", "unbound")
    )
    before, after = "\n".join(describe_before("mail", way)), "\n".join(describe_after("mail", way))
    assert "mail in /var/vmail (1 message)" in before
    assert "2 messages in Postfix's queue" in before
    for text in ("the package gone 1.0: APT has it no more", "the firewall's table ip nat"):
        assert text in before
        assert text in after
    assert "apt-get remove postfix unbound" in after


def test_only_the_name_of_the_host_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("mail\n"))
    with pytest.raises(UserError, match="no terminal to ask at, and nothing was changed"):
        ask_agreement("Type mail", "mail")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for typed, is_agreed in (("mail ", True), ("", False), ("yes", False)):
        monkeypatch.setattr("typer.prompt", lambda *_, typed=typed, **__: typed)
        with nullcontext() if is_agreed else pytest.raises(UserError, match="Nothing was changed"):
            ask_agreement("Type mail", "mail")


def test_the_program_is_valid_shell_of_its_own() -> None:
    subprocess.run(["sh", "-n"], input=build_program((Part("it's"),), "look"), text=True, check=True)
    assert un_adopt.PROGRAM.exists()
