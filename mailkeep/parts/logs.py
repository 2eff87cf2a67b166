"""The mail services' log lines, kept beside the journal, which any Linux user can fill (`log_keeper`)."""

from mailkeep.parts.model import SYSTEMD, File, Part, Unit
from mailkeep.parts.server_package import DIRECTORY, PYTHON
from mailkeep.settings.models import Settings
from mailkeep.templating import render_template

SERVICE = "mailkeep-logs.service"
KEPT_LOGS = "/var/log/mailkeep"
SHARE_OF_JOURNAL = 4  # of `retention.journal`, a quarter


def build_part(settings: Settings) -> Part:
    service = render_template(
        f"logs/{SERVICE}",
        python=PYTHON,
        directory=KEPT_LOGS,
        max_bytes=settings.retention.journal // SHARE_OF_JOURNAL,
    )
    path = f"{SYSTEMD}/{SERVICE}"
    return Part(
        name="logs",
        packages=("python3",),
        files=(File(path, service),),
        units=(Unit(SERVICE, restart_on=(f"{DIRECTORY}/", path)),),
    )
