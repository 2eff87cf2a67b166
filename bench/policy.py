#!/usr/bin/env python3
"""How fast the guard answers, beside Debian's rate-limiting policy services, and what it costs Postfix.

The guard runs in its own systemd units, on a bare Debian 13 in the lab, beside postfwd1, postfwd2 and
policyd-rate-limit (SQLite). All keep the same limits, too high to trigger: messages and recipients in 10 minutes, an
hour and a day.

speed: in turn, freshly started, each is asked about messages of 1,000 accounts over 20 persistent connections.
memory: each counts one message of each of 100,000 accounts; its memory is the PSS of its processes. The guard also
learns from each message what is usual for its account.
postfix: Postfix takes mail from smtp-source and discards it. In turn it asks the guard as policy service and milter,
the policy service alone, a policy service and a milter that do nothing, and nobody.

Prints medians and ratios.

    python bench/policy.py [speed] [memory] [postfix] [--rounds N] [--seconds N] [--accounts N] [--messages N]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fresh
import machine

from mailkeep.lab import Server, poll
from mailkeep.parts import guard, server_package
from mailkeep.settings.models import Settings
from mailkeep_server.common import paths

MIN_RATIO, MAX_P99, MAX_IDLE, MAX_FULL, MAX_COST = 20, 5.0, 25, 140, 5
"""The goals: times the fastest other service; ms; MB; MB; per cent."""
SUBJECTS = ("speed", "memory", "postfix")
CONNECTIONS, ACCOUNTS = 20, 1000
UNREACHABLE = 1_000_000_000
"""A limit that nothing reaches."""
DUNNO_SOCKET, CONTINUE_SOCKET = "/run/policy-dunno", "/run/milter-continue"
PROGRAMS = ("policy_load", "policy_dunno", "milter_continue")
WINDOWS = (600, 3600, 86_400)
"""Seconds."""
HOLDS = ("dead", "refused", "complaints")
PACKAGES = "gcc libc6-dev policyd-rate-limit postfix postfwd python3"
POSTFWD_ARGUMENTS = "--summary=600 --cache=600 --cache-rdomain-only --cache-no-size"
"""ARGS of Debian's /etc/default/postfwd."""


@dataclass(frozen=True)
class PolicyService:
    name: str
    units: str
    target: str
    """For policy_load: a Unix socket, or a port."""
    state: str
    """The protocol_state at which it counts."""
    reset_command: str = "true"
    """Deletes its counts."""


GUARD = PolicyService(
    "guard",
    f"mailkeep-guard.socket {paths.GUARD_SERVICE}",
    f"unix:{paths.GUARD_POLICY_SOCKET}",
    "END-OF-MESSAGE",
    f"rm -f {paths.GUARD_STATE}/guard.db* {paths.FREEZE_LIST}",
)
POSTFWD = (
    PolicyService("postfwd1", "bench-postfwd1", "10041", "END-OF-MESSAGE"),
    PolicyService("postfwd2", "bench-postfwd2", "10042", "END-OF-MESSAGE"),
)
POLICYD_RATE_LIMIT = PolicyService(
    "policyd-rate-limit",
    "policyd-rate-limit",
    "unix:/var/spool/postfix/ratelimit/policy",
    "DATA",
    "rm -f /var/lib/policyd-rate-limit/db.sqlite3",
)
OTHERS = (*POSTFWD, POLICYD_RATE_LIMIT)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("subjects", nargs="*", choices=[*SUBJECTS, []], help="what to measure (default: all)")
    arguments.add_argument("--rounds", type=int, default=7, help="how often each is measured (default: 7)")
    arguments.add_argument("--seconds", type=int, default=5, help="how long each time (default: 5)")
    arguments.add_argument("--accounts", type=int, default=100_000, help="for the memory (default: 100,000)")
    arguments.add_argument("--messages", type=int, default=3000, help="through Postfix each time (default: 3,000)")
    options = arguments.parse_args()
    subjects = options.subjects or SUBJECTS
    print(machine.describe_machine(), flush=True)
    with fresh.fresh_lab("bench-policy") as lab:
        server = lab.boot_server("policy", hostname="policy.example.test")
        prepare_server(server)
        if "speed" in subjects:
            measure_speed(server, options.rounds, options.seconds)
        if "memory" in subjects:
            measure_memory(server, options.accounts)
        if "postfix" in subjects:
            measure_postfix(server, options.rounds, options.messages)


# --- the services -----------------------------------------------------------------------------------------------------


