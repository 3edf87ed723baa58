"""What a report shows, gathered from a comparison and its run folders."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minigpt.errors import RunError
from minigpt.lab.compare.record import NOT_COMPARED, Asked, Comparison, RecordedCost, VariantResult
from minigpt.lab.compare.results import COLUMN, mean_loss, result_of, rows_of, sd_of_loss
from minigpt.lab.compare.times import why_not_comparable
from minigpt.lab.compare.variants import runs_in
from minigpt.lab.cost import measure_cost
from minigpt.lab.differences import differences
from minigpt.model import build_model
from minigpt.run import RunFolder

_POINTS = 120  # of a training curve: more cannot be seen


@dataclass(frozen=True)
class Curve:
    """A loss over training, the same places for every seed.

    Attributes:
        steps: Updates.
        tokens: Tokens seen by then.
        flops: Operations by then; None where they were not counted.
        seconds: Of training by then, the median over seeds.
        low: The lowest loss of all seeds.
        mean: The mean over seeds.
        high: The highest.
    """

    steps: tuple[float, ...]
    tokens: tuple[float, ...]
    flops: tuple[float, ...] | None
    seconds: tuple[float, ...]
    low: tuple[float, ...]
    mean: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Origin:
    """Where a run's numbers come from.

    Attributes:
        started: When it began, in UTC.
        versions: Of minigpt, torch and Python.
        machine: Processor, threads, device.
        code: Fingerprint of minigpt's model and training code.
        data: Fingerprint of the text.
        commit: Of the working folder, and whether it had changes; nothing where it is no repository.
    """

    started: str
    versions: str
    machine: str
    code: str
    data: str
    commit: str


@dataclass(frozen=True)
class ShownVariant:
    """One variant.

    Attributes:
        result: What the comparison found.
        validation: Its validation loss, in the report's unit.
        training: Its training loss in nats, averaged over stretches of updates.
        position: Mean loss at each place in the window; empty where it was not measured.
        sample: The last text it wrote, with its first seed.
        origin: Of its first run; None where there is none.
    """

    result: VariantResult
    validation: Curve | None
    training: Curve | None
    position: tuple[float | None, ...]
    sample: str
    origin: Origin | None

    @property
    def name(self) -> str:
        """Of the variant."""
        return self.result.name


@dataclass(frozen=True)
class Content:
    """What a page shows.

    Attributes:
        comparison: What was found.
        variants: The base first.
        changes: Settings in which each variant differs from the base: path, value there, value here.
    """

    comparison: Comparison
    variants: tuple[ShownVariant, ...]
    changes: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)

    @property
    def why_no_times(self) -> str | None:
        """Why nothing is drawn against seconds, in a sentence; None where they can be compared."""
        return why_not_comparable(self.comparison.variants)


def read_content(folder: Path) -> Content:
    """Gather what a comparison's folder has.

    Raises:
        RunError: There is no comparison, or runs of it are gone.
    """
    file = folder / "comparison.json"
    if not file.is_file():
        raise RunError(f"{folder} holds no comparison.json; minigpt compare writes one when it ends")
    return content_of(Comparison.read(file), folder)


def content_of_runs(folders: Sequence[Path]) -> Content:
    """Gather runs that nobody compared: each folder, of one run or of several seeds, is a variant without a verdict.

    Nothing of a run is executed. What a model with parts of a plugin costs is unknown, therefore.

    Raises:
        RunError: One of them is no run.
    """
    variants = tuple(_uncompared(folder) for folder in folders)
    seeds = sorted({run.seed for variant in variants for run in variant.runs})
    name = ", ".join(variant.name for variant in variants)
    return content_of(Comparison(name=name, settings=Asked(seeds=tuple(seeds)), variants=variants), Path())


def _uncompared(folder: Path) -> VariantResult:
    """A variant from what its runs recorded."""
    runs = runs_in(folder)
    document = runs[0].document()
    try:
        training, context = document["training"], int(document["model"]["block_size"])
        tokens = int(training["max_iters"]) * int(training["batch_size"]) * context
        results = [result_of(run, run.document()["seed"], "nats") for run in runs]
        experiment = runs[0].without_plugins()
        cost = None if experiment is None else measure_cost(build_model(experiment, runs[0].vocab_size()))
        return VariantResult(
            name=_name(folder),
            source=str(folder),
            description=document.get("description", ""),
            experiment=document,
            tokens=tokens,
            training_flops=None if cost is None else cost.train_flops * tokens,
            cost=RecordedCost(context=context) if cost is None else RecordedCost.of(cost),
            mean=mean_loss(results),
            sd=sd_of_loss(results),
            verdict=NOT_COMPARED,
            runs=tuple(results),
        )
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{runs[0].path / 'experiment.json'} is damaged: {type(error).__name__}: {reason}") from error


def _name(folder: Path) -> str:
    """`runs/quickstart/seed-1` is quickstart/seed-1, and `runs/quickstart` is quickstart."""
    parts = folder.resolve().parts
    return ("/".join(parts[-2:]) if parts[-1].startswith("seed-") else parts[-1])[:200]


def content_of(comparison: Comparison, folder: Path) -> Content:
    """Gather it for a comparison, whose runs' paths start from `folder`."""
    column = COLUMN[comparison.settings.unit]
    variants = tuple(_shown(variant, folder, column) for variant in comparison.variants)
    base = comparison.base.experiment
    changes = {variant.name: differences(base, variant.experiment) for variant in comparison.variants[1:]}
    return Content(comparison, variants, changes)


