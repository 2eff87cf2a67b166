"""The deploy as pyinfra runs it: `deploy_host`, once for each host of an inventory."""

from pyinfra import host
from pyinfra.api.exceptions import PyinfraError

from mailkeep.errors import UserError
from mailkeep.host.operations import converge_host
from mailkeep.host.preflight import declare_state, run_preflight
from mailkeep.inventory import hosts, secrets
from mailkeep.parts import mail_server
from mailkeep.settings.load import load_settings


def deploy_host() -> None:
    """Declares the operations that make the current host what its mail.yml says; the host's data name that file.

    A function, since pyinfra runs `deploy.py` for every host, and Python runs an imported module only once.
    """
    try:
        file = hosts.settings_path(host.name, host.data)
        settings = load_settings(file)
        parts = mail_server.build_parts(settings, secrets.load_secrets(settings, file.parent))
    except UserError as error:
        raise PyinfraError(str(error)) from None  # pyinfra prints it, without a traceback
    run_preflight(settings, parts)
    converge_host(parts, declare_state(settings, parts))
