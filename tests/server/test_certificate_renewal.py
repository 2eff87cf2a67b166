"""Certificates are requested when they are needed, for the right names, and failures are reported."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mailkeep.inventory import tls_certificate
from mailkeep_server import certificate_renewal
from mailkeep_server.certificate_renewal import (
    RenewalConfig,
    RenewalError,
    Renewer,
    explain_failure,
    find_need,
    list_attempts,
    must_report,
    order_certificate,
    read_secrets,
)
from mailkeep_server.common.certificates import (
    MAX_ERROR_CHARS,
    Certificate,
    CertificateError,
    build_signing_request,
    read_certificate,
    read_public_key,
)

DAY = 86_400.0
HOST, POLICY = "mail.example.org", "mta-sts.example.org"
DIRECTORY_URL = "https://acme.example.net/directory"
CONFIG = RenewalConfig(
    names=[HOST],
    directory_url=DIRECTORY_URL,
    contact="ann@example.net",
    challenge="http-01",
    provider=None,
    pem_file="server.pem",
    key_file="key",
    credentials_file="credentials",
    services=[],
    order_unit="lego.service",
    request_file="request",
    output_file="output",
    account_directory="account",
    issued_file="issued",
    state_directory=".",
)
BOTH = replace(CONFIG, names=[HOST, POLICY])
GOOD = Certificate("key", frozenset([HOST]), 0.0, 90 * DAY, self_signed=False)
SELF_SIGNED = replace(GOOD, self_signed=True)


def need(present: Certificate = GOOD, days: float = 0, config: RenewalConfig = CONFIG, **more: str) -> str:
    return find_need(config, present, more.get("public_key", "key"), more.get("issuer_url", DIRECTORY_URL), days * DAY)


def test_a_good_certificate_is_left_alone_for_two_thirds_of_its_lifetime() -> None:
    assert (need(), need(days=59)) == ("", "")
    assert need(days=61) == "the present one ends in 29.0 days"
    assert need(days=100) != ""


def test_a_certificate_of_six_days_is_renewed_after_four() -> None:
    short = replace(GOOD, not_after=6 * DAY)
    assert need(short, 3.9) == ""
    assert need(short, 4.1) != ""


def test_another_key_another_authority_or_another_name_need_another_certificate() -> None:
    assert need(public_key="next") == "there is a new key"
    assert need(SELF_SIGNED) == need(issuer_url="https://staging.example.net/directory") != ""
    assert need(config=BOTH) == f"the present one is not for {POLICY}"


def test_the_host_alone_is_asked_for_only_when_time_is_short() -> None:
    assert list_attempts(BOTH, GOOD, 0) == [[HOST, POLICY]]
    assert list_attempts(BOTH, GOOD, 70 * DAY) == [[HOST, POLICY]]
    for present, days in ((SELF_SIGNED, 0), (GOOD, 80), (GOOD, 100)):
        assert list_attempts(BOTH, present, days * DAY) == [[HOST, POLICY], [HOST]]
    assert list_attempts(CONFIG, SELF_SIGNED, 0) == [[HOST]]


def test_a_failure_is_reported_at_once_if_clients_notice_it_and_else_after_a_day() -> None:
    now = 61 * DAY
    assert not must_report(CONFIG, GOOD, now, now)
    assert not must_report(CONFIG, GOOD, now, now + 23 * 3600)
    assert must_report(CONFIG, GOOD, now, now + 24 * 3600)
    assert must_report(CONFIG, SELF_SIGNED, 0, 0)
    assert must_report(CONFIG, GOOD, 90 * DAY, 90 * DAY)
    assert must_report(BOTH, GOOD, 0, 0)


# --- lego's output

OUTPUT = """\
2026/11/25 19:24:54 [INFO] [mail.example.org] acme: Trying to solve DNS-01
2026/11/25 19:25:54 Could not obtain certificates:
\terror: one or more domains had a problem:
[mail.example.org] [mail.example.org] acme: error presenting token: GET https://dns.example.net/?token=5eCret: 403
"""


def test_the_reason_is_one_line_without_secrets(tmp_path: Path) -> None:
    file = tmp_path / "acme.env"
    file.write_text('TOKEN="5eCret"\nURL="a \\"b\\$"\nEMPTY=""\n')
    secrets = read_secrets(str(file))
    assert secrets == ["5eCret", 'a "b$']
    reason = explain_failure(OUTPUT, secrets)
    assert reason.startswith("Could not obtain certificates: error: one or more")
    assert "5eCret" not in reason
    assert "?token=[not shown]: 403" in reason
    assert explain_failure("", []) == "lego ended without a message; see `journalctl -u mailkeep-acme`"
    assert len(explain_failure("Could not " + "x" * 5000, [])) == MAX_ERROR_CHARS


def test_the_reason_holds_nothing_for_a_terminal() -> None:
    reason = explain_failure("Could not obtain: \x1b[2J\x1b]0;pwn\x07 5e\x00Cret\u202e\n", ["5eCret"])
    assert reason == "Could not obtain: [2J]0;pwn [not shown]"


# --- with a lego of our own in place of the authority


@pytest.fixture
def config(tmp_path: Path) -> RenewalConfig:
    """That of a directory as a deploy leaves it: with the key and its self-signed certificate."""
    chain, key = tls_certificate.split_pem(tls_certificate.create_self_signed(HOST, date.today()))
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "server.pem").write_bytes(key + chain)
    return replace(
        CONFIG,
        pem_file=str(tmp_path / "server.pem"),
        key_file=str(tmp_path / "key"),
        credentials_file=str(tmp_path / "credentials"),
        request_file=str(tmp_path / "request"),
        output_file=str(tmp_path / "output"),
        issued_file=str(tmp_path / "issued"),
        state_directory=str(tmp_path),
    )


def renew(config: RenewalConfig, monkeypatch: pytest.MonkeyPatch, order: Callable[..., str]) -> None:
    monkeypatch.setattr(certificate_renewal, "order_certificate", order)
    Renewer(config).renew_if_needed(1.8e9)


def refuse_order(*_: object) -> str:
    raise RenewalError("too many requests")


@pytest.mark.slow
def test_a_failure_leaves_the_present_certificate_and_is_written_down(
    config: RenewalConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (tmp_path / "server.pem").read_bytes()
    monkeypatch.setattr(certificate_renewal, "order_certificate", refuse_order)
    for now in (1.8e9, 1.9e9):
        with pytest.raises(RenewalError, match=f"no new certificate for {HOST}: too many requests"):
            Renewer(config).renew_if_needed(now)
    assert (tmp_path / "server.pem").read_bytes() == before
    assert "too many requests" in (tmp_path / "troubles.json").read_text()
    assert Renewer(config).state["failing"] == 1.8e9


@pytest.mark.slow
def test_a_broken_file_is_replaced_and_the_trouble_is_over(
    config: RenewalConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    intact = (tmp_path / "server.pem").read_text()
    chain = intact[intact.index("-----BEGIN CERTIFICATE") :]
    (tmp_path / "server.pem").write_text("nonsense\n")
    with pytest.raises(RenewalError):
        renew(config, monkeypatch, refuse_order)
    renew(config, monkeypatch, lambda *_: chain)
    assert (tmp_path / "server.pem").read_text() == intact
    assert (tmp_path / "server.pem").stat().st_mode & 0o777 == 0o600
    assert "no new" not in (tmp_path / "troubles.json").read_text()
    assert Renewer(config).state["failing"] == 0


def test_a_reload_that_was_cut_off_is_done_by_the_next_run(
    config: RenewalConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reloaded: list[list[str]] = []
    chain = (tmp_path / "server.pem").read_text().partition("PRIVATE KEY-----\n")[2]

    def get_killed(_: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(certificate_renewal, "reload_services", get_killed)
    with pytest.raises(KeyboardInterrupt):
        renew(config, monkeypatch, lambda *_: chain)
    monkeypatch.setattr(certificate_renewal, "reload_services", reloaded.append)
    renew(config, monkeypatch, lambda *_: chain)
    assert reloaded[0] == []
    assert not Renewer(config).state["reload"]


def test_state_of_version_0_1_0_is_read(config: RenewalConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every server would ask the authority again after the upgrade, which has limits."""
    (tmp_path / "state.json").write_text(json.dumps({"failing": 0, "reload": False, "from": DIRECTORY_URL}))
    issued = replace(GOOD, public_key=read_public_key(tmp_path / "key"), not_before=1.8e9, not_after=1.8e9 + 90 * DAY)
    monkeypatch.setattr(Renewer, "_read_present", lambda _: issued)
    renew(config, monkeypatch, refuse_order)


