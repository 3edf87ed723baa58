"""The figure of tuning: the loss of each variant against the values of each setting that was tuned."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass

from pydantic import JsonValue

from minigpt.lab.compare.record import Comparison
from minigpt.lab.compare.tables import Table
from minigpt.lab.compare.tuned import Edge, RecordedTuning
from minigpt.lab.compare.variants import UNITS
from minigpt.lab.report.canvas import INK, Axes, Figure, FuncFormatter, Picture, drawing, legend, look, panel, plain, svg
from minigpt.lab.sealed import LARGEST
from minigpt.numbers import shown_loss

_LONGEST = 24  # characters of a value below an axis
_MOST_TICKS = 9
_LOGARITHMIC = 4  # values that span at least this factor are drawn on a logarithmic axis


@dataclass(frozen=True)
class Sensitivity:
    """How a variant's loss depends on one setting, at the best values of those tuned before it.

    Attributes:
        index: The variant's index, which decides its colour.
        name: Its name.
        values: The values that were tried, each with its mean loss over the tuning seeds; None if a trial failed.
        chosen: The chosen value.
        edge: Whether that is the lowest or the highest value that was tried.
    """

    index: int
    name: str
    values: tuple[tuple[JsonValue, float | None], ...]
    chosen: JsonValue
    edge: Edge | None


def sensitivities(comparison: Comparison) -> dict[str, list[Sensitivity]]:
    """For each tuned setting, by its path, the variants for which it was tuned."""
    found: dict[str, list[Sensitivity]] = {}
    for index, variant in enumerate(comparison.variants):
        tuning = variant.tuning
        for path in [] if tuning is None else tuning.chosen:
            assert tuning is not None
            each = Sensitivity(index, variant.name, _values(tuning, path), tuning.chosen[path], tuning.edges.get(path))
            found.setdefault(path, []).append(each)
    return found


def _values(tuning: RecordedTuning, path: str) -> tuple[tuple[JsonValue, float | None], ...]:
    """Settings are tuned in their order: those before this one had their chosen values, those after it the written ones."""
    order = list(tuning.chosen)
    place = order.index(path)
    fixed = {each: (tuning.chosen if other < place else tuning.written)[each] for other, each in enumerate(order)}
    losses: dict[str, list[float | None]] = {}
    for trial in tuning.trials:
        if {**fixed, path: None} == {**trial.values, path: None}:
            losses.setdefault(json.dumps(trial.values[path]), []).append(trial.loss)
    means = [(json.loads(value), [loss for loss in each if loss is not None], len(each)) for value, each in losses.items()]
    values = [(value, statistics.fmean(known) if len(known) == number else None) for value, known, number in means]
    return tuple(sorted(values, key=lambda pair: _number(pair[0]) or 0.0))


def _number(value: JsonValue) -> float | None:
    """The value as a number that an axis can have; None for other values."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
    return float(value) if is_number else None  # type: ignore[arg-type]


def of_tuning(comparison: Comparison) -> Picture | None:
    """The losses of the trials; None if nothing was tuned."""
    by_path = sensitivities(comparison)
    if not by_path:
        return None
    with drawing():
        figure = Figure(figsize=(7, 0.9 + 3.2 * len(by_path)), layout="constrained")
        figure.patch.set_alpha(0)
        for number, (path, variants) in enumerate(by_path.items(), 1):
            axes = panel(figure, len(by_path), 1, number)
            _draw(axes, variants)
            axes.set_xlabel(plain(path))
            axes.set_ylabel(f"loss, {UNITS[comparison.settings.unit]}")
        shown = [each for variants in by_path.values() for each in variants]
        axes.plot([], [], "o", color=INK, ms=9, mfc="none", label="chosen")
        if any(each.edge for each in shown):
            axes.plot([], [], ">", color=INK, ms=10, mfc="none", label="chosen, at an edge")
        if any(loss is None for each in shown for _, loss in each.values):
            axes.plot([], [], "x", color=INK, ms=6, label="a trial failed")
        legend(figure, axes)
        alternative = "Loss of the trials of each variant against the values that were tried; the chosen value is marked."
        return Picture.of("Loss against each tuned setting", svg(figure, "tuning", alternative), _table(by_path))


def _draw(axes: Axes, variants: list[Sensitivity]) -> None:
    places = _axis(axes, variants)
    for each in variants:
        colour, dashes = look(each.index)
        known = [(places[json.dumps(value)], loss) for value, loss in each.values if loss is not None]
        failed = [places[json.dumps(value)] for value, loss in each.values if loss is None]
        axes.plot(
            *zip(*known, strict=True), dashes, color=colour, lw=1.5, marker="o", ms=4, label=plain(each.name)
        ) if known else None
        axes.plot(failed, [0.97] * len(failed), "x", color=colour, ms=6, transform=axes.get_xaxis_transform())
        best = [
            (places[json.dumps(value)], loss) for value, loss in each.values if loss is not None and value == each.chosen
        ]
        marker = {None: "o", "lowest": "<", "highest": ">"}[each.edge]
        for place, loss in best:
            axes.plot([place], [loss], marker, color=colour, ms=9 if each.edge is None else 11, mfc="none", mew=1.6)


def _axis(axes: Axes, variants: list[Sensitivity]) -> dict[str, float]:
    """Set up the axis of the values. Returns the place of each value, by its JSON."""
    values = {json.dumps(value): value for each in variants for value, _ in each.values}
    numbers = {key: number for key, value in values.items() if (number := _number(value)) is not None}
    if len(numbers) < len(values):
        axes.set_xticks(range(len(values)), [plain(_shown(value)) for value in values.values()])
        return {key: float(place) for place, key in enumerate(values)}
    if numbers and min(numbers.values()) > 1 / LARGEST and max(numbers.values()) >= _LOGARITHMIC * min(numbers.values()):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    if len(numbers) <= _MOST_TICKS:
        axes.set_xticks(sorted(numbers.values()), [f"{number:.3g}" for number in sorted(numbers.values())])
        axes.minorticks_off()
    return numbers


def _shown(value: JsonValue) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _table(by_path: dict[str, list[Sensitivity]]) -> Table:
    rows = [
        (each.name, path, _shown(value), shown_loss(loss), _remark(each, value, loss))
        for path, variants in by_path.items()
        for each in variants
        for value, loss in each.values
    ]
    return Table("Trials", ("variant", "setting", "value", "mean loss over tuning seeds", "remark"), tuple(rows))


def _remark(each: Sensitivity, value: JsonValue, loss: float | None) -> str:
    if loss is None:
        return "failed"
    if value != each.chosen:
        return ""
    return "chosen" if each.edge is None else f"chosen, the {each.edge} that was tried"
