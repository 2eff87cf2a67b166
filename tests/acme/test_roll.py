"""A TLS key is replaced without a moment in which TLSA records do not fit, whatever happens in between."""

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from mailkeep.dns import records
from mailkeep.dns.records import Record
from mailkeep.errors import UserError
from mailkeep.inventory import secrets, vault
from mailkeep.inventory.vault import open_vault
from mailkeep.operate import tls_key_rollover
from mailkeep.settings.models import Settings

KilledAfter = Callable[[int], AbstractContextManager[None]]
DECLARED = Settings.model_validate(
    {
        "host": {"name": "mail.example.org", "addresses": ["203.0.113.25"]},
        "domains": ["example.org"],
        "admin": {"addresses": ["you@example.net"]},
        "tls": {"mode": "acme"},
    }
)
MADE = date(2026, 11, 23)
START = datetime(2027, 1, 1, 12, 0, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    directory = tmp_path / "inventories" / "home"
    directory.mkdir(parents=True)
    vault.create_vault(directory / "secrets", directory / vault.IDENTITY)
    secrets.create_missing_keys(DECLARED, directory, MADE)
    return directory


def published(inventory: Path) -> list[str]:
    listed = records.own_zone_records(DECLARED, secrets.load_secrets(DECLARED, inventory))
    return [record.value for record in listed if record.type == "TLSA"]


class World:
    """What is seen of the records, and which key the server shows."""

    def __init__(self, inventory: Path) -> None:
        self.inventory, self.seen = inventory, True
        self.serves = published(inventory)[0]

    def roll(self, at: datetime, *, now: bool = False) -> str:
        return "\n".join(tls_key_rollover.roll(DECLARED, self.inventory, at, self.unseen, self.shown, now=now))

    def unseen(self, _: Record) -> tuple[list[str], int]:
        return ([] if self.seen else ["ns.example.net does not have it"]), 3600

    def shown(self, _: Settings) -> dict[str, str]:
        return {"203.0.113.25": self.serves}


@pytest.fixture
def world(inventory: Path) -> World:
    return World(inventory)


def test_a_key_is_used_once_all_have_its_record_and_retired_once_it_is_shown(inventory: Path, world: World) -> None:
    [old] = published(inventory)
    world.seen = False
    said = world.roll(START)
    first, new = published(inventory)
    assert first == old
    assert f"{new}\n" in said
    assert "(is there already)" in said

    assert "ns.example.net does not have it" in world.roll(START)
    world.seen = True
    assert "2027-01-01 13:01 UTC" in world.roll(START)
    assert "13:01 UTC" in world.roll(START + HOUR)
    assert published(inventory) == [old, new]

    world.seen = False
    assert "gone again" in world.roll(START + 2 * HOUR)
    world.seen = True
    assert f"mailkeep deploy {inventory}" in world.roll(START + 2 * HOUR)
    assert published(inventory) == [new, old]

    assert "another key is shown still" in world.roll(START + 2 * HOUR)
    assert published(inventory) == [new, old]
    world.serves = new
    assert old in world.roll(START + 2 * HOUR)
    assert published(inventory) == [new]

    before = open_vault(inventory).names()
    assert "time for another" in world.roll(START + 3 * HOUR, now=True)
    assert open_vault(inventory).names() == before


def test_a_server_that_does_not_answer_keeps_the_former_record(
    inventory: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hours in (0, 1, 2, 3):
        world.roll(START + hours * HOUR)
    monkeypatch.setattr(world, "shown", lambda _: {})
    assert "does not answer on port 993" in world.roll(START + 4 * HOUR)
    assert len(published(inventory)) == 2


@pytest.mark.parametrize(("days", "now", "begins"), [(0, True, False), (1, False, False), (1, True, True)])
def test_a_new_key_is_replaced_on_request_only(world: World, days: int, now: bool, begins: bool) -> None:
    world.roll(datetime(2026, 11, 23, tzinfo=UTC) + timedelta(days), now=now)
    assert (len(published(world.inventory)) == 2) == begins


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("writes", range(4))
def test_a_step_that_is_killed_anywhere_is_finished_by_the_next(
    inventory: Path, world: World, step: int, writes: int, killed_after: KilledAfter
) -> None:
    for hours in range(0, 2 * step, 2):
        world.roll(START + hours * HOUR)
    both = set(published(inventory))
    with suppress(KeyboardInterrupt), killed_after(writes):
        world.roll(START + 2 * step * HOUR)
    assert set(published(inventory)) == both
    old = world.serves
    for hours in range(6, 12, 2):
        world.roll(START + hours * HOUR)
        assert world.serves in published(inventory), "what the server shows has no record"
        world.serves = published(inventory)[0]
    world.roll(START + 12 * HOUR)
    assert published(inventory) == [*(both - {old})]


def test_only_keys_for_acme_are_rolled_over(world: World) -> None:
    own = DECLARED.model_copy(update={"tls": DECLARED.tls.model_copy(update={"mode": "self-signed"})})
    with pytest.raises(UserError, match="is self-signed: only keys for `acme`"):
        tls_key_rollover.roll(own, world.inventory, START, world.unseen, world.shown)
