"""Accounts are edited in place: nothing else changes, and nothing at all if the result would be invalid."""

import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st
from settings_samples import COMPLETE, HASH, Inventory, line_of

from mailkeep.errors import UserError
from mailkeep.settings import edit_accounts, mail_file
from mailkeep.settings.edit_accounts import AccountRow
from mailkeep.settings.load import load_settings, parse_edited_settings, parse_settings
from mailkeep.settings.models import Settings
from mailkeep.settings.yaml_reader import SettingsError

OTHER = HASH.replace("2b4f", "zzzz")
LEAST = (
    "host: {name: mail.example.org, addresses: [203.0.113.25]}\n"
    "domains: [example.org]\n"
    "admin: {addresses: [a@b.example]}\n"
)
ITEM = f"  - address: carl@example.org\n    password: '{OTHER}'\n"


def refuse(file: Inventory, *arguments: str, call: object = edit_accounts.add_account) -> str:
    before = file.path.read_bytes()
    assert callable(call)
    with pytest.raises(UserError) as raised:
        call(file.path, *arguments)
    assert file.path.read_bytes() == before
    assert [entry.name for entry in file.path.parent.iterdir()] == [file.path.name]
    return str(raised.value)


# Adding


RENAMED = """\
# The server.
host:
  name: mail.example.org
  addresses: [192.0.2.1]
domains: [example.org]
admin: {addresses: ["anna@example.org"]}
accounts:
  - address: anna@example.org  # the boss
    password: PASSWORD
    send_as: [info@example.org]
  - address: bert@example.org
    password: PASSWORD
aliases:
  # for all
  info@example.org: [bert@example.org, anna@example.org]
  post@example.org: anna@example.org
"""


def test_a_renamed_account_keeps_its_mail_from_everywhere(tmp_path: Path) -> None:
    file, old, new = tmp_path / "mail.yml", "anna@example.org", "ann@example.org"
    file.write_text(RENAMED.replace("PASSWORD", f"'{HASH}'"))
    file.read_text()
    edit_accounts.rename_account(file, old, new)
    settings = load_settings(file)
    assert settings.account_addresses == {new, "bert@example.org"}
    assert settings.aliases[old] == (new,)
    assert settings.aliases["info@example.org"] == ("bert@example.org", new)
    assert settings.aliases["post@example.org"] == settings.admin.addresses == (new,)
    assert "# the boss" in file.read_text()
    assert "# for all" in file.read_text()
    text = file.read_text()
    for address, other in (
        (old, "carl@example.org"),
        ("nobody@example.org", "x@example.org"),
        (new, "bert@example.org"),
    ):
        with pytest.raises(UserError):
            edit_accounts.rename_account(file, address, other)
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "aliases:\n  anna@example.org: ann@example.org\n"),
        ("aliases:\n", "aliases:\n  anna@example.org: ann@example.org\n"),
        ("aliases: {}  # none\n", "aliases: {anna@example.org: ann@example.org}  # none\n"),
        (
            "aliases: {post@example.org: anna@example.org}\n",
            "aliases: {anna@example.org: ann@example.org, post@example.org: ann@example.org}\n",
        ),
        ("aliases:\n  anna@example.org: ann@example.org\n", "aliases:\n  anna@example.org: ann@example.org\n"),
        ("aliases:\n  ann@example.org: anna@example.org\n", "aliases:\n  anna@example.org: ann@example.org\n"),
        ("aliases: {ann@example.org: [anna@example.org]}", "aliases: {anna@example.org: [ann@example.org]}"),
    ],
)
def test_a_renamed_account_gets_the_mail_to_its_former_address(before: str, after: str, tmp_path: Path) -> None:
    """Also where `aliases` is empty or in flow style, or has the new address as an alias of the account."""
    file, top = tmp_path / "mail.yml", RENAMED.replace("PASSWORD", f"'{HASH}'").partition("aliases:")[0]
    top = top.replace("    send_as: [info@example.org]\n", "")
    file.write_text(top + before)
    edit_accounts.rename_account(file, "anna@example.org", "ann@example.org")
    assert file.read_text().endswith(after)
    assert next(iter(load_settings(file).aliases.items())) == ("anna@example.org", ("ann@example.org",))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("    send_as: [info@example.org]\n", "    send_as: [info@example.org, anna@example.org]\n"),
        ("", "    send_as: [anna@example.org]\n"),
        ("    send_as: []\n", "    send_as: [anna@example.org]\n"),
        ("    send_as:\n", "    send_as: [anna@example.org]\n"),
        ("    send_as: [anna@example.org]\n", "    send_as: [anna@example.org]\n"),
        ("    send_as: [info@example.org, ann@example.org]\n", "    send_as: [info@example.org, anna@example.org]\n"),
        (
            "    send_as:\n    - info@example.org  # sales\n",
            "    send_as:\n    - info@example.org  # sales\n    - anna@example.org\n",
        ),
    ],
)
@pytest.mark.parametrize("is_last", [False, True])
def test_a_renamed_account_may_write_from_its_former_address(
    before: str, after: str, is_last: bool, tmp_path: Path
) -> None:
    file, text = tmp_path / "mail.yml", RENAMED.replace("PASSWORD", f"'{HASH}'")
    text = text.replace("    send_as: [info@example.org]\n", before)
    if is_last:
        top, accounts, aliases = (text[: text.index("accounts:")], text[text.index("accounts:") :], "")
        accounts, _, aliases = accounts.partition("aliases:")
        anna = accounts[accounts.index("  - address: anna") : accounts.index("  - address: bert")]
        text = f"{top}aliases:{aliases}{accounts.replace(anna, '')}{anna}".rstrip("\n")
    file.write_text(text)
    edit_accounts.rename_account(file, "anna@example.org", "ann@example.org")
    assert after.rstrip("\n") in file.read_text()
    accounts_by_address = {account.address: account for account in load_settings(file).accounts}
    assert accounts_by_address["ann@example.org"].send_as[-1] == "anna@example.org"
    assert "  # the boss\n" in file.read_text()


