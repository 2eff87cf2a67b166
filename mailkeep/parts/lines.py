"""The milter that breaks long lines before mail is signed. The program is `mailkeep_server.lines`."""

from mailkeep.parts.model import SYSTEMD, File, Part, Unit
from mailkeep.parts.server_package import DIRECTORY, PYTHON
from mailkeep.settings.models import Settings
from mailkeep.templating import render_template
from mailkeep_server.common import paths

SERVICE_FILE, SOCKET_FILE = f"{SYSTEMD}/mailkeep-lines.service", f"{SYSTEMD}/mailkeep-lines.socket"
MEMORY = 96 * 2**20  # bytes: the program, and the headers and blocks of messages. Their bodies are in files


def build_part(settings: Settings) -> Part:
    memory = MEMORY + settings.message_size  # the kernel's cache of the files counts, and is given back
    return Part(
        name="lines",
        packages=("python3",),
        files=(
            File(SERVICE_FILE, render_template("lines/mailkeep-lines.service", python=PYTHON, memory=memory)),
            File(SOCKET_FILE, render_template("lines/mailkeep-lines.socket", milter=paths.LINES_MILTER_SOCKET)),
        ),
        units=(
            Unit("mailkeep-lines.socket", restart_on=(SOCKET_FILE,)),
            Unit(
                "mailkeep-lines.service",
                restart_on=(f"{DIRECTORY}/", SERVICE_FILE),
                socket=paths.LINES_MILTER_SOCKET,
            ),
        ),
    )
