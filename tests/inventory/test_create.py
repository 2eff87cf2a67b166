"""`mailkeep init` creates a complete inventory or nothing, and overwrites nothing."""

import dataclasses
import re
import shutil
from datetime import date
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from mailkeep.errors import UserError
from mailkeep.inventory import hosts, secrets, vault
from mailkeep.inventory.create import NewInventory, create_inventory
from mailkeep.inventory.passwords import hash_password
from mailkeep.settings import edit_accounts, models
from mailkeep.settings.load import load_settings

ARGUMENTS = {
    "host": "mail.example.org",
    "addresses": ["192.0.2.1", "2001:db8::1"],
    "admin": ["you@example.org"],
}


def enter_clone(root: Path, patch: pytest.MonkeyPatch) -> None:
    """A clone with no inventory in it; identities go to `config` beside it."""
    patch.delenv("MAILKEEP_IDENTITY", raising=False)
    patch.setenv("XDG_CONFIG_HOME", str(root / "config"))
    (root / "clone" / "inventories").mkdir(parents=True)
    patch.chdir(root / "clone")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    enter_clone(tmp_path, monkeypatch)
    return tmp_path


def create(root: Path, **changed: object) -> NewInventory:
    return create_inventory(root / "clone" / "inventories" / "first", **(ARGUMENTS | changed))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def first_inventory(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NewInventory]:
    """Where a result was created, and the result; not to be changed."""
    root = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        enter_clone(root, patch)
        return root, create(root)


@pytest.fixture
def inventory(first_inventory: tuple[Path, NewInventory], root: Path) -> NewInventory:
    """The result of `create(root)`."""
    first, result = first_inventory
    shutil.copytree(first, root, dirs_exist_ok=True)
    paths = {name: root / getattr(result, name).relative_to(first) for name in ("directory", "identity")}
    return dataclasses.replace(result, **paths)