def test_an_account_in_flow_style_is_renamed(tmp_path: Path) -> None:
    file = tmp_path / "mail.yml"
    file.write_text(f"{LEAST}accounts: [{{address: anna@example.org, password: '{HASH}'}}]\n")
    edit_accounts.rename_account(file, "anna@example.org", "ann@example.org")
    [account] = load_settings(file).accounts
    assert (account.address, account.send_as) == ("ann@example.org", ("anna@example.org",))


def test_an_account_is_added_after_the_last_and_nothing_else_changes(mail_yml: Inventory) -> None:
    edit_accounts.add_account(mail_yml.path, "carl@example.org", OTHER)
    assert mail_yml.path.read_text() == COMPLETE.replace("aliases:\n", ITEM + "aliases:\n")
    assert [account.address for account in mail_yml.load().accounts][2] == "carl@example.org"


@pytest.mark.parametrize("name", ["Carl", "no", "null", "Ö'Néill", "# not a comment", "- x", "'", "a # b", "{}", "😀"])
def test_name_and_quota_arrive_as_they_are(mail_yml: Inventory, name: str) -> None:
    edit_accounts.add_account(mail_yml.path, "carl@example.org", OTHER, name=name, quota="500M")
    added = mail_yml.load().accounts[2]
    assert (added.name, added.quota, added.password) == (name, 500 * 2**20, OTHER)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (LEAST, LEAST + "accounts:\n" + ITEM),
        (LEAST.rstrip("\n"), LEAST + "accounts:\n" + ITEM.rstrip("\n")),
        (LEAST + "accounts: []\n", LEAST + "accounts:\n" + ITEM),
        (LEAST + "accounts: []", LEAST + "accounts:\n" + ITEM.rstrip("\n")),
        (LEAST + "accounts: [ ]  # none yet\nssh: {}\n", LEAST + "accounts:  # none yet\n" + ITEM + "ssh: {}\n"),
        (LEAST + "accounts:\nssh: {}\n", LEAST + "accounts:\n" + ITEM + "ssh: {}\n"),
        (LEAST + "accounts: [\n]\n", LEAST + "accounts:\n" + ITEM),
        (LEAST + "accounts: ~\n", LEAST + "accounts:\n" + ITEM),
        (LEAST + "\n# the end\n", LEAST + "\n# the end\naccounts:\n" + ITEM),
        ("---\n" + LEAST + "...\n", "---\n" + LEAST + "accounts:\n" + ITEM + "...\n"),
    ],
)
def test_the_first_account_finds_its_place(mail_yml: Inventory, before: str, after: str) -> None:
    edit_accounts.add_account(mail_yml.write(before).path, "carl@example.org", OTHER)
    assert mail_yml.path.read_text() == after
    assert len(mail_yml.load().accounts) == 1


