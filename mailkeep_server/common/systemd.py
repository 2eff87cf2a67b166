"""What a service tells systemd."""

import os
import socket


def notify(state: str) -> None:
    """sd_notify(3): `READY=1`, `WATCHDOG=1`; nothing where nobody listens."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.sendto(state.encode(), address.replace("@", "\0", 1) if address.startswith("@") else address)
