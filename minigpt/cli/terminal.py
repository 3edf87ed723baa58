"""The one place that prints lines. Text of strangers (names, messages, docstrings, paths, samples) is escaped.

Tables and displays are drawn by `minigpt.cli.drawing`, which does the same.
"""

from __future__ import annotations

import sys

from minigpt.printable import printable


def say(text: str = "", *, end: str = "\n") -> None:
    """Print to standard output, escaped. JSON stays the JSON that it is: its own escapes are used."""
    print(printable(text), end=end)


def warn(text: str, *, end: str = "\n") -> None:
    """Print to standard error, escaped."""
    print(printable(text), end=end, file=sys.stderr)


def write_generated(text: str) -> None:
    """Write what a model wrote: escaped on a terminal, exactly as it is to a file or a pipe."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
