"""A comparison as tables: for the terminal, for a pull request, for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minigpt.errors import count
from minigpt.lab.compare.results import VariantResult, family_size
from minigpt.lab.compare.times import why_not_comparable
from minigpt.lab.compare.variants import TOLERANCE, FailedVariant, Unit, tokens_of
from minigpt.lab.rounding import shown_difference, shown_interval, shown_probability
from minigpt.printable import as_markdown, as_spreadsheet
from minigpt.run.status import Status

UNITS = {"nats": "nats a token", "bits-per-byte": "bits a byte"}


@dataclass(frozen=True)
class Table:
    """Rows of text under a title; the first column is words, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """As GitHub shows it."""
        lines = [" | ".join(self.columns), " | ".join(["---", *["---:"] * (len(self.columns) - 1)])]
        lines += [" | ".join([as_markdown(row[0]), *row[1:]]) for row in self.rows]
        return "\n".join(f"| {line} |" for line in lines)


def verdict_table(results: Sequence[VariantResult], unit: Unit, lost: Sequence[FailedVariant] = ()) -> Table:
    """The answer: losses, paired differences with their intervals, verdicts."""
    rows = []
    for result in results:
        verdict = result.verdict
        difference = interval = p = "–"
        if verdict is not None:
            difference = shown_difference(verdict.paired.mean, verdict.delta)
            if verdict.kind != "no verdict":
                interval, p = shown_interval(verdict.interval, verdict.delta), shown_probability(verdict.p)
        rows.append((result.variant.name, _spread(result), difference, interval, p, result.words))
    rows += [(variant.name, "–", "–", "–", "–", Status.CRASHED) for variant in lost]
    columns = ("variant", f"loss, {UNITS[unit]}", "difference", interval_name(family_size(results)), "p", "verdict")
    return Table("Is it better than the base?", columns, tuple(rows))


def interval_name(family: int) -> str:
    """Of the intervals that the verdicts are read from."""
    return "95 % interval" if family < 2 else f"95 % interval, all {family} together"


def basis(results: Sequence[VariantResult]) -> str:
    """What the verdicts rest on, in a sentence."""
    seeds, family = len(results[0].results), family_size(results)
    words = f"differences are paired over {count(seeds, 'seed')}"
    words += ", and the loss is of the whole validation split after the last update"
    if not family:
        return words
    together = f"all {family} variants with a verdict together" if family > 1 else "the one variant with a verdict"
    return f"{words}; intervals and p-values hold for {together} (95 %, Bonferroni)"


def cost_table(results: Sequence[VariantResult]) -> Table:
    """What each variant takes; beside the base's, where it differs by more than 1 %."""
    base = results[0]
    rows = []
    for result in results:
        cost, tokens = result.cost, tokens_of(result.variant.experiment)
        rows.append(
            (
                result.variant.name,
                _beside(cost.total, base.cost.total),
                _beside(cost.train_flops, base.cost.train_flops),
                _beside(tokens, tokens_of(base.variant.experiment)),
                _beside(cost.state_bytes, base.cost.state_bytes),
                "–" if (seconds := result.seconds) is None else seconds.shown(duration_of(seconds.median)),
                "–" if (speed := result.tokens_per_second) is None else speed.shown("{:,.0f}".format),
            )
        )
    columns = ("variant", "parameters", "FLOP a token", "tokens", f"state at {base.cost.context}", "training", "tokens/s")
    return Table("What it costs (× the base where more than 1 % apart)", columns, tuple(rows))


def csv_text(results: Sequence[VariantResult]) -> str:
    """One row a run."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = [
        "variant",
        "seed",
        "outcome",
        "loss",
        "best",
        "seconds",
        "tokens_per_second",
        "others",
        "precision",
        "run",
        "message",
    ]
    writer.writerow(columns)
    for result in results:
        for each in result.results:
            values = [result.variant.name, *(getattr(each, name) for name in columns[1:])]
            writer.writerow([as_spreadsheet(value) if isinstance(value, str) else value for value in values])
    return stream.getvalue()


def unequal(results: Sequence[VariantResult]) -> list[str]:
    """What the variants do not share and nobody asked for, in words."""
    lines = [f"{result.variant.name}: {note}" for result in results for note in result.variant.adjusted]
    precisions = {each.precision for result in results for each in result.results if each.precision}
    if len(precisions) > 1:
        lines.append(f"precisions differ: {', '.join(sorted(precisions))}; set training.precision for all")
    code = {each.code for result in results for each in result.results if each.code}
    if len(code) > 1:
        lines.append(f"the runs were trained by different code: {'; '.join(sorted(code))}")
    lines += [f"the source of {part} is not the same in all runs" for part in _differing_parts(results)]
    why = why_not_comparable({result.variant.name: [vars(each) for each in result.results] for result in results})
    if why:
        lines.append(f"seconds and tokens/s do not compare the variants: {why}")
    return lines


def _differing_parts(results: Sequence[VariantResult]) -> list[str]:
    """Parts that runs name alike and that were trained from different source."""
    sources = {part for result in results for each in result.results for part in each.parts}
    names = [name for name, _ in sources]
    return sorted({name for name in names if names.count(name) > 1})


def _spread(result: VariantResult) -> str:
    if result.mean is None:
        return "–"
    return f"{result.mean:.4f}" + ("" if result.sd is None else f" ± {result.sd:.4f}")


def _beside(value: int, base: int) -> str:
    if base == value or abs(value - base) <= TOLERANCE * base:
        return f"{value:,}"
    return f"{value:,} ({value / base:.2f}×)" if base else f"{value:,}"


def duration_of(typical: float) -> Callable[[float], str]:
    """How seconds of about that size are shown."""
    if typical >= 120:
        return lambda seconds: f"{seconds / 60:.1f} min"
    return lambda seconds: f"{seconds:.1f} s" if typical < 10 else f"{seconds:.0f} s"
