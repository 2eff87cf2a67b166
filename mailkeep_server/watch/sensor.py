"""A sensor of the watch: what all of them have in common."""

from collections.abc import Iterator

from mailkeep_server.watch.alert_queue import Troubles

SensorEvent = tuple[str, str, bool]
"""Key, text, and whether it is urgent."""


class Sensor:
    """`find_troubles` gives all troubles of this moment, `take_events` the events since the last call. Either may raise
    any exception."""

    name = ""
    interval = 5.0  # seconds between samples
    samples = 1  # in a row that must show a trouble before it is reported

    def find_troubles(self) -> Troubles:
        raise NotImplementedError

    def take_events(self) -> Iterator[SensorEvent]:
        """Most sensors have none."""
        yield from ()
