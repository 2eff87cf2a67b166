"""The logins that people and strangers tried, from the server's own log. The server's own proofs are left out."""

from collections.abc import Iterator

from mailkeep_server.common.canary import NAME
from mailkeep_server.mail_log.logins import Login, read_logins
from mailkeep_server.mail_log.sources import find_first_time, read_server_log


def read_logins_since(since: str) -> Iterator[Login]:
    """`since` is UTC, such as `2026-11-29T02:00:00`. Raises LogError."""
    for login in read_logins(read_server_log(since)):
        if login.time >= since and login.account != NAME:
            yield login


def find_log_start() -> str:
    """Since when all services' logins are in the log, as `2026-11-29T02:00:00`; empty: there are none. Raises
    LogError."""
    return max(find_first_time("dovecot"), find_first_time("postfix"))
