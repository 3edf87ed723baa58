"""The figures of differences to the base: of each seed, with the intervals over seeds and over text; and of each block."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from minigpt.errors import count
from minigpt.lab.compare.noise import AGAIN
from minigpt.lab.compare.record import Comparison, Difference, VariantResult
from minigpt.lab.compare.tables import Table
from minigpt.lab.compare.variants import UNITS
from minigpt.lab.report.canvas import (
    INK,
    Axes,
    Figure,
    MaxNLocator,
    Picture,
    canvas,
    drawing,
    legend,
    look,
    panel,
    plain,
    svg,
)
from minigpt.numbers import UNKNOWN, as_typed, shown_difference, shown_interval

_ABOVE, _BELOW = 0.24, 0.22  # of a row's middle: the seeds, the interval over text


@dataclass(frozen=True)
class Row:
    """A variant with its differences to the base.

    Attributes:
        index: The variant's index, which decides its colour; 0 for the base with further seeds.
        name: Its name.
        seeds: Each seed, with its difference and whether it lies far from the others.
        difference: The recorded difference.
    """

    index: int
    name: str
    seeds: tuple[tuple[int, float, bool], ...]
    difference: Difference


def rows_of(comparison: Comparison) -> list[Row]:
    """The variants that have a difference, and after them the base with further seeds."""
    again = comparison.base_again
    groups = [*enumerate(comparison.variants), *([] if again is None else [(0, again)])]
    return [
        Row(index, variant.name, tuple(_seeds(variant, variant.difference, comparison.base)), variant.difference)
        for index, variant in groups
        if variant.difference is not None
    ]


def _seeds(variant: VariantResult, difference: Difference, base: VariantResult) -> Iterator[tuple[int, float, bool]]:
    """Runs are paired by seed; those of the base with further seeds by their place."""
    by_seed = {run.seed: run.loss for run in base.runs}
    by_place = [run.loss for run in base.runs]
    for place, run in enumerate(variant.runs):
        is_again = variant.name.startswith(AGAIN) and place < len(by_place)
        theirs = by_place[place] if is_again else by_seed.get(run.seed)
        if run.loss is not None and theirs is not None:
            yield run.seed, run.loss - theirs, place in difference.outliers


def by_seed(comparison: Comparison, name: str = "seeds") -> Picture | None:
    """The differences of all seeds with their intervals; None if there are none.

    Args:
        comparison: The comparison.
        name: A name that no other picture of the page has.
    """
    rows, settings = rows_of(comparison), comparison.settings
    if not rows:
        return None
    with drawing():
        figure, axes = canvas(7, 1.5 + 0.62 * len(rows))
        axes.axvspan(-settings.delta, settings.delta, color=INK, alpha=0.07, lw=0, label=f"±{as_typed(settings.delta)} (δ)")
        axes.axvline(0, color=INK, lw=1)
        if comparison.noise is not None:
            label = f"smallest difference that {count(comparison.noise.seeds, 'seed')} find"
            for place, smallest in enumerate((-comparison.noise.smallest, comparison.noise.smallest)):
                axes.axvline(smallest, color=INK, lw=1, ls="--", alpha=0.7, label=None if place else label)
        for place, row in enumerate(rows):
            _draw(axes, place, row)
        _explain(axes, rows)
        axes.set_yticks(range(len(rows)), [plain(row.name) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(f"difference to {plain(comparison.base.name)}, {UNITS[settings.unit]} (left is better)")
        axes.grid(axis="y", visible=False)
        legend(figure, axes)
        alternative = "Difference of each variant to the base, for each seed, with 95 % intervals over seeds and over text."
        return Picture.of("Difference of each variant to the base", svg(figure, name, alternative), _seed_table(comparison))


def _draw(axes: Axes, place: int, row: Row) -> None:
    colour, difference = look(row.index)[0], row.difference
    for bounds, width in ((difference.interval, 1.2), (difference.plain_interval, 3.5)):
        ends = [bound for bound in bounds if bound is not None]
        axes.plot(ends, [place] * len(ends), color=colour, lw=width, solid_capstyle="butt")
    axes.plot([difference.mean], [place], "o", color=colour, ms=6)
    for is_outlier, marker in ((False, "o"), (True, "X")):
        values = [value for _, value, is_far in row.seeds if is_far == is_outlier]
        axes.plot(values, [place - _ABOVE] * len(values), marker, color=colour, ms=7 if is_outlier else 4, alpha=0.75, mew=0)
    if difference.text_interval is not None and difference.text_interval.bounds is not None:
        axes.plot(difference.text_interval.bounds, [place + _BELOW] * 2, ":|", color=colour, lw=1.5, ms=7)


def _explain(axes: Axes, rows: list[Row]) -> None:
    """Entries of the legend, without data, for the marks that the rows have."""
    differences = [row.difference for row in rows]
    if any(difference.family > 1 for difference in differences):
        axes.plot([], [], "-", color=INK, lw=1.2, label="95 % interval over seeds, joint")
        axes.plot([], [], "-", color=INK, lw=3.5, label="the same, this variant only")
    else:
        axes.plot([], [], "-o", color=INK, lw=3.5, ms=6, label="mean, 95 % interval over seeds")
    axes.plot([], [], "o", color=INK, ms=4, alpha=0.75, mew=0, label="a seed")
    if any(is_far for row in rows for *_, is_far in row.seeds):
        axes.plot([], [], "X", color=INK, ms=7, alpha=0.75, mew=0, label="a seed far from the others")
    if any(difference.text_interval and difference.text_interval.bounds for difference in differences):
        axes.plot([], [], ":|", color=INK, lw=1.5, ms=7, label="95 % interval over text")


def _seed_table(comparison: Comparison) -> Table:
    delta = comparison.settings.delta
    rows = [
        (row.name, f"{seed}", shown_difference(value, delta), "far from the others" if is_far else "")
        for row in rows_of(comparison)
        for seed, value, is_far in row.seeds
    ]
    return Table("Difference of each seed", ("variant", "seed", "difference", "remark"), tuple(rows))


def by_block(comparison: Comparison) -> Picture | None:
    """The differences in each block of the validation text, in the order of the text; None if none was measured."""
    measured = [
        (row, interval) for row in rows_of(comparison) if (interval := row.difference.text_interval) and interval.blocks
    ]
    if not measured:
        return None
    with drawing():
        columns = min(2, len(measured))
        lines = math.ceil(len(measured) / columns)
        figure = Figure(figsize=(7, 0.5 + 2.1 * lines), layout="constrained")
        figure.patch.set_alpha(0)
        for number, (row, interval) in enumerate(measured, 1):
            axes, colour = panel(figure, lines, columns, number), look(row.index)[0]
            if interval.bounds is not None:
                axes.axhspan(*interval.bounds, color=colour, alpha=0.2, lw=0)
            axes.axhline(0, color=INK, lw=1)
            axes.plot(range(1, len(interval.blocks) + 1), interval.blocks, "o", color=colour, ms=2.5, mew=0)
            axes.set_title(plain(row.name), fontsize=10)
            low, high = axes.get_ylim()  # differences that are all far below delta would look large otherwise
            axes.set_ylim(min(low, -comparison.settings.delta), max(high, comparison.settings.delta))
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        figure.supxlabel("block of the validation text", color=INK, fontsize=10)
        figure.supylabel("difference", color=INK, fontsize=10)
        alternative = "Difference to the base in each block of the validation text; the band is the 95 % interval over text."
        table = _block_table(comparison)
        return Picture.of("Difference in each block of the validation text", svg(figure, "blocks", alternative), table)


def _block_table(comparison: Comparison) -> Table:
    delta, rows = comparison.settings.delta, []
    for row in rows_of(comparison):
        interval = row.difference.text_interval
        if interval is not None and interval.blocks:
            blocks = interval.blocks
            values = (min(blocks), statistics.median(blocks), max(blocks))
            shown = UNKNOWN if interval.bounds is None else shown_interval(interval.bounds, delta)
            better = f"{sum(block < 0 for block in blocks) / len(blocks):.0%}"
            rows.append((row.name, interval.described, *(shown_difference(value, delta) for value in values), better, shown))
    columns = ("variant", "blocks", "lowest", "median", "highest", "better in", "95 % interval over text")
    return Table("Differences over the text", columns, tuple(rows))
