"""Messages on their way: what is known of each queue ID until the last recipient has its fate.

Most messages have one recipient. All of them that came from the same place, and wait for the same reason, share one
state. So a waiting message costs an entry in a dictionary, and a line one look at its state.
"""

from itertools import islice
from typing import NamedTuple

from mailkeep_server.mail_log.message_states import (
    MANY_WEIGHT,
    SIMPLE_WAIT,
    Exported,
    Followed,
    Fragment,
    Many,
    Single,
    SingleKey,
    State,
    Step,
    add_to_fragment,
    describe_state,
)
from mailkeep_server.mail_log.tally import EARLIER, NO_NAME, THIS_SERVER, UNKNOWN, Event, Moment, Origin, Tally

MAX_WEIGHT = 31_000_000
"""Bytes of what is followed at once. With Python itself, the program stays below 64 MB."""
OPEN_WEIGHT = 145
"""Of each open message, its queue ID and its place in a dictionary."""
FORGET = 10_000
"""Messages that are forgotten at a time, the oldest first."""
MAX_ARRIVING = 20_000
"""Messages whose transaction has begun. Most enter the queue within a second; some are given up without a line."""
MAX_STEPS = 50_000
NOT_KNOWN = 1 << 30
"""Recipients of a message that entered the queue before the log begins."""
NO_FATE = Event(UNKNOWN)


class PartialQueue(NamedTuple):
    """What one process has counted of a part of a log."""

    tally: Tally
    fragments: list[tuple[bytes, Exported]]
    arriving: dict[bytes, Origin]
    sessions: dict[bytes, Origin]
    session_ends: list[tuple[bytes, Moment]]
    open: list[tuple[bytes, Followed]]


