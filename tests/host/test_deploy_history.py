"""An inventory that is older than the one deployed last is noticed, whoever deploys it."""

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from mailkeep.host import deploy_history, operations
from mailkeep.host.deploy_history import DeclaredState, History
from mailkeep.host.snapshot import RUN
from mailkeep_server.common.paths import DEPLOY_HISTORY

ANNA = {"the account anna@example.org": "", "the password of anna@example.org": "1"}
BERT = {"the account bert@example.org": "", "the password of bert@example.org": "5"}
DOMAIN = {"the domain example.org": ""}


def deploy(history: History, file: Path, items: Mapping[str, str]) -> History:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(str(items))
    return deploy_history.parse_history(deploy_history.add_state(history, DeclaredState(file, items)))


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here" / "mail.yml"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The copy of a second administrator."""
    return tmp_path / "there" / "mail.yml"


@pytest.mark.parametrize(
    ("newer", "older", "undone"),
    [
        ({**DOMAIN, **ANNA, **BERT}, {**DOMAIN, **ANNA}, ["remove the account bert@example.org"]),
        (DOMAIN, {**DOMAIN, **ANNA}, ["bring back the account anna@example.org"]),
        (
            {**DOMAIN, **ANNA, "the password of anna@example.org": "2"},
            {**DOMAIN, **ANNA},
            ["set back the password of anna@example.org"],
        ),
        # Older, and edited since.
        (
            {**DOMAIN, **ANNA, **BERT},
            {**DOMAIN, **ANNA, "the alias info@example.org": "9"},
            ["remove the account bert@example.org"],
        ),
        # Edits alone.
        ({**DOMAIN, **ANNA, **BERT}, {**DOMAIN, **ANNA, **BERT, "the alias info@example.org": "9"}, []),
        ({**DOMAIN, **ANNA, **BERT}, {**ANNA, **BERT}, []),
        ({**DOMAIN, **ANNA, **BERT}, {**DOMAIN, **ANNA, **BERT, "the password of anna@example.org": "3"}, []),
    ],
)
def test_what_an_older_inventory_would_undo_is_named_and_edits_are_not(
    newer: dict[str, str], older: dict[str, str], undone: list[str], here: Path, there: Path
) -> None:
    history = deploy(deploy((), here, {**DOMAIN, **ANNA}), there, newer)
    assert deploy_history.list_undone(history, older) == undone
    text = deploy_history.describe_undone(history, DeclaredState(here, older))
    assert bool(text) == bool(undone)
    assert all(line in text for line in undone)


def test_who_deployed_last_may_take_back_an_edit(here: Path) -> None:
    history = deploy(deploy((), here, DOMAIN), here, {**DOMAIN, **ANNA})
    assert deploy_history.list_undone(history, DOMAIN) == ["remove the account anna@example.org"]
    assert deploy_history.describe_undone(history, DeclaredState(here, DOMAIN)) == ""


def git(directory: Path, *arguments: str) -> None:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", str(directory), *arguments]
    subprocess.run(command, check=True, capture_output=True)


def share(here: Path, there: Path) -> None:
    """A repository with this inventory, and a clone of it."""
    git(here.parent, "init", "-q", "-b", "main")
    git(here.parent, "add", "-A")
    git(here.parent, "commit", "-qm", "first")
    git(here.parent.parent, "clone", "-q", str(here.parent), str(there.parent))


@pytest.mark.slow
def test_who_has_pulled_what_was_deployed_last_may_remove_it(here: Path, there: Path) -> None:
    history = deploy((), here, DOMAIN)
    share(here, there)
    history = deploy(history, there, {**DOMAIN, **ANNA})
    git(there.parent, "commit", "-qam", "second")

    older = DeclaredState(here, DOMAIN)
    assert "remove the account anna@example.org" in deploy_history.describe_undone(history, older)
    git(here.parent, "pull", "-q", str(there.parent), "main")
    here.write_text("without her again")
    assert deploy_history.describe_undone(history, older) == ""


