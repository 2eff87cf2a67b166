"""The documentation says what is so: its commands run, its settings are accepted, its links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from desk import Desk, init
from documents import DOCUMENTS, PLACES, ROOT, Command, Settings, blocks, prose, steps

from mailkeep import templating
from mailkeep.cli.app import app
from mailkeep.inventory import hosts
from mailkeep.parts import mail_server
from mailkeep.parts.model import Part
from mailkeep.settings import models

GUIDES = [name for name in DOCUMENTS if any(True for _ in steps(name))]


def makefile_target(command: str) -> bool:
    """`make demo` and the like: they run all this, or containers, themselves; but the target must be there."""
    program, *targets = shlex.split(command)
    return program == "make" and all(re.search(rf"^{t}:", (ROOT / "Makefile").read_text(), re.M) for t in targets)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A desk with the inventory that the README makes."""
    desk = Desk(tmp_path_factory.mktemp("begun"), quick=True)
    desk.run(init())
    return desk


@pytest.mark.parametrize("document", GUIDES)
def test_its_commands_and_settings_do_on_the_readers_machine(document: str, begun: Desk, tmp_path: Path) -> None:
    desk = Desk(tmp_path, quick=True)
    if not any("mailkeep init" in step.text for step in steps(document)):
        desk.take_over(begun)
    for step in steps(document):
        if isinstance(step, Settings):
            desk.write(step)
            models.load(desk.settings_file)
        elif step.place == "clone" and step.text.startswith("make "):
            assert makefile_target(step.text), f"{step.where}: {step.text}"
        elif not step.needs_server:
            desk.run(step)


@pytest.mark.parametrize("quick", [True, False])
def test_a_command_that_fails_fails_its_document(quick: bool, tmp_path: Path) -> None:
    desk = Desk(tmp_path, quick=quick)
    for text in ("mailkeep check nowhere", "false | true", "mailkeep chekc home"):
        with pytest.raises(AssertionError, match="exit"):
            desk.run(Command(text, "machine", "here:1"))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_of_commands_says_where_to_run_them(document: str) -> None:
    for block in blocks(document):
        if block.language == "sh":
            assert block.text.partition("\n")[0] in PLACES, block.where
        else:
            assert block.language in ("", "python", "yaml"), block.where
            assert not re.search(r"^(?:\$ |mailkeep |make |ssh )", block.text, re.M), (
                f"{block.where}: commands go in sh"
            )


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_mailkeep_command_in_a_sentence_exists_with_its_options(document: str) -> None:
    for code in re.findall(r"`([^`]+)`", prose(document).replace("\n", " ")):
        if code.startswith("mailkeep "):
            known(shlex.split(code)[1:], document)
        elif code.startswith("make "):
            assert makefile_target(code), f"{document}: {code}"


def known(words: list[str], where: str) -> None:
    command: object = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands or words[0].startswith("-"), f"{where}: mailkeep has no {words[0]}"
        command = command.commands.get(words.pop(0), command)
    options = {name for parameter in getattr(command, "params", []) for name in parameter.opts}
    for word in words:
        assert not word.startswith("--") or word in options, f"{where}: there is no {word}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_to_a_file_and_a_heading(document: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (DOCUMENTS[document].parent / path).resolve() if path else DOCUMENTS[document]
        assert file.exists(), f"{document}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{document}: {target}"


def anchors(file: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_file_that_a_document_names_is_there() -> None:
    pattern = re.compile(
        r"`((?:mailkeep|templates|tests|docs|inventories/example|bench|molecule)/[\w./-]*|deploy\.py)`"
    )
    for document in DOCUMENTS:
        for name in pattern.findall(prose(document)):
            made_by_the_example = name in ("templates/chrony/chrony.conf.j2", "mailkeep/parts/clock.py")
            assert (ROOT / name).exists() != made_by_the_example, f"{document}: {name}"


def test_the_inventory_of_several_hosts_names_both(tmp_path: Path) -> None:
    [block] = [block for block in blocks("first-server.md") if block.language == "python"]
    (tmp_path / "inventory.py").write_text(block.text)
    expected = {"mailkeep": str(tmp_path / "mail.yml")}
    assert hosts.hosts(tmp_path) == {"mail.example.org": expected, "test.example.org": expected}


def test_the_worked_example_is_a_part_like_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [module] = [block for block in blocks("how-it-is-built.md") if block.language == "python"]
    [template] = [
        block for block in blocks("how-it-is-built.md") if "chrony.conf(5)" in block.text and not block.language
    ]
    (tmp_path / "chrony").mkdir()
    (tmp_path / "chrony" / "chrony.conf.j2").write_text(template.text)
    monkeypatch.setattr(templating, "TEMPLATES", tmp_path)
    templating._environment.cache_clear()
    try:
        names: dict[str, object] = {}
        exec(module.text, names)  # noqa: S102 - our own documentation
        made = names["build_part"]()  # type: ignore[operator]
    finally:
        monkeypatch.undo()
        templating._environment.cache_clear()
    assert isinstance(made, Part)
    assert b"\npool pool.ntp.org iburst\n" in made.files[0].content
    assert "chronyd" in made.checks[0].command
    assert mail_server.build_parts
