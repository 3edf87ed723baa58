"""A comparison as tables: for the terminal, for a pull request, for a spreadsheet."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from minigpt.lab.compare.arms import TOLERANCE, Lost, Unit, tokens_of
from minigpt.lab.compare.results import ArmResult
from minigpt.printable import as_markdown, as_spreadsheet

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


def verdict_table(results: Sequence[ArmResult], unit: Unit, lost: Sequence[Lost] = ()) -> Table:
    """The answer: losses, paired differences with their intervals, verdicts."""
    rows = []
    for result in results:
        verdict = result.verdict
        difference = interval = p = "–"
        if verdict is not None:
            difference = f"{verdict.paired.mean:+.4f}"
            if verdict.paired.n > 1:
                interval = f"{verdict.interval[0]:+.4f} to {verdict.interval[1]:+.4f}"
                p = _probability(verdict.p)
        rows.append((result.arm.name, _spread(result), difference, interval, p, result.words))
    rows += [(arm.name, "–", "–", "–", "–", "crashed") for arm in lost]
    columns = ("arm", f"loss, {UNITS[unit]}", "difference", "95 % interval", "p", "verdict")
    return Table("Is it better than the base?", columns, tuple(rows))


def cost_table(results: Sequence[ArmResult]) -> Table:
    """What each arm takes; beside the base's, where it differs by more than 1 %."""
    base = results[0]
    rows = []
    for result in results:
        cost, tokens = result.cost, tokens_of(result.arm.experiment)
        rows.append(
            (
                result.arm.name,
                _beside(cost.total, base.cost.total),
                _beside(cost.train_flops, base.cost.train_flops),
                _beside(tokens, tokens_of(base.arm.experiment)),
                _beside(cost.state_bytes, base.cost.state_bytes),
                _seconds(result.median("seconds")),
                _number(result.median("tokens_per_second")),
            )
        )
    columns = ("arm", "parameters", "FLOP a token", "tokens", f"state at {base.cost.context}", "training", "tokens/s")
    return Table("What it costs (× the base where more than 1 % apart)", columns, tuple(rows))


def csv_text(results: Sequence[ArmResult]) -> str:
    """One row a run."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = ["arm", "seed", "outcome", "loss", "best", "seconds", "tokens_per_second", "precision", "run", "message"]
    writer.writerow(columns)
    for result in results:
        for each in result.results:
            values = [result.arm.name, *(getattr(each, name) for name in columns[1:])]
            writer.writerow([as_spreadsheet(value) if isinstance(value, str) else value for value in values])
    return stream.getvalue()


def unequal(results: Sequence[ArmResult]) -> list[str]:
    """What the arms do not share and nobody asked for, in words."""
    lines = [f"{result.arm.name}: {note}" for result in results for note in result.arm.adjusted]
    precisions = {each.precision for result in results for each in result.results if each.precision}
    if len(precisions) > 1:
        lines.append(f"precisions differ: {', '.join(sorted(precisions))}; set training.precision for all")
    code = {each.code for result in results for each in result.results if each.code}
    if len(code) > 1:
        lines.append(f"the runs were trained by different code: {'; '.join(sorted(code))}")
    return lines


def _spread(result: ArmResult) -> str:
    if result.mean is None:
        return "–"
    return f"{result.mean:.4f}" + ("" if result.sd is None else f" ± {result.sd:.4f}")


def _probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _beside(value: int, base: int) -> str:
    if base == value or abs(value - base) <= TOLERANCE * base:
        return f"{value:,}"
    return f"{value:,} ({value / base:.2f}×)" if base else f"{value:,}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _seconds(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.1f} min"
