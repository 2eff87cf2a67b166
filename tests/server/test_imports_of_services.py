"""Services that stay have in memory what they need, and not what only some other program does."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OPENSSL = {"_hashlib", "_ssl", "ssl"}
LARGE = {"dataclasses", "inspect", "logging", "shutil", "subprocess", "tempfile", "typing"}
"""Of Python's library, with all that they import."""
LIST_IMPORTED = """
import sys
sys.path.insert(0, sys.argv[1])
from mailkeep_server.__main__ import import_program
import_program(sys.argv[2])
print(*(name for name, module in sys.modules.items() if module))
"""


def list_imported(program: str) -> set[str]:
    command = (sys.executable, "-ISB", "-c", LIST_IMPORTED, str(ROOT), program)
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    ("program", "needless"),
    [
        ("guard", OPENSSL | {"email"}),
        ("watch", OPENSSL | {"concurrent.futures", "email", "logging"}),
        ("log-keeper", OPENSSL | LARGE | {"gzip"}),
        ("lines", OPENSSL | LARGE),
    ],
)
def test_a_service_imports_nothing_needless(program: str, needless: set[str]) -> None:
    assert not list_imported(program) & needless


@pytest.mark.slow
def test_a_guard_with_a_store_can_connect_by_tls() -> None:
    assert "ssl" in list_imported("guard-with-store")  # asyncio has imported it
