"""Writes the manual pages in docs/man/, from the sources of `--help` and of docs/settings.md: `make manual`.

mailkeep(1) comes from the commands of `mailkeep.cli`, mailkeepctl(8) from the parser of `mailkeep_server.ctl`, and
mail.yml(5) from the descriptions of `mailkeep.settings`. The language is that of groff_man(7).
"""

import argparse
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from mailkeep.cli.app import app
from mailkeep.settings.reference import RULES, SEE_BELOW, SettingReference, list_sections
from mailkeep_server.ctl import build_parser

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "man"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

EXIT_CODES = {
    "0": "Done. For plan: there is nothing to do.",
    "1": "An error, which the message explains. For verify: a check failed. For dns --check: a record is wrong. For "
    "blocklists: one lists the server, or none answered.",
    "2": "For plan: there are changes. For every command: the arguments are wrong.",
    "3": "For status: something is wrong.",
    "4": "For status: nothing is wrong, in what could be looked at.",
    "130": "Interrupted. Run it again: an interrupted deploy is completed by the next.",
}
ENVIRONMENT = {
    "MAILKEEP_HOME": "The directory that holds inventories/, as --in names it. Default: the working directory.",
    "MAILKEEP_IDENTITY": "The age identity that opens the vault. Default: see FILES.",
    "MAILKEEP_RESOLVER": "The DNS resolver to ask, as --resolver names it.",
    "MAILKEEP_LAB": "The name of the lab, which its containers carry. Default: mailkeep.",
    "XDG_CONFIG_HOME": "Where the age identities are. Default: ~/.config.",
    "XDG_STATE_HOME": "Where labs keep their state, unless Mailkeep runs from a clone. Default: ~/.local/state.",
}
FILES = {
    "inventories/NAME/mail.yml": "The server's settings: mail.yml(5).",
    "inventories/NAME/inventory.py": "The hosts, as pyinfra takes them.",
    "inventories/NAME/secrets/": "The vault: keys and passwords, encrypted with age.",
    "~/.config/mailkeep/NAME.age-identity": "The key that opens the vault. Back it up.",
    "~/.local/state/mailkeep/": "The state of labs and the pictures of drills; in a clone of Mailkeep, .lab/.",
}
CTL_EXIT_CODES = {
    "0": "Done. For status: all is well.",
    "1": "An error, which the message explains.",
    "2": "The arguments are wrong.",
    "3": "For status: something is wrong.",
    "4": "For status: nothing is wrong, in what could be looked at.",
}
CTL_FILES = {"/usr/lib/mailkeep/": "The program.", "/etc/mailkeep/": "The settings that a deploy writes."}


def main() -> None:
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, page in make_pages().items():
        (TARGET / name).write_text(page)


def make_pages() -> dict[str, str]:
    """Each page by its file name."""
    pages = {"mailkeep.1": command_page(), "mailkeepctl.8": ctl_page(), "mail.yml.5": settings_page()}
    return {name: "\n".join(lines) + "\n" for name, lines in pages.items()}


def command_page() -> Iterator[str]:
    yield from _format_head("mailkeep", 1, "build, verify and rebuild a hardened Debian mail server")
    yield from (".SH SYNOPSIS", ".B mailkeep", ".I COMMAND", "[\\fIOPTIONS\\fR] [\\fIARGUMENTS\\fR]")
    yield ".SH DESCRIPTION"
    yield from _format_paragraphs(
        "Mailkeep builds a mail server on Debian 13 from one YAML file, `mail.yml`. The same command rebuilds it on "
        "another machine, and a rerun changes nothing. Then it attacks the server that it has built, and reports what "
        "withstood.\n\nAn inventory is a directory with the settings, the hosts and the keys of a server."
    )
    yield ".SH COMMANDS"
    root = typer.main.get_command(app)
    for path, command in _list_commands("mailkeep", root):
        yield from _format_command(path, command)
    yield from _format_list("EXIT STATUS", EXIT_CODES)
    yield from _format_list("ENVIRONMENT", ENVIRONMENT)
    yield from _format_list("FILES", FILES)
    yield ".SH EXAMPLES"
    yield from _format_paragraphs(str(getattr(root, "epilog", "")))
    yield from _format_see_also(("mail.yml", 5), ("mailkeepctl", 8))


def _list_commands(path: str, group: Any) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _list_commands(f"{path} {name}", command)
        elif not command.hidden:
            yield f"{path} {name}", command


def _format_command(path: str, command: Any) -> Iterator[str]:
    parameters = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    arguments = [parameter for parameter in parameters if parameter.param_type_name == "argument"]
    options = [parameter for parameter in parameters if parameter.param_type_name == "option"]
    usage = [_escape_literal(path), *(f"\\fI{_escape_text(argument.metavar)}\\fB" for argument in arguments)]
    yield f".SS {' '.join(usage)}"
    yield from _format_paragraphs(command.help)
    for argument in arguments:
        yield from _format_item(f"\\fI{_escape_text(argument.metavar)}\\fR", argument.help)
    for option in options:
        value = "" if option.is_flag else f" \\fI{_escape_text(option.metavar or option.type.name.upper())}\\fR"
        yield from _format_item(f"\\fB{_escape_literal(', '.join(option.opts))}\\fR{value}", option.help)
    if command.epilog:
        yield from _format_paragraphs(command.epilog)


