"""A deprecated setting in mail.yml is noted by the commands, and stops none of them."""

from pathlib import Path

from cli_samples import Run

from mailkeep.inventory.credentials import save_shared_store_password


def test_check_and_deploy_note_a_key_that_was_renamed(home: Path, mailkeep: Run) -> None:
    save_shared_store_password(home, "a password")
    with (home / "mail.yml").open("a") as file:
        file.write("guard:\n  store:\n    host: valkey.example.net\n")
    line = (home / "mail.yml").read_text().splitlines().index("  store:") + 1
    note = f"note: {home / 'mail.yml'}:{line}: guard.store is now guard.shared_store; the old name still works\n"
    checked = mailkeep("check", "home")
    assert (checked.code, checked.err) == (0, note)
    assert mailkeep("deploy", "home", "--resolver", "nonsense").err.startswith(note)
