"""A server's addresses in mail.yml change as text: comments, layout and all else stay."""

from pathlib import Path

import pytest

from mailkeep.errors import UserError
from mailkeep.settings.edit_host import set_addresses
from mailkeep.settings.load import load_settings

REST = """
domains: [example.org]
accounts: []  # nobody yet
admin:
  addresses: [anna@example.net]
  networks: [192.0.2.0/24]
"""
BLOCK = """\
# The server.
host:
  name: mail.example.org  # its name
  addresses: [203.0.113.25, "2001:db8::25"]  # its addresses
"""
LONG_BLOCK = """\
host:
  addresses:
    - 203.0.113.25
    - "2001:db8::25"

  # its name
  name: mail.example.org
"""
FLOW = "host: {name: mail.example.org, addresses: [203.0.113.25]}  # the server\n"
NEW, OLD = ("198.51.100.7", "2001:db8::7"), ("203.0.113.25",)


@pytest.fixture(params=[BLOCK, LONG_BLOCK, FLOW], ids=["block", "long", "flow"])
def mail_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    file = tmp_path / "mail.yml"
    file.write_text(request.param + REST)
    return file


def test_addresses_change_and_comments_stay(mail_file: Path) -> None:
    before = mail_file.read_text()
    set_addresses(mail_file, NEW, OLD)
    settings = load_settings(mail_file)
    assert [str(address) for address in settings.host.addresses] == [*NEW]
    assert [str(address) for address in settings.host.forwarded_from] == [*OLD]
    after = mail_file.read_text()
    assert after.endswith(REST)
    assert [line.partition("#")[2] for line in before.splitlines() if "#" in line] == [
        line.partition("#")[2] for line in after.splitlines() if "#" in line
    ]


def test_the_end_of_a_move_leaves_no_trace(mail_file: Path) -> None:
    set_addresses(mail_file, NEW, ())
    after = mail_file.read_text()
    set_addresses(mail_file, NEW, OLD)
    set_addresses(mail_file, NEW, OLD)
    set_addresses(mail_file, NEW, ())
    assert mail_file.read_text() == after


def test_a_comment_within_the_addresses_is_never_lost(tmp_path: Path) -> None:
    file = tmp_path / "mail.yml"
    file.write_text(LONG_BLOCK.replace("- 203.0.113.25", "- 203.0.113.25  # of the first line") + REST)
    before = file.read_text()
    with pytest.raises(UserError, match=r"(?s)host.addresses.*in one line"):
        set_addresses(file, NEW, OLD)
    assert file.read_text() == before