def _shown(variant: VariantResult, folder: Path, column: str) -> ShownVariant:
    runs = _measured_runs(variant, folder, column)
    rows = [rows_of(run) for run in runs]
    of_a_token = None if variant.training_flops is None else variant.training_flops / max(1, variant.tokens)
    positions = [run.position_loss for run in variant.runs if run.position_loss]
    return ShownVariant(
        variant,
        validation=_curve([[row for row in each if column in row] for each in rows], column, of_a_token),
        training=_curve([_averaged(each) for each in rows], "train_loss", of_a_token),
        position=tuple(_mean(values) for values in zip(*positions, strict=True)),
        sample=runs[0].last_sample() if runs else "",
        origin=_origin(runs[0]) if runs else None,
    )


def _measured_runs(variant: VariantResult, folder: Path, column: str) -> list[RunFolder]:
    """The folders of the runs that have a loss.

    Raises:
        RunError: One is gone, or is not what was measured.
    """
    runs = []
    for result in variant.runs:
        if result.loss is None:
            continue
        run = RunFolder(folder / result.run)
        if not run.exists():
            raise RunError(f"{run.path} is gone, and {variant.name} was measured in it; call minigpt compare again")
        if run.later_segments() and variant.verdict != NOT_COMPARED:
            raise RunError(f"{run.path} was continued with changes since it was compared; call minigpt compare again")
        if result.is_finished and result.loss != _last(run, column):
            raise RunError(f"{run.path} is another run than {variant.name} was measured in; call minigpt compare again")
        runs.append(run)
    return runs


def _last(run: RunFolder, column: str) -> float | None:
    return next((row[column] for row in reversed(run.rows()) if column in row), None)


def _origin(run: RunFolder) -> Origin:
    recorded = run.provenance()
    versions, machine, git = recorded["versions"], recorded["machine"], recorded.get("git") or {}
    return Origin(
        started=recorded["started"],
        versions=f"minigpt {versions['minigpt']}, torch {versions['torch']}, Python {versions['python']}",
        machine=f"{machine['processor']}, {machine['threads']} threads, {machine['device']}",
        code=recorded["core"],
        data=recorded["data"]["fingerprint"],
        commit=git.get("commit", "")[:12] + (" with changes" if git.get("uncommitted") else ""),
    )


def _curve(rows: Sequence[Sequence[Mapping[str, float]]], column: str, of_a_token: float | None) -> Curve | None:
    """Over the updates that every seed has."""
    shared = sorted(set.intersection(*({row["step"] for row in each} for each in rows))) if rows else []
    if not shared:
        return None
    by_step = [{row["step"]: row for row in each} for each in rows]
    values = [[each[step][column] for each in by_step] for step in shared]
    tokens = [by_step[0][step]["tokens"] for step in shared]
    return Curve(
        steps=tuple(shared),
        tokens=tuple(tokens),
        flops=None if of_a_token is None else tuple(of_a_token * seen for seen in tokens),
        seconds=tuple(statistics.median(each[step]["seconds"] for each in by_step) for step in shared),
        low=tuple(map(min, values)),
        mean=tuple(map(statistics.fmean, values)),
        high=tuple(map(max, values)),
    )


def _averaged(rows: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
    """The training loss of a single batch jumps: its mean over each of some stretches, at their ends."""
    length = max(1, len(rows) // _POINTS)
    stretches = [rows[start : start + length] for start in range(0, len(rows) - length + 1, length)]
    sound = [[row for row in part if "train_loss" in row] for part in stretches]  # updates that were left out have none
    return [{**part[-1], "train_loss": statistics.fmean(row["train_loss"] for row in part)} for part in sound if part]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
