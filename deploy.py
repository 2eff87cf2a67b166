"""The pyinfra entry: `pyinfra inventories/NAME/inventory.py deploy.py`, or `mailkeep deploy NAME`.

Each host names its settings file in its data; the parts of `mailkeep.mail_server.build_parts` are what it becomes.
"""

from pyinfra import host
from pyinfra.api.exceptions import PyinfraError

from mailkeep.errors import UserError
from mailkeep.host.operations import converge_host
from mailkeep.host.preflight import run_preflight
from mailkeep.inventory import hosts, secrets
from mailkeep.parts import mail_server
from mailkeep.settings.load import load_settings

try:
    file = hosts.settings_path(host.name, host.data)
    declared = load_settings(file)
    server = mail_server.build_parts(declared, secrets.load_secrets(declared, file.parent))
except UserError as error:
    raise PyinfraError(str(error)) from None  # pyinfra prints it, without a traceback
run_preflight(declared, server)
converge_host(server)
