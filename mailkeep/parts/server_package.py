"""`mailkeep_server`, copied to the server as it is, and `mailkeepctl`, which calls it there."""

from pathlib import Path

import mailkeep_server
from mailkeep.parts.model import Check, Directory, File, Part
from mailkeep.templating import render_template

NAME = "server package"
DIRECTORY = "/usr/lib/mailkeep"
CTL = "/usr/local/sbin/mailkeepctl"
PYTHON = f"python3 -IB {DIRECTORY}"
"""The command that runs one of the package's programs; the program's name and arguments follow."""
FORMER = (f"{DIRECTORY}/guard", "/usr/lib/mailkeep-acme", "/usr/lib/mailkeep-dns")
"""The places of this code in version 0.1.0."""


def build_part() -> Part:
    """The units that run its programs belong to other parts."""
    sources = Path(mailkeep_server.__file__).parent
    modules = {
        f"{DIRECTORY}/{path.relative_to(sources.parent)}": path.read_bytes() for path in sorted(sources.rglob("*.py"))
    }
    directories = sorted({DIRECTORY, *(str(Path(path).parent) for path in modules)})
    return Part(
        name=NAME,
        packages=("python3",),
        directories=tuple(Directory(path, purge_unmanaged=True) for path in directories),
        files=(
            *(File(path, content) for path, content in modules.items()),
            File(f"{DIRECTORY}/__main__.py", render_template("server_package/__main__.py")),
            File(CTL, render_template("server_package/mailkeepctl", python=PYTHON), mode=0o755),
        ),
        absent=FORMER,
        checks=(
            Check(f"{PYTHON} check", reads=(DIRECTORY,)),
            Check(f"sh -n {CTL}", reads=(CTL,)),
        ),
    )
