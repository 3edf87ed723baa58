"""`minigpt`, and `python -m minigpt`."""

import sys


def main() -> None:
    """Run a command; Ctrl-C while its modules are still being imported ends quietly too."""
    try:
        from minigpt.cli import main as command
    except KeyboardInterrupt:
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
