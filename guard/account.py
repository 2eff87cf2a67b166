"""What the guard remembers of one account."""

from guard.windows import DAY, HOUR, TEN_MINUTES, Sent


class Account:
    """Lists of times and sets are made when they are needed: of 100,000 accounts few ever do."""

    __slots__ = ("foreign", "networks", "new", "refused", "sent", "told")

    def __init__(self) -> None:
        self.sent = Sent()
        self.networks: dict[str, int] = {}
        """The networks it has sent from, or was not let to, with the time of the last try; negative if it was not."""
        self.refused: list[int] = []
        self.foreign: list[int] = []
        self.new: dict[int, int] = {}
        """First-time recipients that it was not let write to."""
        self.told: dict[str, int] = {}

    def networks_used(self, now: int) -> dict[str, int]:
        """Those of the last hour that it may send from."""
        return {name: time for name, time in self.networks.items() if time > now - HOUR}

    def networks_refused(self, now: int) -> int:
        return sum(-time > now - HOUR for time in self.networks.values())

    def tell(self, what: str, now: int, again: int = HOUR) -> bool:
        """Whether to tell the operator, which is once in `again`."""
        if now - self.told.get(what, -again) < again:
            return False
        self.told[what] = now
        return True

    def prune(self, now: int) -> bool:
        """Forgets what is older than its window; whether anything is left."""
        self.networks = {name: time for name, time in self.networks.items() if abs(time) > now - HOUR}
        self.refused = [time for time in self.refused if time > now - TEN_MINUTES]
        self.foreign = [time for time in self.foreign if time > now - HOUR]
        self.new = {recipient: time for recipient, time in self.new.items() if time > now - DAY}
        self.told = {what: time for what, time in self.told.items() if time > now - DAY}
        kept = self.sent.prune(now)
        return kept or any((self.networks, self.refused, self.foreign, self.new))
