"""The attacks: the four incidents that this project exists for, and two more that are worth fearing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Attack:
    """What one attacker does. `remote/attack.py` does it; addresses, passwords and the server come from elsewhere."""

    name: str
    title: str
    incident: str = ""
    """What came of it when it happened."""

    sources: int = 1
    """Addresses that it comes from."""
    far: bool = False
    """Whether each of them is in a network of its own."""
    guesses: int = 0
    """Wrong passwords before the right one."""
    probe: bool = False
    """One message first, to see whether it goes."""
    pace: float = 160 / 60
    """Messages a second, over all connections together."""
    workers: int = 20
    """Connections at once: as many as Postfix takes from one address."""
    fresh: bool = False
    """A new connection for each message; else as many over one as the server takes."""
    recipients: int = 1
    envelope: str = ""
    """The sender's address, and that in the From: line; empty: the account's own."""
    author: str = ""
    tries: int = 100
    seconds: float = 40.0
    after: float = 6.0
    """Seconds for which it goes on when the account is frozen."""


FOREIGN = "service@outside.test"

ATTACKS = {
    one.name: one
    for one in (
        Attack(
            "A",
            "one probe, then 160 mails a minute from one address",
            "68,354 tried in nine hours, 50,543 left in the queue, the disk full",
            probe=True,
        ),
        Attack(
            "B",
            "bursts of messages to 25 recipients, From: the own domain",
            "493,404 taken, 1.54 million delivered in three weeks",
            recipients=25,
            pace=8.0,
            tries=120,
        ),
        Attack(
            "C",
            "guessing from fifteen addresses, then as somebody else",
            "queued without number until the hoster called",
            sources=15,
            guesses=20,
            envelope=FOREIGN,
            author=FOREIGN,
        ),
        Attack(
            "D",
            "from one address, with a foreign From: line",
            "thousands, until the quota of a DNS provider was used up",
            author=f'"George" <{FOREIGN}>',
        ),
        Attack(
            "F",
            "a botnet of 200 addresses in 200 networks, all with the right password",
            sources=200,
            far=True,
            fresh=True,
            pace=10.0,
            tries=400,
        ),
    )
}
