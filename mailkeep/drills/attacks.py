"""The attacks: the four incidents for which this project exists, and a botnet."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Attack:
    """The behaviour of an attacker, which `remote/attack.py` carries out. A job adds server, sources and passwords."""

    name: str
    title: str
    incident: str = ""
    """The damage when it happened."""

    sources: int = 1
    """Number of source addresses."""
    far: bool = False
    """Whether each source is in a network of its own."""
    guesses: int = 0
    """Wrong passwords before the right one."""
    probe: bool = False
    """Whether a single message goes ahead, to see whether it is accepted."""
    pace: float = 160 / 60
    """Messages a second, over all connections together."""
    workers: int = 10
    """Simultaneous connections: as many as Postfix accepts from one address."""
    fresh: bool = False
    """Whether each message has a new connection. Otherwise a connection is used for as long as the server allows."""
    recipients: int = 1
    envelope: str = ""
    """Envelope sender; empty: the account's own address."""
    author: str = ""
    """From: line; empty: the account's own address."""
    tries: int = 100
    seconds: float = 40.0
    after: float = 6.0
    """Seconds for which the attacker goes on after the account is frozen."""


FOREIGN_SENDER = "service@outside.test"

ATTACKS = {
    attack.name: attack
    for attack in (
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
            envelope=FOREIGN_SENDER,
            author=FOREIGN_SENDER,
        ),
        Attack(
            "D",
            "from one address, with a foreign From: line",
            "thousands, until the quota of a DNS provider was used up",
            author=f'"George" <{FOREIGN_SENDER}>',
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
