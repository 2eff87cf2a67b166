"""The server's own proof of the jails is written down for the watch, and never uses a canary twice in a row."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from mailkeep_server.common import jail_canaries
from mailkeep_server.watch import jail_proof
from mailkeep_server.watch.config import WatchConfig

Proof = list[tuple[list[str], int]]
RULES = {"ports": [22], "maxretry": 5, "findtime": 3600, "bantime": 900, "ignoreip": []}


@pytest.fixture
def proofs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: WatchConfig) -> Proof:
    """The jails of each proof, and the number of its first canary. The first proof finds a fault in dovecot."""
    proofs: Proof = []

    def prove(jails: Iterable[str], first: int, never_ban: list[str], *, start_timeout: float) -> dict[str, list[str]]:
        assert (never_ban, start_timeout) == (config.never_ban, jail_proof.START_TIMEOUT)
        proofs.append(([*jails], first))
        names = [*jails, "mine"]
        return {jail: ["jail dovecot: dead"] if (jail, len(proofs)) == ("dovecot", 1) else [] for jail in names}

    monkeypatch.setattr(jail_canaries, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(jail_proof, "PROOF", tmp_path / "jails.json")
    monkeypatch.setattr(
        jail_proof.config, "load_config", lambda: replace(config, jail_rules={"sshd": RULES, "dovecot": RULES})
    )
    monkeypatch.setattr(jail_proof, "prove_jails", prove)
    return proofs


def read_proof() -> dict[str, object]:
    proof: dict[str, object] = json.loads(jail_proof.PROOF.read_text())
    return proof


def test_after_a_fault_the_jails_are_proven_again_with_other_canaries(proofs: Proof) -> None:
    """A jail of the operator's takes a canary too."""
    jail_proof.PROOF.write_text('{"turn": 10, "faults": {}}')
    jail_proof.main([])
    assert proofs == [(["sshd", "dovecot"], 10), (["sshd", "dovecot"], 13)]
    assert read_proof() == {"turn": 16, "faults": {}, "foreign": ["mine"]}
    assert jail_proof.PROOF.stat().st_mode & 0o777 == 0o600


def test_a_fail2ban_that_does_not_run_is_a_fault_of_every_jail(proofs: Proof, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("fail2ban-client status: exit 255: no socket")

    monkeypatch.setattr(jail_proof, "prove_jails", fail)
    assert jail_proof.main([]) == 0
    error = "fail2ban-client status: exit 255: no socket"
    assert read_proof()["faults"] == {jail: [f"jail {jail}: {error}"] for jail in ("sshd", "dovecot")}
    assert proofs == []


@pytest.mark.parametrize("state", ["", "[]", '{"turn": null}'])
def test_a_lost_number_of_the_last_canary_is_no_hindrance(proofs: Proof, state: str) -> None:
    jail_proof.PROOF.write_text(state)
    jail_proof.main([])
    assert proofs[1][1] == proofs[0][1] + 3


@pytest.mark.usefixtures("proofs")
def test_nobody_else_can_hold_up_the_proof(tmp_path: Path) -> None:
    (tmp_path / "lock").touch(0o644)
    jail_proof.main([])
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
