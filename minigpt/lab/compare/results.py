"""Compute results from finished cells: losses, paired differences, verdicts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minigpt.data import tokens_trained
from minigpt.errors import count
from minigpt.lab.compare.grid import Cell
from minigpt.lab.compare.record import Difference, RecordedCost, RunResult, VariantResult
from minigpt.lab.compare.times import share_of_others
from minigpt.lab.compare.variants import Unit, Variant
from minigpt.lab.cost import Cost
from minigpt.lab.sealed import LARGEST
from minigpt.lab.statistics import FEWEST, Verdict, verdicts
from minigpt.numbers import as_typed
from minigpt.run import RunFolder
from minigpt.run.recorded import MetricsRow
from minigpt.run.status import Status


def judge(
    variants: Sequence[Variant],
    costs: Sequence[Cost],
    cells: Sequence[Cell],
    *,
    unit: Unit,
    delta: float,
    looking: bool = False,
    family: int | None = None,
) -> list[VariantResult]:
    """The results of all variants, the base first, with a verdict where one is possible.

    A variant gets no verdict if a run with one of its seeds diverged or crashed. To leave that seed out would judge the
    variant by its better runs only.
    """
    runs = [[read_result(cell, unit) for cell in cells if cell.variant is variant] for variant in variants]
    judgements = [Judgement("the base"), *judge_runs(runs[0], runs[1:], delta, looking=looking, family=family)]
    return [
        _variant_result(variant, cost, each, judgement)
        for variant, cost, each, judgement in zip(variants, costs, runs, judgements, strict=True)
    ]


@dataclass(frozen=True)
class Judgement:
    """A verdict in words, and the statistics behind it; None if there are none."""

    words: str
    verdict: Verdict | None = None


def judge_runs(
    base: Sequence[RunResult],
    others: Sequence[Sequence[RunResult]],
    delta: float,
    *,
    looking: bool = False,
    family: int | None = None,
) -> list[Judgement]:
    """A judgement on each of the others; without a verdict if a run of it, or of the base with one of its seeds, failed.

    With `looking`, seeds are added until there is a verdict. Then the others may have different numbers of seeds, and the
    correction counts all of them, so that a run that fails later cannot change an earlier verdict. `family` is as for
    `verdicts`.
    """
    reasons = []
    for runs in others:
        failed = failed_seeds([run for run in base if run.seed in {each.seed for each in runs}])
        reasons.append(f"no verdict, because of the base: {failed}" if failed else failed_seeds(runs))
    differences = [_differences(base, runs) for runs, reason in zip(others, reasons, strict=True) if not reason]
    family = len(others) if looking and family is None else family
    answers = iter(verdicts(differences, delta, looking=looking, family=family) if differences else [])
    return [Judgement(reason) if reason else _judgement(next(answers), looking) for reason in reasons]


def _judgement(verdict: Verdict, looking: bool) -> Judgement:
    pairs = verdict.paired.n
    match verdict.kind:
        case "no verdict":
            return Judgement(
                f"no verdict: {count(pairs, 'seed')} cannot show how large chance effects are; {FEWEST} can", verdict
            )
        case "equivalent":
            return Judgement(f"equivalent within {as_typed(verdict.delta)}", verdict)
        case "cannot tell" if looking:
            return Judgement(f"cannot tell at {pairs} seeds", verdict)
        case "cannot tell":
            seeds = verdict.seeds
            more = f"{_from_to(*seeds)} would probably be enough" if seeds else "more than 10,000 would be needed"
            return Judgement(f"cannot tell at {pairs} seeds; {more}", verdict)
        case kind:
            return Judgement(kind, verdict)


def _from_to(low: int, high: int) -> str:
    return f"{low:,} to {high:,}" if low < high else f"{high:,}"


def failed_seeds(runs: Sequence[RunResult]) -> str:
    """The outcomes of a variant's unfinished or failed runs, in words; empty if all finished."""
    parts = []
    for outcome in (status for status in Status if status is not Status.FINISHED):
        seeds = [str(run.seed) for run in runs if run.outcome is outcome]
        if seeds:
            parts.append(f"{outcome} with seed {', '.join(seeds)}" if len(seeds) < len(runs) else outcome)
    return "; ".join(parts)


def _differences(base: Sequence[RunResult], variant: Sequence[RunResult]) -> list[float]:
    """The differences in loss, seed by seed. All runs have finished, so each has a loss."""
    base_losses = {run.seed: run.loss for run in base if run.loss is not None}
    return [run.loss - base_losses[run.seed] for run in variant if run.loss is not None]


