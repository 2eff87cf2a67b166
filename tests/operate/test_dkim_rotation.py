"""A DKIM key is replaced without a message that nobody can verify, whatever happens in between."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import date, timedelta
from pathlib import Path

import pytest

from mailkeep.dns import records
from mailkeep.errors import UserError
from mailkeep.inventory import secrets, vault
from mailkeep.inventory.dkim_keys import DkimKey, generate_dkim_pem, list_dkim_entries, take_over_dkim_key
from mailkeep.inventory.vault import open_vault
from mailkeep.inventory.vault_entries import DkimEntry
from mailkeep.operate.dkim_rotation import FORMER_PERIOD, DkimRotation, FindSigningSince, FindUnpublished
from mailkeep.settings.models import Settings

KilledAfter = Callable[[int], AbstractContextManager[None]]
SETTINGS = Settings.model_validate(
    {
        "host": {"name": "mail.example.org", "addresses": ["203.0.113.25"]},
        "domains": ["example.org"],
        "admin": {"addresses": ["you@example.net"]},
    }
)
FIRST_DAY = date(2026, 11, 23)
MONTH = timedelta(days=31)


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    directory = tmp_path / "inventories" / "home"
    directory.mkdir(parents=True)
    vault.create_vault(directory / "secrets", directory / vault.IDENTITY)
    secrets.create_missing_keys(SETTINGS, directory, FIRST_DAY)
    return directory


def all_published(_keys: list[DkimKey]) -> dict[DkimKey, str]:
    return {}


def none_published(keys: list[DkimKey]) -> dict[DkimKey, str]:
    return dict.fromkeys(keys, "it is not there")


def never_deployed(_entries: list[DkimEntry]) -> dict[DkimEntry, date]:
    return {}


def deployed_on(day: date) -> FindSigningSince:
    return lambda entries: dict.fromkeys(entries, day)


def rotate(
    inventory: Path,
    today: date,
    find_unpublished: FindUnpublished = none_published,
    find_signing_since: FindSigningSince = never_deployed,
    *,
    start_now: bool = False,
) -> str:
    rotation = DkimRotation(SETTINGS, inventory, today, find_unpublished, find_signing_since, start_now=start_now)
    return "\n".join(rotation.take_step())


def signing_selectors(inventory: Path) -> set[str]:
    return {key.selector for key in secrets.load_secrets(SETTINGS, inventory).dkim}


def published_selectors(inventory: Path) -> set[str]:
    own_records = records.own_zone_records(SETTINGS, secrets.load_secrets(SETTINGS, inventory))
    return {record.name.partition(".")[0] for record in own_records if record.name.endswith("._domainkey.example.org")}


@pytest.mark.slow
def test_a_rotation_publishes_both_keys_switches_once_published_and_retires_the_former_after_its_time(
    inventory: Path,
) -> None:
    day = FIRST_DAY + MONTH
    old, new = f"s{FIRST_DAY:%Y%m%d}", f"s{day:%Y%m%d}"

    output = rotate(inventory, day)
    assert f"{new}._domainkey.example.org" in output
    assert (signing_selectors(inventory), published_selectors(inventory)) == ({old}, {old, new})

    assert "is not published yet" in rotate(inventory, day)
    assert (signing_selectors(inventory), published_selectors(inventory)) == ({old}, {old, new})

    output = rotate(inventory, day, all_published)
    assert f"mailkeep deploy {inventory}" in output
    assert "for a week after that" in output
    assert (signing_selectors(inventory), published_selectors(inventory)) == ({new}, {old, new})

    assert "must stay until" in rotate(inventory, day + timedelta(days=6))
    assert published_selectors(inventory) == {old, new}

    output = rotate(inventory, day + FORMER_PERIOD, find_signing_since=deployed_on(day))
    deploy, remove = output.index(f"mailkeep deploy {inventory}"), output.index("then remove the records")
    assert output.index(f"{old}._domainkey.example.org") < deploy < remove
    assert (signing_selectors(inventory), published_selectors(inventory)) == ({new}, {new})

    before = open_vault(inventory).names()
    assert "Nothing to do" in rotate(inventory, day + FORMER_PERIOD)
    assert open_vault(inventory).names() == before


def test_the_week_of_a_former_key_begins_with_the_deploy(inventory: Path) -> None:
    """Until then the server signs with it."""
    day = FIRST_DAY + MONTH
    old, new = f"s{FIRST_DAY:%Y%m%d}", f"s{day:%Y%m%d}"
    rotate(inventory, day)
    rotate(inventory, day, all_published)
    assert f"does not sign with {new} yet" in rotate(inventory, day + MONTH)
    assert published_selectors(inventory) == {old, new}

    late = day + timedelta(days=6)
    output = rotate(inventory, late + timedelta(days=6), find_signing_since=deployed_on(late))
    assert f"must stay until {late + FORMER_PERIOD}" in output
    assert published_selectors(inventory) == {old, new}
    rotate(inventory, late + FORMER_PERIOD, find_signing_since=deployed_on(late))
    assert published_selectors(inventory) == {new}


@pytest.mark.slow
def test_a_key_of_another_server_is_due_at_once_and_rotates_like_ours(inventory: Path) -> None:
    old, new = f"s{FIRST_DAY:%Y%m%d}", f"s{FIRST_DAY + timedelta(days=1):%Y%m%d}"
    keys = open_vault(inventory)
    keys.delete(f"dkim/example.org/{old}")
    take_over_dkim_key(keys, "example.org", "mail", generate_dkim_pem(), "mail.private")
    assert (signing_selectors(inventory), published_selectors(inventory)) == ({"mail", old}, {"mail"})

    day = FIRST_DAY + timedelta(days=1)
    assert f"{new}._domainkey.example.org" in rotate(inventory, day)
    assert "example.org: " + new + " replaces mail" in rotate(inventory, day, all_published)
    assert (signing_selectors(inventory), published_selectors(inventory)) == ({new, old}, {"mail", new})
    rotate(inventory, day + FORMER_PERIOD, find_signing_since=deployed_on(day))
    assert published_selectors(inventory) == {new}


def test_a_key_of_no_day_is_named(inventory: Path) -> None:
    open_vault(inventory).write("dkim/example.org/s20269999", generate_dkim_pem())
    with pytest.raises(UserError, match=r"s20269999: .* no day"):
        rotate(inventory, FIRST_DAY + MONTH)


def test_each_domain_waits_for_its_own_key(inventory: Path) -> None:
    day = FIRST_DAY + MONTH
    rotate(inventory, day)
    rotate(inventory, day, all_published)

    def host_alone(entries: list[DkimEntry]) -> dict[DkimEntry, date]:
        return {entry: day for entry in entries if entry.domain == "mail.example.org"}

    rotate(inventory, day + FORMER_PERIOD, find_signing_since=host_alone)
    remaining = [entry for entry in list_dkim_entries(open_vault(inventory)) if entry.state != "current"]
    assert [entry.domain for entry in remaining] == ["example.org"]


def test_only_published_keys_are_switched(inventory: Path) -> None:
    day = FIRST_DAY + MONTH
    rotate(inventory, day)

    def host_is_missing(keys: list[DkimKey]) -> dict[DkimKey, str]:
        return {key: "it is not there" for key in keys if key.domain == "mail.example.org"}

    output = rotate(inventory, day, host_is_missing)
    assert "example.org: s" in output
    assert "_domainkey.mail.example.org is not published yet" in output
    selectors = {key.domain: key.selector for key in secrets.load_secrets(SETTINGS, inventory).dkim}
    assert selectors == {"example.org": f"s{day:%Y%m%d}", "mail.example.org": f"s{FIRST_DAY:%Y%m%d}"}


@pytest.mark.parametrize(("days", "start_now", "is_replaced"), [(0, True, False), (1, False, False), (1, True, True)])
def test_new_keys_are_replaced_on_request_only(inventory: Path, days: int, start_now: bool, is_replaced: bool) -> None:
    rotate(inventory, FIRST_DAY + timedelta(days=days), start_now=start_now)
    assert (len(published_selectors(inventory)) == 2) == is_replaced


@pytest.mark.parametrize("writes", range(8))
def test_a_switch_that_is_killed_anywhere_is_finished_by_the_next(
    inventory: Path, writes: int, killed_after: KilledAfter
) -> None:
    day = FIRST_DAY + MONTH
    rotate(inventory, day)
    with pytest.raises(KeyboardInterrupt), killed_after(writes):
        rotate(inventory, day, all_published)
    assert len(secrets.load_secrets(SETTINGS, inventory).dkim) == 2  # whatever happened, each domain has one that signs
    rotate(inventory, day, all_published)
    assert "must stay until" in rotate(inventory, day, all_published)
    assert signing_selectors(inventory) == {f"s{day:%Y%m%d}"}
    assert published_selectors(inventory) == {f"s{FIRST_DAY:%Y%m%d}", f"s{day:%Y%m%d}"}
    rotate(inventory, day + FORMER_PERIOD, find_signing_since=deployed_on(day))
    assert len(list_dkim_entries(open_vault(inventory))) == 2
