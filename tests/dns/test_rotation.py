"""A DKIM key is replaced without a message that nobody can verify, whatever happens in between."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import date, timedelta
from pathlib import Path

import pytest
from dns_samples import FIRST_DAY, settings

from mailkeep.dns import records
from mailkeep.errors import UserError
from mailkeep.inventory import secrets, vault
from mailkeep.inventory.dkim_keys import DkimKey, generate_dkim_pem, list_dkim_entries
from mailkeep.inventory.vault import open_vault
from mailkeep.inventory.vault_entries import DkimEntry
from mailkeep.operate import dkim_rotation

KilledAfter = Callable[[int], AbstractContextManager[None]]
DECLARED = settings()
MONTH = timedelta(days=31)


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    directory = tmp_path / "inventories" / "home"
    directory.mkdir(parents=True)
    vault.create_vault(directory / "secrets", directory / vault.IDENTITY)
    secrets.create_missing_keys(DECLARED, directory, FIRST_DAY)
    return directory


def all_seen(_keys: list[DkimKey]) -> dict[DkimKey, str]:
    return {}


def none_seen(keys: list[DkimKey]) -> dict[DkimKey, str]:
    return dict.fromkeys(keys, "it is not there")


def never_deployed(_keys: list[DkimEntry]) -> dict[DkimEntry, date]:
    return {}


def deployed(day: date) -> dkim_rotation.Since:
    return lambda keys: dict.fromkeys(keys, day)


def rotate(
    inventory: Path,
    today: date,
    unseen: dkim_rotation.Unseen = none_seen,
    since: dkim_rotation.Since = never_deployed,
    *,
    now: bool = False,
) -> str:
    return "\n".join(dkim_rotation.rotate(DECLARED, inventory, today, unseen, since, now=now))


def signing(inventory: Path) -> set[str]:
    return {key.selector for key in secrets.load_secrets(DECLARED, inventory).dkim}


def published(inventory: Path) -> set[str]:
    listed = records.own_zone_records(DECLARED, secrets.load_secrets(DECLARED, inventory))
    return {one.name.partition(".")[0] for one in listed if one.name.endswith("._domainkey.example.org")}


def test_a_rotation_publishes_both_switches_when_seen_and_retires_the_old_after_its_time(inventory: Path) -> None:
    day = FIRST_DAY + MONTH
    old, new = f"s{FIRST_DAY:%Y%m%d}", f"s{day:%Y%m%d}"

    said = rotate(inventory, day)
    assert f"{new}._domainkey.example.org" in said
    assert (signing(inventory), published(inventory)) == ({old}, {old, new})

    assert "is not seen yet" in rotate(inventory, day)
    assert (signing(inventory), published(inventory)) == ({old}, {old, new})

    said = rotate(inventory, day, all_seen)
    assert f"mailkeep deploy {inventory}" in said
    assert "for a week after that" in said
    assert (signing(inventory), published(inventory)) == ({new}, {old, new})

    assert "must stay until" in rotate(inventory, day + timedelta(days=6))
    assert published(inventory) == {old, new}

    said = rotate(inventory, day + dkim_rotation.KEPT, since=deployed(day))
    deploy, remove = said.index(f"mailkeep deploy {inventory}"), said.index("then remove those")
    assert said.index(f"{old}._domainkey.example.org") < deploy < remove
    assert (signing(inventory), published(inventory)) == ({new}, {new})

    before = open_vault(inventory).names()
    assert "it is time for new ones" in rotate(inventory, day + dkim_rotation.KEPT)
    assert open_vault(inventory).names() == before


def test_the_week_of_a_former_key_begins_with_the_deploy(inventory: Path) -> None:
    """Until then the server signs with it."""
    day = FIRST_DAY + MONTH
    old, new = f"s{FIRST_DAY:%Y%m%d}", f"s{day:%Y%m%d}"
    rotate(inventory, day)
    rotate(inventory, day, all_seen)
    assert f"does not sign with {new} yet" in rotate(inventory, day + MONTH)
    assert published(inventory) == {old, new}

    late = day + timedelta(days=6)
    said = rotate(inventory, late + timedelta(days=6), since=deployed(late))
    assert f"must stay until {late + dkim_rotation.KEPT}" in said
    assert published(inventory) == {old, new}
    rotate(inventory, late + dkim_rotation.KEPT, since=deployed(late))
    assert published(inventory) == {new}


def test_a_key_of_no_day_is_named(inventory: Path) -> None:
    open_vault(inventory).write("dkim/example.org/s20269999", generate_dkim_pem())
    with pytest.raises(UserError, match=r"s20269999: .* no day"):
        rotate(inventory, FIRST_DAY + MONTH)


def test_each_domain_waits_for_its_own(inventory: Path) -> None:
    day = FIRST_DAY + MONTH
    rotate(inventory, day)
    rotate(inventory, day, all_seen)

    def host_alone(keys: list[DkimEntry]) -> dict[DkimEntry, date]:
        return {key: day for key in keys if key.domain == "mail.example.org"}

    rotate(inventory, day + dkim_rotation.KEPT, since=host_alone)
    left = [one for one in list_dkim_entries(open_vault(inventory)) if one.state != "current"]
    assert [one.domain for one in left] == ["example.org"]


def test_only_what_is_seen_is_switched(inventory: Path) -> None:
    day = FIRST_DAY + MONTH
    rotate(inventory, day)

    def host_is_missing(keys: list[DkimKey]) -> dict[DkimKey, str]:
        return {key: "it is not there" for key in keys if key.domain == "mail.example.org"}

    said = rotate(inventory, day, host_is_missing)
    assert "example.org: s" in said
    assert "_domainkey.mail.example.org is not seen yet" in said
    now = {key.domain: key.selector for key in secrets.load_secrets(DECLARED, inventory).dkim}
    assert now == {"example.org": f"s{day:%Y%m%d}", "mail.example.org": f"s{FIRST_DAY:%Y%m%d}"}


@pytest.mark.parametrize(("days", "now", "begins"), [(0, True, False), (1, False, False), (1, True, True)])
def test_new_keys_are_replaced_on_request_only(inventory: Path, days: int, now: bool, begins: bool) -> None:
    rotate(inventory, FIRST_DAY + timedelta(days=days), now=now)
    assert (len(published(inventory)) == 2) == begins


@pytest.mark.parametrize("writes", range(8))
def test_a_switch_that_is_killed_anywhere_is_finished_by_the_next(
    inventory: Path, writes: int, killed_after: KilledAfter
) -> None:
    day = FIRST_DAY + MONTH
    rotate(inventory, day)
    with pytest.raises(KeyboardInterrupt), killed_after(writes):
        rotate(inventory, day, all_seen)
    assert len(secrets.load_secrets(DECLARED, inventory).dkim) == 2  # whatever happened, each domain has one that signs
    rotate(inventory, day, all_seen)
    assert "must stay until" in rotate(inventory, day, all_seen)
    assert signing(inventory) == {f"s{day:%Y%m%d}"}
    assert published(inventory) == {f"s{FIRST_DAY:%Y%m%d}", f"s{day:%Y%m%d}"}
    rotate(inventory, day + dkim_rotation.KEPT, since=deployed(day))
    assert len(list_dkim_entries(open_vault(inventory))) == 2
