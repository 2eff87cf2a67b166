"""Imports run down only: no circle, no module above its floor, nothing on the server but the standard library."""

import ast
import sys
from pathlib import Path

from draw_floors import PICTURE, draw
from house import ROOT, find_circle, read_imports, read_modules, read_nodes, room_of


def test_no_import_runs_up_and_no_room_knows_another_on_its_floor() -> None:
    upward = [
        f"{edge.importer}:{edge.line} imports {edge.imported}"
        for edge in read_imports()
        if (importer := room_of(edge.importer)) != (imported := room_of(edge.imported))
        and importer.floor <= imported.floor
    ]
    assert upward == []


def test_no_circle_of_files() -> None:
    assert find_circle() == []


def test_imports_inside_functions_and_for_types_only_are_read_too() -> None:
    modules = {edge.importer for edge in read_imports()}
    assert len(modules) > 100
    lazy = [edge for edge in read_imports() if edge.importer == "mailkeep.__main__"]
    assert [edge.imported for edge in lazy] == ["mailkeep.cli.app"], "mailkeep.__main__ imports inside a function"


def test_only_the_server_programs_are_imported_by_name() -> None:
    by_name = [
        module for module, path in read_modules().items() if {"import_module", "__import__"} & _identifiers(path)
    ]
    assert by_name == ["mailkeep_server.__main__"]


def test_the_server_needs_the_standard_library_and_named_packages_of_debian_only() -> None:
    foreign = {
        f"{module}: {name}"
        for module, path in read_modules().items()
        if module.startswith(("mailkeep_server", "mailkeep.verify.probe"))
        for name in _imported_packages(path)
        if name not in sys.stdlib_module_names | {"mailkeep_server"}
    }
    assert foreign == {
        "mailkeep_server.ban_networks: fail2ban",  # it runs fail2ban itself
        "mailkeep_server.inbound.libraries: dkim",
        "mailkeep_server.inbound.libraries: spf",
    }


def test_the_operators_side_takes_from_the_server_only_what_both_need() -> None:
    """`mailkeep_server` itself names the package that is copied, and `common` holds constants and judgements."""
    taken = {
        edge.imported
        for edge in read_imports()
        if edge.importer.startswith("mailkeep.") and edge.imported.startswith("mailkeep_server")
    }
    assert {module for module in taken if not module.startswith("mailkeep_server.common")} == {"mailkeep_server"}


def test_the_picture_shows_the_floors_of_today() -> None:
    assert PICTURE.read_text() == draw(), f"run `python tests/house/draw_floors.py` in {ROOT.name}"


def _identifiers(path: Path) -> set[str]:
    names = {node.id for node in read_nodes(path) if isinstance(node, ast.Name)}
    return names | {alias.name for node in read_nodes(path) if isinstance(node, ast.ImportFrom) for alias in node.names}


def _imported_packages(path: Path) -> set[str]:
    names: set[str] = set()
    for node in read_nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.partition(".")[0])
    return names
