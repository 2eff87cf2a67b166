"""`python3 -IB /usr/lib/mailkeep PROGRAM`: every program that Mailkeep runs on the mail server."""

import sys
from importlib import import_module
from types import ModuleType

PROGRAMS = {
    "guard": "guard.daemon",
    "guard-with-store": "guard.daemon",
    "guard-state": "guard.state_repair",
    "watch": "watch.daemon",
    "watch-failed": "watch.watch_failed",
    "jails": "watch.jail_proof",
    "fail2ban": "ban_networks",
    "weekly": "operator.weekly_mail",
    "relay": "watch.relay_sensor",
    "alert-test": "watch.alert_test",
    "dns-monitor": "dns_monitor",
    "certificate-renewal": "certificate_renewal",
    "log-keeper": "log_keeper",
    "lines": "lines.milter",
    "inbound": "inbound.milter",
    "spf-sources": "spf_sources",
    "root-access": "common.root_access",
    "sieve-mail": "sieve_mail",
    "spam-learner": "spam_learner",
    "spam-canary": "spam_canary",
    "mail-import": "mail_import.import_session",
    "backup": "backup.command",
    "backup-snapshot": "backup.mail_snapshot",
    "report-intake": "reports.intake",
    "report-reader": "reports.reader",
    "mail-digest": "mail_log.digest",
    "mail-report": "mail_log.report_command",
    "mail-trace": "mail_log.trace_command",
    "move": "moving_house.command",
    "ctl": "ctl",
}
"""By program, the module whose `main` takes the program's arguments and returns its exit code."""
IMPORTED_LATE = (
    *("common.unix_smtp", "common.relay_login", "reports.listing", "reports.summary", "mail_log.parallel"),
    *("operator.metrics", "operator.status_command"),
)
"""Modules that programs import only when they need them."""


LEFT_OUT = {
    "guard": ("_hashlib", "ssl"),
    "fail2ban": ("_hashlib",),
    "inbound": ("_hashlib",),
    "watch": ("_hashlib",),
}
"""By program that stays, what Python's library imports only if it is there: OpenSSL, which takes 1 to 2 MB. Python
hashes without it."""


def main(arguments: list[str]) -> int:
    match arguments:
        case ["check"]:
            check_programs()
            return 0
        case [program, *rest] if program in PROGRAMS:
            exit_code: int = import_program(program).main(rest)
            return exit_code
    print(f"usage: check | {' | '.join(PROGRAMS)}", file=sys.stderr)
    return 2


def import_program(program: str) -> ModuleType:
    for name in LEFT_OUT.get(program, ()):
        sys.modules[name] = None  # type: ignore[assignment]  # its import is an ImportError (the import system)
    return import_module(f"mailkeep_server.{PROGRAMS[program]}")


def check_programs() -> None:
    """A deploy refuses a package with a program that could not start. Raises whatever its import raises."""
    for module in (*PROGRAMS.values(), *IMPORTED_LATE):
        import_module(f"mailkeep_server.{module}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