def test_indentation_and_comments_around_are_kept(mail_yml: Inventory) -> None:
    before = (
        LEAST
        + f"accounts:\n- address: x@example.org\n  password: '{HASH}' # his\n  # quota: 1G\n# others\n\nssh: {{}}\n"
    )
    edit_accounts.add_account(mail_yml.write(before).path, "carl@example.org", OTHER)
    item = f"- address: carl@example.org\n  password: '{OTHER}'\n"
    assert mail_yml.path.read_text() == before.replace("# others\n", item + "# others\n")


def test_the_example_to_copy_takes_a_first_account(mail_yml: Inventory) -> None:
    example = (Path(__file__).parents[2] / "inventories/example/mail.yml").read_text()
    edit_accounts.add_account(mail_yml.write(example).path, "carl@example.org", OTHER)
    assert mail_yml.path.read_text() == example.replace("\naccounts: []\n", f"\naccounts:\n{ITEM}")


@pytest.mark.parametrize("break_", ["\r\n", "\n", "\r"])
def test_line_ends_and_byte_order_mark_are_kept(mail_yml: Inventory, break_: str) -> None:
    before = "\ufeff" + COMPLETE.replace("\n", break_)
    edit_accounts.add_account(mail_yml.write(before).path, "carl@example.org", OTHER)
    after = "\ufeff" + COMPLETE.replace("aliases:\n", ITEM + "aliases:\n").replace("\n", break_)
    assert mail_yml.path.read_bytes() == after.encode()


@pytest.mark.parametrize(
    ("address", "hash_", "name", "quota", "why"),
    [
        ("anna@example.org", OTHER, "", "", "already an account"),
        ("Carl@example.org", OTHER, "", "", "lower case: carl@example.org"),
        ("carl@example.com", OTHER, "", "", "not in `domains`"),
        ("info@example.org", OTHER, "", "", "an account too"),
        ("carl+x@example.org", OTHER, "", "", "without +"),
        ("carl@example.org\n    quota: 1G", OTHER, "", "", "one line"),
        ("carl@example.org", "hunter2", "", "", "never clear text"),
        ("carl@example.org", f"{OTHER}'\n    name: x", "", "", "one line"),
        ("carl@example.org", OTHER, "Carl\nx", "", "one line"),
        ("carl@example.org", OTHER, "Carl: x", "", "without a colon"),
        ("carl@example.org", OTHER, "", "2 gigs", "500M or 2G"),
    ],
)
def test_an_invalid_account_is_not_added(
    mail_yml: Inventory, address: str, hash_: str, name: str, quota: str, why: str
) -> None:
    message = refuse(mail_yml, address, hash_, name, quota)
    assert why in message
    assert "hunter2" not in message
    assert HASH not in message


def test_problems_that_the_file_has_already_are_reported_with_their_lines(mail_yml: Inventory) -> None:
    broken = mail_yml.change("quota: 2G", "quota: 2 gigs")
    assert f"{mail_yml.path}:{line_of(COMPLETE, 'quota: 2G')}: accounts[0].quota" in refuse(
        broken, "carl@example.org", OTHER
    )


def test_a_file_that_only_lacks_the_new_account_can_be_edited(mail_yml: Inventory) -> None:
    changed = mail_yml.change("someone@elsewhere.example", "carl@example.org")
    assert changed.problem().field == "aliases[away@example.org][0]"
    edit_accounts.add_account(changed.path, "carl@example.org", OTHER)
    assert len(changed.load().accounts) == 3


