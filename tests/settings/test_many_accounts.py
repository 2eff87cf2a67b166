"""Commands that read or edit a mail.yml with 10,000 accounts parse it once. bench/accounts.py measures their time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mailkeep.settings import edit_accounts, yaml_reader
from mailkeep.settings.load import load_settings, parse_settings

HASH = "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHRzb21lc2FsdA$" + "A" * 43
HEAD = """\
host:
  name: mail.example.org
  addresses: [203.0.113.25]
admin:
  addresses: [you@example.net]
domains: [example.org]
aliases:
  postmaster@example.org: u0@example.org
  abuse@example.org: u0@example.org
accounts:
"""


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    item = "  - address: u{0}@example.org\n    password: '" + HASH.replace("{", "{{").replace("}", "}}") + "'\n"
    items = "".join(f"{item}    name: User {{0}}\n    quota: 2G\n".format(number) for number in range(10_000))
    file = tmp_path_factory.mktemp("large") / "mail.yml"
    file.write_text(HEAD + items)
    return file


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "parsed"),
    [
        (lambda file: edit_accounts.list_accounts(load_settings(file)), 1),
        (lambda file: (load_settings(file), edit_accounts.add_account(file, "new@example.org", HASH)), 2),
        (lambda file: (load_settings(file), edit_accounts.set_password(file, "u9998@example.org", HASH[:-1] + "B")), 2),
        (lambda file: (load_settings(file), edit_accounts.remove_account(file, "u9999@example.org")), 2),
    ],
    ids=["list", "add", "passwd", "remove"],
)
def test_a_command_parses_the_file_once_and_the_changed_file_once(
    large_file: Path, change: Callable[[Path], object], parsed: int
) -> None:
    for cached in (yaml_reader.parse_document, parse_settings):
        cached.cache_clear()  # another command is another process
    change(large_file)
    assert yaml_reader.parse_document.cache_info().misses == parsed


@pytest.mark.slow
def test_a_mistake_is_found_in_its_line_all_the_same(large_file: Path, tmp_path: Path) -> None:
    """Lines are read only once a message needs one."""
    file = tmp_path / "mail.yml"
    file.write_text(
        large_file.read_text().replace("name: User 5000\n    quota: 2G", "name: User 5000\n    quota: much")
    )
    with pytest.raises(yaml_reader.SettingsError) as error:
        load_settings(file)
    assert [problem[:3] for problem in error.value.problems] == [(20_014, "accounts[5000].quota", '"much"')]
