"""The container of `make demo`, for pyinfra; used from .lab/demo, beside the lab's own directory."""

import os
from pathlib import Path

_inventory = Path(__file__).resolve().parent
_lab = _inventory.parent / os.environ.get("MAILKEEP_LAB", "mailkeep")

hosts = [
    (
        "mail",
        {
            "mailkeep": str(_inventory / "mail.yml"),
            "ssh_config_file": str(_lab / "mail.ssh_config"),
        },
    ),
]