def read_tree(root: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


@pytest.mark.slow
def test_a_new_inventory_is_complete(inventory: NewInventory) -> None:
    declared = load_settings(inventory.directory / "mail.yml")
    loaded = secrets.load_secrets(declared, inventory.directory)
    assert {key.domain for key in loaded.dkim} == {"example.org", "mail.example.org"}
    assert {key.selector for key in loaded.dkim} == {f"s{date.today():%Y%m%d}"}
    assert len(inventory.keys) == 3


def test_the_settings_are_those_of_the_arguments(root: Path) -> None:
    result = create(
        root,
        domains=["example.net", "example.com"],
        admin=["boss@example.edu"],
        networks=["203.0.113.0/24"],
        account="anna@example.com",
    )
    declared = load_settings(result.directory / "mail.yml")
    assert [str(address) for address in declared.host.addresses] == ["192.0.2.1", "2001:db8::1"]
    assert declared.domains == ("example.net", "example.com")
    assert declared.admin.addresses == ("boss@example.edu",)
    assert [str(network) for network in declared.admin.networks] == ["203.0.113.0/24"]
    assert [account.address for account in declared.accounts] == ["anna@example.com"]
    assert declared.aliases == {
        f"{role}@{domain}": ("anna@example.com",) for domain in declared.domains for role in ("postmaster", "abuse")
    }


@pytest.mark.parametrize(
    ("admin", "account"),
    [
        (["you@example.org"], "you@example.org"),
        (["you@example.net", "me@example.org"], "me@example.org"),
        (["you@example.net"], "postmaster@example.org"),
    ],
)
def test_the_first_account_is_the_admins_own_or_the_postmasters(root: Path, admin: list[str], account: str) -> None:
    result = create(root, admin=admin)
    declared = load_settings(result.directory / "mail.yml")
    assert result.account == account
    assert [account.address for account in declared.accounts] == [account]


def test_the_passphrase_opens_the_account_and_is_in_no_file_nor_in_the_results_repr(
    inventory: NewInventory, root: Path
) -> None:
    result = inventory
    declared = load_settings(result.directory / "mail.yml")
    PasswordHasher().verify(declared.accounts[0].password.removeprefix("{ARGON2ID}"), result.passphrase)
    for content in read_tree(root).values():
        assert result.passphrase.encode() not in (content or b"")
    assert result.passphrase not in repr(result)
    assert result.passphrase not in "\n".join((*result.keys, *result.next_steps))


def test_the_identity_lies_outside_the_inventory_and_no_private_key_in_it(inventory: NewInventory, root: Path) -> None:
    assert inventory.identity == root / "config" / "mailkeep" / "first.age-identity"
    assert inventory.identity.stat().st_mode & 0o777 == 0o600
    for content in read_tree(root / "clone").values():
        assert b"PRIVATE KEY" not in (content or b"")
        assert b"AGE-SECRET-KEY" not in (content or b"")


def test_the_identity_can_be_put_elsewhere(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILKEEP_IDENTITY", str(root / "stick" / "key"))
    result = create(root)
    assert result.identity == root / "stick" / "key"
    assert not (root / "config").exists()
    secrets.load_secrets(load_settings(result.directory / "mail.yml"), result.directory)


@pytest.mark.parametrize("kind", ["directory", "file", "dangling link"])
def test_an_existing_target_is_never_overwritten(root: Path, kind: str) -> None:
    target = root / "clone" / "inventories" / "first"
    if kind == "directory":
        target.mkdir()
    elif kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to("nowhere")
    before = read_tree(root)
    with pytest.raises(UserError, match="exists already"):
        create(root)
    assert read_tree(root) == before


def test_an_identity_that_exists_is_never_overwritten(root: Path) -> None:
    identity = root / "config" / "mailkeep" / "first.age-identity"
    identity.parent.mkdir(parents=True)
    identity.write_text("the only key to something")
    before = read_tree(root)
    with pytest.raises(UserError, match=str(identity)):
        create(root)
    assert read_tree(root) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"host": "mail"}, "host.name"),
        ({"host": "mail.example.org: x\nadmin: {}"}, "host.name"),
        ({"host": ""}, "host.name"),
        ({"addresses": ["192.0.2.300"]}, "host.addresses"),
        ({"addresses": []}, "host.addresses"),
        ({"domains": ["example"]}, "domains"),
        ({"domains": ["*alias"]}, "domains"),
        ({"domains": ["mail.example.org"]}, "domains"),
        ({"domains": ["example.org", "example.org"]}, "domains[1]"),
        ({"admin": ["nobody"]}, "admin.addresses"),
        ({"admin": []}, "admin.addresses"),
        ({"admin": ["a@b]\n  evil: [x@y"]}, "admin.addresses"),
        ({"networks": ["everywhere"]}, "admin.networks"),
        ({"account": "anna@elsewhere.test"}, "accounts[0].address"),
        ({"account": "{{ 7 * 7 }}@example.org"}, "accounts[0].address"),
        ({"ssh_host": "a b"}, "'a b': no host for SSH"),
        ({"ssh_host": "-oProxyCommand=x"}, "no host for SSH"),
        ({"ssh_host": '"+x+"'}, "no host for SSH"),
        ({"ssh_host": "root@mail.example.org:2222"}, "a port or a jump host belongs there"),
    ],
)
def test_a_bad_argument_is_named_and_nothing_is_written(root: Path, arguments: dict[str, object], message: str) -> None:
    before = read_tree(root)
    with pytest.raises(UserError) as error:
        create(root, **arguments)
    assert message in str(error.value)
    assert str(root) not in str(error.value)
    assert read_tree(root) == before


@pytest.mark.parametrize("name", ["..", "../h", ".hidden", "a b", "-n", "a\nb"])
def test_a_name_that_is_hard_to_type_or_hidden_is_refused(root: Path, name: str) -> None:
    with pytest.raises(UserError, match="not a name for an inventory"):
        create_inventory(root / "clone" / "inventories" / name, **ARGUMENTS)  # type: ignore[arg-type]


def test_a_missing_parent_directory_is_named(root: Path) -> None:
    with pytest.raises(UserError, match="no such directory"):
        create_inventory(root / "nowhere" / "first", **ARGUMENTS)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no such directory"):
        create_inventory(root / "nowhere" / "inventories" / "first", **ARGUMENTS)  # type: ignore[arg-type]


def test_the_first_inventory_brings_the_directory_of_inventories(root: Path) -> None:
    (root / "mail").mkdir()
    target = root / "mail" / "inventories" / "first"
    with pytest.raises(UserError):
        create_inventory(target, **(ARGUMENTS | {"host": "not a host"}))  # type: ignore[arg-type]
    assert not target.parent.exists()
    create_inventory(target, **ARGUMENTS)  # type: ignore[arg-type]
    assert (target / "mail.yml").is_file()


