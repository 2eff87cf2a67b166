"""`python3 -IB /usr/lib/mailkeep PROGRAM`: every program that Mailkeep runs on the mail server."""

import sys
from importlib import import_module

PROGRAMS = {
    "guard": "guard.daemon",
    "watch": "watch.daemon",
    "watch-failed": "watch.watch_failed",
    "jails": "watch.jail_proof",
    "alert-test": "watch.alert_test",
    "dns-monitor": "dns_monitor",
    "certificate-renewal": "certificate_renewal",
    "ctl": "ctl",
}
"""Each module has a function `main`, which takes the arguments after the program's name and returns the exit code."""


def main(arguments: list[str]) -> int:
    match arguments:
        case ["check"]:
            for module in PROGRAMS.values():
                import_module(f"mailkeep_server.{module}")  # a deploy refuses a program that could not start
            return 0
        case [program, *rest] if program in PROGRAMS:
            exit_code: int = import_module(f"mailkeep_server.{PROGRAMS[program]}").main(rest)
            return exit_code
    print(f"usage: check | {' | '.join(PROGRAMS)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
