"""The order in which the workers of pytest-xdist (`--dist loadfile`) take the tests of the lab.

What takes longest comes first: a long file that is begun late keeps one worker busy while the others wait.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadFileScheduling

LONGEST_FIRST = (
    "docs/test_server_commands.py",
    "lab/test_reruns.py",
    "lab/test_lab.py",  # not that long, but it needs no built server: the worker need not wait for the first one
    "lab/test_backup.py",
    "lab/test_move.py",
    "lab/test_jails.py",
    "lab/test_adopt.py",
    "lab/test_spam.py",
    "lab/test_foreign_machine.py",
    "lab/test_inspect.py",
    "lab/test_inbound.py",
    "lab/test_watch.py",
    "lab/test_many_hosts.py",
    "lab/test_certificates.py",
    "lab/test_import_mail.py",
    "lab/test_upgrade.py",
    "lab/test_guard.py",
    "lab/test_way_back.py",
    "lab/test_night.py",
    "lab/test_other_users.py",
    "lab/test_attacks.py",
    "lab/test_mail.py",
    "lab/test_moving_house.py",
    "lab/test_web.py",
    "lab/test_drills.py",
    "lab/test_verify.py",
    "lab/test_foreign_things.py",
    "lab/test_receiving.py",
    "lab/test_mail_to_strangers.py",
    "lab/test_honest_mail.py",
    "lab/test_rules.py",
    "lab/test_refusals.py",
    "lab/test_plan.py",
    "lab/test_what_happened.py",
    "lab/test_people_reached.py",
    "lab/test_shared_store.py",
    "lab/test_reports.py",
    "lab/test_dns.py",
    "cli/test_wheel.py",
)
ALONE = ("lab/test_verify.py", "lab/test_foreign_things.py", "lab/test_refusals.py", "lab/test_plan.py")
"""Files whose tests boot servers of their own: any worker may take any of them, which fills what gaps there are."""


class LabSchedule(LoadFileScheduling):
    """One file, one worker, so that its servers are built once; the tests of the files in `ALONE` go one by one."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return nodeid if file.endswith(ALONE) else file


def sort_items(items: list[pytest.Item]) -> None:
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    path = item.path.as_posix()
    return next((rank for rank, file in enumerate(LONGEST_FIRST) if path.endswith(file)), len(LONGEST_FIRST))
