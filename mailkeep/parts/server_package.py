"""`mailkeep_server`, copied to the server as it is; `mailkeepctl`, which calls it there, and its manual page."""

from functools import cache
from pathlib import Path

import mailkeep_server
from mailkeep.parts.model import Check, Directory, File, Part
from mailkeep.templating import render_template
from mailkeep_server.common import paths

NAME = "server package"
DIRECTORY = "/usr/lib/mailkeep"
CTL = "/usr/local/sbin/mailkeepctl"
MAN_DIRECTORY = "/usr/local/share/man/man8"
PYTHON = f"python3 -IB {DIRECTORY}"
"""The command that runs one of the package's programs; the program's name and arguments follow."""
FORMER = (f"{DIRECTORY}/guard", "/usr/lib/mailkeep-acme", "/usr/lib/mailkeep-dns")
"""The places of this code in version 0.1.0."""
MANUAL = Path(__file__).resolve().parents[1] / "man" / "mailkeepctl.8"


@cache
def build_part() -> Part:
    """The units that run its programs belong to other parts. Read once: it is the same for all hosts."""
    sources = Path(mailkeep_server.__file__).parent
    modules = {
        f"{DIRECTORY}/{path.relative_to(sources.parent)}": path.read_bytes() for path in sorted(sources.rglob("*.py"))
    }
    directories = sorted({DIRECTORY, *(str(Path(path).parent) for path in modules)})
    return Part(
        name=NAME,
        packages=("python3",),
        directories=(
            *(Directory(path, purge_unmanaged=True) for path in directories),
            Directory(MAN_DIRECTORY),
        ),
        files=(
            *(File(path, content) for path, content in modules.items()),
            File(f"{DIRECTORY}/__main__.py", render_template("server_package/__main__.py")),
            File(CTL, render_template("server_package/mailkeepctl", python=PYTHON), mode=0o755),
            File(f"{MAN_DIRECTORY}/{MANUAL.name}", MANUAL.read_bytes()),
        ),
        absent=FORMER,
        kept=(paths.REPLACED_PASSWORDS,),
        checks=(
            Check(f"{PYTHON} check", reads=(DIRECTORY,)),
            Check(f"sh -n {CTL}", reads=(CTL,)),
        ),
    )
