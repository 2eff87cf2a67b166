"""What simulated mail programs say of themselves: a name, a greeting (EHLO), and how large their messages are.

Names have about the shares of mail programs. Of greetings, a third is the private address of the device, a quarter is
one name for all, as of an app. A fifth is the computer's name, a tenth `localhost`. The others are the host name that
the network gives, and change with the place. A phone's private address becomes one of IPv6 in one of seven messages
from a mobile network.

A thief's script greets as the rented machine that it runs on, or as a hijacked computer. Most give themselves no name.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

NAMES = ("apple mail", "iphone mail", "microsoft outlook", "mozilla thunderbird", "k-9 mail", "no name", "em client")
NAME_WEIGHTS = (2, 3, 3, 3, 1, 5, 1)
THIEF_NAMES, THIEF_NAME_WEIGHTS = ("no name", "phpmailer", "microsoft outlook", "apple mail"), (6, 2, 1, 1)
GREETINGS = ("private", "app", "word", "localhost", "host")
GREETING_WEIGHTS = (35, 25, 20, 10, 10)
HOME, OFFICE, PHONE, TRIP = "home", "office", "phone", "trip"
"""Places."""
ATTACHED_SHARE, NEW_DEVICE_SHARE = 0.12, 0.6


@dataclass
class MailProgram:
    dice: random.Random

    def __post_init__(self) -> None:
        dice = self.dice
        [self.name] = dice.choices(NAMES, NAME_WEIGHTS)
        [self.kind] = dice.choices(GREETINGS, GREETING_WEIGHTS)
        self.word = f"{dice.choice(('desktop', 'laptop', 'mac'))}-{dice.getrandbits(20):x}"
        self.app = dice.choice(("smtpclient.apple", "mail.app.example", "mobile.example.net"))

    def change(self) -> None:
        """A new device, with or without another program; else an update that only writes headers otherwise."""
        if self.dice.random() < NEW_DEVICE_SHARE:
            self.__post_init__()

    def greet(self, place: str) -> str:
        dice = self.dice
        if self.kind == "private":
            is_ipv6 = place in (PHONE, TRIP) and dice.random() < 1 / 7
            return "[IPv6:2001:db8::7]" if is_ipv6 else f"[192.168.{dice.randrange(256)}.{dice.randrange(1, 255)}]"
        if self.kind == "host":
            return self._name_host(place)
        return {"app": self.app, "word": self.word, "localhost": "localhost"}[self.kind]

    def _name_host(self, place: str) -> str:
        if place == OFFICE:
            return f"{self.word}.corp-{self.word[-3:]}.example"
        if place == TRIP and self.dice.random() < 0.5:
            return f"dhcp-{self.dice.randrange(200)}.hotel-{self.dice.getrandbits(20):x}.example"
        return f"{self.word}.local"


def choose_size(dice: random.Random, median: float) -> int:
    """Of a message of a person: bytes, lognormal; with an attachment, one with a median of 400 KB."""
    if dice.random() < ATTACHED_SHARE:
        return _draw_size(dice, 400_000, 1.2)
    return _draw_size(dice, median, 1.0)


def _draw_size(dice: random.Random, median: float, spread: float) -> int:
    return int(min(max(dice.lognormvariate(math.log(median), spread), 700), 25e6))


@dataclass
class Script:
    """A thief's."""

    dice: random.Random

    def __post_init__(self) -> None:
        dice = self.dice
        [self.name] = dice.choices(THIEF_NAMES, THIEF_NAME_WEIGHTS)
        rented = f"vps{dice.randrange(9999)}.host-{dice.randrange(500)}.example"
        choices = (rented, "localhost", f"[192.168.1.{dice.randrange(1, 255)}]", f"desktop-{dice.getrandbits(20):x}")
        [self.greeting] = dice.choices(choices, (5, 2, 1.5, 1.5))
        self.median = _draw_size(dice, 5000, 0.8)

    def choose_size(self) -> int:
        """It sends one text."""
        return int(self.median * self.dice.uniform(0.9, 1.1))