def prepare_server(server: Server) -> None:
    server.run(
        "export DEBIAN_FRONTEND=noninteractive; apt-get -qq update && "
        f"apt-get -qq install -y --no-install-recommends {PACKAGES}; "
        "systemctl disable --now --quiet policyd-rate-limit postfix",
        timeout=900,
    )
    for program in PROGRAMS:
        server.write(f"/root/{program}.c", Path(__file__).with_name(f"{program}.c").read_text())
        server.run(f"gcc -O2 -o /usr/local/bin/{program} /root/{program}.c")
    install_guard(server)
    install_postfwd(server)
    install_policyd_rate_limit(server)


def install_guard(server: Server) -> None:
    """All that Mailkeep would install, except the accounts."""
    settings = Settings.model_validate(
        {
            "host": {"name": "mail.example.org", "addresses": ["192.0.2.1"]},
            "domains": ["example.org"],
            "admin": {"addresses": ["ann@example.net"], "networks": ["198.51.100.0/24"]},
        }
    )
    files = [*server_package.build_part().files, *guard.build_part(settings, None).files]
    server.run(
        f"groupadd --force dovecot; useradd --system --home-dir {paths.GUARD_STATE} {guard.USER}; "
        f"install -d -o {guard.USER} -g {guard.USER} -m 0711 {paths.GUARD_STATE}; "
        f"install -d -o {guard.USER} -g dovecot -m 2750 {paths.GUARD_STATE}/frozen"
    )
    server.unpack({file.path.lstrip("/"): (file.content, file.mode) for file in files})
    server.run("systemctl daemon-reload")
    write_guard_config(server, ACCOUNTS)


def write_guard_config(server: Server, accounts: int) -> None:
    limits = [
        f"{column}_per_{window}" for column in ("messages", "recipients") for window in ("10_minutes", "hour", "day")
    ]
    ceiling = {"recipients_per_hour": UNREACHABLE, "recipients_per_day": UNREACHABLE}
    # smtp-source cannot log in: for the policy service, its mail is of the account without a name.
    names = ["", *(f"n{number}@example.test" for number in range(accounts))]
    config = {
        "mode": "enforce",
        "contact": "postmaster@example.test",
        "release_address": "",
        "domains": ["example.test"],
        "limits": dict.fromkeys((*limits, "new_recipients_per_day", "networks_per_hour"), UNREACHABLE),
        "accounts": {name: {"addresses": []} for name in names},
        "server": ceiling,
        "local": ceiling,
        "forwards": ceiling,
        "lists": ceiling | {"messages_per_hour": 1, "messages_per_day": 1},
        "receiving": dict.fromkeys(
            ("messages_per_hour", "network_messages_per_hour", "new_senders_per_hour"), UNREACHABLE
        ),
        "exempt_networks": [],
        "aliases": {},
        "catch_all": {},
        "holds": dict.fromkeys(
            ("strangeness", *(f"{prefix}{name}" for name in HOLDS for prefix in ("", "freeze_"))), UNREACHABLE
        )
        | {"share": 100, "freeze_share": 100, "complaint_share": 1000, "freeze_complaint_share": 1000},
        "freeze": dict.fromkeys(
            ("refused_tries", "foreign_senders", "networks", "new_recipients", "spam_messages"), UNREACHABLE
        ),
    }
    server.write(paths.GUARD_CONFIG, json.dumps(config))


def install_postfwd(server: Server) -> None:
    rules = [
        f"id={action}{window}; protocol_state=END-OF-MESSAGE; "
        f"action={action}(sasl_username/{UNREACHABLE}/{window}/450 too many)"
        for window in WINDOWS
        for action in ("rate", "rcpt")
    ]
    server.write("/etc/postfix/postfwd.cf", "\n".join(rules) + "\n")
    for service in POSTFWD:
        command = (
            f"/usr/sbin/{service.name} {POSTFWD_ARGUMENTS} --daemon --file /etc/postfix/postfwd.cf "
            f"--interface 127.0.0.1 --port {service.target} --user postfw --group postfw "
            f"--pidfile /run/{service.units}.pid"
        )
        unit = f"[Service]\nType=forking\nExecStart={command}\n"
        server.write(f"/etc/systemd/system/{service.units}.service", unit)
    server.run("systemctl daemon-reload")


def install_policyd_rate_limit(server: Server) -> None:
    limits = "".join(f"\\n    - [{UNREACHABLE}, {window}]" for window in WINDOWS)
    server.run(
        "sed -i -e '/^    - \\[/d' -e 's/^debug: .*/debug: False/' "
        f"-e 's/^limits:.*/limits:{limits}/' /etc/policyd-rate-limit.yaml"
    )


