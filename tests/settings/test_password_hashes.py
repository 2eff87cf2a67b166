"""A password in mail.yml is a sound hash; anything else is refused and never repeated."""

import pytest
from settings_samples import HASH, SALT_AND_DIGEST, Inventory


def format_hash(parameters: str, rest: str = SALT_AND_DIGEST) -> str:
    return f"{{ARGON2ID}}$argon2id$v=19${parameters}${rest}"


@pytest.mark.parametrize(
    "password",
    [
        "hunter2-clear-text",
        "{PLAIN}hunter2-clear-text",
        "{SHA512-CRYPT}$6$hunter2",
        HASH.removeprefix("{ARGON2ID}"),
        HASH.replace("ARGON2ID", "argon2id"),
        HASH.replace("argon2id", "argon2i"),
        HASH[:-30],
        HASH[:-1],
        HASH + "!",
        HASH + "\n",
        format_hash("m=64,t=1,p=1"),
        format_hash("m=7168,t=4,p=1"),
        format_hash("m=4096,t=10,p=1"),
        format_hash("m=1048576,t=2,p=1"),
        format_hash("m=19456,t=100,p=1"),
        format_hash("m=19456,t=2,p=64"),
        format_hash("m=19456,t=2,p=0"),
        format_hash("m=99999999999999,t=2,p=1"),
    ],
)
def test_an_unsound_hash_is_refused_unseen_with_the_command_to_set_it(mail_yml: Inventory, password: str) -> None:
    quoted = '"' + password.replace("\n", "\\n") + '"'
    changed = mail_yml.change(f"'{HASH}'\n    name", f"{quoted}\n    name")
    assert changed.problem().field == "accounts[0].password"
    message = changed.message()
    assert "mailkeep account passwd NAME anna@example.org" in message
    for secret in (password, "hunter2", SALT_AND_DIGEST, SALT_AND_DIGEST[:20]):
        assert secret not in message


@pytest.mark.parametrize("parameters", ["m=7168,t=5,p=1", "m=19456,t=2,p=1", "m=65536,t=2,p=1", "m=47104,t=1,p=4"])
def test_the_parameters_of_owasp_and_libsodium_are_accepted(mail_yml: Inventory, parameters: str) -> None:
    changed = mail_yml.change(f"'{HASH}'\n    name", f"'{format_hash(parameters)}'\n    name")
    assert changed.load().accounts[0].password == format_hash(parameters)


@pytest.mark.parametrize(
    "written",
    [
        "hunter2",
        "*hunter2",
        "&hunter2",
        "&hunter2 x",
        "!hunter2",
        "!hunter2 x",
        "%hunter2",
        "@hunter2",
        "`hunter2",
        "{hunter2}",
        "{hunter2: x, hunter2: y}",
        "{hunter2: &a x}",
        "[hunter2]",
        "[hunter2, [hunter2]]",
        "hunter2: x",
        "{ARGON2ID}$hunter2",
        "'hunter2",
        "|\n      hunter2",
        "\n      hunter2: x",
        '"\\hunter2"',
        "? hunter2",
        "<<hunter2",
        "# hunter2",
    ],
)
def test_a_clear_text_password_is_never_repeated_whatever_yaml_makes_of_it(mail_yml: Inventory, written: str) -> None:
    assert "hunter2" not in mail_yml.change(f"'{HASH}'\n    name", f"{written}\n    name").message()


@pytest.mark.parametrize("line", ["pasword: hunter2", "passwd: hunter2", "Password: hunter2"])
def test_a_password_under_a_misspelt_key_is_not_repeated(mail_yml: Inventory, line: str) -> None:
    assert "hunter2" not in mail_yml.change("quota: 2G", line).message()
    assert (
        "hunter2" not in mail_yml.change("  - address: bert@example.net ", "  - bert@example.net hunter2 #").message()
    )