class Interruption(BaseException):
    """As Ctrl-C: not an Exception."""


@pytest.mark.parametrize("step", ["create_missing_keys", "create_vault", "write_identity", "rename"])
def test_a_failure_halfway_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    owner = {"create_missing_keys": secrets, "create_vault": vault, "write_identity": vault, "rename": Path}[step]
    real = getattr(owner, step)

    def fails_after_its_work(*arguments: object, **options: object) -> None:
        if step != "rename":
            real(*arguments, **options)
        raise Interruption

    before = read_tree(root)
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, fails_after_its_work)
        with pytest.raises(Interruption):
            create(root)
    assert read_tree(root) == before
    create(root)


def test_pyinfra_finds_the_host_and_its_settings(root: Path) -> None:
    result = create(root, ssh_host="operator@203.0.113.25")
    data = {"mailkeep": str(result.directory / "mail.yml"), "ssh_user": "operator", "_sudo": True}
    assert hosts.read_hosts(result.directory) == {"203.0.113.25": data}


@pytest.mark.parametrize("ssh_host", [None, "root@mail.example.org", "alias", "2001:db8::1"])
def test_root_needs_no_sudo(root: Path, ssh_host: str | None) -> None:
    ((host, data),) = hosts.read_hosts(create(root, ssh_host=ssh_host).directory).items()
    assert host == (ssh_host or "mail.example.org").removeprefix("root@")
    assert "_sudo" not in data


def test_the_inventory_can_be_moved(inventory: NewInventory, root: Path) -> None:
    moved = inventory.directory.rename(root / "moved")
    assert hosts.read_hosts(moved)["mail.example.org"]["mailkeep"] == str(moved / "mail.yml")


def test_the_next_steps_name_the_backup_the_records_and_the_commands_in_their_order(
    first_inventory: tuple[Path, NewInventory],
) -> None:
    _, result = first_inventory
    text = "\n".join(result.next_steps)
    assert str(result.identity) in text
    order = [text.index(f"mailkeep {command} first") for command in ("dns", "plan", "deploy", "verify")]
    assert order == sorted(order)


def test_every_commented_setting_is_valid_when_uncommented(inventory: NewInventory) -> None:
    path = inventory.directory / "mail.yml"
    offered = re.compile(r"^( *)# ( *[a-z_]+(?:@?[a-z]+\.[a-z]+)?:(?: .*)?)$", re.MULTILINE)
    text = path.read_text()
    names = {match[2].split(":")[0].strip() for match in offered.finditer(text)}
    own_tls = text.replace("tls:\n  mode: self-signed\n", "").replace("#   mode:", "# tls:\n#   mode:")
    path.write_text(offered.sub(r"\1\2", own_tls))
    declared = load_settings(path)
    assert {"quota", "send_as", "catch_all", "relay", "retention", "ssh", "firewall", "message_size"} <= names
    assert declared.relay is not None
    assert declared.tls.mode == "files"


def test_the_settings_offer_every_top_level_setting(inventory: NewInventory) -> None:
    text = (inventory.directory / "mail.yml").read_text()
    assert [name for name in models.Settings.model_fields if not re.search(rf"^(# )?{name}:", text, re.M)] == []


def test_a_place_that_cannot_be_written_to_is_named(root: Path) -> None:
    with pytest.raises(UserError, match=r"/proc/first: cannot be created: .*\."):
        create_inventory(Path("/proc/first"), **ARGUMENTS)  # type: ignore[arg-type]
    (root / "config").write_text("a file where the directory should be")
    before = read_tree(root)
    with pytest.raises(UserError, match=r"first\.age-identity: cannot be written: Not a directory"):
        create(root)
    assert read_tree(root) == before


def test_accounts_can_be_added_to_what_was_written(inventory: NewInventory) -> None:
    path = inventory.directory / "mail.yml"
    first = load_settings(path).accounts[0]
    edit_accounts.add_account(path, "bert@example.org", first.password, name="Bert")
    edit_accounts.set_password(path, first.address, hash_password("another passphrase"))
    after = load_settings(path).accounts
    assert [account.address for account in after] == [first.address, "bert@example.org"]
    assert first.password not in (after[0].password, None)