@pytest.mark.parametrize(
    "text",
    [
        LEAST + f"accounts: [{{address: x@example.org, password: '{HASH}'}}]\n",
        LEAST + "accounts: [\n  # none yet\n]\n",
        "{" + LEAST.strip().replace("\n", ", ") + "}\n",
    ],
)
def test_a_layout_that_cannot_be_edited_in_place_is_refused_with_advice(mail_yml: Inventory, text: str) -> None:
    mail_yml.write(text).load()
    assert "`- address: …` lines, or the change made by hand" in refuse(mail_yml, "carl@example.org", OTHER)


@pytest.mark.parametrize("accounts_", ["text", "{a: b}", "[text]", "[[a]]", "\n  - text"])
def test_accounts_of_another_kind_are_refused_with_the_message_of_load(mail_yml: Inventory, accounts_: str) -> None:
    mail_yml.write(f"{LEAST}accounts: {accounts_}\n")
    assert refuse(mail_yml, "carl@example.org", OTHER) == mail_yml.message()


# Changing


@pytest.mark.parametrize(("address", "number"), [("anna@example.org", 0), ("bert@example.net", 1)])
def test_a_password_is_changed_and_nothing_else(mail_yml: Inventory, address: str, number: int) -> None:
    edit_accounts.set_password(mail_yml.path, address, OTHER)
    parts = COMPLETE.split(HASH)
    parts[number : number + 2] = [parts[number] + OTHER + parts[number + 1]]
    assert mail_yml.path.read_text() == HASH.join(parts)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("password: hunter2  # x\n", f"password: '{OTHER}'  # x\n"),
        (f'password: "{HASH}"\n', f"password: '{OTHER}'\n"),
        ("password:\n", f"password: '{OTHER}'\n"),
        ("password: ~\n", f"password: '{OTHER}'\n"),
        (f"password:\n      '{HASH}'\n", f"password:\n      '{OTHER}'\n"),
        (f"password:\n      # old\n      {HASH[10:]} # x\n", f"password:\n      # old\n      '{OTHER}' # x\n"),
    ],
)
def test_the_new_password_replaces_the_old_one_however_it_was_written(mail_yml: Inventory, old: str, new: str) -> None:
    head = LEAST + "accounts:\n  - address: x@example.org\n    "
    mail_yml.write(head + old)
    edit_accounts.set_password(mail_yml.path, "x@example.org", OTHER)
    assert mail_yml.path.read_text() == head + new


def test_an_unknown_address_is_refused_with_the_nearest_known_one(mail_yml: Inventory) -> None:
    assert "Did you mean anna@example.org?" in refuse(
        mail_yml, "ana@example.org", OTHER, call=edit_accounts.set_password
    )


def test_clear_text_does_not_become_a_password(mail_yml: Inventory) -> None:
    message = refuse(mail_yml, "anna@example.org", "hunter2", call=edit_accounts.set_password)
    assert "hunter2" not in message
    assert "never clear text" in message


# Removing


def test_an_account_is_removed_and_nothing_else(mail_yml: Inventory) -> None:
    edit_accounts.add_account(mail_yml.path, "carl@example.org", OTHER)
    edit_accounts.add_account(mail_yml.path, "dora@example.org", OTHER)
    edit_accounts.remove_account(mail_yml.path, "carl@example.org")
    assert mail_yml.path.read_text() == COMPLETE.replace("aliases:\n", ITEM.replace("carl", "dora") + "aliases:\n")


def test_an_account_that_is_the_target_of_an_alias_stays(mail_yml: Inventory) -> None:
    message = refuse(mail_yml, "anna@example.org", call=edit_accounts.remove_account)
    assert message.startswith("anna@example.org is not removed, the file is as it was.")
    assert f"{mail_yml.path}: aliases[info@example.org][0]" in message


def test_removing_the_only_account_leaves_an_empty_list(mail_yml: Inventory) -> None:
    mail_yml.write(f"{LEAST}accounts: # all\n{ITEM}ssh: {{}}\n")
    edit_accounts.remove_account(mail_yml.path, "carl@example.org")
    assert mail_yml.path.read_text() == f"{LEAST}accounts: [] # all\nssh: {{}}\n"


