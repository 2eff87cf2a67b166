"""What is known of a message on its way: with one recipient, with several, or without its beginning."""

from collections.abc import Callable

from mailkeep_server.mail_log.tally import WAITING, Event, Moment, Origin

MANY_WEIGHT, SIMPLE_WEIGHT, OTHER_WEIGHT = 70, 35, 200
"""Bytes, as measured, of a message with several recipients, and of each of them that waits: by SIMPLE_WAIT, or by an
event of its own."""
SIMPLE_WAIT = Event(WAITING)
"""Of a report that asks for fates alone."""

SingleKey = tuple[Origin, Event | None]


class Step:
    """What a fate does to a state: how often it was taken, and the state after it. None ends the message."""

    __slots__ = ("count", "state")

    def __init__(self, state: "Single | None") -> None:
        self.count, self.state = 0, state


class Single(dict[Event, Step]):
    """The state of all messages with one recipient that have this origin and this last deferral."""

    __slots__ = ("key", "make_step", "origin", "waiting")

    def __init__(self, key: SingleKey, make_step: "Callable[[Single, Event], Step]") -> None:
        super().__init__()
        self.key, self.make_step = key, make_step
        self.origin, self.waiting = key

    def __missing__(self, event: Event) -> Step:
        step = self[event] = self.make_step(self, event)
        return step


class Many:
    """A message with several recipients, by their hashes. `left` is how many have no end yet. Those of `simple` wait by
    SIMPLE_WAIT, as nearly all do; the others by an event of their own. A tuple takes a fourth of a dictionary's memory.
    `repeats` is the origin's own number of further deferrals for SIMPLE_WAIT."""

    __slots__ = ("left", "origin", "others", "repeats", "simple")

    def __init__(self, origin: Origin, left: int, repeats: list[int]) -> None:
        self.origin, self.left, self.repeats = origin, left, repeats
        self.simple: tuple[int, ...] = ()
        self.others: dict[int, Event] | None = None

    def replace(self, recipient: int, event: Event | None) -> Event | None:
        """Has the recipient wait by this event, or by none. Returns the former."""
        former = SIMPLE_WAIT if recipient in self.simple else (self.others or {}).pop(recipient, None)
        if event == SIMPLE_WAIT and former is not SIMPLE_WAIT:
            self.simple = (*self.simple, recipient)
        elif former is SIMPLE_WAIT and event != SIMPLE_WAIT:
            self.simple = tuple(other for other in self.simple if other != recipient)
        if event and event != SIMPLE_WAIT:
            self.others = self.others or {}
            self.others[recipient] = event
        return former

    def list_waiting(self) -> dict[int, Event]:
        return dict.fromkeys(self.simple, SIMPLE_WAIT) | (self.others or {})

    def count_waiting(self) -> int:
        return len(self.simple) + len(self.others or ())

    @property
    def weight(self) -> int:
        return MANY_WEIGHT + SIMPLE_WEIGHT * len(self.simple) + OTHER_WEIGHT * len(self.others or ())


Exported = tuple[bool, tuple[Moment, int, int] | None, dict[Event, int], list[tuple[int, Event]], Event | None]
"""A fragment, as it is sent to another process: a plain tuple takes a third of the time."""


class Fragment:
    """A message whose beginning is in an earlier part of the log, which another process reads."""

    __slots__ = ("active", "deferrals", "ends", "is_new", "removal", "repeats", "simple", "waiting")

    def __init__(self) -> None:
        self.is_new = False
        """Its first line is in this part, unless a line of smtpd is in the earlier one."""
        self.active: tuple[Moment, int, int] | None = None
        self.waiting: dict[int, Event] = {}
        self.ends: list[tuple[int, Event]] = []
        self.deferrals: dict[Event, int] = {}
        self.repeats, self.simple = [0], set[int]()
        """As those of Many; each of `simple` is in `waiting`, too."""
        self.removal: Event | None = None

    def export(self) -> Exported:
        if self.repeats[0]:
            self.deferrals[SIMPLE_WAIT] = self.deferrals.get(SIMPLE_WAIT, 0) + self.repeats[0]
            self.repeats[0] = 0
        return self.is_new, self.active, self.deferrals, [*self.waiting.items(), *self.ends], self.removal


State = Single | Many | Fragment
Followed = SingleKey | tuple[Origin, int, dict[int, Event]]
"""A state as another process can read it."""


def describe_state(state: State) -> Followed:
    if isinstance(state, Single):
        return state.key
    assert isinstance(state, Many)
    return state.origin, state.left, state.list_waiting()


def add_to_fragment(state: Fragment, recipient: int, event: Event, *, is_try: bool = True) -> None:
    state.simple.discard(recipient)
    if not event.is_waiting:
        state.waiting.pop(recipient, None)
        state.ends.append((recipient, event))
        return
    if is_try:
        state.deferrals[event] = state.deferrals.get(event, 0) + 1
    state.waiting[recipient] = event
    if event == SIMPLE_WAIT:
        state.simple.add(recipient)
