"""The report's figures: SVG that uses the page's colour for text and lines, so it works in light and dark mode."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from minigpt.lab.compare.spread import Spread
from minigpt.lab.compare.tables import UNITS
from minigpt.lab.report.content import Content, Curve
from minigpt.numbers import as_typed
from minigpt.printable import printable_line


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
_INK = "#010203"  # placeholder for the page's text colour, replaced when the SVG is written

SECONDS = "seconds of training"

Axis = Literal["tokens", "flops", "seconds"]
"""The quantity on the x-axis of a loss curve."""

_STYLE: Any = {  # matplotlib's type of a key is a Literal of four hundred names
    "svg.fonttype": "none",
    "text.usetex": False,  # an earlier import may have switched it on, and then LaTeX would be executed
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "grid.color": _INK,
    **{f"{thing}.color": _INK for thing in ("text", "xtick", "ytick")},
    **{f"axes.{thing}": _INK for thing in ("edgecolor", "labelcolor")},
}


def _plain(name: str) -> str:
    """A name escaped for matplotlib, where $ starts a formula and a leading _ hides a name from the legend."""
    shown = printable_line(name).replace("$", "\\$")
    return f" {shown}" if shown.startswith("_") else shown


def look(index: int) -> tuple[str, str]:
    """Colour and dash pattern of the variant with this index; the base has index 0."""
    if index == 0:
        return _INK, "-"
    return _COLOURS[(index - 1) % len(_COLOURS)], _DASHES[((index - 1) // len(_COLOURS)) % len(_DASHES)]


def forest(content: Content) -> str | None:
    """A figure of the differences to the base with their intervals; None if there is no interval."""
    rows = [
        (index, variant.name, variant.result.difference)
        for index, variant in enumerate(content.variants)
        if variant.result.difference is not None and variant.result.difference.has_interval
    ]
    if not rows:
        return None
    settings = content.comparison.settings
    delta, unit = settings.delta, UNITS[settings.unit]
    with matplotlib.rc_context(_STYLE):
        figure, axes = _canvas(7, 0.9 + 0.42 * len(rows))
        axes.axvspan(-delta, delta, color=_INK, alpha=0.07, lw=0)
        axes.axvline(0, color=_INK, lw=1)
        for place, (index, _, difference) in enumerate(rows):
            colour, _ = look(index)
            for bounds, width in ((difference.interval, 1.2), (difference.plain_interval, 3.5)):
                ends = [bound for bound in bounds if bound is not None]
                axes.plot(ends, [place] * len(ends), color=colour, lw=width, solid_capstyle="butt")
            axes.plot([difference.mean], [place], "o", color=colour, ms=6)
        axes.set_yticks(range(len(rows)), [_plain(name) for _, name, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(
            f"difference to {_plain(content.variants[0].name)}, {unit} (left is better; shaded: ±{as_typed(delta)})"
        )
        axes.grid(axis="y", visible=False)
        return _svg(
            figure,
            "forest",
            "Mean difference of each variant to the base, with 95 % intervals: thin joint, thick uncorrected.",
        )


def along(curve: Curve | None, axis: Axis) -> tuple[float, ...] | None:
    """The x-coordinates of a curve on an axis; None if they are not known."""
    if curve is None:
        return None
    match axis:
        case "tokens":
            return curve.tokens
        case "flops":
            return curve.flops
        case "seconds":
            return curve.seconds


def curves(content: Content, axis: Axis, label: str) -> str | None:
    """A figure of validation and training loss against `axis`; None if nothing was measured."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _canvas(7, 4.6)
        heights: list[float] = []
        for index, variant in enumerate(content.variants):
            colour, dashes = look(index)
            trained = along(variant.training, axis)
            if variant.training is not None and trained and content.comparison.settings.unit == "nats":
                axes.plot(trained, variant.training.mean, color=colour, lw=0.8, alpha=0.35)
            xs = along(variant.validation, axis)
            if variant.validation is None or xs is None:
                continue  # nothing was measured, or the operations were not counted
            axes.fill_between(xs, variant.validation.low, variant.validation.high, color=colour, alpha=0.15, lw=0)
            axes.plot(
                xs, variant.validation.mean, dashes, color=colour, lw=1.8, marker="o", ms=3, label=_plain(variant.name)
            )
            heights += [*variant.validation.high, variant.validation.low[-1]]
        if not heights:
            return None
        room = 0.08 * (max(heights) - min(heights)) or 0.05
        axes.set_ylim(min(heights) - 3 * room, max(heights) + room)
        _name_axis(axes, label)
        axes.set_ylabel(f"loss, {UNITS[content.comparison.settings.unit]}")
        _legend(figure, axes)
        return _svg(figure, f"curves-{axis}", f"Validation loss against {label}, mean and range over seeds of each variant.")