COMMENTS = st.sampled_from(
    ["", "# one\n", "    # deep\n", "\n", "\n# two\n\n", "  # like an item\n", "# é 😀 \u2028\n", "# -\n"]
)
ITEMS = st.sampled_from(
    [
        "{i}- address: {a}\n{i}  password: '{h}'\n",
        "{i}- password: '{h}'   # comment\n{i}  address: {a}\n{i}  # quota: 1G\n",
        '{i}-   address: {a}\n{i}    password: "{h}"\n{i}    limits:\n{i}      recipients_per_day: 5\n',
        "{i}- {{address: {a}, password: '{h}'}}\n",
        "{i}-\n{i}  # - not this\n{i}  address: {a}\n{i}  password: '{h}'\n{i}  quota:\n",
        "{i}- address: {a}\n{i}  password: '{h}'\n{i}  send_as: [\n{i}    o@example.org\n{i}    ]\n",
        "{i}- address: {a}\n{i}  password: '{h}'\n{i}  send_as:\n{i}  - o@example.org\n{i}  - p@example.org # x\n",
        "{i}- address: {a}\n{i}  password: '{h}'\n{i}  name: |-\n{i}    Longer\n{i}# end\n",
    ]
)


@st.composite
def draw_files(draw: st.DrawFn) -> tuple[str, int]:
    """A mail.yml of some layout, and how many accounts user0@, user1@ … it has."""
    indent = draw(st.sampled_from(["", "  ", "      "]))
    items = draw(st.lists(ITEMS, min_size=1, max_size=4))
    block = "accounts:" + draw(st.sampled_from(["\n", " # x\n", "\n# - y\n"]))
    for number, item in enumerate(items):
        block += item.format(i=indent, a=f"user{number}@example.org", h=HASH) + draw(COMMENTS)
    text = LEAST + block + "ssh: {port: 22}\n" if draw(st.booleans()) else block + LEAST
    if draw(st.booleans()):
        text = LEAST + block
    if draw(st.booleans()):
        text = text.replace("\n", "\r\n")
    if draw(st.booleans()):
        text = "\ufeff" + text
    return (text.rstrip("\r\n ") if draw(st.booleans()) else text), len(items)


@pytest.mark.slow
@hypothesis.settings(max_examples=80)
@hypothesis.given(draw_files())
def test_adding_and_removing_gives_back_the_same_bytes(mail_yml: Inventory, file: tuple[str, int]) -> None:
    text, number = file
    mail_yml.write(text)
    assert len(mail_yml.load().accounts) == number
    edit_accounts.add_account(mail_yml.path, "carl@example.org", OTHER, name="Carl", quota="1G")
    assert [account.address for account in mail_yml.load().accounts][-1] == "carl@example.org"
    edit_accounts.remove_account(mail_yml.path, "carl@example.org")
    assert mail_yml.path.read_bytes() == text.encode()


@pytest.mark.slow
@hypothesis.settings(max_examples=50)
@hypothesis.given(draw_files(), st.integers(0, 3))
def test_every_change_keeps_all_other_lines(mail_yml: Inventory, file: tuple[str, int], which: int) -> None:
    text, number = file
    before = mail_yml.write(text).load()
    address = f"user{which % number}@example.org"
    edit_accounts.set_password(mail_yml.path, address, OTHER)
    changed = mail_yml.path.read_bytes().decode()
    assert changed.count(OTHER) == 1
    assert re.sub(r"""['"]{ARGON2ID}[^'"]*['"]""", "", changed) == re.sub(r"""['"]{ARGON2ID}[^'"]*['"]""", "", text)
    edit_accounts.remove_account(mail_yml.path, address)
    after = mail_yml.load()
    assert after.accounts == tuple(account for account in before.accounts if account.address != address)
    kept = iter(text.splitlines())
    left = [line for line in mail_yml.path.read_bytes().decode().splitlines() if number > 1 or "accounts:" not in line]
    assert all(line in kept for line in left), "lines left are the old ones in the old order"


