"""A password in mail.yml is a sound hash; anything else is refused and never repeated."""

import pytest
from settings_samples import HASH, SALT_AND_DIGEST, Inventory

from mailkeep.settings.advice import list_advice


def format_hash(parameters: str, rest: str = SALT_AND_DIGEST) -> str:
    return f"{{ARGON2ID}}$argon2id$v=19${parameters}${rest}"


@pytest.mark.parametrize(
    "password",
    [
        "hunter2-clear-text",
        "{PLAIN}hunter2-clear-text",
        "{SHA512-CRYPT}$6$hunter2",
        HASH.removeprefix("{ARGON2ID}").removeprefix("$"),
        HASH.replace("ARGON2ID", "argon2id"),
        HASH.replace("ARGON2ID", "SHA512-CRYPT"),
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


SHA512 = "$6$saltsaltsaltsalt$V/0L20uk9/o3hSmyed6a4rCOC4mT1b60a73inJ4c/T85YELt.naoBJpVYs/UhVAhSZ8A07m3xicSQWwer6yIF."
SHA256 = "$5$saltsaltsaltsalt$f69aew98iO04YjsPa.s8xDE.6FcjZMjzQQvWDSdDC41"
BCRYPT = "$2y$05$abcdefghijklmnopqrstuuu2VVDCJl9xGjJricl3NlpBwDhZ3UN/u"
YESCRYPT = "$y$j9T$abcdefghijkl$YFzH7c6Ex6CZIodjxnKnT3E0u55yPI6qfzBYjw6vZv."
ARGON2I = "$argon2i$v=19$m=32768,t=4,p=1$c2FsdHNhbHRzYWx0c2FsdA$JjJfG6usoU4hQhH30UhEULArWdxytoff8XYGlfu/ZM0"


@pytest.mark.parametrize(
    ("scheme", "plain", "is_weaker"),
    [
        ("{SHA512-CRYPT}", SHA512, True),
        ("{SHA512-CRYPT}", SHA512.replace("$6$", "$6$rounds=656000$"), True),
        ("{SHA256-CRYPT}", SHA256, True),
        ("{BLF-CRYPT}", BCRYPT, True),
        ("{BLF-CRYPT}", BCRYPT.replace("$2y$05$", "$2a$13$"), True),
        ("{CRYPT}", YESCRYPT, False),
        ("{CRYPT}", YESCRYPT.replace("j9T", "j7T"), True),
        ("{ARGON2I}", ARGON2I, False),
        ("{ARGON2ID}", HASH.removeprefix("{ARGON2ID}"), False),
    ],
)
def test_a_hash_of_another_server_comes_along_and_check_says_whether_it_is_weaker(
    mail_yml: Inventory, scheme: str, plain: str, is_weaker: bool
) -> None:
    crypt = [f"{{CRYPT}}{plain}"] if "CRYPT}" in scheme else []
    for written in (plain, f"{scheme}{plain}", *crypt):
        settings = mail_yml.change(f"'{HASH}'\n    name", f"'{written}'\n    name").load()
        assert settings.accounts[0].password == f"{scheme}{plain}", "as Dovecot's passwd-file has it"
        notes = [note for note in list_advice(settings) if "weaker than Mailkeep's own" in note]
        assert [note.partition(":")[2].split(",")[0] for note in notes] == [" anna@example.org: the password's hash"][
            : int(is_weaker)
        ]
        assert plain[-20:] not in "".join(notes)


@pytest.mark.parametrize(
    "password",
    [
        "$1$abcdefgh$ZIzM8y59KsTbKuxRRei.h.",  # md5-crypt
        "ab49gq8omYHpY",  # DES
        "{SSHA512}" + "A" * 88,
        "{CRYPT}$1$abcdefgh$ZIzM8y59KsTbKuxRRei.h.",
        SHA512[:-1],
        SHA512.replace("$6$", "$6$rounds=999$"),
        SHA512.replace("$6$", "$6$rounds=700001$"),
        "{SHA256-CRYPT}" + SHA512,
        BCRYPT.replace("$05$", "$14$"),
        BCRYPT.replace("$05$", "$03$"),
        BCRYPT.replace("2y", "2x"),
        YESCRYPT.replace("j9T", "jFT"),
        YESCRYPT.replace("j9T", "jBU"),
        YESCRYPT.replace("j9T", "z9T"),
        SHA512 + ":x",
    ],
)
def test_a_hash_that_is_broken_too_weak_or_too_expensive_does_not_come_along(
    mail_yml: Inventory, password: str
) -> None:
    changed = mail_yml.change(f"'{HASH}'\n    name", f"'{password}'\n    name")
    assert changed.problem().field == "accounts[0].password"
    assert "mailkeep account passwd NAME anna@example.org" in changed.message()
    assert password[-20:] not in changed.message()


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
