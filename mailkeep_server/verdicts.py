"""`mailkeepctl why`: the guard's reasons about an account, in sentences."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from mailkeep_server.common.wording import count_noun
from mailkeep_server.freezes.freeze_list import FreezeRecord

RELEASED = "released"
"""Cause of a hold that has ended."""


def explain_account(account: str, explanation: dict[str, Any], freeze: FreezeRecord | None) -> Iterator[str]:
    """`explanation` is as `StrangerJudge.explain` returns it."""
    if freeze:
        yield f"{account} is frozen since {_format_time(freeze.at)} by {freeze.by}: {freeze.why}."
    yield from _explain_hold(account, explanation)
    yield f"What became of its mail: {explanation['outcomes']}."
    yield from explanation["usual"]
    if explanation["events"]:
        yield "The last events, the latest first (`mailkeepctl events` has all):"
        yield from (f"  {event}" for event in explanation["events"])


def _explain_hold(account: str, explanation: dict[str, Any]) -> Iterator[str]:
    hold, held = explanation["hold"], explanation["held"]
    if not hold or hold["cause"] == RELEASED:
        since = f", released {_describe_moment(hold['time'])}" if hold else ""
        yield f"Mail of {account} to strangers is not put on hold{since}."
        return
    yield f"Mail of {account} to strangers is put on hold since {_describe_moment(hold['time'])}:"
    yield f"  {hold['reasons']}."
    yield f"{count_noun(held, 'message')} on hold:"
    yield f"  mailkeepctl release {account}   sends it, and ends the hold"
    yield f"  mailkeepctl freeze {account}    if somebody else uses the account"


def _describe_moment(time: float) -> str:
    return _format_time(datetime.fromtimestamp(time, UTC))


def _format_time(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"