def _variant_result(variant: Variant, cost: Cost, runs: Sequence[RunResult], judgement: Judgement) -> VariantResult:
    tokens = tokens_trained(variant.experiment, cost.context)
    return VariantResult(
        name=variant.name,
        source=str(variant.source),
        description=variant.experiment.description,
        adjusted=variant.adjusted,
        experiment=variant.experiment.to_json(),
        tokens=tokens,
        training_flops=cost.train_flops * tokens,
        cost=RecordedCost.of(cost),
        mean=mean_loss(runs),
        sd=sd_of_loss(runs),
        verdict=judgement.words,
        difference=None if judgement.verdict is None else difference_of(judgement.verdict),
        tuning=variant.source.tuned,
        runs=tuple(runs),
    )


def difference_of(verdict: Verdict) -> Difference:
    """The numbers of a verdict as a record; numbers that are not finite become None."""
    paired = verdict.paired
    return Difference(
        kind=verdict.kind,
        n=paired.n,
        mean=_within(paired.mean),
        sd=_known(paired.sd),
        interval=_bounds(verdict.interval),
        plain_interval=_bounds(verdict.plain_interval),
        family=verdict.family,
        p=_known(verdict.p),
        p_equivalent=_known(verdict.p_equivalent),
        effect=None if paired.effect is None else _known(paired.effect),
        seeds_needed=verdict.seeds if verdict.kind == "cannot tell" else None,
        looking=paired.looking,
        outliers=verdict.outliers,
        caution=verdict.caution,
    )


def _bounds(interval: tuple[float, float]) -> tuple[float | None, float | None]:
    """Both ends of an interval; None for both if there are too few seeds."""
    low, high = interval
    return (_within(low), _within(high)) if math.isfinite(low) and math.isfinite(high) else (None, None)


def _within(number: float) -> float:
    """The number, clamped to the range that the record allows."""
    return max(-LARGEST, min(number, LARGEST))


def _known(number: float) -> float | None:
    return number if math.isfinite(number) and abs(number) <= LARGEST else None


def mean_loss(runs: Sequence[RunResult]) -> float | None:
    """The mean loss of the runs that have one; None if no run has one."""
    losses = [run.loss for run in runs if run.loss is not None]
    return _known(statistics.fmean(losses)) if losses else None


def sd_of_loss(runs: Sequence[RunResult]) -> float | None:
    """The standard deviation of the runs' losses; None for fewer than two."""
    losses = [run.loss for run in runs if run.loss is not None]
    return _known(statistics.stdev(losses)) if len(losses) > 1 else None


def read_result(cell: Cell, unit: Unit) -> RunResult:
    """The result of a cell, from its record and its run."""
    record = cell.outcome()
    if record is None:
        return RunResult(seed=cell.seed, outcome=cell.status(), run=str(cell.run.path))
    if record.outcome is not Status.FINISHED:
        return RunResult(seed=cell.seed, outcome=record.outcome, run=record.run, message=record.message)
    return result_of(RunFolder(Path(record.run)), cell.seed, unit, record.position_loss)


def result_of(run: RunFolder, seed: int, unit: Unit, position_loss: tuple[float | None, ...] = ()) -> RunResult:
    """A result from a run's own records, up to its last update if the run is not finished."""
    recorded, rows = run.provenance(), run.rows()
    outcome = run.status()
    losses = [validation_loss(row, unit) for row in rows if outcome is not Status.VIOLATED]
    measured = [loss for loss in losses if loss is not None]
    speeds, machine = [row.tokens_per_second for row in rows], recorded.machine
    return RunResult(
        seed=seed,
        outcome=outcome,
        run=str(run.path),
        message="; ".join(_remarks(run)),
        loss=measured[-1] if measured else None,
        best=min(measured, default=None),
        seconds=rows[-1].seconds if rows else None,
        tokens_per_second=statistics.median(speeds) if speeds else None,
        speed_quartiles=_quartiles(speeds) if speeds else None,
        others=share_of_others(rows, machine.cores),
        machine=f"{machine.processor}, {machine.device}, {count(machine.threads, 'thread')}",
        precision=recorded.precision,
        code=f"{recorded.core[:12]} on torch {recorded.versions.torch}",
        parts=dict(sorted((each.component, each.sha256 or "") for each in recorded.components)),
        position_loss=position_loss,
    )


def _remarks(run: RunFolder) -> list[str]:
    """What is unusual about a run: a violated property of its trained model, and changes."""
    checked = run.model_check()
    violated = [checked.reason] if checked and checked.reason else []
    return [*violated, *(f"continued with changes {line}" for line in run.later_segments())]


def validation_loss(row: MetricsRow, unit: Unit) -> float | None:
    """A record's validation loss; None if the model was not evaluated, or has no loss in this unit."""
    return row.val_loss if unit == "nats" else row.val_bits_per_byte


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high
