"""`deploy.py` with other contents for some files: host data `broken` names a JSON file, {path: content}.

The parts are data, so a test can say what a wrong template would have made of them.
"""

import json
from dataclasses import replace
from pathlib import Path

from pyinfra import host

from mailkeep.host.operations import converge_host
from mailkeep.inventory import secrets
from mailkeep.parts import mail_server
from mailkeep.parts.model import File, Part
from mailkeep.settings.load import load_settings

broken: dict[str, str] = json.loads(Path(host.data.broken).read_text())


def spoil(file: File) -> File:
    return replace(file, content=broken[file.path].encode()) if file.path in broken else file


def spoilt(part: Part) -> Part:
    return replace(part, files=tuple(spoil(file) for file in part.files))


mail_yml = Path(host.data.mailkeep)
declared = load_settings(mail_yml)
converge_host(
    tuple(spoilt(part) for part in mail_server.build_parts(declared, secrets.load_secrets(declared, mail_yml.parent)))
)