def start_service(server: Server, service: PolicyService) -> None:
    server.run(f"{service.reset_command}; systemctl start {service.units}")
    fault = f"{service.name} does not answer"
    poll(lambda: send_requests(server, service, seconds=1, messages=CONNECTIONS), 20, fault)


def stop_service(server: Server, service: PolicyService) -> None:
    server.run(f"systemctl stop {service.units}")


def send_requests(
    server: Server, service: PolicyService, *, seconds: float, accounts: int = ACCOUNTS, messages: int = -1
) -> list[float]:
    """Answers, seconds, and the times for half and for 99 % of the answers in milliseconds; empty if it failed."""
    command = f"policy_load {service.target} {service.state} {seconds} {CONNECTIONS} {accounts} {messages}"
    process = server.run(command, check=False, timeout=900)
    if process.returncode:
        return []
    answers, duration, half, most = map(float, process.stdout.split())
    return [answers, duration, half / 1000, most / 1000]


def read_memory(server: Server, service: PolicyService) -> float:
    """The PSS of all its processes, in MB."""
    unit = service.units.split()[-1]
    group = f"/sys/fs/cgroup$(systemctl show -P ControlGroup {unit})/cgroup.procs"
    rollups = server.run(
        f"for process in $(cat {group} 2>/dev/null || systemctl status {unit} | grep -oP '[├└]─\\K[0-9]+'); "
        "do cat /proc/$process/smaps_rollup; done"
    ).stdout
    return sum(int(line.split()[1]) for line in rollups.splitlines() if line.startswith("Pss:")) * 1024 / 1e6


# --- what is measured -------------------------------------------------------------------------------------------------


def measure_speed(server: Server, rounds: int, seconds: int) -> None:
    rows: dict[str, list[list[float]]] = {service.name: [] for service in (GUARD, *OTHERS)}
    print(f"{'round':>6} {'':19} {'requests/s':>11} {'p50, ms':>8} {'p99, ms':>8}", flush=True)
    for number in range(1, rounds + 1):
        for service in (GUARD, *OTHERS):
            start_service(server, service)
            answers, duration, half, most = send_requests(server, service, seconds=seconds)
            stop_service(server, service)
            rows[service.name].append([answers / duration, half, most])
            print(f"{number:>6} {service.name:19} {answers / duration:>11.0f} {half:>8.2f} {most:>8.2f}", flush=True)
    medians = {
        name: [statistics.median(column) for column in zip(*measured, strict=True)] for name, measured in rows.items()
    }
    for name, (rate, half, most) in medians.items():
        print(f"{'median':>6} {name:19} {rate:>11.0f} {half:>8.2f} {most:>8.2f}")
    fastest = max((service.name for service in OTHERS), key=lambda name: medians[name][0])
    ratios = [ours[0] / theirs[0] for ours, theirs in zip(rows["guard"], rows[fastest], strict=True)]
    print(f"guard / {fastest}: {medians['guard'][0] / medians[fastest][0]:.1f}, goal at least {MIN_RATIO}; ", end="")
    print(f"by round {', '.join(f'{ratio:.0f}' for ratio in ratios)}")
    print(f"guard's p99: {medians['guard'][2]:.2f} ms, goal at most {MAX_P99}", flush=True)


def measure_memory(server: Server, accounts: int) -> None:
    print(f"{'':26} {'idle, MB':>11} {f'{accounts:,} senders, MB':>22}", flush=True)
    for service in (GUARD, *OTHERS):
        start_service(server, service)
        idle = read_memory(server, service)
        stop_service(server, service)
        if service is GUARD:
            write_guard_config(server, accounts)
        start_service(server, service)
        send_requests(server, service, seconds=600, accounts=accounts, messages=accounts)
        if service is GUARD:
            make_models(server, accounts)
        print(f"{'':6} {service.name:19} {idle:>11.0f} {read_memory(server, service):>22.0f}", flush=True)
        stop_service(server, service)
    write_guard_config(server, ACCOUNTS)
    print(f"goals for the guard: at most {MAX_IDLE} and {MAX_FULL} MB", flush=True)


def make_models(server: Server, accounts: int) -> None:
    """Of what is usual for each account."""
    server.write("/root/milter_load.py", Path(__file__).with_name("milter_load.py").read_text())
    server.run(f"python3 /root/milter_load.py {paths.GUARD_MILTER_SOCKET} {accounts}", timeout=900)


