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
from mailkeep.operate.tls_rotation import TlsRotation
from mailkeep.settings.models import Settings

KilledAfter = Callable[[int], AbstractContextManager[None]]
SETTINGS = Settings.model_validate(
    {
        "host": {"name": "mail.example.org", "addresses": ["203.0.113.25"]},
        "domains": ["example.org"],
        "admin": {"addresses": ["you@example.net"]},
        "tls": {"mode": "acme"},
    }
)
CREATED = date(2026, 11, 23)
START = datetime(2027, 1, 1, 12, 0, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    directory = tmp_path / "inventories" / "home"
    directory.mkdir(parents=True)
    vault.create_vault(directory / "secrets", directory / vault.IDENTITY)
    secrets.create_missing_keys(SETTINGS, directory, CREATED)
    return directory


def published_values(inventory: Path) -> list[str]:
    own_records = records.own_zone_records(SETTINGS, secrets.load_secrets(SETTINGS, inventory))
    return [record.value for record in own_records if record.type == "TLSA"]


class World:
    """Whether the zone has the records, and the record for the key that the server shows."""

    def __init__(self, inventory: Path) -> None:
        self.inventory, self.is_published = inventory, True
        self.served = published_values(inventory)[0]

    def rotate(self, now: datetime, *, start_now: bool = False) -> str:
        rotation = TlsRotation(
            SETTINGS, self.inventory, now, self.find_unpublished, self.read_served_records, start_now=start_now
        )
        return "\n".join(rotation.take_step())

    def find_unpublished(self, _: Record) -> tuple[list[str], int]:
        return ([] if self.is_published else ["ns.example.net does not have it"]), 3600

    def read_served_records(self, _: Settings) -> dict[str, str]:
        return {"203.0.113.25": self.served}


@pytest.fixture
def world(inventory: Path) -> World:
    return World(inventory)


def test_a_key_is_used_once_all_have_its_record_and_retired_once_it_is_shown(inventory: Path, world: World) -> None:
    [old] = published_values(inventory)
    world.is_published = False
    output = world.rotate(START)
    first, new = published_values(inventory)
    assert first == old
    assert f"{new}\n" in output
    assert "(published already)" in output

    assert "ns.example.net does not have it" in world.rotate(START)
    world.is_published = True
    assert "2027-01-01 13:01 UTC" in world.rotate(START)
    assert "13:01 UTC" in world.rotate(START + HOUR)
    assert published_values(inventory) == [old, new]

    world.is_published = False
    assert "gone again" in world.rotate(START + 2 * HOUR)
    world.is_published = True
    assert f"mailkeep deploy {inventory}" in world.rotate(START + 2 * HOUR)
    assert published_values(inventory) == [new, old]

    assert "the server still shows another key" in world.rotate(START + 2 * HOUR)
    assert published_values(inventory) == [new, old]
    world.served = new
    assert old in world.rotate(START + 2 * HOUR)
    assert published_values(inventory) == [new]

    before = open_vault(inventory).names()
    assert "Nothing to do" in world.rotate(START + 3 * HOUR, start_now=True)
    assert open_vault(inventory).names() == before


def test_a_server_that_does_not_answer_keeps_the_former_record(
    inventory: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hours in (0, 1, 2, 3):
        world.rotate(START + hours * HOUR)
    monkeypatch.setattr(world, "read_served_records", lambda _: {})
    assert "does not answer on port 993" in world.rotate(START + 4 * HOUR)
    assert len(published_values(inventory)) == 2


@pytest.mark.parametrize(("days", "start_now", "is_replaced"), [(0, True, False), (1, False, False), (1, True, True)])
def test_a_new_key_is_replaced_on_request_only(world: World, days: int, start_now: bool, is_replaced: bool) -> None:
    world.rotate(datetime(2026, 11, 23, tzinfo=UTC) + timedelta(days), start_now=start_now)
    assert (len(published_values(world.inventory)) == 2) == is_replaced


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("writes", range(4))
def test_a_step_that_is_killed_anywhere_is_finished_by_the_next(
    inventory: Path, world: World, step: int, writes: int, killed_after: KilledAfter
) -> None:
    for hours in range(0, 2 * step, 2):
        world.rotate(START + hours * HOUR)
    both = set(published_values(inventory))
    with suppress(KeyboardInterrupt), killed_after(writes):
        world.rotate(START + 2 * step * HOUR)
    assert set(published_values(inventory)) == both
    old = world.served
    for hours in range(6, 12, 2):
        world.rotate(START + hours * HOUR)
        assert world.served in published_values(inventory), "what the server shows has no record"
        world.served = published_values(inventory)[0]
    world.rotate(START + 12 * HOUR)
    assert published_values(inventory) == [*(both - {old})]


def test_only_keys_for_acme_are_replaced(world: World) -> None:
    self_signed = SETTINGS.model_copy(update={"tls": SETTINGS.tls.model_copy(update={"mode": "self-signed"})})
    with pytest.raises(UserError, match="is self-signed: this command replaces only keys for `acme`"):
        TlsRotation(self_signed, world.inventory, START, world.find_unpublished, world.read_served_records)
