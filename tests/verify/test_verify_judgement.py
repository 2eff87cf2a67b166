"""The checks' judgement of observations that a lab cannot bring about."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mailkeep.inventory import tls_certificate
from mailkeep.inventory.tls_keys import TlsPair
from mailkeep.parts.fail2ban import JAILS
from mailkeep.verify.knock import Knock
from mailkeep.verify.outcome import Outcome
from mailkeep.verify.session import judge_results
from mailkeep.verify.target import ProbeResult, Target
from mailkeep_server.common.guard_summary import summarise_config
from mailkeep_server.common.paths import GUARD_CONFIG

RunCheck = Callable[..., Outcome]
START = 1_800_000_000.0  # as in conftest


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "status"), [(-3600, "failed"), (-1, "passed"), (3, "passed"), (60, "failed")])
def test_a_wrong_clock_fails(run_check: RunCheck, seconds: int, status: str) -> None:
    assert run_check("the_clock_is_right", time=START + seconds).status == status


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(("days", "status"), [(10, "warning"), (30, "passed")])
def test_a_certificate_that_expires_soon_is_a_warning(target: Target, days: int, status: str) -> None:
    issued = datetime.now(UTC).date() - timedelta(days=3650 - 1 - days)
    certificate, key = tls_certificate.split_pem(tls_certificate.create_self_signed(target.settings.host.name, issued))
    target = replace(target, secrets=replace(target.secrets, tls=TlsPair(certificate, key)))

    outcomes = {outcome.check: outcome for outcome in judge_results([(target, ProbeResult({}, START))])}

    assert outcomes["the_certificate_lasts"].status == status


@pytest.mark.slow
@pytest.mark.parametrize(("percent", "status"), [(79, "passed"), (80, "warning"), (89, "warning"), (90, "failed")])
def test_a_disk_warns_before_it_is_full(run_check: RunCheck, percent: int, status: str) -> None:
    disk = {"path": "/", "space": 10, "inodes": percent}
    assert run_check("the_disks_have_room", disks=[disk]).status == status


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "touched", "status"),
    [([], [], "passed"), ([], ["/etc/dovecot/users"], "warning"), (["/etc/dovecot/users"], [], "failed")],
)
def test_a_file_that_was_touched_warns_and_one_that_was_written_fails(
    run_check: RunCheck, files: list[str], touched: list[str], status: str
) -> None:
    stale = [{"unit": "dovecot.service", "files": files, "touched": touched}] if files or touched else []
    outcome = run_check("services_have_read_their_configuration", stale_services=stale)
    assert outcome.status == status
    assert ("dovecot.service" in outcome.observed) == (status != "passed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("faults", "unseen", "status"), [([], 0, "passed"), ([], 7, "warning"), (["x belongs to user 6000"], 7, "failed")]
)
def test_mailboxes_that_nobody_looked_at_are_no_proof(
    run_check: RunCheck, faults: list[str], unseen: int, status: str
) -> None:
    mailboxes = {"faults": faults, "unseen": unseen}
    assert run_check("every_mailbox_can_be_written", mailboxes=mailboxes).status == status


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "process", "status"),
    [
        ("udp", "", "passed"),
        ("udp", "avahi-daemon", "failed"),
        ("tcp", "", "failed"),
        ("tcp", "node_exporter", "failed"),
    ],
)
def test_a_udp_socket_of_the_kernel_is_no_program_that_listens(
    run_check: RunCheck, protocol: str, process: str, status: str
) -> None:
    listener = {"protocol": protocol, "address": "*", "port": 51820, "process": process}
    assert run_check("nothing_else_listens", listeners=[listener]).status == status


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_check_that_could_observe_nothing_fails(target: Target) -> None:
    result = ProbeResult({"queue": {"error": "RuntimeError: postqueue: exit 69"}}, START)

    [outcome] = [outcome for outcome in judge_results([(target, result)]) if outcome.check == "the_queue_is_short"]

    assert (outcome.status, outcome.observed) == ("failed", "RuntimeError: postqueue: exit 69")


@pytest.mark.slow
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


@pytest.mark.slow
def test_what_a_stranger_does_not_reach_is_said_and_what_cannot_be_tried_is_skipped(run_check: RunCheck) -> None:
    reached = Knock("192.0.2.1", 465)
    untried = Knock("2001:db8::1", 465, untried="this machine has no IPv6")
    dropped = Knock("192.0.2.1", 993, error="no answer within 5 seconds")
    assert run_check("strangers_reach_every_service", knocks=[reached, untried]).status == "passed"
    outcome = run_check("strangers_reach_every_service", knocks=[reached, dropped])
    assert (outcome.status, outcome.observed) == ("failed", "192.0.2.1 port 993: no answer within 5 seconds")
    assert run_check("strangers_reach_every_service", knocks=[untried]).status == "skipped"
    outcome = run_check("what_cannot_be_tried_from_here_is_said", knocks=[reached, untried])
    assert (outcome.status, outcome.observed) == ("skipped", "2001:db8::1 port 465: this machine has no IPv6")
    assert run_check("what_cannot_be_tried_from_here_is_said", knocks=[reached]).status == "passed"


@pytest.mark.slow
def test_another_firewall_counts_only_if_it_closes_a_port_for_certain(run_check: RunCheck) -> None:
    chain = {"name": "the chain INPUT in the table ip filter of ufw", "closed": [25, 465], "doubtful": []}
    outcome = run_check("no_other_firewall_closes_our_ports", firewall={"foreign": [chain]})
    assert outcome.status == "failed"
    assert outcome.observed == "the chain INPUT in the table ip filter of ufw drops packets to port 25, 465"
    doubtful = chain | {"closed": [], "doubtful": [25]}
    assert run_check("no_other_firewall_closes_our_ports", firewall={"foreign": [doubtful]}).status == "passed"


@pytest.mark.slow
def test_a_jail_of_the_operators_that_bans_nobody_is_a_warning(run_check: RunCheck) -> None:
    jails: dict[str, list[str]] = {jail: [] for jail in JAILS}
    assert run_check("jails_of_the_operator_ban_too", jails=jails).status == "skipped"
    assert run_check("jails_of_the_operator_ban_too", jails=jails | {"mine": []}).status == "passed"
    dead = jails | {"mine": ["jail mine: no service is called imap3, so nft refuses its rule"]}
    assert run_check("jails_of_the_operator_ban_too", jails=dead).status == "warning"
    assert run_check("every_jail_bans_in_the_firewall", jails=dead).status == "passed"


@pytest.mark.slow
def test_a_4xx_is_no_refusal(run_check: RunCheck) -> None:
    deferral = {"command": "RCPT TO:<probe@example.net>", "code": 451, "text": "4.3.0 Later"}
    assert run_check("nobody_relays", relay=[deferral]).status == "failed"


@pytest.mark.slow
def test_stopped_services_are_reported_first(target: Target) -> None:
    first, *_ = judge_results([(target, ProbeResult({}, START))])
    assert first.check == "services_run_and_start_at_boot"


@pytest.mark.slow
def test_every_promise_fits_a_line_and_says_what_holds(target: Target) -> None:
    outcomes = judge_results([(target, ProbeResult({}, START))])
    assert len(outcomes) > 40
    assert [
        outcome.promise for outcome in outcomes if len(outcome.promise) > 76 or outcome.promise == outcome.check
    ] == []


@pytest.mark.slow
def test_the_documentation_says_of_each_promise_from_where_it_is_looked_at(target: Target) -> None:
    outcomes = judge_results([(target, ProbeResult({}, START))])
    table = (Path(__file__).parents[2] / "docs" / "how-it-is-built.md").read_text().partition("| looked at from |")[2]
    rows = {row.split(" | ")[0] for row in table.partition("\n\n")[0].splitlines()[2:]}
    assert rows == {f"| {outcome.promise}" for outcome in outcomes}


@pytest.mark.slow
@pytest.mark.parametrize(("until", "status"), [("", "passed"), ("2027-01-16 08:00 UTC", "warning")])
def test_limits_that_are_halved_after_lost_counts_are_a_warning(
    run_check: RunCheck, target: Target, until: str, status: str
) -> None:
    running = summarise_config(json.loads(target.find_file(GUARD_CONFIG).content)) | {"careful_until": until}
    outcome = run_check("the_guard_runs_as_declared", guard_config=running)
    assert outcome.status == status
    assert until in outcome.observed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("properties", "status"),
    [
        ({"Restart": "always", "StartLimitIntervalUSec": "0", "MemoryMax": "500000000"}, "passed"),
        ({"Restart": "no", "StartLimitIntervalUSec": "0", "MemoryMax": "500000000"}, "failed"),
        ({"Restart": "always", "StartLimitIntervalUSec": "10s", "MemoryMax": "500000000"}, "failed"),
    ],
)
def test_a_service_that_systemd_would_give_up_is_named(
    run_check: RunCheck, properties: dict[str, str], status: str
) -> None:
    sandboxes = [{"properties": {"Id": "dovecot.service"} | properties, "lacking": []}]
    assert run_check("services_come_back", sandboxes=sandboxes).status == status


@pytest.mark.slow
def test_a_dovecot_without_its_bound_of_memory_is_named(run_check: RunCheck) -> None:
    sandboxes = [{"properties": {"Id": "dovecot.service", "MemoryMax": "infinity"}, "lacking": []}]
    assert (
        "MemoryMax=infinity, declared 60%" in run_check("services_have_their_sandboxes", sandboxes=sandboxes).observed
    )
