"""Runs all areas of the probe at the same time, and prints the result, or the error, of each."""

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mailkeep_server.common import root_access
from mailkeep_server.common.own_addresses import find_missing_addresses
from mailkeep_server.common.wording import describe_error

from . import (
    backups,
    bans,
    dns_client,
    forwarding,
    guard,
    hardening,
    inbound,
    login,
    machine,
    mail,
    milter,
    running,
    spam,
    tls,
    watch,
    web,
)
from .config import ProbeConfig
from .linux_account import linux_account, lock_probe, try_rights

AREAS: dict[str, Callable[[ProbeConfig], Any]] = {
    "relay": mail.try_relaying,
    "spoofed senders": mail.try_spoofed_senders,
    "unknown recipients": mail.try_unknown_recipients,
    "postmaster": mail.try_postmasters,
    "address queries": mail.try_address_queries,
    "missing helo": mail.try_without_helo,
    "smuggling": mail.try_smuggling,
    "early commands": mail.try_early_commands,
    "forged authors": inbound.try_forged_authors,
    "strict author": inbound.try_strict_author,
    "claims": inbound.try_claims,
    "forbidden logins": login.try_forbidden_logins,
    "tls": tls.examine_ports,
    "jails": bans.find_jail_faults,
    "fail2ban start": lambda _: bans.find_start_fault(),
    "ssh": bans.guess_at_ssh,
    "unprivileged": try_rights,
    "forwarded mail": lambda _: forwarding.try_forwarding(),
    "resolver": dns_client.examine_resolver,
    "dkim records": dns_client.read_dkim_records,
    "signatures": milter.request_signatures,
    "units": machine.read_units,
    "replaced files": lambda _: machine.find_replaced_files(),
    "listeners": lambda _: machine.list_listeners(),
    "firewall": machine.read_firewall,
    "disks": lambda _: machine.read_disk_usage(),
    "journal": lambda _: machine.read_journal_size(),
    "queue": lambda _: machine.count_queued_messages(),
    "mailboxes": machine.find_unwritable_mailboxes,
    "addresses": lambda config: find_missing_addresses(config.addresses),
    "clock": lambda _: machine.examine_clock(),
    "upgrades": lambda _: machine.examine_upgrades(),
    "outbound": machine.try_outbound,
    "login map": machine.examine_login_map,
    "guard": guard.examine_guard,
    "watch": lambda _: watch.examine_watch(),
    "alert recipients": watch.try_alert_recipients,
    "web": web.try_requests,
    "backups": backups.prove_backups,
    "spam filter": spam.prove_spam_filter,
    "guard config": lambda _: running.read_guard_config(),
    "postfix listeners": running.examine_postfix_listeners,
    "root access": lambda _: root_access.compare_with_record(),
    "ssh options": hardening.examine_sshd_options,
    "sandboxes": hardening.examine_sandboxes,
    "loose paths": hardening.find_loose_paths,
    "stale services": running.find_stale_services,
    "password databases": lambda _: machine.list_password_databases(),
}
MAX_THREADS = 10  # a server with one processor serves its users meanwhile


def run_probe(config: ProbeConfig) -> dict[str, Any]:
    """By area, `{"result": …}` or `{"error": …}`."""
    start = time.time()
    with (
        lock_probe(),
        running.keep_milters_running(config) as milters,
        linux_account() as password,
        ThreadPoolExecutor(MAX_THREADS) as pool,
    ):
        areas = {
            **AREAS,
            "milters": lambda _: milters,
            "linux account": lambda config: login.try_linux_account(config, password),
        }
        futures = {name: pool.submit(_run_area, area, config) for name, area in areas.items()}
        results = {name: future.result() for name, future in futures.items()}
        # Last, as it reads the log of the failures that the other areas cause.
        results["failures"] = _run_area(lambda config: bans.read_failures(config, start), config)
    return results | {"time": {"result": start}, "address": {"result": config.address}}


def _run_area(area: Callable[[ProbeConfig], Any], config: ProbeConfig) -> dict[str, Any]:
    try:
        return {"result": area(config)}
    except Exception as error:  # any error is reported, and the other areas go on
        return {"error": describe_error(error)}


def main() -> None:
    print(json.dumps(run_probe(ProbeConfig.parse(sys.stdin.read()))))
