"""The mail services' log lines, kept beside the journal, which any Linux user can fill (`log_keeper`); and numbers of
past days (`mail_log.digest`)."""

from mailkeep.parts.model import SYSTEMD, Directory, File, Part, Unit, unit_check
from mailkeep.parts.server_package import DIRECTORY, PYTHON
from mailkeep.settings.models import Settings
from mailkeep.templating import render_template
from mailkeep_server.common import paths

SERVICE = "mailkeep-logs.service"
KEPT_LOGS = "/var/log/mailkeep"
HISTORY_SERVICE, HISTORY_TIMER = (f"{SYSTEMD}/mailkeep-history.{kind}" for kind in ("service", "timer"))
SHARE_OF_JOURNAL = 4  # of `retention.journal`, a quarter


def build_part(settings: Settings) -> Part:
    service = render_template(
        f"logs/{SERVICE}",
        python=PYTHON,
        directory=KEPT_LOGS,
        max_bytes=settings.retention.journal // SHARE_OF_JOURNAL,
    )
    history = render_template(
        "logs/mailkeep-history.service",
        python=PYTHON,
        days=settings.retention.report_days,
        state=paths.HISTORY_STATE,
    )
    path = f"{SYSTEMD}/{SERVICE}"
    return Part(
        name="logs",
        packages=("python3",),
        directories=(Directory(paths.HISTORY_STATE, mode=0o700),),
        files=(
            File(path, service),
            File(HISTORY_SERVICE, history),
            File(HISTORY_TIMER, render_template("logs/mailkeep-history.timer")),
        ),
        units=(
            Unit(SERVICE, restart_on=(f"{DIRECTORY}/", path)),
            Unit("mailkeep-history.timer", restart_on=(HISTORY_TIMER,)),
        ),
        checks=(unit_check(HISTORY_SERVICE, HISTORY_SERVICE),),  # the timer starts it
        kept=(paths.HISTORY_DATABASE,),
    )
