"""What decides on the server whether a certificate is asked for, for which names, and whether the operator hears."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mailkeep.inventory import tls_certificate
from mailkeep_server import certificate_renewal
from mailkeep_server.certificate_renewal import Certificate, FailedError, Keeper, is_told, need, tries

DAY = 86_400.0
HOST, POLICY = "mail.example.org", "mta-sts.example.org"
DIRECTORY = "https://acme.example.net/directory"
CONFIG: dict[str, Any] = {"names": [HOST], "directory": DIRECTORY}
BOTH: dict[str, Any] = {"names": [HOST, POLICY], "directory": DIRECTORY}
GOOD = Certificate("key", frozenset([HOST]), 0.0, 90 * DAY, issued=True)
OWN = replace(GOOD, issued=False)


def why(present: Certificate = GOOD, days: float = 0, config: dict[str, Any] = CONFIG, **more: str) -> str:
    return need(config, present, more.get("key", "key"), more.get("directory", DIRECTORY), days * DAY)


def test_a_good_certificate_is_left_alone_for_two_thirds_of_its_life() -> None:
    assert (why(), why(days=59)) == ("", "")
    assert why(days=61) == "it ends in 29.0 days"
    assert why(days=100) != ""


def test_lives_of_six_days_are_renewed_after_four() -> None:
    short = replace(GOOD, end=6 * DAY)
    assert why(short, 3.9) == ""
    assert why(short, 4.1) != ""


def test_another_key_another_authority_or_another_name_need_another_certificate() -> None:
    assert why(key="next") == "there is a new key"
    assert why(OWN) == why(directory="https://staging.example.net/directory") != ""
    assert why(config=BOTH) == f"it is not for {POLICY}"


def test_the_host_alone_is_asked_for_only_when_time_is_short() -> None:
    assert tries(BOTH, GOOD, 0) == [[HOST, POLICY]]
    assert tries(BOTH, GOOD, 70 * DAY) == [[HOST, POLICY]]
    for short in (tries(BOTH, OWN, 0), tries(BOTH, GOOD, 80 * DAY), tries(BOTH, GOOD, 100 * DAY)):
        assert short == [[HOST, POLICY], [HOST]]
    assert tries(CONFIG, OWN, 0) == [[HOST]]


def test_a_failure_is_told_at_once_if_it_shows_and_else_after_a_day() -> None:
    now = 61 * DAY
    assert not is_told(CONFIG, GOOD, now, now)
    assert not is_told(CONFIG, GOOD, now, now + 23 * 3600)
    assert is_told(CONFIG, GOOD, now, now + 24 * 3600)
    assert is_told(CONFIG, OWN, 0, 0)
    assert is_told(CONFIG, GOOD, 90 * DAY, 90 * DAY)
    assert is_told(BOTH, GOOD, 0, 0)


# --- what lego says

SAID = """\
2026/11/25 19:24:54 [INFO] [mail.example.org] acme: Trying to solve DNS-01
2026/11/25 19:25:54 Could not obtain certificates:
\terror: one or more domains had a problem:
[mail.example.org] [mail.example.org] acme: error presenting token: GET https://dns.example.net/?token=5eCret: 403
"""


def test_the_reason_is_one_line_without_secrets(tmp_path: Path) -> None:
    file = tmp_path / "acme.env"
    file.write_text('TOKEN="5eCret"\nURL="a \\"b\\$"\nEMPTY=""\n')
    secrets = certificate_renewal._secrets(str(file))
    assert secrets == ["5eCret", 'a "b$']
    reason = certificate_renewal._reason(SAID, secrets)
    assert reason.startswith("Could not obtain certificates: error: one or more")
    assert "5eCret" not in reason
    assert "?token=[not shown]: 403" in reason
    assert certificate_renewal._reason("", []) == "lego has ended; `journalctl -u mailkeep-acme` says why"
    assert len(certificate_renewal._reason("Could not " + "x" * 5000, [])) == certificate_renewal.SAID


def test_the_reason_holds_nothing_for_a_terminal() -> None:
    reason = certificate_renewal._reason("Could not obtain: \x1b[2J\x1b]0;pwn\x07 5e\x00Cret\u202e\n", ["5eCret"])
    assert reason == "Could not obtain: [2J]0;pwn [not shown]"


# --- with a lego of our own in place of the authority


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, Any]:
    """What a deploy leaves: the key, its self-signed certificate, the configuration."""
    chain, key = tls_certificate.split_pem(tls_certificate.create_self_signed(HOST, date.today()))
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "server.pem").write_bytes(key + chain)
    paths = {name: str(tmp_path / name) for name in ("key", "request", "said", "issued", "credentials")}
    return CONFIG | paths | {"certificate": str(tmp_path / "server.pem"), "state": str(tmp_path), "services": []}


def keeper(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, order: Callable[..., str]) -> Keeper:
    monkeypatch.setattr(certificate_renewal, "order", order)
    return Keeper(config)


def refused(*_: object) -> str:
    raise FailedError("too many requests")


def test_a_failure_leaves_what_is_there_and_is_written_down(
    pair: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (tmp_path / "server.pem").read_bytes()
    for now in (1.8e9, 1.9e9):
        with pytest.raises(FailedError, match=f"no new certificate for {HOST}: too many requests"):
            keeper(pair, monkeypatch, refused).look(now)
    assert (tmp_path / "server.pem").read_bytes() == before
    assert "too many requests" in (tmp_path / "troubles.json").read_text()
    assert Keeper(pair).state["failing"] == 1.8e9


def test_a_broken_file_is_replaced_and_the_trouble_is_over(
    pair: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = (tmp_path / "server.pem").read_text()
    chain = issued[issued.index("-----BEGIN CERTIFICATE") :]
    (tmp_path / "server.pem").write_text("nonsense\n")
    with pytest.raises(FailedError):
        keeper(pair, monkeypatch, refused).look(1.8e9)
    keeper(pair, monkeypatch, lambda *_: chain).look(1.8e9)
    assert (tmp_path / "server.pem").read_text() == issued
    assert (tmp_path / "server.pem").stat().st_mode & 0o777 == 0o600
    assert "no new" not in (tmp_path / "troubles.json").read_text()
    assert Keeper(pair).state["failing"] == 0


def test_a_reload_that_was_cut_off_is_done_by_the_next_run(
    pair: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[list[str]] = []
    chain = (tmp_path / "server.pem").read_text().partition("PRIVATE KEY-----\n")[2]

    def killed(_: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(certificate_renewal, "reload", killed)
    with pytest.raises(KeyboardInterrupt):
        keeper(pair, monkeypatch, lambda *_: chain).look(1.8e9)
    monkeypatch.setattr(certificate_renewal, "reload", done.append)
    keeper(pair, monkeypatch, lambda *_: chain).look(1.8e9)
    assert done[0] == []
    assert not Keeper(pair).state["reload"]


def test_what_comes_must_fit_and_nothing_but_certificates_is_taken_of_it(
    pair: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lego's unit is played by what it would leave."""
    true_run = certificate_renewal.run

    def run(*command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.CompletedProcess(command, 0, "", "")
        return done if command[0] == "systemctl" else true_run(*command, stdin=stdin)

    monkeypatch.setattr(certificate_renewal, "run", run)
    own = (tmp_path / "server.pem").read_text()
    config, key = pair | {"order": "lego.service"}, certificate_renewal.public(pair["key"])
    (tmp_path / "issued").write_text(own)
    chain = certificate_renewal.order(config, [HOST], key)
    assert chain == own[own.index("-----BEGIN CERTIFICATE") :]
    for names, of, reason in (([HOST], "another", "for another key"), ([HOST, POLICY], key, f"not for {POLICY}")):
        with pytest.raises(FailedError, match=reason):
            certificate_renewal.order(config, names, of)
    other = tls_certificate.create_self_signed(
        HOST, date(2010, 1, 1), load_pem_private_key(Path(pair["key"]).read_bytes(), None)
    )
    (tmp_path / "issued").write_bytes(other)
    with pytest.raises(FailedError, match="not valid now"):
        certificate_renewal.order(config, [HOST], key)
    (tmp_path / "issued").write_text("nonsense")
    with pytest.raises(FailedError, match="openssl x509"):
        certificate_renewal.order(config, [HOST], key)


def test_a_request_is_for_all_names_and_for_the_key(pair: dict[str, Any]) -> None:
    csr = certificate_renewal.request(pair["key"], BOTH["names"])
    said = subprocess.run(["openssl", "req", "-noout", "-text", "-verify"], input=csr, text=True, capture_output=True)
    assert f"DNS:{HOST}, DNS:{POLICY}" in said.stdout
    found = certificate_renewal.read(Path(pair["certificate"]).read_text())
    assert found.key == certificate_renewal.public(pair["key"])
    assert (found.names, found.issued) == (frozenset([HOST]), False)
