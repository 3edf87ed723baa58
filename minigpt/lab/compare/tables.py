"""A comparison as tables for the terminal, pull requests (Markdown), spreadsheets (CSV) and the HTML page."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from minigpt.errors import count
from minigpt.lab.compare.conclusion import conclusion
from minigpt.lab.compare.matching import TOLERANCE
from minigpt.lab.compare.noise import AGAIN, noise_notes
from minigpt.lab.compare.over_text import notes_on_text
from minigpt.lab.compare.record import Comparison, VariantResult
from minigpt.lab.compare.times import why_not_comparable
from minigpt.lab.compare.tuned import tuning_notes
from minigpt.lab.compare.variants import UNITS
from minigpt.lab.statistics import ALPHA
from minigpt.numbers import (
    UNKNOWN,
    duration_of,
    shown_difference,
    shown_interval,
    shown_loss,
    shown_probability,
    shown_speed,
    shown_whole,
)
from minigpt.printable import as_markdown, as_spreadsheet
from minigpt.run.status import Status


@dataclass(frozen=True)
class Table:
    """Rows of text under a title. The first column contains words, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """The table in GitHub's Markdown."""
        lines = [" | ".join(self.columns), " | ".join(["---", *["---:"] * (len(self.columns) - 1)])]
        lines += [" | ".join([as_markdown(row[0]), *row[1:]]) for row in self.rows]
        return "\n".join(f"| {line} |" for line in lines)


@dataclass(frozen=True)
class Column:
    """A table column with one cell for each variant.

    Attributes:
        title: The heading.
        cell: Returns a variant's cell.
        in_full: Whether only the full table, the one on the page, has this column.
    """

    title: str
    cell: Callable[[VariantResult], str]
    in_full: bool = False


def _table(title: str, columns: Sequence[Column], variants: Sequence[VariantResult], *, full: bool) -> Table:
    kept = [column for column in columns if full or not column.in_full]
    rows = tuple(tuple(column.cell(variant) for column in kept) for variant in variants)
    return Table(title, tuple(column.title for column in kept), rows)


def verdict_table(comparison: Comparison, *, full: bool = False) -> Table:
    """A table of losses, paired differences with their intervals, and verdicts."""
    delta = comparison.settings.delta

    def difference(variant: VariantResult) -> str:
        return UNKNOWN if variant.difference is None else shown_difference(variant.difference.mean, delta)

    def interval(variant: VariantResult) -> str:
        return UNKNOWN if variant.difference is None else shown_interval(variant.difference.interval, delta)

    def plain_interval(variant: VariantResult) -> str:
        return UNKNOWN if variant.difference is None else shown_interval(variant.difference.plain_interval, delta)

    def text(variant: VariantResult) -> str:
        over = None if variant.difference is None else variant.difference.text_interval
        return UNKNOWN if over is None or over.bounds is None else shown_interval(over.bounds, delta)

    differences = [variant.difference for variant in comparison.variants if variant.difference is not None]
    has_text = any(each.text_interval is not None and each.text_interval.bounds for each in differences)

    def p(variant: VariantResult) -> str:
        paired = variant.difference
        return UNKNOWN if paired is None or not paired.has_interval else shown_probability(paired.p, ALPHA)

    def effect(variant: VariantResult) -> str:
        paired = variant.difference
        return UNKNOWN if paired is None or paired.effect is None else f"{paired.effect:+.2f}"

    columns = (
        Column("variant", lambda variant: variant.name),
        Column(f"loss, {UNITS[comparison.settings.unit]}", lambda variant: shown_loss(variant.mean, variant.sd)),
        Column("difference", difference),
        Column(interval_name(comparison.family), interval),
        Column("95 % interval, this variant only", plain_interval, in_full=True),
        Column("95 % interval over text", text, in_full=not has_text),
        Column("p", p),
        Column("effect size", effect, in_full=True),
        Column("verdict", lambda variant: variant.verdict),
    )
    table = _table("Are the variants better than the base?", columns, comparison.variants, full=full)
    unknown = (UNKNOWN,) * (len(table.columns) - 2)
    failed = tuple((variant.name, *unknown, Status.CRASHED) for variant in comparison.failed)
    return Table(table.title, table.columns, table.rows + failed)


