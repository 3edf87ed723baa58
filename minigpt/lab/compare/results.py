"""From finished cells to what can be said: losses, paired differences, verdicts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt.errors import count
from minigpt.lab.compare.grid import Cell
from minigpt.lab.compare.times import share_of_others
from minigpt.lab.compare.variants import Unit, Variant, tokens_of
from minigpt.lab.cost import Cost
from minigpt.lab.rounding import as_typed
from minigpt.lab.statistics import FEWEST, Verdict, verdicts
from minigpt.run import RunFolder
from minigpt.run.status import Status

COLUMN = {"nats": "val_loss", "bits-per-byte": "val_bits_per_byte"}


@dataclass(frozen=True)
class Spread:
    """Something measured several times: its median, and from where to where it goes."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """From the smallest to the largest; None of nothing."""
        return cls(statistics.median(values), min(values), max(values)) if values else None

    def shown(self, form: Callable[[float], str]) -> str:
        """`45 s (41 s to 52 s)`; the median alone where the ends look like it."""
        median, low, high = form(self.median), form(self.low), form(self.high)
        return median if low == median == high else f"{median} ({low} to {high})"


@dataclass(frozen=True)
class Result:
    """A cell's outcome.

    Attributes:
        seed: Of the cell.
        outcome: How its run stands.
        run: The run folder.
        message: Of what went wrong, or of what the run was continued with.
        loss: After the last update, in the comparison's unit.
        best: The best of all evaluations.
        seconds: Of training.
        tokens_per_second: Median over updates.
        speed_quartiles: Of tokens/s over updates.
        others: What other processes took of the machine's processors meanwhile, as a part; None where that is not known.
        machine: Processor, device and threads.
        precision: `fp32` or `bf16`.
        code: Fingerprint of minigpt's model and training code that trained it, and torch's version.
        parts: Each part of the experiment, with the fingerprint of its source.
        position_loss: By place in the window, in nats.
    """

    seed: int
    outcome: Status
    run: str
    message: str = ""
    loss: float | None = None
    best: float | None = None
    seconds: float | None = None
    tokens_per_second: float | None = None
    speed_quartiles: tuple[float, float] | None = None
    others: float | None = None
    machine: str | None = None
    precision: str | None = None
    code: str | None = None
    parts: tuple[tuple[str, str], ...] = ()
    position_loss: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class VariantResult:
    """A variant over its seeds.

    Attributes:
        variant: What was trained.
        cost: What its model takes.
        results: One a seed.
        verdict: Against the base; None for the base itself, and where there is no pair.
        why: Why there is no verdict, where there is none.
    """

    variant: Variant
    cost: Cost
    results: tuple[Result, ...]
    verdict: Verdict | None = None
    why: str = ""

    @property
    def losses(self) -> list[float]:
        """Of the finished seeds."""
        return [result.loss for result in self.results if result.loss is not None]

    @property
    def mean(self) -> float | None:
        """Mean loss over finished seeds."""
        return statistics.fmean(self.losses) if self.losses else None

    @property
    def sd(self) -> float | None:
        """Standard deviation over finished seeds; None for fewer than two."""
        return statistics.stdev(self.losses) if len(self.losses) > 1 else None

    @property
    def seconds(self) -> Spread | None:
        """Of training, over finished seeds."""
        return Spread.of([result.seconds for result in self.results if result.seconds is not None])

    @property
    def tokens_per_second(self) -> Spread | None:
        """The median over seeds, and from the lowest quartile over updates to the highest."""
        return speed_spread([vars(result) for result in self.results])

    @property
    def words(self) -> str:
        """The verdict in a line."""
        if self.verdict is None or self.why:
            return self.why or "the base"
        verdict = self.verdict
        match verdict.kind:
            case "equivalent":
                return f"equivalent within {as_typed(verdict.delta)}"
            case "cannot tell":
                seeds = verdict.seeds
                more = f"about {seeds} would" if seeds else "more than 10,000 would be needed"
                return f"cannot tell at {verdict.paired.n} seeds; {more}"
            case kind:
                return kind


def speed_spread(runs: Sequence[Mapping[str, Any]]) -> Spread | None:
    """Of tokens/s over runs, as in comparison.json, and over the updates of each."""
    speeds = [run["tokens_per_second"] for run in runs if run["tokens_per_second"] is not None]
    quartiles = [bound for run in runs if run["speed_quartiles"] is not None for bound in run["speed_quartiles"]]
    return Spread(statistics.median(speeds), min(quartiles), max(quartiles)) if speeds else None


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def read_result(cell: Cell, unit: Unit) -> Result:
    """A cell's outcome, from its record and its run."""
    record = cell.outcome()
    if record is None:
        return Result(cell.seed, cell.status(), str(cell.run.path))
    if record.outcome is not Status.FINISHED:
        return Result(cell.seed, record.outcome, record.run, message=record.message)
    return result_of(RunFolder(Path(record.run)), cell.seed, unit, record.position_loss)