def measure_postfix(server: Server, rounds: int, messages: int) -> None:
    install_postfix(server)
    start_service(server, GUARD)
    setups: dict[str, Callable[[], float]] = {
        "without the guard": lambda: send_through_postfix(server, 2501, messages),
        "with a policy service in C that only says DUNNO": lambda: send_through_postfix(server, 2503, messages),
        "with a milter in C that lets everything pass": lambda: send_through_postfix(server, 2504, messages),
        "with both in C": lambda: send_through_postfix(server, 2505, messages),
        "with the guard's policy service alone": lambda: send_through_postfix(server, 2502, messages),
        "with the guard": lambda: send_through_postfix(server, 2500, messages),
    }
    rates: dict[str, list[float]] = {name: [] for name in setups}
    for measure in setups.values():
        measure()  # processes start, caches fill
    for number in range(rounds):
        for name in sorted(setups, reverse=bool(number % 2)):
            rates[name].append(setups[name]())
    before = read_guard_cpu(server)
    send_through_postfix(server, 2500, messages)
    cpu_per_message = (read_guard_cpu(server) - before) / messages
    for name, measured in rates.items():
        costs = [100 * (1 - rate / bare) for rate, bare in zip(measured, rates["without the guard"], strict=True)]
        rate, cost = statistics.median(measured), statistics.median(costs)
        print(f"Postfix {name}: {rate:.0f} messages/s, costs {cost:.1f} %; ", end="")
        print(f"by round {', '.join(f'{cost:.0f}' for cost in costs)}")
    print(f"goal at most {MAX_COST} %; the guard's own: {cpu_per_message * 1e6:.0f} us of a processor a message")
    stop_service(server, GUARD)


def install_postfix(server: Server) -> None:
    def policy_options(path: str) -> str:
        check = f"check_policy_service {{ unix:{path}, timeout=3s, try_limit=1 }}"
        return (
            f"-o {{ smtpd_recipient_restrictions = {check}, permit }} -o {{ smtpd_end_of_data_restrictions = {check} }}"
        )

    def milter_options(path: str) -> str:
        return f"-o smtpd_milters=unix:{path} -o milter_macro_defaults=auth_authen=n0@example.test"

    guard_policy, dunno = policy_options(paths.GUARD_POLICY_SOCKET), policy_options(DUNNO_SOCKET)
    milter, passing = milter_options(paths.GUARD_MILTER_SOCKET), milter_options(CONTINUE_SOCKET)
    server.run(
        "postconf -e inet_interfaces=loopback-only mydestination= default_transport=discard relay_transport=discard "
        "mynetworks=127.0.0.0/8 maillog_file=/var/log/postfix.log in_flow_delay=0 "
        "smtpd_client_connection_count_limit=0 compatibility_level=3.10 myhostname=mail.example.test && "
        f"printf '127.0.0.1:%s inet n - n - - smtpd %s\\n' "
        f"2500 '{guard_policy} {milter}' 2501 '' 2502 '{guard_policy}' 2503 '{dunno}' 2504 '{passing}' "
        f"2505 '{dunno} {passing}' >> /etc/postfix/master.cf && systemctl start postfix && "
        f"systemd-run --quiet policy_dunno {DUNNO_SOCKET} && systemd-run --quiet milter_continue {CONTINUE_SOCKET}"
    )
    poll(lambda: not server.run("smtp-source 127.0.0.1:2501", check=False).returncode, 20, "Postfix does not answer")


def send_through_postfix(server: Server, port: int, messages: int) -> float:
    """Messages a second, until the last one has left the queue."""
    start = time.monotonic()
    server.run(
        f"smtp-source -s {CONNECTIONS} -m {messages} -l 4096 -f n0@example.test -t friend@example.net 127.0.0.1:{port} "
        '&& while [ -n "$(find /var/spool/postfix/incoming /var/spool/postfix/active -type f -print -quit)" ]; '
        "do sleep 0.02; done",
        timeout=900,
    )
    return messages / (time.monotonic() - start)


def read_guard_cpu(server: Server) -> float:
    """Seconds of processor time so far."""
    command = f"cat /proc/$(systemctl show -P MainPID {paths.GUARD_SERVICE})/stat; getconf CLK_TCK"
    words = server.run(command).stdout.split()
    return (int(words[13]) + int(words[14])) / int(words[-1])


if __name__ == "__main__":
    main()
