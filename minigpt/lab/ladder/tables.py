"""A ladder as tables for the terminal, pull requests (Markdown) and spreadsheets (CSV)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from minigpt.data import tokens_trained
from minigpt.errors import count
from minigpt.lab.compare.tables import Table
from minigpt.lab.compare.tuning import Search
from minigpt.lab.compare.variants import UNITS
from minigpt.lab.ladder.record import Ladder, Point
from minigpt.numbers import UNKNOWN, duration, operations, shown_difference, shown_interval, shown_loss, shown_whole
from minigpt.printable import as_markdown, as_spreadsheet
from minigpt.run.status import Status

if TYPE_CHECKING:
    from minigpt.lab.compare.plan import ComparisonPlan
    from minigpt.lab.ladder.laddering import Rung


def size_table(ladder: Ladder) -> Table:
    """Losses, differences and verdicts: a row for each variant at each size."""
    comparison = ladder.settings.comparison

    def row(size: str, point: Point) -> tuple[str, ...]:
        paired = point.difference
        return (
            f"{size} {point.name}",
            UNKNOWN if point.training_flops is None else f"{point.training_flops:.2e}",
            shown_loss(point.mean, point.sd),
            UNKNOWN if paired is None else shown_difference(paired.mean, comparison.delta),
            UNKNOWN if paired is None else shown_interval(paired.interval, comparison.delta),
            point.verdict,
        )

    rows = []
    for size in ladder.sizes:
        rows += [row(size.name, point) for point in size.variants]
        rows += [(f"{size.name} {variant.name}", *(UNKNOWN,) * 4, str(Status.CRASHED)) for variant in size.failed]
    loss = f"loss, {UNITS[comparison.unit]}"
    columns = ("size, variant", "training FLOPs", loss, "difference", "95 % interval", "verdict")
    return Table("Losses at each size", columns, tuple(rows))


def lines(ladder: Ladder) -> list[str]:
    """The findings, each with its cautions, and what they are based on."""
    found = []
    for finding in ladder.findings:
        found.append(finding.statement)
        found += [f"  caution: {caution}" for caution in finding.cautions]
    return found


def notes(ladder: Ladder) -> list[str]:
    """How the numbers were computed, and what failed."""
    notes = [
        "losses are measured over the whole validation split after the last update; each size's verdicts are corrected for "
        "the variants at that size, and not for the number of sizes",
        "base and variant share L0 of the fit L = L0 + A C^-alpha; intervals of speed-ups hold for one variant each",
    ]
    notes += [f"{variant.name}: {variant.message}" for variant in ladder.failed]
    return notes + [f"{size.name}, {each.name}: {each.message}" for size in ladder.sizes for each in size.failed]


def markdown_text(ladder: Ladder) -> str:
    """Table, findings and notes in Markdown, for a pull request."""
    table = size_table(ladder)
    listed = "\n".join(f"{'  ' if line.startswith(' ') else ''}- {as_markdown(line.strip())}" for line in lines(ladder))
    basis = "\n".join(f"- {as_markdown(note)}" for note in notes(ladder))
    return f"**{table.title}**\n\n{table.markdown()}\n\n{listed}\n\n{basis}\n"


def csv_text(ladder: Ladder) -> str:
    """The runs as CSV, one row per run."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = ("parameters", "tokens", "training_flops", "learning_rate")
    writer.writerow(["size", "variant", *columns, "seed", "loss"])
    for size in ladder.sizes:
        for point in size.variants:
            known = [size.name, as_spreadsheet(point.name), *(getattr(point, column) for column in columns)]
            writer.writerows([*known, seed, loss] for seed, loss in zip(point.seeds, point.losses, strict=True))
    return stream.getvalue()


# -------------------------------------------------------------------------------------------------------------- the plan


def plan_table(rungs: Sequence[Rung]) -> Table:
    """What would be trained: a row for each variant at each size."""
    rows = []
    for rung in rungs:
        plan = rung.plan
        missing = [cell.variant.name for cell in plan.grid.missing_runs()]
        for variant, cost in zip(plan.variants, plan.costs, strict=True):
            experiment = variant.experiment
            tokens = tokens_trained(experiment, cost.context)
            rate = experiment.training.optimizer.params.get("learning_rate")
            rows.append(
                (
                    f"{rung.size.name} {variant.name}",
                    shown_whole(cost.total),
                    shown_whole(tokens),
                    operations(cost.train_flops * tokens),
                    shown_whole(experiment.training.max_iters),
                    f"{rate:.4g}" if isinstance(rate, float | int) else UNKNOWN,
                    experiment.model.init.name,
                    f"{missing.count(variant.name)} of {len(plan.grid.seeds)}",
                )
            )
    columns = ("size, variant", "parameters", "tokens", "FLOPs", "updates", "learning rate", "init", "runs to train")
    return Table("Sizes", columns, tuple(rows))


def plan_times(rungs: Sequence[Rung]) -> list[str]:
    """How long the missing runs of each size and of all sizes take on this machine, as far as a few updates show.

    The trials of `--tune` are part of it, as far as they are known before any of them ends.
    """
    trials = [_trials(rung.plan) for rung in rungs]
    times = [
        [sum(each) for each in zip(rung.plan.seconds(), *more, strict=True)]
        for rung, (_, more) in zip(rungs, trials, strict=True)
    ]
    total = [sum(each) for each in zip(*times, strict=True)]
    named = [*((rung.size.name, time) for rung, time in zip(rungs, times, strict=True)), ("in total", total)]
    lines = [f"{name}: about {duration(time[0])} ({duration(time[1])} to {duration(time[2])})" for name, time in named]
    number = sum(each for each, _ in trials)
    first = f"before these runs: at least {count(number, 'trial')} of --tune; the table shows the settings without it"
    return [first, *lines] if number else lines


def _trials(plan: ComparisonPlan) -> tuple[int, list[tuple[float, float, float]]]:
    """The number of missing trials, and the times of those that come first; none without tuning."""
    if plan.settings.tuning is None:
        return 0, []
    search = Search(plan, plan.settings.tuning)
    trials = search.next()
    return (0, []) if trials is None else (len(trials.grid.missing_runs()) + search.later, [trials.seconds()])