def by_position(content: Content) -> str | None:
    """A figure of the loss at each position in the window; it shows whether a model uses more context."""
    variants = [(index, variant) for index, variant in enumerate(content.variants) if variant.position]
    if not variants:
        return None
    with matplotlib.rc_context(_STYLE):
        figure, axes = _canvas(7, 4.2)
        for index, variant in variants:
            colour, dashes = look(index)
            places, values = _smoothed(variant.position)
            axes.plot(places, values, dashes, color=colour, lw=1.6, label=_plain(variant.name))
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("position in the window, tokens")
        axes.set_ylabel(f"validation loss, {UNITS['nats']}")
        _legend(figure, axes)
        return _svg(figure, "position", "Validation loss at each position in the window.")


def against_cost(content: Content, costs: Sequence[tuple[str, Sequence[Spread | None]]]) -> str | None:
    """A figure of loss against each cost, with the Pareto front; None if there are fewer than two losses."""
    usable = [(label, values) for label, values in costs if any(value and value.high for value in values)]
    losses = [variant.result.mean for variant in content.variants]
    if not usable or sum(loss is not None for loss in losses) < 2:
        return None
    with matplotlib.rc_context(_STYLE):
        columns = 2
        figure = Figure(figsize=(7, 2.9 * math.ceil(len(usable) / columns)), layout="constrained")
        figure.patch.set_alpha(0)
        for number, (label, values) in enumerate(usable, 1):
            axes = figure.add_subplot(math.ceil(len(usable) / columns), columns, number)
            axes.patch.set_alpha(0)
            points = [
                (value, loss, index)
                for index, (value, loss) in enumerate(zip(values, losses, strict=True))
                if value is not None and loss is not None
            ]
            front = pareto([(value.median, loss) for value, loss, _ in points])
            axes.step([value for value, _ in front], [loss for _, loss in front], where="post", color=_INK, lw=0.8, ls=":")
            for value, loss, index in points:
                colour = look(index)[0]
                axes.plot([value.low, value.high], [loss, loss], color=colour, lw=1.2)
                axes.plot(
                    [value.median],
                    [loss],
                    "o" if index else "D",
                    color=colour,
                    ms=6,
                    label=_plain(content.variants[index].name),
                )
            axes.margins(0.12)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            _name_axis(axes, label)
        _legend(figure, axes)
        figure.supylabel(f"validation loss, {UNITS[content.comparison.settings.unit]}", color=_INK, fontsize=10)
        return _svg(
            figure,
            "cost",
            "Validation loss of each variant against its costs; the dotted line is the Pareto front.",
        )


def _name_axis(axes: Axes, label: str) -> None:
    """Label the x-axis, with large numbers as 2k or 3M and seconds as they are."""
    axes.set_xlabel(label)
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:g}") if label == SECONDS else EngFormatter(sep="")
    )


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The Pareto front: points that no other point equals or beats in both numbers, sorted by the first."""
    front: list[tuple[float, float]] = []
    for point in sorted(set(points)):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


def _smoothed(values: Sequence[float | None]) -> tuple[list[float], list[float]]:
    """Means over intervals that grow with the position (an eighth of it wide), because single positions are noisy."""
    places, means, start = [], [], 0
    while start < len(values):
        end = min(len(values), start + max(1, start // 8))
        known = [value for value in values[start:end] if value is not None]
        if known:
            places.append((start + end + 1) / 2)
            means.append(sum(known) / len(known))
        start = end
    return places, means


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    return figure, axes


def _legend(figure: Figure, axes: Axes) -> None:
    """Draw the legend below the axes, where it covers no data."""
    handles, names = axes.get_legend_handles_labels()
    longest = max(map(len, names), default=1)
    columns = max(1, min(len(names), 90 // (longest + 6)))
    figure.legend(handles, names, loc="outside lower center", frameon=False, ncols=columns, fontsize=9)


def _svg(figure: Figure, name: str, alternative: str) -> str:
    """Inline SVG. Its ids start with `name`, because all figures are in one page."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    head, _, rest = text.partition(">")
    return (
        f'{head} role="img" aria-label="{alternative}">{rest}'.replace('id="', f'id="{name}-')
        .replace('href="#', f'href="#{name}-')
        .replace("url(#", f"url(#{name}-")
    )
