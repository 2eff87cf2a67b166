"""`python3 -m guard WHAT`: the programs of the mail server that are Mailkeep's own."""

import sys
from importlib import import_module
from pathlib import Path

WATCH = {"watch": "daemon", "watch-failed": "failed", "jails": "jails", "alert-test": "trial"}


def main(arguments: list[str]) -> int:
    match arguments:
        case ["guard"]:
            from guard import daemon

            return daemon.run()
        case ["check", file]:
            from guard import config

            for program in ("daemon", "ctl", *(f"watch.{name}" for name in WATCH.values())):
                import_module(f"guard.{program}")  # so that a deploy refuses what could not start

            try:
                config.load(Path(file))
            except config.ConfigError as error:
                print(error, file=sys.stderr)
                return 1
            return 0
        case ["ctl", *rest]:
            from guard import ctl

            return ctl.main(rest)
        case [program, *rest] if program in WATCH:
            import_module(f"guard.watch.{WATCH[program]}").main(rest)
            return 0
    print("usage: guard | check FILE | ctl … | watch | watch-failed | jails | alert-test", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
