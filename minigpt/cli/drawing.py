"""The only place that draws tables and displays. Text is never markup, and its control characters are escaped."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import TextColumn
from rich.segment import Segment

from minigpt.printable import printable

WITHOUT_TERMINAL = 160
"""Width of a table in characters if the output is a file or a pipe."""


class Terminal(Console):
    """A console that does not interpret markup or emoji, and escapes control characters in every text."""

    def __init__(self, **options: Any) -> None:
        sizes = {name: os.environ.get(name, "").strip("0") for name in ("COLUMNS", "LINES")}  # 0 means unknown
        known = {name: value for name, value in os.environ.items() if sizes.get(name) != ""}
        super().__init__(markup=False, emoji=False, highlight=False, _environ=known, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape text. The console's own control sequences (colours, cursor movements) are not text and stay."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)


def terminal(*, err: bool = False, width: int | None = WITHOUT_TERMINAL) -> Terminal:
    """A console for standard output or standard error: as wide as the terminal, or `width` columns without a terminal.

    Args:
        err: Use standard error.
        width: None for the width that the environment says, or 80.
    """
    stream = sys.stderr if err else sys.stdout
    return Terminal(stderr=err, width=None if stream.isatty() else width)


def column(template: str) -> TextColumn:
    """A plain text column of a progress display, from a template such as `{task.description}`."""
    return TextColumn(template, markup=False)
