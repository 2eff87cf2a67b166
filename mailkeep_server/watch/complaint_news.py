"""Tells the guard of complaints that the reader of reports believes. The reader has no right to the guard's socket."""

from pathlib import Path
from urllib.parse import urlencode

from mailkeep_server.common import paths, unix_http
from mailkeep_server.guard.hold_targets import COMPLAINT_TARGET
from mailkeep_server.watch.alert_queue import Troubles
from mailkeep_server.watch.report_rows import read_new_rows
from mailkeep_server.watch.sensor import Sensor

ANSWER_TIMEOUT = 2.0  # seconds
MAX_AT_ONCE = 100
"""Of one sample."""


class ComplaintReporter(Sensor):
    """`announcements` is the file of the reader, beside which complaints are. The guard counts each once, so it does no
    harm if the watch loses its state."""

    name = "complaints"

    def __init__(self, announcements: str, control_socket: str, last_id: int) -> None:
        self.file = Path(announcements).with_name(paths.REPORTS_COMPLAINTS_NAME)
        self.control_socket, self.last_id = control_socket, last_id

    def find_troubles(self) -> Troubles:
        """None, ever: `GuardEvents` has it that the guard is silent, and until it answers, complaints wait.

        Raises ValueError or LookupError for a file that the reader did not write.
        """
        new, _ = read_new_rows(self.file, "complaints", self.last_id)
        for complaint in new[:MAX_AT_ONCE]:
            query = urlencode([("reporter", complaint["reporter"]), *(("m", text) for text in complaint["messages"])])
            try:
                unix_http.get_body(self.control_socket, f"{COMPLAINT_TARGET}?{query}", ANSWER_TIMEOUT)
            except OSError:
                break
            self.last_id = int(complaint["id"])
        return {}
