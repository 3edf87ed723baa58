"""The only place that prints lines. Text may come from strangers (names, messages, paths, samples), so it is escaped.

Tables and displays are drawn by `minigpt.cli.drawing`, which escapes them too.
"""

from __future__ import annotations

import sys

from minigpt.printable import printable


def say(text: str = "", *, end: str = "\n") -> None:
    r"""Print to standard output, escaped. Escapes have JSON's own form (`\u001b`), so printed JSON keeps its meaning."""
    print(printable(text), end=end)


def warn(text: str, *, end: str = "\n") -> None:
    """Print to standard error, escaped."""
    print(printable(text), end=end, file=sys.stderr)


def write_generated(text: str) -> None:
    """Write generated text: escaped on a terminal, exact to a file or a pipe."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
