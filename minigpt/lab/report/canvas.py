"""What all figures share: SVG that uses the page's colour for text and lines, so it works in light and dark mode."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from minigpt.lab.compare.tables import Table
from minigpt.printable import printable_line

__all__ = [
    "INK",
    "Axes",
    "EngFormatter",
    "Figure",
    "FuncFormatter",
    "MaxNLocator",
    "Picture",
    "canvas",
    "drawing",
    "legend",
    "look",
    "panel",
    "plain",
    "svg",
]


def _settings_of_matplotlib() -> Path:
    """The folder of matplotlib's own matplotlibrc."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
    return Path(spec.origin).with_name("mpl-data")


# On import, matplotlib reads a matplotlibrc from the working folder first, and prints its errors unescaped. That file may
# be untrusted, so the import happens in the folder of matplotlib's own matplotlibrc.
# MPLBACKEND names a backend for windows, of which there are none; with an unknown name the import fails.
_backend = os.environ.pop("MPLBACKEND", None)
try:
    with contextlib.chdir(_settings_of_matplotlib()):
        import matplotlib
finally:
    if _backend is not None:
        os.environ["MPLBACKEND"] = _backend

from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator  # noqa: E402

# Okabe & Ito 2008: nearly everybody can distinguish these colours. The base has the page's text colour.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A6FDF", "#B8860B", "#A0522D")
_DASHES = ("-", "--", "-.", ":")
INK = "#010203"  # placeholder for the page's text colour, replaced when the SVG is written

_STYLE: Any = {  # matplotlib's type of a key is a Literal of four hundred names
    "svg.fonttype": "none",
    "text.usetex": False,  # an earlier import may have switched it on, and then LaTeX would be executed
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "grid.color": INK,
    **{f"{thing}.color": INK for thing in ("text", "xtick", "ytick")},
    **{f"axes.{thing}": INK for thing in ("edgecolor", "labelcolor")},
}


@dataclass(frozen=True)
class Picture:
    """An SVG figure, and the table of its numbers."""

    title: str
    svg: Markup
    table: Table

    @classmethod
    def of(cls, title: str, svg: str | None, table: Table) -> Picture | None:
        """The picture; None without a figure. matplotlib escapes all names in a figure, so it is safe markup."""
        return None if svg is None else cls(title, Markup(svg), table)


def drawing() -> AbstractContextManager[None]:
    """A context in which figures have the page's style."""
    return matplotlib.rc_context(_STYLE)


def plain(name: str) -> str:
    """A name escaped for matplotlib, where $ starts a formula and a leading _ hides a name from the legend."""
    shown = printable_line(name).replace("$", "\\$")
    return f" {shown}" if shown.startswith("_") else shown


def look(index: int) -> tuple[str, str]:
    """Colour and dash pattern of the variant with this index; the base has index 0."""
    if index == 0:
        return INK, "-"
    return _COLOURS[(index - 1) % len(_COLOURS)], _DASHES[((index - 1) // len(_COLOURS)) % len(_DASHES)]


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A transparent figure with one plot."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    return figure, panel(figure, 1, 1, 1)


def panel(figure: Figure, rows: int, columns: int, number: int) -> Axes:
    """One of several plots of a figure, counted from 1."""
    axes = figure.add_subplot(rows, columns, number)
    axes.patch.set_alpha(0)
    return axes


def legend(figure: Figure, axes: Axes) -> None:
    """Draw the legend below the axes, where it covers no data."""
    handles, names = axes.get_legend_handles_labels()
    if not names:
        return
    longest = max(map(len, names), default=1)
    columns = max(1, min(len(names), 90 // (longest + 6)))
    figure.legend(handles, names, loc="outside lower center", frameon=False, ncols=columns, fontsize=9)


def svg(figure: Figure, name: str, alternative: str) -> str:
    """Inline SVG. Its ids start with `name`, because all figures are in one page."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    head, _, rest = text.partition(">")
    return (
        f'{head} role="img" aria-label="{alternative}">{rest}'.replace('id="', f'id="{name}-')
        .replace('href="#', f'href="#{name}-')
        .replace("url(#", f"url(#{name}-")
    )
