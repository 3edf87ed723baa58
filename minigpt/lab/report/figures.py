"""The figures of losses and costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from minigpt.lab.compare.spread import Spread
from minigpt.lab.compare.variants import UNITS
from minigpt.lab.report.canvas import (
    INK,
    Axes,
    EngFormatter,
    Figure,
    FuncFormatter,
    MaxNLocator,
    canvas,
    drawing,
    legend,
    look,
    panel,
    plain,
    svg,
)
from minigpt.lab.report.content import Content, Curve

SECONDS = "seconds of training"

Axis = Literal["tokens", "flops", "seconds"]
"""The quantity on the x-axis of a loss curve."""


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
    with drawing():
        figure, axes = canvas(7, 4.6)
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
            axes.plot(xs, variant.validation.mean, dashes, color=colour, lw=1.8, marker="o", ms=3, label=plain(variant.name))
            heights += [*variant.validation.high, variant.validation.low[-1]]
        if not heights:
            return None
        room = 0.08 * (max(heights) - min(heights)) or 0.05
        axes.set_ylim(min(heights) - 3 * room, max(heights) + room)
        _name_axis(axes, label)
        axes.set_ylabel(f"loss, {UNITS[content.comparison.settings.unit]}")
        legend(figure, axes)
        return svg(figure, f"curves-{axis}", f"Validation loss against {label}, mean and range over seeds of each variant.")


def by_position(content: Content) -> str | None:
    """A figure of the loss at each position in the window; it shows whether a model uses more context."""
    variants = [(index, variant) for index, variant in enumerate(content.variants) if variant.position]
    if not variants:
        return None
    with drawing():
        figure, axes = canvas(7, 4.2)
        for index, variant in variants:
            colour, dashes = look(index)
            places, values = _smoothed(variant.position)
            axes.plot(places, values, dashes, color=colour, lw=1.6, label=plain(variant.name))
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("position in the window, tokens")
        axes.set_ylabel(f"validation loss, {UNITS['nats']}")
        legend(figure, axes)
        return svg(figure, "position", "Validation loss at each position in the window.")


def against_cost(content: Content, costs: Sequence[tuple[str, Sequence[Spread | None]]]) -> str | None:
    """A figure of loss against each cost, with the Pareto front; None if there are fewer than two losses."""
    usable = [(label, values) for label, values in costs if any(value and value.high for value in values)]
    losses = [variant.result.mean for variant in content.variants]
    if not usable or sum(loss is not None for loss in losses) < 2:
        return None
    with drawing():
        columns = 2
        figure = Figure(figsize=(7, 2.9 * math.ceil(len(usable) / columns)), layout="constrained")
        figure.patch.set_alpha(0)
        for number, (label, values) in enumerate(usable, 1):
            axes = panel(figure, math.ceil(len(usable) / columns), columns, number)
            points = [
                (value, loss, index)
                for index, (value, loss) in enumerate(zip(values, losses, strict=True))
                if value is not None and loss is not None
            ]
            front = pareto([(value.median, loss) for value, loss, _ in points])
            axes.step([value for value, _ in front], [loss for _, loss in front], where="post", color=INK, lw=0.8, ls=":")
            for value, loss, index in points:
                colour = look(index)[0]
                axes.plot([value.low, value.high], [loss, loss], color=colour, lw=1.2)
                axes.plot(
                    [value.median],
                    [loss],
                    "o" if index else "D",
                    color=colour,
                    ms=6,
                    label=plain(content.variants[index].name),
                )
            axes.margins(0.12)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            _name_axis(axes, label)
        legend(figure, axes)
        figure.supylabel(f"validation loss, {UNITS[content.comparison.settings.unit]}", color=INK, fontsize=10)
        return svg(
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
