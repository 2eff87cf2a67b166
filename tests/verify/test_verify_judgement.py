"""The checks' judgement of observations that a lab cannot bring about."""

import base64
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mailkeep.inventory import tls_certificate
from mailkeep.inventory.tls_keys import TlsPair
from mailkeep.verify.outcome import Outcome
from mailkeep.verify.session import judge_results
from mailkeep.verify.target import ProbeResult, Target

RunCheck = Callable[..., Outcome]
START = 1_800_000_000.0  # as in conftest


@pytest.mark.parametrize(("seconds", "status"), [(-3600, "failed"), (-1, "passed"), (3, "passed"), (60, "failed")])
def test_a_wrong_clock_fails(run_check: RunCheck, seconds: int, status: str) -> None:
    assert run_check("the_clock_is_right", time=START + seconds).status == status


@pytest.mark.parametrize(
    ("clock", "status"),
    [
        ({"settable": True, "synchronised": True}, "passed"),
        ({"settable": True, "synchronised": False}, "warning"),
        ({"settable": False, "synchronised": False}, "skipped"),
    ],
)
def test_a_clock_without_time_servers_is_a_warning(run_check: RunCheck, clock: dict[str, bool], status: str) -> None:
    assert run_check("the_clock_is_kept", clock=clock).status == status


@pytest.mark.parametrize(("days", "status"), [(10, "warning"), (30, "passed")])
def test_a_certificate_that_expires_soon_is_a_warning(target: Target, days: int, status: str) -> None:
    issued = datetime.now(UTC).date() - timedelta(days=3650 - 1 - days)
    certificate, key = tls_certificate.split_pem(tls_certificate.create_self_signed(target.settings.host.name, issued))
    target = replace(target, secrets=replace(target.secrets, tls=TlsPair(certificate, key)))

    outcomes = {outcome.check: outcome for outcome in judge_results([(target, ProbeResult({}, START))])}

    assert outcomes["the_certificate_lasts"].status == status


@pytest.mark.parametrize(("percent", "status"), [(79, "passed"), (80, "warning"), (89, "warning"), (90, "failed")])
def test_a_disk_warns_before_it_is_full(run_check: RunCheck, percent: int, status: str) -> None:
    disk = {"path": "/", "space": 10, "inodes": percent}
    assert run_check("the_disks_have_room", disks=[disk]).status == status


def test_a_certificate_that_a_service_has_not_loaded_is_reported_by_port(run_check: RunCheck, target: Target) -> None:
    def encode(pem: bytes) -> str:
        return base64.b64encode(x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)).decode()

    today = datetime.now(UTC).date()
    other, _ = tls_certificate.split_pem(tls_certificate.create_self_signed("mail.example.test", today))
    declared = target.secrets.tls.certificate
    ports = [{"port": 25, "certificate": encode(declared)}, {"port": 993, "certificate": encode(other)}]

    outcome = run_check("the_declared_certificate_is_shown", tls=ports)

    assert outcome.status == "failed"
    assert outcome.observed.startswith("port 993: CN=mail.example.test")
    assert "port 25" not in outcome.observed


def test_a_check_that_could_observe_nothing_fails(target: Target) -> None:
    result = ProbeResult({"queue": {"error": "RuntimeError: postqueue: exit 69"}}, START)

    [outcome] = [outcome for outcome in judge_results([(target, result)]) if outcome.check == "the_queue_is_short"]

    assert (outcome.status, outcome.observed) == ("failed", "RuntimeError: postqueue: exit 69")


@pytest.mark.parametrize(
    ("address", "status"),
    [("203.0.113.2", "failed"), ("203.0.113.25", "passed"), ("127.0.0.9", "failed"), ("2001:db8::2", "failed")],
)
def test_a_neighbour_who_guesses_is_not_taken_for_the_server(
    run_check: RunCheck, target: Target, address: str, status: str
) -> None:
    host = target.settings.host.model_copy(update={"addresses": ("203.0.113.2", "2001:db8::2")})
    vars(target)["settings"] = target.settings.model_copy(update={"host": host})
    line = f"2026-11-26 04:00:00,000 fail2ban.filter [9]: INFO [sshd] Found {address} - 2026-11-26 04:00:00"

    outcome = run_check("the_server_does_not_ban_itself", failures={"sshd": [line]}, address="203.0.113.2")

    assert outcome.status == status


def test_a_4xx_is_no_refusal(run_check: RunCheck) -> None:
    deferral = {"command": "RCPT TO:<probe@example.net>", "code": 451, "text": "4.3.0 Later"}
    assert run_check("nobody_relays", relay=[deferral]).status == "failed"


def test_stopped_services_are_reported_first(target: Target) -> None:
    first, *_ = judge_results([(target, ProbeResult({}, START))])
    assert first.check == "services_run_and_start_at_boot"


def test_every_promise_fits_a_line_and_says_what_holds(target: Target) -> None:
    outcomes = judge_results([(target, ProbeResult({}, START))])
    assert len(outcomes) > 40
    assert [
        outcome.promise for outcome in outcomes if len(outcome.promise) > 76 or outcome.promise == outcome.check
    ] == []
