"""The `mailkeep` program, and `python -m mailkeep`."""

from typing import NoReturn


def main() -> NoReturn:
    """`mailkeep.cli`, whose imports take long enough to be interrupted."""
    try:
        from mailkeep.cli import app

        app.main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