def result_of(run: RunFolder, seed: int, unit: Unit, position_loss: tuple[float | None, ...] = ()) -> Result:
    """What a run's own records show; of one that has not come to its end, as far as it has come."""
    recorded, rows = run.provenance(), run.rows()
    measured = [value for row in rows if (value := getattr(row, COLUMN[unit])) is not None]
    speeds, machine = [row.tokens_per_second for row in rows], recorded.machine
    return Result(
        seed,
        run.status(),
        str(run.path),
        message="; ".join(f"continued with changes {line}" for line in run.later_segments()),
        loss=measured[-1] if measured else None,
        best=min(measured, default=None),
        seconds=rows[-1].seconds if rows else None,
        tokens_per_second=statistics.median(speeds) if speeds else None,
        speed_quartiles=_quartiles(speeds) if speeds else None,
        others=share_of_others(rows, machine.cores),
        machine=f"{machine.processor}, {machine.device}, {count(machine.threads, 'thread')}",
        precision=recorded.precision,
        code=f"{recorded.core[:12]} on torch {recorded.versions.torch}",
        parts=tuple(sorted((each.component, each.sha256 or "") for each in recorded.components)),
        position_loss=position_loss,
    )


def judge(
    variants: Sequence[Variant], costs: Sequence[Cost], cells: Sequence[Cell], *, unit: Unit, delta: float
) -> list[VariantResult]:
    """Results of all variants, the base first, with a verdict on each variant that allows one.

    A variant with a seed that diverged or crashed gets no verdict on its loss: to leave the seed out would judge it by its
    better half.
    """
    found = [
        VariantResult(variant, cost, tuple(read_result(cell, unit) for cell in cells if cell.variant is variant))
        for variant, cost in zip(variants, costs, strict=True)
    ]
    base, *others = found
    failed = _failed(base)
    reasons = [f"no verdict: of the base {failed}" if failed else _failed(other) for other in others]
    judged = [other for other, reason in zip(others, reasons, strict=True) if not reason]
    differences = [_differences(base, other) for other in judged]
    answers = iter(verdicts(differences, delta) if differences else [])
    results = [base]
    for other, reason in zip(others, reasons, strict=True):
        verdict = None if reason else next(answers)
        why = reason
        if verdict is not None and verdict.kind == "no verdict":
            number = verdict.paired.n
            why = f"no verdict: {number} seed{'s' * (number != 1)} cannot show how much chance there is; {FEWEST} can"
        results.append(VariantResult(other.variant, other.cost, other.results, verdict, why))
    return results


def family_size(results: Sequence[VariantResult]) -> int:
    """Variants that are judged together: those with a verdict, which is what intervals and p-values are corrected for."""
    return sum(result.verdict is not None and result.verdict.kind != "no verdict" for result in results)


def _failed(result: VariantResult) -> str:
    """What went wrong with a variant's seeds, or nothing."""
    parts = []
    for outcome in (status for status in Status if status is not Status.FINISHED):
        seeds = [str(each.seed) for each in result.results if each.outcome == outcome]
        if seeds:
            parts.append(f"{outcome} with seed {', '.join(seeds)}" if len(seeds) < len(result.results) else outcome)
    return "; ".join(parts)


def _differences(base: VariantResult, variant: VariantResult) -> list[float]:
    ours = {result.seed: result.loss for result in variant.results}
    return [ours[result.seed] - result.loss for result in base.results]  # type: ignore[operator]  # all have finished


def to_json(results: Sequence[VariantResult], settings: dict[str, Any]) -> dict[str, Any]:
    """Everything, for machines and for the report."""
    return {**settings, "variants": [_variant_json(result) for result in results]}


def _variant_json(result: VariantResult) -> dict[str, Any]:
    verdict = result.verdict
    return {
        "name": result.variant.name,
        "source": result.variant.source,
        "description": result.variant.experiment.description,
        "adjusted": list(result.variant.adjusted),
        "experiment": result.variant.experiment.to_json(),
        "tokens": tokens_of(result.variant.experiment),
        "training_flops": result.cost.train_flops * tokens_of(result.variant.experiment),
        "cost": result.cost.to_json(),
        "mean": result.mean,
        "sd": result.sd,
        "verdict": result.words,
        "difference": None
        if verdict is None
        else {
            "kind": verdict.kind,
            "n": verdict.paired.n,
            "mean": verdict.paired.mean,
            "sd": verdict.paired.sd,
            "interval": _bounds(verdict.interval),
            "plain_interval": _bounds(verdict.plain_interval),
            "family": verdict.family,
            "p": verdict.p,
            "p_equivalent": verdict.p_equivalent,
            "effect": verdict.paired.effect,
            "seeds_needed": verdict.seeds if verdict.kind == "cannot tell" else None,
        },
        "runs": [
            {**vars(each), "position_loss": list(each.position_loss), "parts": dict(each.parts)} for each in result.results
        ],
    }


def _bounds(interval: tuple[float, float]) -> list[float | None]:
    return [bound if math.isfinite(bound) else None for bound in interval]