@pytest.mark.slow
def test_a_key_of_a_colleague_is_not_set_back_although_mail_yml_is_the_same(here: Path, there: Path) -> None:
    def write_key(inventory: Path, content: str) -> None:
        (inventory.parent / "secrets").mkdir(parents=True, exist_ok=True)
        (inventory.parent / "secrets" / "relay-password.age").write_text(content)

    relay = "/etc/postfix/relay-password"
    write_key(here, "first")
    history = deploy((), here, {**DOMAIN, relay: "1"})
    share(here, there)
    write_key(there, "second")
    there.write_text(here.read_text())
    state = DeclaredState(there, {**DOMAIN, relay: "2"})
    history = deploy_history.parse_history(deploy_history.add_state(history, state))
    git(there.parent, "commit", "-qam", "second")

    older = DeclaredState(here, {**DOMAIN, relay: "1"})
    assert f"set back {relay}" in deploy_history.describe_undone(history, older)
    # With the colleague's vault, it is an edit.
    git(here.parent, "pull", "-q", str(there.parent), "main")
    assert deploy_history.describe_undone(history, older) == ""


@pytest.mark.slow
def test_an_inventory_that_a_merge_alone_has_brought_is_not_older(here: Path, there: Path) -> None:
    history = deploy((), here, DOMAIN)
    share(here, there)
    for inventory, text in {here: "here", there: "there"}.items():
        inventory.write_text(text)
        git(inventory.parent, "commit", "-qam", text)
    git(here.parent, "fetch", "-q", str(there.parent), "main")
    git(here.parent, "merge", "-q", "--no-commit", "-s", "ours", "FETCH_HEAD")
    history = deploy(history, there, {**DOMAIN, **ANNA})
    here.write_text(there.read_text())
    git(here.parent, "commit", "-qam", "merged")
    here.write_text("without her again")
    assert deploy_history.describe_undone(history, DeclaredState(here, DOMAIN)) == ""


def test_a_shallow_clone_is_told_what_it_may_lack(here: Path, there: Path) -> None:
    history = deploy((), here, DOMAIN)
    git(here.parent, "init", "-q", "-b", "main")
    for text in ("first", "second"):
        here.write_text(text)
        git(here.parent, "add", "-A")
        git(here.parent, "commit", "-qm", text)
    history = deploy(history, here, {**DOMAIN, **ANNA})
    git(here.parent.parent, "clone", "-q", "--depth=1", f"file://{here.parent}", str(there.parent))
    text = deploy_history.describe_undone(history, DeclaredState(there, DOMAIN))
    assert "`git fetch --unshallow`" in text
    assert "`git fetch" not in deploy_history.describe_undone(history, DeclaredState(here.parent / "copy.yml", DOMAIN))


def test_only_a_changed_state_is_recorded_and_the_oldest_are_forgotten(here: Path) -> None:
    history: History = ()
    for number in range(deploy_history.MAX_STATES + 5):
        items = {**DOMAIN, "the password of anna@example.org": str(number)}
        assert not deploy_history.is_recorded(history, DeclaredState(here, items))
        history = deploy(history, here, items)
        assert deploy_history.is_recorded(history, DeclaredState(here, items))
    assert len(history) == deploy_history.MAX_STATES
    assert history[0].changed == {**DOMAIN, "the password of anna@example.org": "5"}


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("script", [operations._record_script, operations._unpack_script])
def test_of_two_deploys_at_once_the_second_changes_and_records_nothing(
    script: Callable[[str | None], str], is_first: bool, here: Path, tmp_path: Path
) -> None:
    file = Path(f"{tmp_path}{DEPLOY_HISTORY}")
    file.parent.mkdir(parents=True)

    def run(text: str | None, new: str) -> subprocess.CompletedProcess[str]:
        lines = (
            script(text).replace(RUN, f"{tmp_path}{RUN}").replace(str(Path(DEPLOY_HISTORY).parent), str(file.parent))
        )
        lines = lines.replace("unshare", "exit 0; unshare")
        return subprocess.run(["sh", "-c", lines], input=new, capture_output=True, text=True)

    def add_state(history: History, items: dict[str, str]) -> str:
        here.parent.mkdir(exist_ok=True)
        here.write_text(str(items))
        return deploy_history.add_state(history, DeclaredState(here, items))

    text = "" if is_first else add_state((), DOMAIN)
    if text:
        file.write_text(f"{text}\n")
    first = add_state(deploy_history.parse_history(text), {**DOMAIN, **ANNA})
    done = run(text, first)
    assert (done.returncode, done.stderr) == (0, "")
    file.write_text(first)
    done = run(text, "of the second")
    assert done.returncode == 1
    assert done.stderr.startswith("Another deploy to this host has ended since this one began.")
    assert file.read_text() == first
    assert run(first, "of the third").returncode == 0
    assert run("{", "of a deploy that has read a damaged one").returncode == 0


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"time": 1}]'])
def test_a_damaged_history_stops_no_deploy(text: str) -> None:
    assert deploy_history.parse_history(text) == ()
