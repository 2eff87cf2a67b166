"""A host that SSH does not reach: what to do about it."""

import pytest

from mailkeep.host.ssh_failure import explain_ssh_failure

MUST_WORK = "`ssh -p 2222 mail1` must log in without asking anything."


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("Connection timed out during banner exchange", "It accepts connections, and does not answer as SSH."),
        ("connect to host mail1 port 22: Connection timed out", "Is it up, and does every firewall"),
        ("connect to host mail1 port 22: No route to host", "Is it up, and does every firewall"),
        ("connect to host mail1 port 22: Connection refused", "Does sshd run there, at this port?"),
        ("Host key verification failed.", "Its host key is not in your known_hosts, or another than before."),
        ("Remote host identification has changed", "Another machine may answer in its place."),
        (
            "Could not resolve hostname mail1: Name or service not known",
            "Is its name or address in inventory.py right?",
        ),
        ("root@mail1: Permission denied (publickey).", "No key that ssh offers lets you in."),
        ("Timeout, server mail1 not responding.", "It answered, and no longer does:"),
        ("Something new.", "`ssh"),
    ],
)
def test_the_remedy_begins_with_what_the_message_hints_at(message: str, hint: str) -> None:
    remedy = explain_ssh_failure(message, "mail1", {"ssh_port": 2222})
    assert remedy.startswith(hint)
    assert remedy.endswith(MUST_WORK)