@pytest.mark.slow
def test_an_issued_certificate_must_fit_and_nothing_but_certificates_is_used_of_it(
    config: RenewalConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that lego's unit leaves is written by the test."""
    done = subprocess.CompletedProcess([], 0, "", "")
    monkeypatch.setattr(certificate_renewal, "run_systemctl", lambda *_: done)
    intact = (tmp_path / "server.pem").read_text()
    key = read_public_key(tmp_path / "key")
    (tmp_path / "issued").write_text(intact)
    assert order_certificate(config, [HOST], key) == intact[intact.index("-----BEGIN CERTIFICATE") :]
    for names, of, reason in (([HOST], "another", "for another key"), ([HOST, POLICY], key, f"not for {POLICY}")):
        with pytest.raises(RenewalError, match=reason):
            order_certificate(config, names, of)
    private_key = load_pem_private_key((tmp_path / "key").read_bytes(), None)
    (tmp_path / "issued").write_bytes(tls_certificate.create_self_signed(HOST, date(2010, 1, 1), private_key))
    with pytest.raises(RenewalError, match="not valid now"):
        order_certificate(config, [HOST], key)
    (tmp_path / "issued").write_text("nonsense")
    with pytest.raises(CertificateError, match="openssl x509"):
        order_certificate(config, [HOST], key)


def test_a_request_is_for_all_names_and_for_the_key(config: RenewalConfig) -> None:
    request = build_signing_request(Path(config.key_file), BOTH.names)
    verify = ["openssl", "req", "-noout", "-text", "-verify"]
    text = subprocess.run(verify, input=request, text=True, capture_output=True, check=False).stdout
    assert f"DNS:{HOST}, DNS:{POLICY}" in text
    present = read_certificate(Path(config.pem_file).read_text())
    assert present.public_key == read_public_key(Path(config.key_file))
    assert (present.names, present.self_signed) == (frozenset([HOST]), True)


def test_lego_registers_asks_by_the_challenge_and_leaves_the_certificate(
    config: RenewalConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    config = replace(config, account_directory=str(tmp_path), challenge="dns-01", provider="rfc2136")
    (tmp_path / "certificates").mkdir()
    (tmp_path / "certificates" / f"{HOST}.crt").write_text("the chain")
    assert certificate_renewal.run_lego(config) == 0
    assert (tmp_path / "issued").read_text() == "the chain"
    assert (tmp_path / "issued").stat().st_mode & 0o777 == 0o644, "the renewal runs as root without capabilities"
    certificate_renewal.run_lego(replace(config, challenge="http-01"))
    for command, challenge in zip(commands, ("--dns=rfc2136", "--http"), strict=True):
        assert challenge in command
        assert {f"--server={DIRECTORY_URL}", "--email=ann@example.net", f"--csr={tmp_path}/request"} <= {*command}
