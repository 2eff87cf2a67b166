"""A host that SSH does not reach: what to do about it."""

import pytest

from mailkeep.host.ssh_failure import explain_ssh_failure

MUST_WORK = "`ssh -p 2222 mail1` must log in without asking anything."


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("SSH error (Error reading SSH protocol banner)", "It accepts connections, and does not answer as SSH."),
        ("Connection timed out during banner exchange", "It accepts connections, and does not answer as SSH."),
        ("ssh: connect to host mail1 port 22: Connection timed out", "Is it up, and does every firewall"),
        ("Could not connect ([Errno 113] No route to host)", "Is it up, and does every firewall"),
        ("Could not connect ([Errno 111] Connection refused)", "Does sshd run there, at this port?"),
        ("Host key verification failed.", "Another machine may answer in its place."),
        ("SSH host key error (Host key for mail1 does not match.)", "Another machine may answer in its place."),
        ("Could not resolve hostname", "Is its name or address in inventory.py right?"),
        ("Permission denied (publickey).", "`ssh"),
    ],
)
def test_the_remedy_begins_with_what_the_message_hints_at(message: str, hint: str) -> None:
    remedy = explain_ssh_failure(message, "mail1", {"ssh_port": 2222})
    assert remedy.startswith(hint)
    assert remedy.endswith(MUST_WORK)
