"""A quiet week raises no false alarm; and each fault of the third day raises its alert in time, and no other."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from quiet_life import BEN, DOVECOT, HOTEL, MINUTE, NETWORKS, THURSDAY, TUESDAY, WEDNESDAY, QuietLife
from simulated_machine import START
from simulated_server import DAY, HOUR, RESOLV_CONF, ReportedAlert, simulate_server
from watch_samples import write_queue_file

from mailkeep_server.common.networks import network_of

KNOWN_NETWORKS = {
    f"{account}@example.org": [network_of(address) for address in addresses] for account, addresses in NETWORKS.items()
}
WEEK = 7 * DAY
SECONDS, MINUTE_AND_NOTICE = 10.0, 61.0  # by docs/day-two.md, an alert comes within ten seconds, or within a minute

Act = Callable[[QuietLife], object]


def describe_alerts(alerts: list[ReportedAlert]) -> list[str]:
    return [f"{(alert.at - START) / HOUR:.3f} h: {alert.text}" for alert in alerts]


@pytest.mark.slow
def test_a_quiet_week_raises_no_false_alarm(tmp_path: Path) -> None:
    """Meant to come are a word on each message that waits for four hours; and a network that is new."""
    with simulate_server(tmp_path, START, KNOWN_NETWORKS) as simulation:
        life = QuietLife(simulation, START, START + WEEK)
        life.plan_week()
        simulation.run_until(START + WEEK)
    expected = (
        (TUESDAY + 5 * HOUR, "Mail waits: the oldest of 2 deferred messages came at 2026-03-03 01:00 UTC; "),
        (TUESDAY + 26 * HOUR, "Mail waits: the oldest of "),
        (THURSDAY + 18 * HOUR, "Mail waits: the oldest of "),
        (THURSDAY + 43 * HOUR, f"anna@example.org has read mail from a network that is new to it: {HOTEL}; "),
        (THURSDAY + 43.2 * HOUR, "anna@example.org sends from 2001:db8:99::/48, for the first time"),
    )
    assert len(simulation.alerts) == len(expected), describe_alerts(simulation.alerts)
    for alert, (at, text) in zip(simulation.alerts, expected, strict=True):
        assert alert.text.startswith(text)
        assert 0 <= alert.at - at < HOUR, "the simulated watch looks every quarter of an hour"
    assert life.messages > 7 * 200


@dataclass(frozen=True)
class Fault:
    """`alerts` and `ends` are the beginnings of their texts, each with the seconds until it must have come."""

    begin: Act
    end: Act
    alerts: dict[str, float]
    ends: dict[str, float] = field(default_factory=dict)
    minutes: float = 20.0
    hour: float = 10.0  # of Wednesday


def set_attribute(name: str, value: object) -> Act:
    return lambda life: setattr(life, name, value)


def set_machine(name: str, value: object) -> Act:
    return lambda life: setattr(life.simulation.machine, name, value)


def do_nothing(_: QuietLife) -> None:
    """It ends by itself."""


def change_rules(*chain: dict[str, object]) -> Act:
    def add_chain(life: QuietLife) -> None:
        machine = life.simulation.machine
        machine.change_rules([*machine.items, *chain])

    return add_chain


def write_file(name: str, text: str) -> Act:
    return lambda life: (life.simulation.machine.directory / name).write_text(text)


def write_troubles(name: str, **troubles: str) -> Act:
    return write_file(name, json.dumps({"troubles": troubles}))


def set_mode(mode: int) -> Act:
    return lambda life: (life.simulation.machine.directory / "vmail/example.org/ben").chmod(mode)


def set_answers(unit: str, answers: bool) -> Act:
    return lambda life: setattr(life.simulation.machine.units[unit], "answers", answers)


def crash_service(life: QuietLife) -> None:
    life.simulation.machine.units["fail2ban.service"].restarts += 1
    life.simulation.machine.start_process("fail2ban.service")


def fill_queue(life: QuietLife) -> None:
    for number in range(250):
        write_queue_file(life.simulation.machine.directory / f"spool/active/Q{number}", life.begin, BEN)


def empty_queue(life: QuietLife) -> None:
    for file in (life.simulation.machine.directory / "spool/active").iterdir():
        file.unlink()


def refuse_mailbox(life: QuietLife) -> None:
    life.refusing_accounts.add("ben")
    life.receive_message("ben")


def accept_mailbox(life: QuietLife) -> None:
    life.refusing_accounts.clear()
    life.receive_message("ben")


def guess_many_passwords(life: QuietLife) -> None:
    for number in range(100):
        life.guess_passwords(f"203.0.113.{number}")


def send_to_dead_server(life: QuietLife, *domains: str) -> None:
    life.dead_domains.update(domains)
    for number, domain in enumerate(domains):
        life.send_message("anna", f"friend{number}@{domain}")


def send_to_refusing_servers(life: QuietLife) -> None:
    for number in range(40):
        life.send_message("anna", f"frind@friends{number % 8}.example")


def log_dovecot(text: str) -> Act:
    return lambda life: life.simulation.log_line("dovecot", text)


def log_suspension(life: QuietLife) -> None:
    reason = f"delivery temporarily suspended: lost connection with {DOVECOT} while sending RCPT TO"
    line = f"4Tm1: to=<{BEN}>, relay=none, delay=0.1, delays=0.1/0/0/0, dsn=4.4.2, status=deferred ({reason})"
    life.simulation.log_line("postfix/error", line)


def restore_rules(life: QuietLife) -> None:
    life.simulation.machine.restore_rules()


FROZEN = "anna@example.org:!:::20260304T100000Z guard 30 tries over its limits in 10 minutes::\n"
FIREWALLD = {"family": "inet", "table": "firewalld", "name": "filter_INPUT", "hook": "input", "policy": "drop"}
CLUB = "club.example.net"
UNSIGNED = f"Mail from {CLUB} is not signed, and cannot be sent: OpenDKIM refuses it for now"
RESOLVER_FAULT = "The resolver (unbound) does not validate"
RESOLVER_END = "The resolver answers again, and validates"
SUSPENDED = "Mail is not delivered to the mailboxes, and waits in the queue: lost connection with "
LIMIT = "service(imap-login): process_limit (100) reached, client connections are being dropped"
DEAF = "deaf.example"

FAULTS = {
    "nothing leaves": Fault(
        set_attribute("is_blocked", True),
        set_attribute("is_blocked", False),
        {"No mail leaves this server; all deliveries fail: connect to mx.": 30 * MINUTE},
        {"Mail leaves again": 20 * MINUTE},
        minutes=40,
    ),
    "a message waits for four hours": Fault(
        lambda life: send_to_dead_server(life, DEAF),
        lambda life: life.dead_domains.clear(),
        {"Mail waits: the oldest of 1 deferred message came at 2026-03-04 10:00 UTC; ": 4 * HOUR + MINUTE},
        minutes=250,
    ),
    "messages to two domains wait in the night": Fault(
        lambda life: send_to_dead_server(life, DEAF, f"www.{DEAF}"),
        lambda life: life.dead_domains.clear(),
        {"No mail leaves this server; all deliveries fail: connect to mx.": 10 * MINUTE},
        {"Mail leaves again": 80 * MINUTE},
        minutes=65,
        hour=0.5,
    ),
    "most mail is refused": Fault(
        send_to_refusing_servers,
        do_nothing,
        {"Most mail is not taken elsewhere: 4": SECONDS},
        {"Most mail is taken elsewhere again": SECONDS + MINUTE},
        minutes=15,
    ),
    "a jail has no rule": Fault(
        lambda life: life.remove_rules("@addr-set-dovecot"),
        restore_rules,
        {"The jail dovecot cannot ban: nft has no rule that drops what is in addr-set-dovecot": SECONDS},
        {"The jail dovecot can ban again": SECONDS},
    ),
    "a jail does not notice": Fault(
        set_attribute("proof_faults", {"dovecot": ["jail dovecot: it does not notice a refused login"]}),
        set_attribute("proof_faults", {}),
        {"The jail dovecot does not ban: it does not notice a refused login": 8 * MINUTE},
        {"The jail dovecot bans again": 30 * MINUTE},
    ),
    "the jails are not proven": Fault(
        set_attribute("are_jails_proven", False),
        set_attribute("are_jails_proven", True),
        {"No jail has been proven to ban for 90 minutes": 90 * MINUTE},
        {"The jails are proven again": 30 * MINUTE},
        minutes=120,
    ),
    "the firewall is gone": Fault(
        lambda life: life.remove_rules("mailkeep"),
        restore_rules,
        {"The firewall is not loaded: every port that listens is open": SECONDS},
        {"The firewall is loaded again": SECONDS},
    ),
    "another firewall": Fault(
        change_rules({"chain": FIREWALLD}),
        restore_rules,
        {"Another firewall drops what Mailkeep's lets in: the chain filter_INPUT in the table inet firewalld": SECONDS},
        {"The chain filter_input in the table inet firewalld of firewalld no longer drops": SECONDS},
    ),
    "a disk at its bound": Fault(
        set_machine("disk_percent", 85.0),
        set_machine("disk_percent", 82.9),
        {"The disk of / is 85 % full": SECONDS},
        {"The disk of / has room again": SECONDS},
    ),
    "a mailbox refuses": Fault(
        refuse_mailbox,
        accept_mailbox,
        {f"Mail to {BEN} cannot be stored, and waits in the queue: host {DOVECOT} said: 451": SECONDS},
        {"Mail can be stored in all mailboxes again": SECONDS},
    ),
    "a mailbox of another mode": Fault(
        set_mode(0o500),
        set_mode(0o700),
        {"Mail cannot be stored: ": MINUTE_AND_NOTICE},
        {"All mailboxes can be written again": MINUTE_AND_NOTICE},
    ),
    "resolv.conf rewritten": Fault(
        write_file("resolv.conf", "nameserver 198.51.100.2\n"),
        write_file("resolv.conf", RESOLV_CONF),
        {"{directory}/resolv.conf names 198.51.100.2, not this machine's own resolver": MINUTE_AND_NOTICE},
        {"{directory}/resolv.conf names this machine's own resolver again": MINUTE_AND_NOTICE},
    ),
    "a resolver that does not validate": Fault(
        set_machine("validates", False),
        set_machine("validates", True),
        {RESOLVER_FAULT: MINUTE_AND_NOTICE},
        {RESOLVER_END: MINUTE_AND_NOTICE},
    ),
    "a domain is not signed": Fault(
        lambda life: life.simulation.machine.signed_domains.discard(CLUB),
        lambda life: life.simulation.machine.signed_domains.add(CLUB),
        {UNSIGNED: MINUTE_AND_NOTICE},
        {"OpenDKIM signs again": MINUTE_AND_NOTICE},
    ),
    "an address is gone": Fault(
        lambda life: life.simulation.machine.addresses.discard("2001:db8::1"),
        lambda life: life.simulation.machine.addresses.add("2001:db8::1"),
        {"This machine does not have the address 2001:db8::1 that mail.yml declares": MINUTE_AND_NOTICE},
        {"This machine has the address 2001:db8::1 again": MINUTE_AND_NOTICE},
    ),
    "a service is down": Fault(
        lambda life: life.stop_service("dovecot.service"),
        lambda life: life.start_service("dovecot.service"),
        {
            "dovecot.service is down (inactive, success)": SECONDS,
            "dovecot.service cannot be asked (Connection refused): nobody can log in meanwhile": MINUTE_AND_NOTICE,
        },
        {"dovecot.service runs again": SECONDS, "dovecot.service answers again": MINUTE_AND_NOTICE},
    ),
    "a service has crashed": Fault(
        crash_service, do_nothing, {"fail2ban.service ended, and systemd restarted it": SECONDS}
    ),
    "systemd does not answer": Fault(
        set_machine("systemd_answers", False),
        set_machine("systemd_answers", True),
        {"The watch cannot check unit: systemctl show: exit 1: Failed to get properties": SECONDS},
        {"The watch can check unit again": SECONDS},
    ),
    "a service is stopped": Fault(
        lambda life: life.simulation.machine.set_process_state("postfix.service", "T"),
        lambda life: life.simulation.machine.set_process_state("postfix.service", "S"),
        {"postfix.service hangs: somebody has stopped its process postfix.service": MINUTE_AND_NOTICE},
        {"postfix.service hangs no longer": MINUTE_AND_NOTICE},
    ),
    "a service does not answer": Fault(
        set_answers("fail2ban.service", False),
        set_answers("fail2ban.service", True),
        {"fail2ban.service does not answer within 3 seconds: nobody is banned meanwhile": MINUTE_AND_NOTICE},
        {"fail2ban.service answers again": MINUTE_AND_NOTICE},
    ),
    "the guard is silent": Fault(
        set_machine("guard_answers", False),
        set_machine("guard_answers", True),
        {"The guard does not answer": SECONDS},
        {"The guard answers again": SECONDS},
    ),
    "an account over a limit": Fault(
        lambda life: life.simulation.add_guard_event("over", BEN, "may send 200 messages in a day"),
        do_nothing,
        {f"{BEN} is over a limit: may send 200 messages in a day": SECONDS},
    ),
    "an account is frozen": Fault(
        write_file("accounts", FROZEN),
        write_file("accounts", ""),
        {"anna@example.org is frozen by guard: 30 tries over its limits in 10 minutes. 2 messages held": SECONDS},
        {"anna@example.org is no longer frozen": SECONDS},
    ),
    "guessed passwords": Fault(
        guess_many_passwords,
        do_nothing,
        {"Somebody guesses passwords: 500 logins failed in ten minutes, from 100 addresses": SECONDS},
        {"Few logins fail again": MINUTE},
        minutes=10,
    ),
    "no more sessions": Fault(
        log_dovecot(f"master: Warning: {LIMIT}"),
        do_nothing,
        {"Dovecot's imap-login accepts no more connections: process_limit (100) reached": SECONDS},
    ),
    "mailboxes are not reached": Fault(log_suspension, do_nothing, {SUSPENDED: SECONDS}),
    "a long queue": Fault(
        fill_queue,
        empty_queue,
        {"The mail queue is long: 250 active": SECONDS},
        {"The mail queue is short again": SECONDS},
    ),
    "a blocklist": Fault(
        write_troubles("dns.json", zen="zen.example lists 192.0.2.1 (127.0.0.2): ask there"),
        write_troubles("dns.json"),
        {"zen.example lists 192.0.2.1": SECONDS},
        {"Over: zen.example lists 192.0.2.1": SECONDS},
    ),
    "a certificate near its end": Fault(
        lambda life: life.simulation.write_certificate(13.9),
        lambda life: life.simulation.write_certificate(90),
        {"The certificate ends in 14 days": SECONDS},
        {"The certificate was renewed": SECONDS},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_third_day_raises_its_alert_in_time_and_no_other(name: str, tmp_path: Path) -> None:
    fault = FAULTS[name]
    begin = WEDNESDAY + fault.hour * HOUR
    end = begin + fault.minutes * MINUTE
    with simulate_server(tmp_path, begin - HOUR / 2, KNOWN_NETWORKS) as simulation:
        simulation.calm_step = 30.0
        life = QuietLife(simulation, begin - HOUR / 2, end + 2 * HOUR)
        life.plan_week()
        for at, act in ((begin, fault.begin), (end, fault.end)):
            simulation.at(at, partial(simulation.observe_closely, 70))
            simulation.at(at, partial(act, life))
        simulation.run_until(end + max(fault.ends.values(), default=0) + 5 * MINUTE)
    bounds = [(text, begin, seconds) for text, seconds in fault.alerts.items()]
    bounds += [(text, end, seconds) for text, seconds in fault.ends.items()]
    assert len(simulation.alerts) == len(bounds), describe_alerts(simulation.alerts)
    for text, since, seconds in bounds:
        [at] = [alert.at for alert in simulation.alerts if alert.text.startswith(text.format(directory=tmp_path))]
        assert 0 <= at - since <= seconds, describe_alerts(simulation.alerts)