# The file


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_the_mode_is_kept_and_no_other_file_is_left(mail_yml: Inventory, mode: int) -> None:
    mail_yml.path.chmod(mode)
    edit_accounts.add_account(mail_yml.path, "carl@example.org", OTHER)
    assert stat.S_IMODE(mail_yml.path.stat().st_mode) == mode
    assert [entry.name for entry in mail_yml.path.parent.iterdir()] == ["mail.yml"]


def test_a_symbolic_link_stays_one(mail_yml: Inventory) -> None:
    link = mail_yml.path.with_name("link.yml")
    link.symlink_to("mail.yml")
    edit_accounts.add_account(link, "carl@example.org", OTHER)
    assert link.is_symlink()
    assert len(mail_yml.load().accounts) == 3


def test_the_file_is_replaced_and_never_written_to(mail_yml: Inventory) -> None:
    hard_link = mail_yml.path.with_name("before.yml")
    hard_link.hardlink_to(mail_yml.path)
    edit_accounts.add_account(mail_yml.path, "carl@example.org", OTHER)
    assert hard_link.read_text() == COMPLETE


def test_a_full_disk_is_reported_and_leaves_the_file(mail_yml: Inventory, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert "No space left on device" in refuse(mail_yml, "carl@example.org", OTHER)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        edit_accounts.add_account(tmp_path / "mail.yml", "carl@example.org", OTHER)


# Listing


def test_the_listing_shows_what_each_account_has_and_no_hash(mail_yml: Inventory) -> None:
    rows = edit_accounts.list_accounts(mail_yml.load())
    assert rows == [
        AccountRow(
            "anna@example.org",
            "Anna Example",
            "2G",
            ("info@example.org", "team@example.net"),
            ("info@example.org", "board@example.org"),
        ),
        AccountRow("bert@example.net", "", "", (), ("board@example.org",)),
    ]
    assert HASH not in repr(rows)


# At the same time


@pytest.mark.slow
def test_accounts_added_by_many_processes_at_once_are_all_kept(mail_yml: Inventory) -> None:
    added = [f"new{number}@example.org" for number in range(12)]
    program = (
        "import sys; from pathlib import Path; from mailkeep.settings import edit_accounts, mail_file; "
        "edit_accounts.add_account(Path(sys.argv[1]), sys.argv[2], sys.argv[3])"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, mail_yml.path, address, OTHER]) for address in added]
    assert [process.wait(timeout=30) for process in running] == [0] * len(running)
    assert {account.address for account in mail_yml.load().accounts} >= set(added)


@pytest.mark.parametrize("call", [edit_accounts.add_account, edit_accounts.set_password])
def test_a_change_by_an_editor_in_between_is_kept(
    mail_yml: Inventory, monkeypatch: pytest.MonkeyPatch, call: Callable[..., None]
) -> None:
    real = mail_file.parse_edited_settings
    edited = COMPLETE + "# by hand\n"

    def edit(path: Path, content: str, former: str) -> Settings:
        mail_yml.write(edited)
        return real(path, content, former)

    monkeypatch.setattr(mail_file, "parse_edited_settings", edit)
    with pytest.raises(UserError, match=r"somebody else has just changed .*mail\.yml"):
        call(mail_yml.path, {edit_accounts.add_account: "carl@example.org"}.get(call, "anna@example.org"), OTHER)
    assert mail_yml.path.read_text() == edited


def test_an_edit_checks_only_the_accounts_that_it_changes(mail_yml: Inventory) -> None:
    former = mail_yml.path.read_text()
    before = parse_settings(mail_yml.path, former)
    edited = former.replace("aliases:\n", ITEM + "aliases:\n")
    settings = parse_edited_settings(mail_yml.path, edited, former)
    assert all(account is same for account, same in zip(settings.accounts[:2], before.accounts, strict=True))
    assert settings == parse_settings(mail_yml.path, edited)
    with pytest.raises(SettingsError, match="again"):
        parse_edited_settings(mail_yml.path, former.replace("aliases:\n", ITEM * 2 + "aliases:\n"), former)