def interval_name(family: int) -> str:
    """The heading of the intervals that the verdicts follow from."""
    return "95 % interval" if family < 2 else f"95 % interval, joint for {family} variants"


def basis(comparison: Comparison) -> str:
    """How the losses, differences and intervals were computed, in one sentence."""
    family = comparison.family
    words = "losses are measured over the whole validation split after the last update; "
    words += f"differences (variant minus base) are paired over {_seeds(comparison)}"
    if family < 2:
        return words
    return f"{words}; intervals and p-values are corrected for {family} variants (Bonferroni): all intervals hold jointly"


def _seeds(comparison: Comparison) -> str:
    """The number of seeds; a range if variants have different numbers."""
    numbers = sorted(len(variant.runs) for variant in comparison.variants)
    return f"{numbers[0]} to " * (numbers[0] < numbers[-1]) + count(numbers[-1], "seed")


def cost_table(comparison: Comparison, *, full: bool = False) -> Table:
    """A table of each variant's costs, with the ratio to the base where they differ by more than 1 %."""
    base = comparison.base

    def training(variant: VariantResult) -> str:
        seconds = variant.seconds
        return UNKNOWN if seconds is None else seconds.shown(duration_of(seconds.median))

    def speed(variant: VariantResult) -> str:
        speeds = variant.tokens_per_second
        return UNKNOWN if speeds is None else speeds.shown(shown_speed)

    def training_flops(variant: VariantResult) -> str:
        return UNKNOWN if variant.training_flops is None else f"{variant.training_flops:.3e}"

    columns = (
        Column("variant", lambda variant: variant.name),
        Column("parameters", lambda variant: _beside(variant.cost.total, base.cost.total)),
        Column("active parameters", lambda variant: shown_whole(variant.cost.active), in_full=True),
        Column("training FLOPs per token", lambda variant: _beside(variant.cost.train_flops, base.cost.train_flops)),
        Column("training FLOPs in total", training_flops, in_full=True),
        Column("training tokens", lambda variant: _beside(variant.tokens, base.tokens)),
        Column("activations, bytes per token", lambda variant: shown_whole(variant.cost.activation_bytes), in_full=True),
        Column("decoding state, bytes per token", lambda variant: shown_whole(variant.cost.state_bytes_token), in_full=True),
        Column(
            f"decoding state after {base.cost.context:,} tokens, bytes",
            lambda variant: _beside(variant.cost.state_bytes, base.cost.state_bytes),
        ),
        Column("training time", training),
        Column("tokens/s", speed),
    )
    title = "What it costs (1.25× means 1.25 times the base; shown if they differ by more than 1 %)"
    return _table(title, columns, comparison.variants, full=full)


