"""Thieves with the right password, who know each limit and stay just under it (drill E and its kin)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from heapq import merge

from simulated_people import START, Dice, Mail, Person, SimulatedServer
from simulated_programs import HOME, OFFICE, Script

from mailkeep.settings.sections import DEFAULT_LIMITS
from mailkeep_server.guard.outcomes import Fate
from mailkeep_server.guard.sliding_window import DAY, HOUR

AWAKE_HOURS = 12


@dataclass(frozen=True)
class Thief:
    """He writes one message to one person at a time, at his victim's own hours."""

    dead_share: float
    is_near: bool = False
    """Whether he sends from a network of his victim's own provider, else from another in the same country."""
    copies_program: bool = False
    """Whether his mail looks as his victim's, and its program has the same name."""
    copies_greeting: bool = False
    """Whether his program also greets as his victim's, which the mail in the mailbox does not show."""
    client: str = ""
    """`office`, if he is in his victim's own network; else empty."""
    knows_friends: bool = False
    """Whether he has read the mailbox first, and writes to his victim's correspondents, too."""
    a_day: int = DEFAULT_LIMITS["new_recipients_per_day"]
    """Strangers."""

    def live(self, victim: Person, first_day: int, days: int) -> Iterator[Mail]:
        dice = Dice(f"thief {victim.account} {self}")
        own_network = victim.office or victim.home
        client = (
            own_network
            if self.client
            else dice.address_in(victim.home_provider if self.is_near else dice.wide_network())
        )
        program = victim.programs[0] if self.copies_program else dice.getrandbits(32)
        script, device = Script(dice.split()), victim.devices[0]
        name = device.name if self.copies_program else script.name
        friends = [*dict.fromkeys(reversed(victim.known))]
        for day in range(first_day, first_day + days):
            for number in range(self.a_day):
                at = START + day * DAY + victim.wake * HOUR + number * AWAKE_HOURS * HOUR // self.a_day
                mail = Mail(
                    *(at, victim.account, client, program, (self._buy_address(dice),)),
                    is_thief=True,
                    name=name,
                    greeting=device.greet(OFFICE if victim.office else HOME)
                    if self.copies_greeting
                    else script.greeting,
                    size=script.choose_size(),
                )
                yield mail
                if self.knows_friends and number % 3 == 0 and friends:
                    yield replace(mail, at=at + 1, recipients=(friends.pop(),))

    def _buy_address(self, dice: Dice) -> str:
        domain = "gmail.com" if dice.happens(0.4) else f"bought{dice.randrange(50_000)}.example.com"
        return f"x{dice.getrandbits(48):x}@{domain}"

    def decide_fates(self, dice: Dice) -> Callable[[str], Fate]:
        """Of bought addresses. His victim's friends exist."""

        def decide(recipient: str) -> Fate:
            return Fate.DEAD if recipient.startswith("x") and dice.happens(self.dead_share) else Fate.SENT

        return decide


def attack(server: SimulatedServer, pairs: list[tuple[Thief, Person]], first_day: int, days: int) -> None:
    """All thieves at once, each with the password of somebody else. Nobody releases or freezes anything."""
    server.is_released = False
    fates = {victim.account: thief.decide_fates(Dice(f"fates {victim.account}")) for thief, victim in pairs}
    for mail in merge(*(thief.live(victim, first_day, days) for thief, victim in pairs)):
        server.take(mail, fates[mail.account])


def measure_hours_until_told(server: SimulatedServer, victim: Person, first_day: int) -> float | None:
    """From the thief's first message on."""
    told_at = server.tallies[victim.account].told_at
    return (told_at - START - first_day * DAY) / HOUR - victim.wake if told_at else None
