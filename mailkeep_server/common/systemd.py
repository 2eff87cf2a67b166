"""Messages to systemd."""

import os
import socket


def notify(state: str) -> None:
    """sd_notify(3): `READY=1` or `WATCHDOG=1`. Does nothing if systemd has not asked for it."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            is_abstract = address.startswith("@")
            systemd.sendto(state.encode(), address.replace("@", "\0", 1) if is_abstract else address)
