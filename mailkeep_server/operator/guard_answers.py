"""What the guard answers to commands, by its control socket."""

from mailkeep_server.common import paths, unix_http
from mailkeep_server.operator.errors import CtlError

CONTROL_SOCKET = paths.GUARD_CONTROL_SOCKET
ANSWER_TIMEOUT = 5.0  # seconds


def ask_guard(target: str) -> str:
    """The answer of the guard's control socket. Raises CtlError."""
    try:
        return unix_http.get_body(str(CONTROL_SOCKET), target, ANSWER_TIMEOUT).decode()
    except (OSError, ValueError) as error:
        raise CtlError(f"The guard does not answer ({error}): `systemctl status mailkeep-guard` says why.") from None
