"""The pattern by which DKIM and TLS keys are replaced while mail goes on.

    create   a `next` key enters the vault; the operator publishes its record beside that of the `current` key
    switch   once that record is seen, `next` becomes `current`, and `current` becomes `former`
    retire   once nobody needs the record of the `former` key, both go

The vault holds the states (`mailkeep.inventory.vault_entries`). Each call takes the step that is possible by now and
says what to do next. It may be repeated at will, and interrupted anywhere.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import ClassVar

from mailkeep.dns.records import Record
from mailkeep.inventory.hosts import inventory_label
from mailkeep.inventory.vault import open_vault
from mailkeep.settings.models import Settings

MIN_KEY_AGE = timedelta(days=30)


class KeyRotation(ABC):
    """`start_now` creates the next key although the current one is younger than MIN_KEY_AGE."""

    verb: ClassVar[str]
    """The command that takes a step, such as `mailkeep dkim rotate`."""

    def __init__(self, settings: Settings, inventory: Path, *, start_now: bool) -> None:
        self.settings, self.start_now = settings, start_now
        self.vault = open_vault(inventory)
        label = inventory_label(inventory)
        # As the lines for the operator name them.
        self.next_call = f"`{self.verb} {label}` again"
        self.deploy_command, self.dns_command = f"`mailkeep deploy {label}`", f"`mailkeep dns {label}`"

    def take_step(self) -> list[str]:
        """Does what is possible by now; returns what was done and what to do next, a line each."""
        self.finish_switch()
        if self.has_next():
            return [*self.switch_to_next()]
        if self.has_former():
            return [*self.retire_former()]
        return [*self.create_next()]

    def is_due(self, created: date, today: date) -> bool:
        """A key of today is never due: the names of keys, and of their states, hold a day."""
        return created < today and (self.start_now or today - created >= MIN_KEY_AGE)

    @abstractmethod
    def finish_switch(self) -> None:
        """Completes a switch that was interrupted."""

    @abstractmethod
    def has_next(self) -> bool: ...

    @abstractmethod
    def has_former(self) -> bool: ...

    @abstractmethod
    def create_next(self) -> Iterator[str]: ...

    @abstractmethod
    def switch_to_next(self) -> Iterator[str]: ...

    @abstractmethod
    def retire_former(self) -> Iterator[str]: ...


def describe_age(created: date) -> str:
    """The line for a key that is not due."""
    return (
        f"Nothing to do: the current key was created on {created}, and is due for replacement on "
        f"{created + MIN_KEY_AGE}. --now replaces it any day after {created}."
    )


def format_record(record: Record) -> str:
    """Its value on a line of its own, whole, so that it can be copied."""
    return f"{record.name}  {record.type}\n  {record.value}"
