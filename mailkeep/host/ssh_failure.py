"""Why SSH does not reach a host, and the operator's next step; for the messages of ssh(1) and of paramiko."""

from collections.abc import Mapping

from mailkeep.inventory import hosts

# The first row of which a word is in the message, in lower case, has the hint.
_HINTS = (
    (
        ("banner", "kex_exchange_identification"),
        "It accepts connections, and does not answer as SSH. If that is the right port, restart sshd or the machine "
        "from the provider's console.",
    ),
    (
        ("host key verification failed", "host key for", "remote host identification has changed"),
        "Another machine may answer in its place. Only if you have rebuilt it: `ssh-keygen -R` with its name.",
    ),
    (("timed out", "no route to host", "unreachable"), "Is it up, and does every firewall before it let SSH in?"),
    (("connection refused",), "Does sshd run there, at this port?"),
    (("could not resolve", "name or service not known"), "Is its name or address in inventory.py right?"),
)


def explain_ssh_failure(message: str, name: str, data: Mapping[str, object]) -> str:
    """The remedy for a failure of which ssh or paramiko says `message`: what to look at, and what must work then."""
    must_work = f"`{hosts.ssh_command(name, data)}` must log in without asking anything."
    lower = message.lower()
    hint = next((text for words, text in _HINTS if any(word in lower for word in words)), "")
    return f"{hint} {must_work}".lstrip()
