"""Write a comparison as one HTML file: no script, no network access, and a table for every figure."""

from __future__ import annotations

from pathlib import Path

import jinja2
from markupsafe import Markup

from minigpt import __version__
from minigpt.lab.compare.conclusion import found, not_shown
from minigpt.lab.compare.record import RunResult, VariantResult
from minigpt.lab.compare.spread import Spread
from minigpt.lab.compare.tables import Table, cost_table, remarks, unequal, verdict_table
from minigpt.lab.compare.variants import UNITS
from minigpt.lab.report import figures
from minigpt.lab.report.canvas import Picture, look
from minigpt.lab.report.content import Content
from minigpt.lab.report.differences import by_block, by_seed
from minigpt.lab.report.sensitivity import of_tuning
from minigpt.numbers import (
    UNKNOWN,
    as_typed,
    shown_difference,
    shown_interval,
    shown_loss,
    shown_share,
    shown_speed,
)
from minigpt.printable import printable
from minigpt.system.files import write_bytes, write_output

_AXES: tuple[tuple[figures.Axis, str], ...] = (
    ("tokens", "training tokens"),
    ("flops", "training FLOPs"),
    ("seconds", figures.SECONDS),
)


def write_report(content: Content, file: Path, *, is_named: bool = False) -> None:
    """Write the page. If writing fails, an existing file stays as it was.

    Args:
        content: What the page shows.
        file: The page.
        is_named: Whether a person named the file: then a link is followed. Otherwise it is replaced.
    """
    comparison = content.comparison
    settings, sentences = comparison.settings, found(comparison)
    write_page(
        "comparison.html.j2",
        file,
        is_named=is_named,
        comparison=comparison,
        content=content,
        found=sentences,
        not_shown=not_shown(comparison) if sentences else "",
        unit=UNITS[settings.unit],
        delta=as_typed(settings.delta),
        headlines=[_headline(variant, settings.delta) for variant in comparison.variants],
        verdicts=_without_line_breaks(verdict_table(comparison, full=True)),
        notes=remarks(comparison) if sentences else unequal(comparison),
        seeds=by_seed(comparison),
        blocks=by_block(comparison),
        tuning=of_tuning(comparison),
        curves=[
            Picture.of(f"Loss against {label}", figures.curves(content, axis, label), _curve_table(content, axis, label))
            for axis, label in _AXES
            if axis != "seconds" or content.why_no_times is None
        ],
        why_no_times=content.why_no_times,
        position=Picture.of("Validation loss by position", figures.by_position(content), _position_table(content)),
        cost=Picture.of(
            "Validation loss against cost", figures.against_cost(content, _costs(content)), cost_table(comparison, full=True)
        ),
        runs=_run_table(content),
        troubles=_problems(content),
        provenance=_provenance_table(content),
        colours=[_css_colour(index) for index in range(len(content.variants))],
    )


def write_page(template: str, file: Path, *, is_named: bool, **values: object) -> None:
    """Write a page from one of the templates. If writing fails, an existing file stays as it was."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("minigpt.lab.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_without_controls,
    )
    page = environment.get_template(template).render(version=__version__, **values)
    (write_output if is_named else write_bytes)(file, page.encode("utf-8"))


def _problems(content: Content) -> list[tuple[str, str]]:
    """Variants or runs with a problem, each with its message. Seeds with the same message share one entry."""
    problems = [(f"{variant.name}, {variant.source}", variant.message) for variant in content.comparison.failed]
    for variant in content.comparison.variants:
        seeds: dict[str, list[str]] = {}
        for run in variant.runs:
            if run.message:
                seeds.setdefault(run.message, []).append(str(run.seed))
        problems += [
            (f"{variant.name}, seed{'s' * (len(each) > 1)} {', '.join(each)}", message) for message, each in seeds.items()
        ]
    return problems


def _without_controls(value: object) -> object:
    """A text without control characters, which HTML does not allow. Our own markup is returned unchanged."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _css_colour(index: int) -> str:
    return "currentColor" if index == 0 else look(index)[0]


