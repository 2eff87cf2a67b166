"""The documentation says what is so: its commands run, its settings are accepted, its links lead somewhere."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import typer
from documents import DOCUMENTS, PLACES, ROOT, Command, SettingsBlock, read_blocks, read_prose, read_steps
from workstation import Workstation, read_init_command

from mailkeep import templating
from mailkeep.cli.app import app
from mailkeep.inventory import hosts
from mailkeep.parts import mail_server
from mailkeep.parts.model import Part
from mailkeep.settings.load import load_settings

# Tests of their own run these, in an environment of their own.
INSTALLERS = ("pipx install ", "mailkeep --install-completion", "git pull ")
GUIDES = [name for name in DOCUMENTS if any(True for _ in read_steps(name))]


def is_makefile_target(command: str) -> bool:
    """Whether the Makefile has the targets of `make demo` and the like. They are not run: they run these tests, or
    containers."""
    program, *targets = shlex.split(command)
    return program == "make" and all(re.search(rf"^{t}:", (ROOT / "Makefile").read_text(), re.M) for t in targets)


def assert_names_existing_files(command: Command) -> None:
    """For the tools of a clone, by which these tests run: the program and the files that it is called with."""
    program, *arguments = shlex.split(command.text)
    assert (Path(sys.executable).parent / Path(program).name).exists(), f"{command.where}: {program}"
    for argument in arguments:
        if "/" in argument:
            assert (ROOT / argument.partition("::")[0]).exists(), f"{command.where}: {argument}"


@pytest.fixture(scope="module")
def readme_inventory(tmp_path_factory: pytest.TempPathFactory) -> Workstation:
    """A workstation with the inventory that the README makes."""
    workstation = Workstation(tmp_path_factory.mktemp("readme"), in_process=True)
    workstation.run(read_init_command())
    return workstation


@pytest.mark.slow
@pytest.mark.parametrize("document", GUIDES)
def test_its_commands_and_settings_work_on_the_readers_machine(
    document: str, readme_inventory: Workstation, tmp_path: Path
) -> None:
    workstation = Workstation(tmp_path, in_process=True)
    if not any("mailkeep init" in step.text for step in read_steps(document)):
        workstation.copy_inventory(readme_inventory)
    for step in read_steps(document):
        if isinstance(step, SettingsBlock):
            workstation.write_settings(step)
            load_settings(workstation.settings_file)
        elif step.place == "clone" and step.text.startswith("make "):
            assert is_makefile_target(step.text), f"{step.where}: {step.text}"
        elif step.place == "clone" and step.text.startswith(".venv/bin/"):
            assert_names_existing_files(step)
        elif not step.needs_server and not step.text.startswith(INSTALLERS):
            workstation.run(step)


@pytest.mark.slow
@pytest.mark.parametrize("in_process", [True, False])
def test_a_command_that_fails_fails_its_document(in_process: bool, tmp_path: Path) -> None:
    workstation = Workstation(tmp_path, in_process=in_process)
    for text in ("mailkeep check nowhere", "false | true", "mailkeep chekc home"):
        with pytest.raises(AssertionError, match="exit"):
            workstation.run(Command(text, "machine", "here:1"))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_of_commands_says_where_to_run_them(document: str) -> None:
    for block in read_blocks(document):
        if block.language == "sh":
            assert block.text.partition("\n")[0] in PLACES, block.where
        else:
            assert block.language in ("", "python", "yaml"), block.where
            assert not re.search(r"^(?:\$ |mailkeep |make |ssh )", block.text, re.M), (
                f"{block.where}: commands go in sh"
            )


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_mailkeep_command_in_a_sentence_exists_with_its_options(document: str) -> None:
    for code in re.findall(r"`([^`]+)`", read_prose(document).replace("\n", " ")):
        if code.startswith("mailkeep "):
            assert_command_exists(shlex.split(code)[1:], document)
        elif code.startswith("make "):
            assert is_makefile_target(code), f"{document}: {code}"


def assert_command_exists(words: list[str], where: str) -> None:
    command: object = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands or words[0].startswith("-"), f"{where}: mailkeep has no {words[0]}"
        command = command.commands.get(words.pop(0), command)
    options = {name for parameter in getattr(command, "params", []) for name in parameter.opts}
    for word in words:
        assert not word.startswith("--") or word in options, f"{where}: there is no {word}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_to_a_file_and_a_heading(document: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", read_prose(document)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (DOCUMENTS[document].parent / path).resolve() if path else DOCUMENTS[document]
        assert file.exists(), f"{document}: {target}"
        if anchor:
            assert anchor in heading_anchors(file), f"{document}: {target}"


def heading_anchors(file: Path) -> set[str]:
    """The anchors that GitHub makes of headings."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# The worked example of how-it-is-built.md would make these.
EXAMPLE_FILES = {"templates/chrony/chrony.conf.j2", "mailkeep/parts/clock.py"}
CODE = ("bench", "inventories", "mailkeep", "mailkeep_server", "molecule", "tests")


def test_every_file_that_a_document_names_exists() -> None:
    pattern = re.compile(
        r"`((?:mailkeep|mailkeep_server|templates|tests|docs|inventories/example|bench|molecule)/[\w./-]*|deploy\.py)`"
    )
    for document in DOCUMENTS:
        for name in pattern.findall(read_prose(document)):
            assert (ROOT / name).exists() != (name in EXAMPLE_FILES), f"{document}: {name}"


def test_every_module_that_a_document_names_exists() -> None:
    paths = [path.relative_to(ROOT).as_posix() for room in CODE for path in (ROOT / room).rglob("*.py")]
    for document in DOCUMENTS:
        for name in re.findall(r"`([a-z_0-9/]+\.py)`", read_prose(document)):
            in_any_inventory = name.removeprefix("inventories/home/")
            exists = any(f"/{path}".endswith(f"/{in_any_inventory}") for path in paths)
            assert exists != (name in EXAMPLE_FILES), f"{document}: {name}"


def test_the_inventory_of_several_hosts_names_both(tmp_path: Path) -> None:
    [block] = [block for block in read_blocks("first-server.md") if block.language == "python"]
    (tmp_path / "inventory.py").write_text(block.text)
    expected = {"mailkeep": str(tmp_path / "mail.yml")}
    assert hosts.read_hosts(tmp_path) == {"mail.example.org": expected, "test.example.org": expected}


def test_the_worked_example_is_a_part_like_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [module] = [block for block in read_blocks("how-it-is-built.md") if block.language == "python"]
    [template] = [
        block for block in read_blocks("how-it-is-built.md") if "chrony.conf(5)" in block.text and not block.language
    ]
    (tmp_path / "chrony").mkdir()
    (tmp_path / "chrony" / "chrony.conf.j2").write_text(template.text)
    monkeypatch.setattr(templating, "TEMPLATES", tmp_path)
    templating._create_environment.cache_clear()
    try:
        names: dict[str, object] = {}
        exec(module.text, names)  # noqa: S102 - our own documentation
        part = names["build_part"]()  # type: ignore[operator]
    finally:
        monkeypatch.undo()
        templating._create_environment.cache_clear()
    assert isinstance(part, Part)
    assert b"\npool pool.ntp.org iburst\n" in part.files[0].content
    assert "chronyd" in part.checks[0].command
    assert mail_server.build_parts


def test_the_examples_for_contributors_are_copies_of_our_own_code() -> None:
    sources = [path.read_text() for path in (ROOT / "mailkeep").rglob("*.py")]
    examples = [block for block in read_blocks("CONTRIBUTING.md") if block.language == "python"]
    assert examples
    for example in examples:
        assert any(example.text in source for source in sources), example.where