def ctl_page() -> Iterator[str]:
    parser = build_parser()
    yield from _format_head("mailkeepctl", 8, "freeze and thaw accounts of a mail server, and see what they send")
    yield from (".SH SYNOPSIS", ".B mailkeepctl", ".I COMMAND", "[\\fIOPTIONS\\fR] [\\fIARGUMENTS\\fR]")
    yield ".SH DESCRIPTION"
    yield from _format_paragraphs(parser.description or "")
    yield from _format_paragraphs("It runs on a mail server that mailkeep(1) built, as root.")
    yield ".SH COMMANDS"
    [commands] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for name, command in commands.choices.items():
        yield from _format_ctl_command(name, command)
    yield ".SH EXAMPLES"
    yield from (".nf", *(_escape_literal(line) for line in _list_examples(parser.epilog or "")), ".fi")
    yield from _format_list("EXIT STATUS", CTL_EXIT_CODES)
    yield from _format_list("FILES", CTL_FILES)
    yield from _format_see_also(("mailkeep", 1), ("mail.yml", 5))


def _list_examples(epilog: str) -> Iterator[str]:
    for line in epilog.splitlines():
        if line.startswith("  "):
            yield line.strip()


def _format_ctl_command(name: str, command: argparse.ArgumentParser) -> Iterator[str]:
    shown = [
        action
        for action in command._actions
        if action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)
    ]
    arguments = [action for action in shown if not action.option_strings]
    usage = [_escape_literal(f"mailkeepctl {name}"), *(f"\\fI{argument.dest.upper()}\\fB" for argument in arguments)]
    yield f".SS {' '.join(usage)}"
    yield from _format_paragraphs(command.description or "")
    for action in shown:
        value = "" if action.nargs == 0 else f"\\fI{_escape_text(str(action.metavar or action.dest.upper()))}\\fR"
        option = f"\\fB{_escape_literal(', '.join(action.option_strings))}\\fR" if action.option_strings else ""
        yield from _format_item(" ".join(filter(None, (option, value))), action.help or "")
    yield from _format_paragraphs(command.epilog or "")


def settings_page() -> Iterator[str]:
    yield from _format_head("mail.yml", 5, "the settings of a mail server that mailkeep(1) builds")
    yield ".SH DESCRIPTION"
    yield from _format_paragraphs(
        "`inventories/NAME/mail.yml` says in YAML what a mail server should be. `mailkeep init` writes one to begin "
        "with, `mailkeep check` says what is wrong with it, and `mailkeep schema` prints its JSON Schema for editors."
    )
    for rule in RULES:
        yield ".IP \\(bu 2"
        yield format_text(rule)
    for section in list_sections():
        yield f".SH {_escape_literal(section.path) if section.path else 'SETTINGS AT THE TOP'}"
        yield from _format_paragraphs(section.description)
        for setting in section.settings:
            yield from _format_item(
                f"\\fB{_escape_literal(setting.name)}\\fR (\\fI{setting.type}\\fR)", _describe_setting(setting)
            )
    yield from _format_see_also(("mailkeep", 1), ("mailkeepctl", 8))


def _describe_setting(setting: SettingReference) -> str:
    words = {None: "Required.", "": "", SEE_BELOW: "Its section is below."}
    default = words.get(setting.default, f"Default: `{setting.default}`.")
    example = f"Example: `{setting.example}`." if setting.example else ""
    return " ".join(filter(None, (setting.description, default, example)))


def _format_head(name: str, section: int, summary: str) -> Iterator[str]:
    yield '.\\" Written by scripts/make_manual.py; changes are lost.'
    yield f'.TH {name.upper()} {section} "" "Mailkeep {VERSION}" "Mailkeep"'
    yield from (".nh", ".ad l")  # what is to be copied stays in one piece
    yield ".SH NAME"
    yield f"{_escape_literal(name)} \\- {format_text(summary)}"


def _format_see_also(*pages: tuple[str, int]) -> Iterator[str]:
    yield ".SH SEE ALSO"
    for number, (name, section) in enumerate(pages, 1):
        yield f".BR {_escape_literal(name)} ({section}){',' if number < len(pages) else ''}"


def _format_list(title: str, entries: Mapping[str, str]) -> Iterator[str]:
    yield f".SH {title}"
    for name, text in entries.items():
        yield from _format_item(f"\\fB{_escape_literal(name)}\\fR", text)


def _format_item(tag: str, text: str) -> Iterator[str]:
    yield from (".TP", tag, format_text(text))


def _format_paragraphs(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        yield from (".PP", format_text(paragraph))


def format_text(markdown: str) -> str:
    """One paragraph: code in bold, links as their words. A line that begins like a request is shielded."""
    words = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", " ".join(markdown.split()))
    pieces = re.split(r"`([^`]+)`", words)
    text = "".join(
        f"\\fB{_escape_literal(piece)}\\fR" if number % 2 else _escape_text(piece)
        for number, piece in enumerate(pieces)
    )
    return f"\\&{text}" if text.startswith((".", "'")) else text


def _escape_literal(text: str) -> str:
    """What is typed: its hyphens are to be copied."""
    return _escape_text(text).replace("-", "\\-")


def _escape_text(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("~", "\\(ti").replace("^", "\\(ha")
    return "".join(character if ord(character) < 128 else f"\\[u{ord(character):04X}]" for character in escaped)


if __name__ == "__main__":
    main()
