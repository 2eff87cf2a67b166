"""The house as its source says: modules, the imports between them, and the rooms and floors of `floors.toml`."""

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("mailkeep", "mailkeep_server")
FLOORS = Path(__file__).with_name("floors.toml")


@dataclass(frozen=True, order=True)
class Import:
    """One module that imports another, and the line where it does."""

    importer: str
    imported: str
    line: int


@dataclass(frozen=True)
class Room:
    """A package or module, its floor counted from 0 at the ground, and its contents in words."""

    name: str
    floor: int
    contents: str


@cache
def read_modules() -> dict[str, Path]:
    """The source file of each module, by the module's dotted name."""
    modules = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


@cache
def read_imports() -> tuple[Import, ...]:
    """Every import from one module of the house to another: at the top, inside functions, under TYPE_CHECKING."""
    return tuple(
        sorted({edge for module, path in read_modules().items() for edge in _imports_of(module, path)} | _programs())
    )


@cache
def read_nodes(path: Path) -> tuple[ast.AST, ...]:
    """Of a module's source, each node, from the outermost on."""
    return tuple(ast.walk(ast.parse(path.read_text())))


def _imports_of(module: str, path: Path) -> Iterator[Import]:
    for node in read_nodes(path):
        for name in _imported_names(node, module, is_package=path.name == "__init__.py"):
            if (imported := _nearest_module(name)) and imported != module:
                yield Import(module, imported, getattr(node, "lineno", 0))


def _imported_names(node: ast.AST, module: str, *, is_package: bool) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        parts = module.split(".")
        package = parts if is_package else parts[:-1]
        base = package[: len(package) - node.level + 1] if node.level else []
        source = ".".join([*base, *([node.module] if node.module else [])])
        return [f"{source}.{alias.name}" for alias in node.names]
    return []


def _nearest_module(name: str) -> str:
    """The module that `name` is, or is defined in; "" outside the house."""
    while name and name not in read_modules():
        name = name.rpartition(".")[0]
    return name


def _programs() -> set[Import]:
    """`mailkeep_server.__main__` imports by name what its table PROGRAMS lists."""
    from mailkeep_server.__main__ import PROGRAMS

    return {Import("mailkeep_server.__main__", f"mailkeep_server.{module}", 0) for module in PROGRAMS.values()}


@cache
def read_rooms() -> dict[str, Room]:
    """The rooms of `floors.toml`, by name."""
    floors = tomllib.loads(FLOORS.read_text())["floor"]
    return {
        name: Room(name, number, contents)
        for number, floor in enumerate(floors)
        for name, contents in floor["rooms"].items()
    }


def room_of(module: str) -> Room:
    """The room with the longest name that begins the module's; KeyError for a module without one."""
    name = module
    while name not in read_rooms():
        name, dot, _ = name.rpartition(".")
        if not dot:
            raise KeyError(module)
    return read_rooms()[name]


def find_circle() -> list[str]:
    """Modules that import each other, one after another, back to the first; none where imports run one way."""
    graph: dict[str, set[str]] = {}
    for edge in read_imports():
        graph.setdefault(edge.importer, set()).add(edge.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return []
