"""`deploy.py` with other contents for some files; the host data `broken` is the path of a JSON file {path: content}.

Parts are data, so a test can put in them the output of a wrong template.
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

contents: dict[str, str] = json.loads(Path(host.data.broken).read_text())


def spoil_file(file: File) -> File:
    return replace(file, content=contents[file.path].encode()) if file.path in contents else file


def spoil_part(part: Part) -> Part:
    return replace(part, files=tuple(spoil_file(file) for file in part.files))


mail_yml = Path(host.data.mailkeep)
settings = load_settings(mail_yml)
converge_host(
    tuple(
        spoil_part(part) for part in mail_server.build_parts(settings, secrets.load_secrets(settings, mail_yml.parent))
    )
)
