"""The guard's events for the operator; and its silence, which means that nobody can send mail."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mailkeep_server.common import paths, unix_http
from mailkeep_server.watch.alert_queue import Troubles
from mailkeep_server.watch.sensor import Sensor, SensorEvent

ANSWER_TIMEOUT = 2.0  # seconds
NEW_REDIRECT = "new-redirect"
"""Its detail is the address."""
HOLD, CONFIRMED = "hold", "confirmed"
MAX_EVENT_AGE = 3600.0  # seconds; older events are history to a watch that starts
URGENT_KINDS = {
    "over",
    "spoof",
    "spam",
    "ceiling",
    "forward",
    "list",
    "store",
    "state",
    "counts-lost",
    "first-use",
    "bomb",
    NEW_REDIRECT,
    HOLD,
}
# The detail of these events is worded for the account.
INTRODUCTIONS = {
    "over": "is over a limit: ",
    "unreadable": "cannot send: ",
    "would-refuse": "would have been refused: ",
    "would-freeze": "would have been frozen: ",
    HOLD: "has mail to strangers put on hold: ",
    "would-hold": "would have mail to strangers put on hold: ",
    "complaint": "is complained of: ",
    "release": "may write to strangers again: ",
    CONFIRMED: "may write to strangers again: ",
    "returned": "has mail back that was on hold: ",
    NEW_REDIRECT: "has rules that send mail on to an address that is new to them: ",
}
NEXT_STEPS = {
    **dict.fromkeys(
        ("over", "spoof", "spam", "near", "network", "complaint", CONFIRMED),
        ". If that is not its user: `mailkeepctl freeze {account}`. `mailkeepctl limits` shows what it has sent",
    ),
    **dict.fromkeys(
        ("would-refuse", "would-freeze", "would-hold"), ". `guard` in mail.yml is in mode learn; `mailkeepctl limits`"
    ),
    "unreadable": ". Its mail program needs another name in its settings: docs/guard.md, Names in From",
    NEW_REDIRECT: ". Its owner has a notice of it. If it is not the owner's rule: `mailkeepctl freeze {account}`",
    HOLD: ". Its owner has a notice. `mailkeepctl why {account}` says more, `mailkeepctl release {account}` sends it, "
    "`mailkeepctl freeze {account}` stops all. What nobody releases goes back to its owner after a day",
    "script": ". If its rules are to send more, give the account `limits` in mail.yml",
    "bomb": ". Nothing is lost; `mailkeepctl unsort {account}` moves it to the inbox, and ends the sorting",
    "ceiling": ". `mailkeepctl limits` shows who has sent most",
    "local": ". `journalctl -u postfix --grep pickup` shows the Linux users (uid=) that send",
}
REPORTED_BY_FREEZE_ENFORCER = {"frozen", "thawed"}
SILENT_KINDS = {"first-use-expected"}
"""`mailkeepctl events` has them: while the guard's database is new, each account sends for the first time."""


class GuardEvents(Sensor):
    name, interval, samples = "guard", 1.0, 6  # an upgrade may restart it

    def __init__(
        self, control_socket: str, last_id: int, notify_owner: Mapping[str, Callable[[str, str], object]] | None = None
    ) -> None:
        """`notify_owner` tells the owner of an account of an event, by kind: it takes account and detail."""
        self.control_socket, self.last_id, self.notify_owner = control_socket, last_id, notify_owner or {}
        self.unreported: list[dict[str, Any]] = []

    def find_troubles(self) -> Troubles:
        try:
            answer = self._read_events(self.last_id)
            if answer["last"] < self.last_id:  # of a new database, which begins to count anew
                answer = self._read_events(0)
        except (OSError, ValueError) as error:
            hint = f"`systemctl status {paths.GUARD_SERVICE}` says why"
            text = f"The guard does not answer ({error}), so nobody can send mail: {hint}"
            return {"silent": (text, "The guard answers again")}
        self.unreported += [event for event in answer["events"] if event["time"] > time.time() - MAX_EVENT_AGE]
        self.last_id = answer["last"]
        return {}

    def _read_events(self, after: int) -> Any:
        return json.loads(unix_http.get_body(self.control_socket, f"/events?after={after}", ANSWER_TIMEOUT))

    def take_events(self) -> Iterator[SensorEvent]:
        events, self.unreported = self.unreported, []
        for event in events:
            kind = event["kind"]
            if kind not in REPORTED_BY_FREEZE_ENFORCER | SILENT_KINDS:
                if kind in self.notify_owner:
                    self.notify_owner[kind](event["account"], event["detail"])
                account, next_step = event["account"], NEXT_STEPS.get(kind, "").format(account=event["account"])
                text = f"{account} {INTRODUCTIONS.get(kind, '')}{event['detail']}{next_step}".strip()
                yield f"{kind}:{account}", text, kind in URGENT_KINDS
