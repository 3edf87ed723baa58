"""The one place that draws tables and displays. Text is never markup, and control characters in it are escaped."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import TextColumn
from rich.segment import Segment

from minigpt.printable import printable

WITHOUT_TERMINAL = 160
"""Columns of a table that goes to a file or a pipe."""


class Terminal(Console):
    """A console that takes no text for markup or emoji, and escapes whatever it is given before it is drawn."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Its own signs (colours, cursor movements) are no text, and stay."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)


def terminal(*, err: bool = False, width: int | None = WITHOUT_TERMINAL) -> Terminal:
    """Standard output, or standard error: as wide as the terminal, `width` columns where there is none.

    Args:
        err: Standard error.
        width: None for 80, or what the environment says.
    """
    stream = sys.stderr if err else sys.stdout
    return Terminal(stderr=err, width=None if stream.isatty() else width)


def column(template: str) -> TextColumn:
    """A column of a progress display, such as `{task.description}`, as plain text."""
    return TextColumn(template, markup=False)