def csv_text(comparison: Comparison) -> str:
    """The runs as CSV, one row per run."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(csv_rows(comparison))
    return stream.getvalue()


def csv_rows(comparison: Comparison) -> Iterator[list[object]]:
    """The header, and a row for each run."""
    columns = ("outcome", "loss", "best", "seconds", "tokens_per_second", "others", "precision", "run", "message")
    yield ["variant", "seed", *columns]
    for variant, run in comparison.runs:
        values = [variant.name, run.seed, *(getattr(run, column) for column in columns)]
        yield [as_spreadsheet(value) if isinstance(value, str) else value for value in values]


def markdown_text(comparison: Comparison) -> str:
    """The conclusion, tables and notes in Markdown, for a pull request."""
    tables = [verdict_table(comparison), cost_table(comparison)]
    parts = [as_markdown(sentence) for sentence in conclusion(comparison)]
    parts += [f"**{table.title}**\n\n{table.markdown()}" for table in tables]
    return "\n\n".join(parts) + "\n\n" + "\n".join(f"- {as_markdown(note)}" for note in notes(comparison)) + "\n"


def notes(comparison: Comparison) -> list[str]:
    """Notes to the tables, one per line: the method, differences between the runs, and failures."""
    lines = remarks(comparison) + [f"{variant.name}: {variant.message}" for variant in comparison.failed]
    return lines + [f"{variant.name}, seed {run.seed}: {run.message}" for variant, run in comparison.runs if run.message]


def remarks(comparison: Comparison) -> list[str]:
    """The notes without the failures."""
    tuned = tuning_notes([(variant.name, variant.tuning) for variant in comparison.variants])
    lines = [basis(comparison), *tuned, *noise_notes(comparison), *looking_notes(comparison), *cautions(comparison)]
    return [*lines, *notes_on_text(comparison), *_survival(comparison), *unequal(comparison)]


def looking_notes(comparison: Comparison) -> list[str]:
    """What holds if one looks more than once: the intervals of added seeds, or a warning before seeds are added."""
    named = [(variant.name, variant.difference) for variant in comparison.variants if not variant.name.startswith(AGAIN)]
    known = [(name, difference) for name, difference in named if difference is not None]
    if comparison.settings.looking:
        numbers = ", ".join(f"{name} {difference.n}" for name, difference in known)
        return [
            f"seeds were added one at a time while a verdict was missing ({numbers or 'no verdict'}): the intervals hold "
            "however often one looks"
        ]
    if all(difference.kind != "cannot tell" for _, difference in known):
        return []
    n = len(comparison.settings.seeds)
    return [
        "adding seeds after looking at this result makes false verdicts more frequent than 5 %; "
        f"--seeds {n}..{4 * n} adds them until there is a verdict, with intervals that hold however often one looks"
    ]


def cautions(comparison: Comparison) -> list[str]:
    """The variants whose differences resemble those that give false verdicts, one per line."""
    known = ((variant.name, variant.difference) for variant in comparison.variants)
    return [f"{name}: {difference.caution}" for name, difference in known if difference and difference.caution]


def _survival(comparison: Comparison) -> list[str]:
    """For each variant that differs, whether it still does considering how often was asked, one per line."""
    differing = [
        (variant.name, variant.difference.asked, variant.difference.kind)
        for variant in comparison.variants
        if variant.difference is not None and variant.difference.kind in ("better", "worse")
    ]
    return [f"{name}: {kind}; it {asked.in_words}" for name, asked, kind in differing if asked is not None]


def unequal(comparison: Comparison) -> list[str]:
    """Unintended differences between the variants' runs, one per line."""
    lines = [f"{variant.name}: {note}" for variant in comparison.variants for note in variant.adjusted]
    precisions = {run.precision for _, run in comparison.runs if run.precision}
    if len(precisions) > 1:
        lines.append(f"precisions differ: {', '.join(sorted(precisions))}; set training.precision in all experiments")
    code = {run.code for _, run in comparison.runs if run.code}
    if len(code) > 1:
        lines.append(f"the runs were trained by different code: {'; '.join(sorted(code))}")
    lines += [f"the source of {part} differs between the runs" for part in _differing_parts(comparison)]
    why = why_not_comparable(comparison.variants)
    if why:
        lines.append(f"seconds and tokens/s of the variants cannot be compared, because {why}")
    return lines


def _differing_parts(comparison: Comparison) -> list[str]:
    """Parts that have the same name in several runs, but not the same source."""
    sources = {part for _, run in comparison.runs for part in run.parts.items()}
    names = [name for name, _ in sources]
    return sorted({name for name in names if names.count(name) > 1})


def _beside(value: int | None, base: int | None) -> str:
    if value is None or not base or abs(value - base) <= TOLERANCE * base:
        return shown_whole(value)
    return f"{value:,} ({value / base:.2f}×)"
