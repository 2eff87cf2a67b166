"""Why ssh(1) does not reach a host, and the operator's next step."""

from mailkeep.inventory import hosts

# The first row of which a word is in the message, in lower case, has the hint.
_HINTS = (
    (
        ("banner", "kex_exchange_identification"),
        "It accepts connections, and does not answer as SSH. If that is the right port, restart sshd or the machine "
        "from the provider's console.",
    ),
    (
        ("has changed", "host key for"),
        "Another machine may answer in its place. Only if you have rebuilt it: `ssh-keygen -R` with its name.",
    ),
    (
        ("host key verification failed",),
        "Its host key is not in your known_hosts, or another than before. Log in once by ssh: it shows the key's "
        "fingerprint, to compare with the one in the provider's console (`ssh-keygen -lf "
        "/etc/ssh/ssh_host_ed25519_key.pub`), and asks.",
    ),
    (
        ("not responding",),
        "It answered, and no longer does: the machine hangs, or the way to it is cut. Look at it from the provider's "
        "console. What was begun there may still go on; the next deploy finishes it.",
    ),
    (
        ("permission denied",),
        "No key that ssh offers lets you in. A key with a passphrase must be in the agent: `ssh-add`.",
    ),
    (("timed out", "no route to host", "unreachable"), "Is it up, and does every firewall before it let SSH in?"),
    (("connection refused",), "Does sshd run there, at this port?"),
    (("could not resolve", "name or service not known"), "Is its name or address in inventory.py right?"),
)


def explain_ssh_failure(message: str, name: str, data: hosts.HostData) -> str:
    """The remedy for a failure of which ssh says `message`: what to look at, and what must work then."""
    must_work = f"`{hosts.ssh_command(name, data)}` must log in without asking anything."
    lower = message.lower()
    hint = next((text for words, text in _HINTS if any(word in lower for word in words)), "")
    return f"{hint} {must_work}".lstrip()
