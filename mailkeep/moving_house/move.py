"""Mail, state and queue go from one live machine to another; then the other serves, and nothing is lost or doubled.

While the old machine serves, passes of rsync bring the new one up to date. Then the old one stops, the last difference
is copied and compared, and the old one hands over. Up to that step, it starts again by itself if anything fails. From
that step on, only the new one has the mail, and the same command goes on where it was cut off.
"""

import time
from collections.abc import Sequence

from mailkeep.errors import UserError
from mailkeep.moving_house.forwarding import start_forwarding, stop_forwarding
from mailkeep.moving_house.machine import Machine, ShowProgress, copy_files, copy_mail

MAX_PASSES = 5
QUICK_SECONDS = 8.0  # a pass of so many seconds leaves little for the last one
RESUME_SECONDS = 180


def move_mail(old: Machine, new: Machine, kept: Sequence[str], show_progress: ShowProgress, *, forwards: bool) -> int:
    """Returns the number of messages on the new machine. `kept` are paths of state. With `forwards`, the old machine
    forwards its ports afterwards. Raises UserError."""
    status = old.read_status()
    if status["has_left"]:
        arrived = new.read_status()
        if arrived["token"] != status["token"]:
            raise UserError(f"{old.label}: it has handed its mail over already, to another machine than {new.label}.")
        token, stopped = str(status["token"]), time.monotonic()
    else:
        new.read_status()
        _copy_while_serving(old, new, show_progress)
        stopped = time.monotonic()
        token = _hand_over(old, new, kept, show_progress)
    show_progress("putting it in place")
    stop_forwarding(new.remote)
    messages = int(new.run_detached_step("place", token, "--kept", *kept))
    if forwards:
        start_forwarding(old.remote)
    old.run_step("open")
    show_progress(f"the new machine serves; nobody did for {time.monotonic() - stopped:.0f} seconds")
    return messages


def _copy_while_serving(old: Machine, new: Machine, show_progress: ShowProgress) -> None:
    size = int(old.run_step("size"))
    new.run_step("check-room", size)
    show_progress(f"copying {size / 2**20:.0f} MB of mail, while the old machine serves")
    for number in range(1, MAX_PASSES + 1):
        start = time.monotonic()
        copy_mail(old, new, show_progress)
        seconds = time.monotonic() - start
        show_progress(f"pass {number} took {seconds:.0f} s")
        if seconds < QUICK_SECONDS:
            break
    new.run_step("check-mailboxes")


def _hand_over(old: Machine, new: Machine, kept: Sequence[str], show_progress: ShowProgress) -> str:
    """Returns the token of what has been handed over."""
    show_progress("stopping the old machine, for the last difference")
    try:
        token = old.run_step("stop", "--resume-after", RESUME_SECONDS)
        copy_mail(old, new, show_progress)
        if differences := copy_mail(old, new, show_progress, compare=True):
            raise UserError(f"{new.label}: the copy differs from the old machine: {', '.join(differences[:5])}.")
        copy_files(old, new, kept)
        new.run_step("ready", token)
        old.run_step("leave", token)
    except BaseException:
        _resume(old, show_progress)
        raise
    return token


def _resume(old: Machine, show_progress: ShowProgress) -> None:
    """After a fault, which is what the operator must read: one of this step is told beside it."""
    try:
        old.run_step("resume")
        show_progress("the old machine serves again")
    except UserError as error:
        show_progress(f"{error} If it has not handed over, it starts by itself within {RESUME_SECONDS} seconds.")