def _headline(variant: VariantResult, delta: float) -> str:
    """The number below a variant's name: its difference with the joint interval, or its loss."""
    difference = variant.difference
    if difference is None or not difference.has_interval:
        return "" if variant.mean is None else shown_loss(variant.mean)
    return f"{shown_difference(difference.mean, delta)} ({shown_interval(difference.interval, delta)})"


def _without_line_breaks(table: Table) -> Table:
    """The table with non-breaking spaces in its numbers. Names and verdicts may still wrap."""
    rows = [
        (first, *(cell.replace(" ", "\N{NO-BREAK SPACE}") for cell in cells), last) for first, *cells, last in table.rows
    ]
    return Table(table.title, table.columns, tuple(rows))


def _curve_table(content: Content, axis: figures.Axis, label: str) -> Table:
    rows = []
    for variant in content.variants:
        curve, places = variant.validation, figures.along(variant.validation, axis)
        if curve is None or places is None:
            continue
        for place, low, mean, high in zip(places, curve.low, curve.mean, curve.high, strict=True):
            shown_place = f"{place:,.4g}" if place < 1e6 else f"{place:.4g}"
            rows.append((variant.name, shown_place, *map(shown_loss, (mean, low, high))))
    return Table(f"Validation loss against {label}", ("variant", label, "mean", "lowest seed", "highest seed"), tuple(rows))


def _position_table(content: Content) -> Table:
    """The loss at the positions that are powers of two."""
    variants = [variant for variant in content.variants if variant.position]
    length = max((len(variant.position) for variant in variants), default=0)
    places = [2**power for power in range(length.bit_length()) if 2**power <= length]
    rows = []
    for place in places:
        values = [variant.position[place - 1] if place <= len(variant.position) else None for variant in variants]
        rows.append((f"{place:,}", *map(shown_loss, values)))
    return Table("Validation loss at some positions", ("position", *(variant.name for variant in variants)), tuple(rows))


def _costs(content: Content) -> list[tuple[str, list[Spread | None]]]:
    """The costs of each variant. Seconds are included only if they can be compared."""
    variants = content.comparison.variants
    state = f"decoding state after {variants[0].cost.context:,} tokens, bytes"
    return [
        ("parameters", [_counted(variant.cost.total) for variant in variants]),
        ("training FLOPs", [_counted(variant.training_flops) for variant in variants]),
        *([] if content.why_no_times else [(figures.SECONDS, [variant.seconds for variant in variants])]),
        (state, [_counted(variant.cost.state_bytes) for variant in variants]),
    ]


def _counted(number: float | None) -> Spread | None:
    """A counted number, which has no spread; None if it is unknown because the model's plugins were not executed."""
    return None if number is None else Spread.of([number])


def _run_table(content: Content) -> Table:
    columns = (
        "run",
        "outcome",
        "loss after last update",
        "lowest loss",
        "training, s",
        "tokens/s",
        "processors used by other processes",
        "precision",
        "trained model",
        "folder",
    )
    rows = (
        _run_row(variant.result, run, stamp)
        for variant in content.variants
        for run, stamp in zip(variant.result.runs, variant.stamps, strict=True)
    )
    return Table("All runs", columns, tuple(rows))


def _run_row(variant: VariantResult, run: RunResult, stamp: str) -> tuple[str, ...]:
    return (
        f"{variant.name}, seed {run.seed}",
        run.outcome,
        shown_loss(run.loss),
        shown_loss(run.best),
        UNKNOWN if run.seconds is None else f"{run.seconds:,.1f}",
        UNKNOWN if run.tokens_per_second is None else shown_speed(run.tokens_per_second),
        shown_share(run.others),
        run.precision or UNKNOWN,
        stamp or UNKNOWN,
        run.run,
    )


def _provenance_table(content: Content) -> Table:
    rows = [
        (
            variant.name,
            origin.started,
            origin.versions,
            origin.machine,
            origin.code[:12],
            origin.data[:12],
            origin.commit or UNKNOWN,
        )
        for variant in content.variants
        if (origin := variant.origin) is not None
    ]
    columns = ("variant", "start of its first run", "versions", "machine", "code", "data", "git commit")
    return Table("Where the first run of each variant was trained, and from what", columns, tuple(rows))
