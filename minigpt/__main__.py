"""`minigpt`, and `python -m minigpt`."""

import sys


def main() -> None:
    """Run a command; Ctrl-C ends it quietly at any time, also while its modules are still being imported."""
    try:
        from minigpt.cli import main as command

        command()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
