"""`mailkeep status`, `queue` and `bans` pass on what was asked, and show what the servers answer."""

import json
from pathlib import Path

import pytest
from cli_samples import Run, Terminal, write_program

from mailkeep.parts import server_package

COUNT = {
    "messages": 2,
    "recipients": 3,
    "by_sender": [{"name": "anna@example.org\x1b[2J", "messages": 2, "recipients": 3}],
    "shared": 1,
    "until": 1764086400.5,
}


class Ctl:
    """One host, whose `mailkeepctl` notes its arguments, and prints what the test says."""

    def __init__(self, home: Path, programs: Path, directory: Path) -> None:
        (home / "inventory.py").write_text(f"hosts = [('first', {{'mailkeep': {str(home / 'mail.yml')!r}}})]\n")
        write_program(programs / "id", "#!/bin/sh\necho 0\n")
        self.program, self.directory = programs / "mailkeepctl", directory
        self.answer("done")

    def answer(self, text: str, code: int = 0, *, dry_run: object = None) -> None:
        (self.directory / "answer").write_text(text)
        (self.directory / "count").write_text(json.dumps(dry_run))
        script = f"""#!/bin/sh
echo "$*" >> {self.directory}/calls
case "$*" in *--dry-run*) cat {self.directory}/count; exit 0;; esac
cat {self.directory}/answer; exit {code}
"""
        write_program(self.program, script)

    @property
    def calls(self) -> list[str]:
        return (self.directory / "calls").read_text().splitlines()


@pytest.fixture
def ctl(home: Path, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ctl:
    monkeypatch.setattr(server_package, "DIRECTORY", "/")  # there is a Mailkeep
    return Ctl(home, programs, tmp_path)


@pytest.mark.slow
def test_what_is_asked_is_passed_on(ctl: Ctl, mailkeep: Run) -> None:
    result = mailkeep("queue", "home", "hold", "--remote", "example.net", "--reason", "try; later")
    assert (result.code, result.out) == (0, "first:\ndone\n")
    mailkeep("queue", "home", "show", "--message", "A1", "--message", "B1", "--body", "--json")
    mailkeep("bans", "home", "198.51.100.7", "--lift", "--jail", "web")
    mailkeep("status", "home", "--all")
    assert ctl.calls == [
        "queue hold --remote=example.net --reason=try; later",
        "queue show --message=A1 --message=B1 --body",
        "bans --lift --jail=web -- 198.51.100.7",
        "status --all",
    ]


def test_json_is_by_host(ctl: Ctl, mailkeep: Run) -> None:
    ctl.answer('{"messages": 0}')
    assert json.loads(mailkeep("queue", "home", "--json").out) == {"first": {"messages": 0}}
    assert ctl.calls == ["queue summary --json"]


@pytest.mark.slow
def test_what_was_counted_is_deleted_after_a_yes(ctl: Ctl, home: Path) -> None:
    ctl.answer("2 messages deleted.", dry_run=COUNT)
    terminal = Terminal(home.parent.parent, "queue", "home", "delete", "--account", "anna@example.org")
    terminal.wait_for("Type yes")
    assert "\x1b[2J" not in terminal.output
    assert "first: 2 messages to 3 recipients (anna@example.org" in terminal.output
    assert "; 1 with other recipients too stay" in terminal.output
    terminal.type_text("yes\n")
    assert terminal.wait_for_end() == 0
    assert "2 messages deleted." in terminal.output
    delete = "queue delete --account=anna@example.org"
    assert ctl.calls == [f"{delete} --dry-run --json", f"{delete} --yes --until=1764086400.5"]


@pytest.mark.parametrize(
    ("count", "error"), [(COUNT, "no terminal to ask at"), (COUNT | {"messages": 0}, "No message")]
)
def test_without_an_answer_nothing_is_deleted(count: object, error: str, ctl: Ctl, mailkeep: Run) -> None:
    ctl.answer("deleted", dry_run=count)
    result = mailkeep("queue", "home", "delete", "--account", "anna@example.org")
    assert result.code == 1
    assert error in result.err
    assert len(ctl.calls) == 1


def test_an_unknown_action_asks_nobody(ctl: Ctl, mailkeep: Run) -> None:
    assert mailkeep("queue", "home", "destroy").code == 2
    assert not (ctl.directory / "calls").exists()


@pytest.mark.parametrize("code", [0, 3, 4])
def test_the_status_of_the_server_is_the_exit_code(code: int, ctl: Ctl, mailkeep: Run) -> None:
    ctl.answer("postfix.service is down", code)
    result = mailkeep("status", "home")
    assert (result.code, result.out) == (code, "first:\npostfix.service is down\n")


def test_a_server_that_fails_or_is_older_is_an_error(ctl: Ctl, mailkeep: Run) -> None:
    ctl.answer("fail2ban does not answer", 1)
    result = mailkeep("bans", "home")
    assert (result.code, result.out) == (1, "")
    assert "first: fail2ban does not answer" in result.err
    ctl.answer("invalid choice", 2)
    assert "`mailkeep deploy home` upgrades it" in mailkeep("status", "home").err
