"""Molecule's scenario passes. As a test of the lab it runs beside the others instead of after them."""

import os
import subprocess
import sys
from pathlib import Path

from mailkeep.lab import Lab

CLONE = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent


def test_molecule_creates_converges_changes_nothing_again_verifies_and_destroys(lab: Lab) -> None:
    environment = os.environ | {
        "LC_ALL": "C.UTF-8",  # Ansible refuses C
        "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
        "MAILKEEP_LAB": lab.prefix,
    }
    run = subprocess.run(
        [PROGRAMS / "molecule", "test"], cwd=CLONE, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