class QueueState:
    """`is_later`: an earlier part of the log is read by another process, so unknown messages may be in it."""

    def __init__(self, *, is_later: bool = False, max_weight: int = 0) -> None:
        self.is_later, self.is_beginning, self.tally = is_later, is_later, Tally()
        self.max_weight = max_weight or MAX_WEIGHT
        self.sessions: dict[bytes, Origin] = {}
        """By the process of smtpd, who has logged in."""
        self.session_ends: list[tuple[bytes, Moment]] = []
        """Of sessions that may have begun in the earlier part."""
        self.arriving: dict[bytes, Origin] = {}
        """Before they have entered the queue. Few, so that a look at them is quick."""
        self.open: dict[bytes, State] = {}
        self.fragments: dict[bytes, Fragment] = {}
        self.steps, self.weight = 0, 0
        self.repeats: dict[Origin, list[int]] = {}
        self._singles: dict[SingleKey, Single] = {}

    def arrive(self, queue_id: bytes, origin: Origin) -> None:
        """The first line of a message. Its ID may have been another's."""
        if queue_id in self.open:
            self.end(queue_id, NO_FATE)
        if len(self.arriving) >= MAX_ARRIVING:
            for oldest in list(islice(self.arriving, MAX_ARRIVING // 2)):
                del self.arriving[oldest]
        self.arriving[queue_id] = origin

    def arrive_here(self, queue_id: bytes) -> None:
        """The line of cleanup: without one of smtpd before it, the message is the server's own."""
        if queue_id in self.arriving:
            return
        if self.is_beginning and queue_id not in self.open:
            state = self._meet(queue_id)
            if isinstance(state, Fragment):
                state.is_new = True
                return
        self.arrive(queue_id, Origin(THIS_SERVER))

    def end_session(self, process: bytes, moment: Moment, *, has_login: bool) -> None:
        """A login counts once, by the account of the session's messages. Before 3.0, Postfix counts no commands."""
        origin = self.sessions.pop(process, None)
        if not origin and has_login and self.is_later:
            self.session_ends.append((process, moment))
        elif origin or has_login:
            self.tally.add_login(origin or Origin(NO_NAME), moment, is_good=True)

    def activate(self, queue_id: bytes, moment: Moment, people: int, size: int) -> None:
        """The queue manager has the message for the first time."""
        if origin := self.arriving.pop(queue_id, None):
            self.tally.add_message(origin, moment, people, size)
            self._follow(queue_id, origin, people)
            return
        state = self._find(queue_id)
        if isinstance(state, Fragment) and not state.active:
            state.active = moment, people, size

    def _follow(self, queue_id: bytes, origin: Origin, people: int) -> None:
        self._make_room()
        if people == 1:
            self.open[queue_id] = self.single(origin, None)
        else:
            self.open[queue_id] = self._many(origin, people)

    def _many(self, origin: Origin, people: int) -> Many:
        if (repeats := self.repeats.get(origin)) is None:
            repeats = self.repeats[origin] = [0]
        self.weight += MANY_WEIGHT
        return Many(origin, people, repeats)

    def single(self, origin: Origin, waiting: Event | None) -> Single:
        key = origin, waiting
        if (state := self._singles.get(key)) is None:
            state = self._singles[key] = Single(key, self._make_step)
        return state

    def _make_step(self, state: Single, event: Event) -> Step:
        self.steps += 1
        return Step(self.single(state.origin, event) if event.is_waiting else None)

    def _find(self, queue_id: bytes) -> State:
        state = self.open.get(queue_id)
        return self._meet(queue_id) if state is None else state

    def _meet(self, queue_id: bytes) -> Many | Fragment:
        """A message that entered the queue before this part of the log, or whose line of the queue manager is lost."""
        if origin := self.arriving.pop(queue_id, None):
            state: Many | Fragment = self._many(origin, NOT_KNOWN)
        elif self.is_later and queue_id not in self.fragments:
            state = Fragment()
            self.fragments[queue_id] = state
        else:
            self._make_room()
            state = self._many(Origin(EARLIER), NOT_KNOWN)
        self.open[queue_id] = state
        return state

    def add_fate(self, queue_id: bytes, recipient: bytes, event: Event) -> None:
        """For all but what a Single does by itself."""
        state = self._find(queue_id)
        if isinstance(state, Single):
            self._take_step(queue_id, state, event)
        elif isinstance(state, Many):
            self._add_to_many(queue_id, state, hash(recipient), event)
        else:
            add_to_fragment(state, hash(recipient), event)

    def _take_step(self, queue_id: bytes, state: Single, event: Event) -> None:
        step = state[event]
        step.count += 1
        if step.state is None:
            del self.open[queue_id]
        else:
            self.open[queue_id] = step.state

    def _add_to_many(self, queue_id: bytes, state: Many, recipient: int, event: Event) -> None:
        before = state.weight
        former = state.replace(recipient, event if event.is_waiting else None)
        self.weight += state.weight - before
        self.tally.add_fate(state.origin, former, event)
        if event.is_waiting:
            return
        state.left -= 1
        if not state.left:
            self.weight -= state.weight
            del self.open[queue_id]

    def end(self, queue_id: bytes, event: Event) -> None:
        """The message has left the queue. A recipient without an end gets this one, unless it waits and the message is
        gone from the log only (NO_FATE)."""
        state = self.open.pop(queue_id, None)
        if isinstance(state, Single):
            if state.waiting is None or event is not NO_FATE:
                self.tally.add_fate(state.origin, state.waiting, event)
        elif isinstance(state, Many):
            self._end_many(state, event)
        elif isinstance(state, Fragment):
            state.removal = event

    def _end_many(self, state: Many, event: Event) -> None:
        self.weight -= state.weight
        if event is not NO_FATE:
            for former in state.list_waiting().values():
                self.tally.add_fate(state.origin, former, event)
        without = state.left - state.count_waiting()
        if 0 < without < NOT_KNOWN // 2:
            self.tally.add_fate(state.origin, None, event, without)

    def _make_room(self) -> None:
        if OPEN_WEIGHT * len(self.open) + self.weight >= self.max_weight:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        """Those that wait are tried again, and count then: as if they came from before the log."""
        self.flush()
        oldest = list(islice(self.open, FORGET))
        self.tally.dropped += len(oldest)
        for queue_id in oldest:
            self._uncount_waiting(self.open[queue_id])
            self.end(queue_id, NO_FATE)

    def _uncount_waiting(self, state: State) -> None:
        if isinstance(state, Single):
            waiting = [state.waiting] if state.waiting else []
        else:
            waiting = list(state.list_waiting().values()) if isinstance(state, Many) else []
        for event in waiting:
            if event.is_counted and not isinstance(state, Fragment):
                self.tally.fates[state.origin, event] -= 1

    def flush(self) -> None:
        """Counts the steps that were taken, and forgets them."""
        for state in self._singles.values():
            for event, step in state.items():
                self._count_step(state, event, step.count)
            state.clear()
        self.steps = 0
        for origin, repeats in self.repeats.items():
            if repeats[0]:
                self.tally.deferrals[origin, SIMPLE_WAIT] += repeats[0]
                repeats[0] = 0

    def _count_step(self, state: Single, event: Event, count: int) -> None:
        if state.waiting is event and event.is_waiting:
            if event.is_counted:
                self.tally.deferrals[state.origin, event] += count
        else:
            self.tally.add_fate(state.origin, state.waiting, event, count)

    def finish(self) -> Tally:
        """The sums, at the end of the log. A message without a fate is unknown."""
        self.flush()
        for queue_id in list(self.open):
            self.end(queue_id, NO_FATE)
        return self.tally

    def export(self) -> PartialQueue:
        """For the process that has read the earlier part."""
        self.flush()
        followed = [(key, describe_state(state)) for key, state in self.open.items() if not isinstance(state, Fragment)]
        fragments = [(queue_id, fragment.export()) for queue_id, fragment in self.fragments.items()]
        return PartialQueue(self.tally, fragments, self.arriving, self.sessions, self.session_ends, followed)

    def merge(self, part: PartialQueue) -> None:
        """A part of the log that follows this one."""
        self.tally.add(part.tally)
        for queue_id, fragment in part.fragments:
            self._merge_fragment(queue_id, fragment)
        for queue_id, followed in part.open:
            self.end(queue_id, NO_FATE)
            self.open[queue_id] = self._rebuild(followed)
        for queue_id, origin in part.arriving.items():
            self.arrive(queue_id, origin)
        for process, moment in part.session_ends:
            self.end_session(process, moment, has_login=True)
        self.sessions.update(part.sessions)

    def _merge_fragment(self, queue_id: bytes, fragment: Exported) -> None:
        is_new, active, deferrals, fates, removal = fragment
        if is_new:
            self.arrive_here(queue_id)
        if active:
            self.activate(queue_id, *active)
        for event, number in deferrals.items():
            self._merge_deferrals(queue_id, event, number)
        for recipient, event in fates:
            self._merge_fate(queue_id, recipient, event)
        if removal:
            self.end(queue_id, removal)

    def _merge_deferrals(self, queue_id: bytes, event: Event, number: int) -> None:
        state = self._find(queue_id)
        if isinstance(state, Fragment):
            state.deferrals[event] = state.deferrals.get(event, 0) + number
        elif event.is_counted:
            self.tally.deferrals[state.origin, event] += number

    def _merge_fate(self, queue_id: bytes, recipient: int, event: Event) -> None:
        """A deferral's number is in `deferrals` already."""
        state = self._find(queue_id)
        if isinstance(state, Fragment):
            add_to_fragment(state, recipient, event, is_try=False)
            return
        if event.is_waiting and event.is_counted:
            self.tally.deferrals[state.origin, event] -= 1
        if isinstance(state, Single):
            self._take_merged_step(queue_id, state, event)
        else:
            self._add_to_many(queue_id, state, recipient, event)

    def _take_merged_step(self, queue_id: bytes, state: Single, event: Event) -> None:
        if state.waiting == event:
            self.tally.deferrals[state.origin, event] += event.is_counted
        else:
            self._take_step(queue_id, state, event)

    def _rebuild(self, followed: Followed) -> State:
        if len(followed) == 2:
            return self.single(*followed)
        origin, left, waiting = followed
        state = self._many(origin, left)
        for recipient, event in waiting.items():
            state.replace(recipient, event)
        self.weight += state.weight - MANY_WEIGHT
        return state
