"""The accounts of this server, for commands that name one."""

from pathlib import Path

from mailkeep_server.common import paths
from mailkeep_server.freezes import freeze_list
from mailkeep_server.guard import config
from mailkeep_server.operator.errors import CtlError

CONFIG = Path(paths.GUARD_CONFIG)
MAX_SUGGESTIONS = 5


def find_addresses(account: str) -> frozenset[str]:
    """The addresses that it may send from. Raises CtlError for an unknown account."""
    addresses = config.load_config(CONFIG).addresses
    if account in addresses:
        return frozenset(addresses[account])
    if account in freeze_list.read_freezes():  # removed from mail.yml while it was frozen
        return frozenset({account})
    accounts = ", ".join(sorted(addresses)[:MAX_SUGGESTIONS]) + (", …" if len(addresses) > MAX_SUGGESTIONS else "")
    raise CtlError(f"{account} is no account of this server. Its accounts are: {accounts}.")
