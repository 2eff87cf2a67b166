"""The container of `make demo`, for pyinfra; used from .lab/demo, beside the lab's own directory."""

import os
from pathlib import Path

_here = Path(__file__).resolve().parent
_lab = _here.parent / os.environ.get("MAILKEEP_LAB", "mailkeep")

hosts = [
    (
        "mail",
        {
            "mailkeep": str(_here / "mail.yml"),
            "ssh_config_file": str(_lab / "mail.ssh_config"),
        },
    ),
]
