"""The `mailkeep` program, and `python -m mailkeep`."""

from typing import NoReturn


def main() -> NoReturn:
    """Importing `mailkeep.cli` is part of it: an interrupt in the meantime ends with 130 as well."""
    try:
        from mailkeep.cli import app

        app.main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
