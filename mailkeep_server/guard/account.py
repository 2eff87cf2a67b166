"""What the guard remembers of one account."""

from mailkeep_server.guard.sliding_window import DAY, HOUR, TEN_MINUTES, Sent


class Trouble:
    """What an account was refused for, and what the operator was told of it."""

    __slots__ = ("foreign", "new", "refused", "told")

    def __init__(self) -> None:
        self.refused: list[int] = []
        self.foreign: list[int] = []
        self.new: dict[int, int] = {}
        """First-time recipients that it was not let write to."""
        self.told: dict[str, int] = {}


class Account:
    __slots__ = ("_trouble", "networks", "sent")

    def __init__(self) -> None:
        self.sent = Sent()
        self.networks: dict[str, int] = {}
        """The networks it has sent from, or was not let to, with the time of the last try; negative if it was not."""
        self._trouble: Trouble | None = None

    @property
    def trouble(self) -> Trouble:
        """Made when it is needed: of 100,000 accounts few ever have any."""
        if self._trouble is None:
            self._trouble = Trouble()
        return self._trouble

    def networks_used(self, now: int) -> dict[str, int]:
        """Those of the last hour that it may send from."""
        return {name: time for name, time in self.networks.items() if time > now - HOUR}

    def networks_refused(self, now: int) -> int:
        return sum(-time > now - HOUR for time in self.networks.values())

    def tell(self, what: str, now: int, again: int = HOUR) -> bool:
        """Whether to tell the operator, which is once in `again`."""
        told = self.trouble.told
        if now - told.get(what, -again) < again:
            return False
        told[what] = now
        return True

    def forgive(self, now: int) -> None:
        """What it was refused for counts no more; what it has sent does."""
        self.networks = self.networks_used(now)
        trouble = self.trouble
        trouble.refused, trouble.foreign, trouble.new = [], [], {}

    def go_back(self, now: int) -> None:
        """What is later than now was just now: the clock was ahead."""
        self.sent.go_back(now)
        self.networks = {name: max(-now, min(now, time)) for name, time in self.networks.items()}
        if trouble := self._trouble:
            trouble.refused = [min(now, time) for time in trouble.refused]
            trouble.foreign = [min(now, time) for time in trouble.foreign]
            trouble.new = {recipient: min(now, time) for recipient, time in trouble.new.items()}
            trouble.told = {what: min(now, time) for what, time in trouble.told.items()}

    def prune(self, now: int) -> bool:
        """Forgets what is older than its window; whether anything is left."""
        self.networks = {name: time for name, time in self.networks.items() if abs(time) > now - HOUR}
        if trouble := self._trouble:
            trouble.refused = [time for time in trouble.refused if time > now - TEN_MINUTES]
            trouble.foreign = [time for time in trouble.foreign if time > now - HOUR]
            trouble.new = {recipient: time for recipient, time in trouble.new.items() if time > now - DAY}
            trouble.told = {what: time for what, time in trouble.told.items() if time > now - DAY}
            if not any((trouble.refused, trouble.foreign, trouble.new, trouble.told)):
                self._trouble = None
        return self.sent.prune(now) or bool(self.networks) or self._trouble is not None
