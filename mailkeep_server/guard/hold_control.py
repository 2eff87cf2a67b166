"""Answers at the control socket about mail to strangers: see `hold_targets`."""

from collections.abc import Mapping
from typing import Any

from mailkeep_server.common.message_ids import MAX_IDS
from mailkeep_server.guard.hold_targets import (
    COMPLAINT_TARGET,
    CONFIRMATION_TARGET,
    HELD_TARGET,
    OUTCOMES_TARGET,
    RELEASE_TARGET,
    RETURNED_TARGET,
    read_written_outcome,
)
from mailkeep_server.guard.judge import Judge


def answer_about_holds(target: str, query: Mapping[str, list[str]], judge: Judge, now: int) -> Any:
    """As JSON values. Raises ValueError or KeyError for a query that makes no sense."""
    strangers = judge.strangers
    if target == OUTCOMES_TARGET:
        for queue_id, key, fate in map(read_written_outcome, query["o"]):
            strangers.note_outcome(now, queue_id, key, fate)
        return {}
    if target == HELD_TARGET:
        return {"messages": strangers.list_held(now)}
    if target == RETURNED_TARGET:
        strangers.note_returned(now, query["queue_id"][0], query.get("result", [""])[0])
        return {}
    if target == COMPLAINT_TARGET:
        return {"account": judge.complaints.note_complaint(now, query["reporter"][0], query["m"][:MAX_IDS])}
    account = query["account"][0]
    if target == CONFIRMATION_TARGET:
        return {"held": judge.confirmations.add_code(now, account, query["digest"][0], query["shown"][0])}
    if target == RELEASE_TARGET:
        return {"queue_ids": strangers.release(now, account)}
    return strangers.explain(now, account)
