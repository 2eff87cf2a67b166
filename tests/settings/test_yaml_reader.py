"""A file that is no settings file is refused with its line, and with the mistake by its name."""

import os
import socket
from pathlib import Path

import pytest
from settings_samples import COMPLETE, HASH, Inventory, line_of

from mailkeep.settings.load import load_settings
from mailkeep.settings.yaml_reader import SettingsError


def actual_in(path: Path) -> str:
    with pytest.raises(SettingsError) as raised:
        load_settings(path)
    (problem,) = raised.value.problems
    assert str(raised.value).startswith(f"{path}:")
    return problem.actual


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert actual_in(tmp_path / "mail.yml") == "no such file or directory"


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    assert actual_in(tmp_path) == "a directory"


def test_a_socket_or_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in actual_in(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        assert "not a regular file" in actual_in(tmp_path / "socket")


def test_a_path_through_a_file_is_refused(mail_yml: Inventory) -> None:
    assert actual_in(mail_yml.path / "mail.yml") == "not a directory"


def test_a_file_beyond_ten_megabytes_is_not_read(mail_yml: Inventory) -> None:
    with mail_yml.path.open("r+b") as file:
        file.truncate(11 * 2**20)
    assert mail_yml.problem().actual == "11 MB"


@pytest.mark.parametrize(
    ("content", "line", "actual"),
    [
        (b"", 0, "an empty file"),
        (b"# nothing but this\n", 0, "an empty file"),
        (b"---\n...\n", 0, "an empty file"),
        (b"just text\n", 0, "text at the top"),
        (b"- a\n- b\n", 0, "a list at the top"),
        (b"a: 1\nb: \xff\n", 2, "byte 0xff, which is not UTF-8"),
        ("a: é\n".encode("latin-1"), 1, "byte 0xe9, which is not UTF-8"),
        ("a: 1\n".encode("utf-16"), 1, "byte 0xff, which is not UTF-8"),
        (b"a: 1\n\nb: \x00\n", 3, "the control character 0x00"),
        ("é: é\nb: \x07\n".encode(), 2, "the control character 0x07"),
        (b"a: &x 1\nb: 2\n", 1, "a YAML anchor (&)"),
        (b"a: 1\nb: *x\n", 2, "a YAML alias (*)"),
        (b"a: 1\n*x : 2\n", 2, "a key that is a list, a mapping or an alias"),
        (b"a: 1\nb: !!python/object:os.system x\n", 2, "a YAML tag (!)"),
        (b"a: 1\n---\nb: 2\n", 2, "a second document (---)"),
        (b"a: 1\n? [b]\n: 2\n", 2, "a key that is a list, a mapping or an alias"),
        (b"a: " + b"[" * 100_000, 1, "deep nesting"),
        (b"a: " + b"{b: " * 5_000, 1, "deep nesting"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_the_line(
    mail_yml: Inventory, content: bytes, line: int, actual: str
) -> None:
    problem = mail_yml.write(content).problem()
    assert (problem.line, problem.actual) == (line, actual)


def test_aliases_that_would_fill_the_memory_are_refused_at_the_first(mail_yml: Inventory) -> None:
    laughs = "a: &a [x, x]\n" + "".join(
        f"{c}: &{c} [*{p}, *{p}, *{p}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert mail_yml.write(laughs).problem().actual == "a YAML anchor (&)"


def test_a_tab_in_the_indentation_is_named(mail_yml: Inventory) -> None:
    problem = mail_yml.change("  name: mail.example.org", "\tname: mail.example.org").problem()
    assert problem.line == line_of(COMPLETE, "name: mail.example.org")
    assert "a tab" in problem.expected


def test_a_syntax_error_names_its_line(mail_yml: Inventory) -> None:
    problem = mail_yml.change("resolver: system", "resolver: system: 1").problem()
    assert (problem.line, problem.field) == (line_of(COMPLETE, "resolver:"), "not YAML")


@pytest.mark.parametrize(
    ("whole", "open_"),
    [
        ('[203.0.113.25, "2001:db8::25"]', '[203.0.113.25, "2001:db8::25"'),
        ("send_as: [info@example.org, team@example.net]", "send_as: [info@example.org"),
        ("webhook:\n    format: slack", "webhook: {"),
        ("resolver: system", 'resolver: "system'),
    ],
)
def test_an_unclosed_bracket_or_quote_is_reported_where_it_begins(mail_yml: Inventory, whole: str, open_: str) -> None:
    text = COMPLETE.replace(whole, open_)
    problem = mail_yml.write(text).problem()
    assert (problem.line, problem.field) == (line_of(text, open_), "not YAML")
    assert "bracket" in problem.expected


@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
@pytest.mark.parametrize("marks", [("<<<<<<< HEAD", "=======", ">>>>>>> other"), ("=======",), (">>>>>>> 1a2b3c",)])
def test_a_merge_conflict_is_named(mail_yml: Inventory, marks: tuple[str, ...], line_break: str) -> None:
    text = COMPLETE.replace("resolver: system\n", "\n".join((*marks, "resolver: system\n")))
    problem = mail_yml.write(text.replace("\n", line_break)).problem()
    assert problem.line == line_of(text, marks[0])
    assert "a merge conflict" in problem.actual
    assert marks[0] in problem.actual


def test_a_hash_without_quotes_is_reported_as_that(mail_yml: Inventory) -> None:
    problem = mail_yml.change(f"'{HASH}'\n    name", f"{HASH}\n    name").problem()
    assert problem.line == line_of(COMPLETE, "address: anna@") + 1
    assert "quotes" in problem.expected


def test_a_second_key_of_the_same_name_is_refused_with_both_lines(mail_yml: Inventory) -> None:
    text = COMPLETE + "ssh:\n  port: 22\n  port: 23\n"
    again, port = mail_yml.write(text).problems()
    assert (again.line, again.field) == (len(text.splitlines()) - 2, "ssh")
    assert again.actual == f"a second time; first on line {line_of(COMPLETE, 'ssh:')}"
    assert port.field == "ssh.port"
