"""What the checks make of what the probe saw, where a lab cannot bring it about."""

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

Verdict = Callable[..., Outcome]
SENT = 1_800_000_000.0  # as in conftest


@pytest.mark.parametrize(("seconds", "status"), [(-3600, "failed"), (-1, "passed"), (3, "passed"), (60, "failed")])
def test_a_clock_that_is_off_fails(verdict: Verdict, seconds: int, status: str) -> None:
    assert verdict("the_clock_is_right", time=SENT + seconds).status == status


@pytest.mark.parametrize(
    ("clock", "status"),
    [
        ({"can": True, "synchronised": True}, "passed"),
        ({"can": True, "synchronised": False}, "warning"),
        ({"can": False, "synchronised": False}, "skipped"),
    ],
)
def test_a_clock_that_nothing_keeps_is_warned_of(verdict: Verdict, clock: dict[str, bool], status: str) -> None:
    assert verdict("the_clock_is_kept", clock=clock).status == status


@pytest.mark.parametrize(("days", "status"), [(10, "warning"), (30, "passed")])
def test_a_certificate_that_runs_out_is_warned_of(target: Target, days: int, status: str) -> None:
    made = datetime.now(UTC).date() - timedelta(days=3650 - 1 - days)
    served, key = tls_certificate.split_pem(tls_certificate.create_self_signed(target.settings.host.name, made))
    target = replace(target, secrets=replace(target.secrets, tls=TlsPair(served, key)))

    outcomes = {one.check: one for one in judge_results([(target, ProbeResult({}, SENT))])}

    assert outcomes["the_certificate_lasts"].status == status


@pytest.mark.parametrize(("percent", "status"), [(79, "passed"), (80, "warning"), (89, "warning"), (90, "failed")])
def test_a_disk_warns_before_it_is_full(verdict: Verdict, percent: int, status: str) -> None:
    full = {"path": "/", "space": 10, "inodes": percent}
    assert verdict("the_disks_have_room", disks=[full]).status == status


def test_a_certificate_that_a_service_has_not_read_is_told_by_port(verdict: Verdict, target: Target) -> None:
    def der(pem: bytes) -> str:
        return base64.b64encode(x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)).decode()

    other, _ = tls_certificate.split_pem(
        tls_certificate.create_self_signed("mail.example.test", datetime.now(UTC).date())
    )
    shown = [{"port": 25, "certificate": der(target.secrets.tls.certificate)}, {"port": 993, "certificate": der(other)}]

    told = verdict("the_declared_certificate_is_shown", tls=shown)

    assert told.status == "failed"
    assert told.observed.startswith("port 993: CN=mail.example.test")
    assert "port 25" not in told.observed


def test_what_could_not_be_looked_at_is_not_kept(target: Target) -> None:
    seen = ProbeResult({"queue": {"error": "RuntimeError: postqueue: exit 69"}}, SENT)

    [told] = [one for one in judge_results([(target, seen)]) if one.check == "the_queue_is_short"]

    assert (told.status, told.observed) == ("failed", "RuntimeError: postqueue: exit 69")


@pytest.mark.parametrize(
    ("found", "status"),
    [("203.0.113.2", "failed"), ("203.0.113.25", "passed"), ("127.0.0.9", "failed"), ("2001:db8::2", "failed")],
)
def test_a_neighbour_who_guesses_is_not_taken_for_the_server(
    verdict: Verdict, target: Target, found: str, status: str
) -> None:
    host = target.settings.host.model_copy(update={"addresses": ("203.0.113.2", "2001:db8::2")})
    vars(target)["settings"] = target.settings.model_copy(update={"host": host})
    line = f"2026-11-26 04:00:00,000 fail2ban.filter [9]: INFO [sshd] Found {found} - 2026-11-26 04:00:00"

    told = verdict("the_server_does_not_ban_itself", noticed={"sshd": [line]}, address="203.0.113.2")

    assert told.status == status


def test_a_4xx_is_no_refusal(verdict: Verdict) -> None:
    later = {"command": "RCPT TO:<probe@example.net>", "code": 451, "text": "4.3.0 Later"}
    assert verdict("nobody_relays", relay=[later]).status == "failed"


def test_what_does_not_run_is_said_first(target: Target) -> None:
    first, *_ = judge_results([(target, ProbeResult({}, SENT))])
    assert first.check == "services_run_and_start_at_boot"


def test_every_promise_fits_a_line_and_says_what_holds(target: Target) -> None:
    outcomes = judge_results([(target, ProbeResult({}, SENT))])
    assert len(outcomes) > 40
    assert [one.promise for one in outcomes if len(one.promise) > 76 or one.promise == one.check] == []
