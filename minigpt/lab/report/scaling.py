"""The figure of a ladder: loss against training compute, with the fitted curves of base and variant."""

from __future__ import annotations

import math

import numpy as np

from minigpt.lab.compare.tables import Table
from minigpt.lab.compare.variants import UNITS
from minigpt.lab.ladder.judging import with_interval
from minigpt.lab.ladder.record import Curves, Finding, Ladder, Point
from minigpt.lab.report.canvas import INK, Axes, Figure, Picture, drawing, look, panel, plain, svg
from minigpt.lab.sealed import LARGEST
from minigpt.numbers import UNKNOWN

_STEPS = 60


def of_ladder(ladder: Ladder) -> Picture | None:
    """Losses and curves, a plot for each variant; None if no operations were counted."""
    points = [point for size in ladder.sizes for point in size.variants if point.training_flops and point.mean is not None]
    base = ladder.sizes[0].variants[0].name
    if not ladder.findings or not points:
        return None
    with drawing():
        columns = min(2, len(ladder.findings))
        lines = math.ceil(len(ladder.findings) / columns)
        figure = Figure(figsize=(7, 0.5 + 3 * lines), layout="constrained")
        figure.patch.set_alpha(0)
        for index, finding in enumerate(ladder.findings, 1):
            axes = panel(figure, lines, columns, index)
            axes.set_xscale("log")
            for colour, name in ((INK, base), (look(index)[0], finding.variant)):
                _draw(axes, colour, [point for point in points if point.name == name], finding, is_base=name == base)
            axes.set_title(plain(finding.variant), fontsize=10, color=look(index)[0])
        figure.supxlabel(f"training FLOPs ({plain(base)} without colour; lines: L = L0 + A C^-α)", color=INK, fontsize=10)
        figure.supylabel(f"loss, {UNITS[ladder.settings.comparison.unit]}", color=INK, fontsize=10)
        alternative = "Validation loss of base and variant at each size against training compute, with the fitted curves."
        return Picture.of("Loss against training compute", svg(figure, "ladder", alternative), speedup_table(ladder))


def _draw(axes: Axes, colour: str, points: list[Point], finding: Finding, *, is_base: bool) -> None:
    compute = [float(point.training_flops or 1) for point in points]
    for place, point in zip(compute, points, strict=True):
        losses = [loss for loss in point.losses if loss is not None]
        axes.plot([place] * len(losses), losses, "o", color=colour, ms=3, alpha=0.5, mew=0)
    axes.plot(compute, [point.mean or 0.0 for point in points], "o", color=colour, ms=6)
    if finding.curves is not None and compute:
        axes.plot(*_curve(finding.curves, min(compute), max(compute), is_base=is_base), color=colour, lw=1.5)


def _curve(curves: Curves, low: float, high: float, *, is_base: bool) -> tuple[list[float], list[float]]:
    """The points of a curve that can be drawn; the numbers of a damaged record may be absurd."""
    scale, exponent = (pair[0 if is_base else 1] for pair in (curves.scales, curves.exponents))
    x = np.geomspace(low, high, _STEPS)
    with np.errstate(all="ignore"):
        y = curves.floor + np.exp(np.log(np.float64(scale)) - exponent * np.log(x))
        known = np.abs(y) < LARGEST
    return x[known].tolist(), y[known].tolist()


def speedup_table(ladder: Ladder) -> Table:
    """The effective speed-up of each variant, with its intervals."""
    rows: list[tuple[str, ...]] = []
    for finding in ladder.findings:
        curves = finding.curves
        if curves is None:
            rows.append((finding.variant, *(UNKNOWN,) * 4))
        else:
            numbers = (curves.speedup, curves.smallest, curves.trend)
            rows.append((finding.variant, *map(with_interval, numbers), curves.change))
    columns = ("variant", "at the largest size", "at the smallest size", "factor for tenfold compute", "with size, it")
    title = "Effective speed-up: compute of the base divided by that of the variant, at equal loss"
    return Table(title, columns, tuple(rows))
