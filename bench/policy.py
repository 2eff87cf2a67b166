#!/usr/bin/env python3
"""How fast the guard answers, beside Debian's rate-limiting policy services, and what it costs Postfix.

In a bare Debian 13 of the lab, the guard in its own systemd units, postfwd1, postfwd2 and policyd-rate-limit (SQLite)
keep the same limits: messages and recipients in 10 minutes, an hour and a day, too high to trigger. In turn, each
started anew, they are asked about messages of 1,000 accounts over 20 persistent connections. Then each has one message
of each of 100,000 accounts, and memory is the PSS of its processes. At last, Postfix takes mail from smtp-source and
discards it, in turn with and without the guard as policy service and milter, and with a policy service that does
nothing. Prints medians and ratios.

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
from mailkeep.parts import guard
from mailkeep.settings.models import Settings

GOAL_RATIO, GOAL_P99, GOAL_IDLE, GOAL_FULL, GOAL_COST = 20, 5.0, 25, 120, 5
WHAT = ("speed", "memory", "postfix")
CONNECTIONS, ACCOUNTS = 20, 1000
PLENTY = 1_000_000_000
DUNNO = "/run/policy-dunno"
WINDOWS = (600, 3600, 86_400)
PACKAGES = "gcc libc6-dev policyd-rate-limit postfix postfwd python3"
POSTFWD = "--summary=600 --cache=600 --cache-rdomain-only --cache-no-size"  # ARGS of Debian's /etc/default/postfwd


@dataclass(frozen=True)
class Contestant:
    name: str
    units: str
    target: str
    """For policy_load: a Unix socket, or a port."""
    state: str
    """The protocol_state at which it counts."""
    forget: str = "true"
    """A command that deletes what it has counted."""


OURS = Contestant(
    "guard",
    "mailkeep-guard.socket mailkeep-guard.service",
    f"unix:{guard.POLICY_SOCKET}",
    "END-OF-MESSAGE",
    f"rm -f {guard.STATE}/guard.db*",
)
OTHERS = (
    Contestant("postfwd1", "bench-postfwd1", "10041", "END-OF-MESSAGE"),
    Contestant("postfwd2", "bench-postfwd2", "10042", "END-OF-MESSAGE"),
    Contestant(
        "policyd-rate-limit",
        "policyd-rate-limit",
        "unix:/var/spool/postfix/ratelimit/policy",
        "DATA",
        "rm -f /var/lib/policyd-rate-limit/db.sqlite3",
    ),
)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", nargs="*", choices=[*WHAT, []], help="what to measure (default: all)")
    arguments.add_argument("--rounds", type=int, default=7, help="how often each is measured (default: 7)")
    arguments.add_argument("--seconds", type=int, default=5, help="how long each time (default: 5)")
    arguments.add_argument("--accounts", type=int, default=100_000, help="for the memory (default: 100,000)")
    arguments.add_argument("--messages", type=int, default=3000, help="through Postfix each time (default: 3,000)")
    options = arguments.parse_args()
    print(machine.describe_machine(), flush=True)
    with fresh.fresh_lab("bench-policy") as lab:
        server = lab.boot_server("policy", hostname="policy.example.test")
        prepare(server)
        if "speed" in (options.what or WHAT):
            speed(server, options.rounds, options.seconds)
        if "memory" in (options.what or WHAT):
            memory(server, options.accounts)
        if "postfix" in (options.what or WHAT):
            postfix(server, options.rounds, options.messages)


# --- the contestants --------------------------------------------------------------------------------------------------


def prepare(server: Server) -> None:
    server.run(
        "export DEBIAN_FRONTEND=noninteractive; apt-get -qq update && "
        f"apt-get -qq install -y --no-install-recommends {PACKAGES}; "
        "systemctl disable --now --quiet policyd-rate-limit postfix",
        timeout=900,
    )
    for program in ("policy_load", "policy_dunno"):
        server.write(f"/root/{program}.c", Path(__file__).with_name(f"{program}.c").read_text())
        server.run(f"gcc -O2 -o /usr/local/bin/{program} /root/{program}.c")
    install_guard(server)
    install_postfwd(server)
    install_policyd_rate_limit(server)


def install_guard(server: Server) -> None:
    """All that Mailkeep would install, but for the accounts."""
    settings = Settings.model_validate(
        {
            "host": {"name": "mail.example.org", "addresses": ["192.0.2.1"]},
            "domains": ["example.org"],
            "admin": {"addresses": ["ann@example.net"], "networks": ["198.51.100.0/24"]},
        }
    )
    part = guard.build_part(settings, None)
    server.run(
        f"groupadd --force dovecot; useradd --system --home-dir {guard.STATE} {guard.USER}; "
        f"install -d -o {guard.USER} -g {guard.USER} -m 0711 {guard.STATE}; "
        f"install -d -o {guard.USER} -g dovecot -m 2750 {guard.STATE}/frozen"
    )
    server.unpack({file.path.lstrip("/"): (file.content, file.mode) for file in part.files})
    server.run("systemctl daemon-reload")
    guard_knows(server, ACCOUNTS)


def guard_knows(server: Server, accounts: int) -> None:
    counted = [
        f"{what}_per_{window}" for what in ("messages", "recipients") for window in ("10_minutes", "hour", "day")
    ]
    ceiling = {"recipients_per_hour": PLENTY, "recipients_per_day": PLENTY}
    config = {
        "mode": "enforce",
        "contact": "postmaster@example.test",
        "limits": dict.fromkeys((*counted, "new_recipients_per_day", "networks_per_hour"), PLENTY),
        # smtp-source cannot log in: for the policy service, its mail is of the account without a name.
        "accounts": {name: {"addresses": []} for name in ("", *(f"n{one}@example.test" for one in range(accounts)))},
        "server": ceiling,
        "local": ceiling,
        "freeze": dict.fromkeys(("refused_tries", "foreign_senders", "networks", "new_recipients"), PLENTY),
    }
    server.write(guard.CONFIG, json.dumps(config))


def install_postfwd(server: Server) -> None:
    rules = [
        f"id={what}{window}; protocol_state=END-OF-MESSAGE; action={what}(sasl_username/{PLENTY}/{window}/450 too many)"
        for window in WINDOWS
        for what in ("rate", "rcpt")
    ]
    server.write("/etc/postfix/postfwd.cf", "\n".join(rules) + "\n")
    for one in OTHERS[:2]:
        command = (
            f"/usr/sbin/{one.name} {POSTFWD} --daemon --file /etc/postfix/postfwd.cf --interface 127.0.0.1 "
            f"--port {one.target} --user postfw --group postfw --pidfile /run/{one.units}.pid"
        )
        unit = f"[Service]\nType=forking\nExecStart={command}\n"
        server.write(f"/etc/systemd/system/{one.units}.service", unit)
    server.run("systemctl daemon-reload")


def install_policyd_rate_limit(server: Server) -> None:
    limits = "".join(f"\\n    - [{PLENTY}, {window}]" for window in WINDOWS)
    server.run(
        "sed -i -e '/^    - \\[/d' -e 's/^debug: .*/debug: False/' "
        f"-e 's/^limits:.*/limits:{limits}/' /etc/policyd-rate-limit.yaml"
    )


def start(server: Server, one: Contestant) -> None:
    server.run(f"{one.forget}; systemctl start {one.units}")
    poll(lambda: load(server, one, seconds=1, messages=CONNECTIONS), 20, f"{one.name} does not answer")


def stop(server: Server, one: Contestant) -> None:
    server.run(f"systemctl stop {one.units}")


def load(
    server: Server, one: Contestant, *, seconds: float, accounts: int = ACCOUNTS, messages: int = -1
) -> list[float]:
    """Answers, seconds, and the times for half and for 99 % of the answers in milliseconds; nothing if it failed."""
    done = server.run(
        f"policy_load {one.target} {one.state} {seconds} {CONNECTIONS} {accounts} {messages}", check=False, timeout=900
    )
    if done.returncode:
        return []
    answers, took, half, most = map(float, done.stdout.split())
    return [answers, took, half / 1000, most / 1000]


def pss(server: Server, one: Contestant) -> float:
    """MB of all its processes."""
    group = "/sys/fs/cgroup$(systemctl show -P ControlGroup UNIT)/cgroup.procs"
    unit = one.units.split()[-1]
    said = server.run(
        f"for process in $(cat {group.replace('UNIT', unit)} 2>/dev/null || "
        f"systemctl status {unit} | grep -oP '[├└]─\\K[0-9]+'); do cat /proc/$process/smaps_rollup; done"
    ).stdout
    return sum(int(line.split()[1]) for line in said.splitlines() if line.startswith("Pss:")) * 1024 / 1e6


# --- what is measured -------------------------------------------------------------------------------------------------


def speed(server: Server, rounds: int, seconds: int) -> None:
    measured: dict[str, list[list[float]]] = {one.name: [] for one in (OURS, *OTHERS)}
    print(f"{'round':>6} {'':19} {'requests/s':>11} {'p50, ms':>8} {'p99, ms':>8}", flush=True)
    for number in range(1, rounds + 1):
        for one in (OURS, *OTHERS):
            start(server, one)
            answers, took, half, most = load(server, one, seconds=seconds)
            stop(server, one)
            measured[one.name].append([answers / took, half, most])
            print(f"{number:>6} {one.name:19} {answers / took:>11.0f} {half:>8.2f} {most:>8.2f}", flush=True)
    median = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in measured.items()
    }
    for name, (rate, half, most) in median.items():
        print(f"{'median':>6} {name:19} {rate:>11.0f} {half:>8.2f} {most:>8.2f}")
    fastest = max((one.name for one in OTHERS), key=lambda name: median[name][0])
    ratios = [ours[0] / theirs[0] for ours, theirs in zip(measured["guard"], measured[fastest], strict=True)]
    print(f"guard / {fastest}: {median['guard'][0] / median[fastest][0]:.1f}, goal at least {GOAL_RATIO}; ", end="")
    print(f"by round {', '.join(f'{ratio:.0f}' for ratio in ratios)}")
    print(f"guard's p99: {median['guard'][2]:.2f} ms, goal at most {GOAL_P99}", flush=True)


def memory(server: Server, accounts: int) -> None:
    print(f"{'':26} {'idle, MB':>11} {f'{accounts:,} senders, MB':>22}", flush=True)
    for one in (OURS, *OTHERS):
        start(server, one)
        idle = pss(server, one)
        stop(server, one)
        if one is OURS:
            guard_knows(server, accounts)
        start(server, one)
        load(server, one, seconds=600, accounts=accounts, messages=accounts)
        print(f"{'':6} {one.name:19} {idle:>11.0f} {pss(server, one):>22.0f}", flush=True)
        stop(server, one)
    guard_knows(server, ACCOUNTS)
    print(f"goals for the guard: at most {GOAL_IDLE} and {GOAL_FULL} MB", flush=True)


def postfix(server: Server, rounds: int, messages: int) -> None:
    install_postfix(server)
    start(server, OURS)
    ways: dict[str, Callable[[], float]] = {
        "without the guard": lambda: through_postfix(server, 2501, messages),
        "with a policy service in C that only says DUNNO": lambda: through_postfix(server, 2503, messages),
        "with the guard's policy service alone": lambda: through_postfix(server, 2502, messages),
        "with the guard": lambda: through_postfix(server, 2500, messages),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()  # processes start, caches fill
    for number in range(rounds):
        for name in sorted(ways, reverse=bool(number % 2)):
            rates[name].append(ways[name]())
    used = guard_cpu(server)
    through_postfix(server, 2500, messages)
    share = (guard_cpu(server) - used) / messages
    for name, several in rates.items():
        costs = [100 * (1 - rate / without) for rate, without in zip(several, rates["without the guard"], strict=True)]
        print(
            f"Postfix {name}: {statistics.median(several):.0f} messages/s, costs {statistics.median(costs):.1f} %; ",
            end="",
        )
        print(f"by round {', '.join(f'{cost:.0f}' for cost in costs)}")
    print(f"goal at most {GOAL_COST} %; the guard's own: {share * 1e6:.0f} us of a processor a message")
    stop(server, OURS)


def install_postfix(server: Server) -> None:
    def policy(path: str) -> str:
        check = f"check_policy_service {{ unix:{path}, timeout=3s, try_limit=1 }}"
        return (
            f"-o {{ smtpd_recipient_restrictions = {check}, permit }} -o {{ smtpd_end_of_data_restrictions = {check} }}"
        )

    milter = f"-o smtpd_milters=unix:{guard.MILTER_SOCKET} -o milter_macro_defaults=auth_authen=n0@example.test"
    server.run(
        "postconf -e inet_interfaces=loopback-only mydestination= default_transport=discard relay_transport=discard "
        "mynetworks=127.0.0.0/8 maillog_file=/var/log/postfix.log in_flow_delay=0 "
        "smtpd_client_connection_count_limit=0 compatibility_level=3.10 myhostname=mail.example.test && "
        f"printf '127.0.0.1:%s inet n - n - - smtpd %s\\n' "
        f"2500 '{policy(guard.POLICY_SOCKET)} {milter}' 2501 '' 2502 '{policy(guard.POLICY_SOCKET)}' "
        f"2503 '{policy(DUNNO)}' >> /etc/postfix/master.cf && systemctl start postfix && "
        f"systemd-run --quiet policy_dunno {DUNNO}"
    )
    poll(lambda: not server.run("smtp-source 127.0.0.1:2501", check=False).returncode, 20, "Postfix does not answer")


def through_postfix(server: Server, port: int, messages: int) -> float:
    """Messages a second, until the last one has left the queue."""
    began = time.monotonic()
    server.run(
        f"smtp-source -s {CONNECTIONS} -m {messages} -l 4096 -f n0@example.test -t friend@example.net 127.0.0.1:{port} "
        '&& while [ -n "$(find /var/spool/postfix/incoming /var/spool/postfix/active -type f -print -quit)" ]; '
        "do sleep 0.02; done",
        timeout=900,
    )
    return messages / (time.monotonic() - began)


def guard_cpu(server: Server) -> float:
    """Seconds."""
    said = server.run("cat /proc/$(systemctl show -P MainPID mailkeep-guard.service)/stat; getconf CLK_TCK").stdout
    words = said.split()
    return (int(words[13]) + int(words[14])) / int(words[-1])


if __name__ == "__main__":
    main()
