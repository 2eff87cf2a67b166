"""The manual pages say what the commands and settings are today, in a language that formatters understand."""

import shutil
import subprocess

import pytest

from mailkeep.parts import server_package
from mailkeep.settings.reference import list_sections
from scripts import make_manual

PAGES = ("mailkeep.1", "mailkeepctl.8", "mail.yml.5")


@pytest.mark.slow
def test_the_pages_are_current() -> None:
    written = {file.name: file.read_text() for file in make_manual.TARGET.iterdir()}
    assert written == make_manual.make_pages(), "run `make manual`"


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
def test_a_formatter_has_nothing_to_object_to(page: str) -> None:
    file = make_manual.TARGET / page
    done = subprocess.run(["groff", "-man", "-ww", "-z", "-Tutf8", file], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.skipif(not shutil.which("man"), reason="man is not installed")
def test_man_shows_the_page(page: str) -> None:
    file = make_manual.TARGET / page
    command = ["man", "--warnings", "-E", "UTF-8", "-l", file]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin", "MANPAGER": "cat"}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for title in ("NAME", "DESCRIPTION", "SEE ALSO"):
        assert title in done.stdout


@pytest.mark.slow
def test_every_setting_has_its_line() -> None:
    page = (make_manual.TARGET / "mail.yml.5").read_text()
    for section in list_sections():
        assert not section.path or f".SH {section.path}\n" in page
        for setting in section.settings:
            assert f"\\fB{setting.name}\\fR (\\fI{setting.type}\\fR)" in page


def test_the_server_gets_the_page_of_its_command() -> None:
    files = {file.path: file.content for file in server_package.build_part().files}
    assert files["/usr/local/share/man/man8/mailkeepctl.8"] == (make_manual.TARGET / "mailkeepctl.8").read_bytes()


@pytest.mark.parametrize(
    ("text", "roff"),
    [
        ("`--now` begins", r"\fB\-\-now\fR begins"),
        (".hidden", r"\&.hidden"),
        ("'quoted'", r"\&'quoted'"),
        (r"a\b ~ … [the guide](guide.md)", r"a\eb \(ti \[u2026] the guide"),
    ],
)
def test_text_stays_text(text: str, roff: str) -> None:
    assert make_manual.format_text(text) == roff
