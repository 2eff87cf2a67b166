"""`python3 -m guard WHAT`: the programs of the mail server that are Mailkeep's own."""

import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    match arguments:
        case ["guard"]:
            from guard import daemon

            return daemon.run()
        case ["check", file]:
            from guard import config, ctl, daemon

            try:
                config.load(Path(file))
            except config.ConfigError as error:
                print(error, file=sys.stderr)
                return 1
            return 0
        case ["ctl", *rest]:
            from guard import ctl

            return ctl.main(rest)
    print("usage: guard | check FILE | ctl …", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
