"""Collect what a report shows from a comparison and its run folders."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from minigpt.contracts import Draw
from minigpt.data import load_corpus, tokens_trained
from minigpt.errors import DataError, PluginError, RunError, TrustError
from minigpt.experiment import Experiment
from minigpt.lab.bench.train import random_corpus
from minigpt.lab.compare.record import NOT_COMPARED, Comparison, ComparisonSettings, RecordedCost, VariantResult
from minigpt.lab.compare.results import mean_loss, result_of, sd_of_loss, validation_loss
from minigpt.lab.compare.times import why_not_comparable
from minigpt.lab.compare.variants import Unit, runs_in
from minigpt.lab.cost import measure_cost, measure_training_cost
from minigpt.lab.differences import differences
from minigpt.lab.sealed import Count
from minigpt.model import build_model
from minigpt.reading import Reading
from minigpt.registry.problems import first_problem
from minigpt.run import RunFolder
from minigpt.run.recorded import MetricsRow
from minigpt.training.building import build_trainable

_POINTS = 120  # of a training curve; more would not be visible
_ACCEPTED = (
    "Accepted: folders of runs, or one folder with a comparison.json, ladder.json, ablation.json or corpora.json, which "
    "compare, ladder, ablate and compare --data write at their end"
)


@dataclass(frozen=True)
class Curve:
    """A loss over training, at updates that every seed has.

    Attributes:
        steps: Updates done.
        tokens: Training tokens seen until then.
        flops: Operations until then; None if they were not counted.
        seconds: Training seconds until then; median over seeds.
        low: Lowest loss of all seeds.
        mean: Mean loss over seeds.
        high: Highest loss of all seeds.
    """

    steps: tuple[int, ...]
    tokens: tuple[int, ...]
    flops: tuple[float, ...] | None
    seconds: tuple[float, ...]
    low: tuple[float, ...]
    mean: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class ShownOrigin:
    """Where a run's numbers come from.

    Attributes:
        started: When the run began, in UTC.
        versions: Versions of minigpt, torch and Python.
        machine: Processor, threads, device.
        code: Fingerprint of minigpt's model and training code.
        data: Fingerprint of the text.
        commit: Git commit of the working folder, and whether it had changes; empty outside of a repository.
    """

    started: str
    versions: str
    machine: str
    code: str
    data: str
    commit: str


@dataclass(frozen=True)
class ShownVariant:
    """One variant as the page shows it.

    Attributes:
        result: The comparison's result.
        validation: Its validation loss, in the report's unit.
        training: Its training loss in nats, averaged over intervals of updates.
        position: Mean loss at each position in the window; empty if it was not measured.
        sample: The last text that the run with its first seed generated.
        origin: Where its first run's numbers come from; None without a run.
        stamps: For each run, the check of its trained model in words; empty if there is no run folder.
    """

    result: VariantResult
    validation: Curve | None
    training: Curve | None
    position: tuple[float | None, ...]
    sample: str
    origin: ShownOrigin | None
    stamps: tuple[str, ...]

    @property
    def name(self) -> str:
        """The variant's name."""
        return self.result.name


@dataclass(frozen=True)
class Content:
    """Everything that a page shows.

    Attributes:
        comparison: The results of the comparison.
        variants: The variants, the base first.
        changes: For each variant the settings that differ: path, value in the base, value in the variant.
    """

    comparison: Comparison
    variants: tuple[ShownVariant, ...]
    changes: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)

    @property
    def why_no_times(self) -> str | None:
        """Why nothing is drawn against seconds, as a clause; None if seconds can be compared."""
        return why_not_comparable(self.comparison.variants)


def read_content(folder: Path) -> Content:
    """Read the content of a comparison's folder.

    Raises:
        RunError: There is no comparison, or one of its runs is missing.
    """
    file = folder / "comparison.json"
    if not file.is_file():
        raise RunError(f"{folder} contains no comparison.json; minigpt compare writes it at its end")
    return content_of(Comparison.read(file), folder)


def content_of_runs(folders: Sequence[Path]) -> Content:
    """Read runs that were not compared. Each folder (one run, or several seeds) is a variant without a verdict.

    No code of a run is executed. So the cost of a model with plugin parts is unknown.

    Raises:
        RunError: One of the folders is not a run.
    """
    variants = tuple(_uncompared(folder) for folder in folders)
    seeds = sorted({run.seed for variant in variants for run in variant.runs})
    name = ", ".join(variant.name for variant in variants)
    return content_of(Comparison(name=name, settings=ComparisonSettings(seeds=tuple(seeds)), variants=variants), Path())


class _Section(BaseModel):
    """The keys of a recorded experiment that the page needs; other keys are ignored."""

    model_config = ConfigDict(strict=True)


class _Model(_Section):
    block_size: Count


class _Training(_Section):
    max_iters: Count
    batch_size: Count


class _Experiment(_Section):
    seed: Count
    description: str = ""
    model: _Model
    training: _Training


def _uncompared(folder: Path) -> VariantResult:
    """A variant without a verdict, from the records of its runs."""
    try:
        runs = runs_in(folder)
    except RunError as error:
        raise RunError(f"{error}. {_ACCEPTED}") from error
    document = runs[0].document()
    try:
        recorded = [_Experiment.model_validate(run.document()) for run in runs]
        experiment, training = runs[0].without_plugins(), recorded[0].training
        context = _sequence_length(runs[0], recorded[0], experiment)
        results = [result_of(run, each.seed, "nats") for run, each in zip(runs, recorded, strict=True)]
        cost = RecordedCost(context=context) if experiment is None else _cost(runs[0], experiment, context)
        product = training.max_iters * training.batch_size * context  # unless a batching of another plugin says otherwise
        tokens = product if experiment is None else tokens_trained(experiment, context)
        return VariantResult(
            name=_name(folder),
            source=str(folder),
            description=recorded[0].description,
            experiment=document,
            tokens=tokens,
            training_flops=None if cost.train_flops is None else cost.train_flops * tokens,
            cost=cost,
            mean=mean_loss(results),
            sd=sd_of_loss(results),
            verdict=NOT_COMPARED,
            runs=tuple(results),
        )
    except ValidationError as error:
        raise RunError(f"{runs[0].path / 'experiment.json'} is damaged: {first_problem(error)}") from error


def _cost(run: RunFolder, experiment: Experiment, context: int) -> RecordedCost:
    """The costs, without the operations if the documents or the teacher that they depend on cannot be read.

    No plugin is executed.
    """
    corpus = random_corpus(run.vocab_size(), context, rows=context < experiment.model.block_size)
    try:
        if experiment.training.batching.build().uses_documents:
            corpus = load_corpus(experiment, run.learned())
        model = build_trainable(experiment, corpus, reading=Reading(allow_plugins=False), random_ids=True)
        return RecordedCost.of(measure_training_cost(model, experiment, corpus))
    except (DataError, RunError, PluginError, TrustError):
        cost = RecordedCost.of(measure_cost(build_model(experiment, corpus.vocab_size), context))
        return cost.model_copy(update={"train_flops": None, "train_flops_square": None})


def _sequence_length(run: RunFolder, recorded: _Experiment, experiment: Experiment | None) -> int:
    """The longest sequence that a run was trained on: block_size for text; the rows of a task may be shorter.

    It follows from the tokens of the run's last update.
    """
    rows, longest, sequences = run.rows(), recorded.model.block_size, recorded.training.batch_size
    if not rows:
        return longest
    tokens = rows[-1].tokens - (rows[-2].tokens if len(rows) > 1 else 0)
    steps = rows[-1].step - (rows[-2].step if len(rows) > 1 else 0)
    if experiment is not None:
        draw = Draw(recorded.seed, rows[-1].step - 1, recorded.training.max_iters, sequences, longest)
        if experiment.training.batching.build().shape(draw).n_tokens == tokens:
            return longest
    return max(1, min(tokens // (max(1, steps) * sequences), longest))


def _name(folder: Path) -> str:
    """A name for a folder: quickstart/seed-1 for `runs/quickstart/seed-1`, quickstart for `runs/quickstart`."""
    parts = folder.resolve().parts
    return ("/".join(parts[-2:]) if parts[-1].startswith("seed-") else parts[-1])[:200]


def content_of(comparison: Comparison, folder: Path) -> Content:
    """The content for a comparison; the paths of its runs are relative to `folder`."""
    variants = tuple(_shown_variant(variant, folder, comparison.settings.unit) for variant in comparison.variants)
    base = comparison.base.experiment
    changes = {variant.name: differences(base, variant.experiment) for variant in comparison.variants[1:]}
    return Content(comparison, variants, changes)


def _shown_variant(variant: VariantResult, folder: Path, unit: Unit) -> ShownVariant:
    runs = _measured_runs(variant, folder, unit)
    rows = [run.rows() for run in runs]
    flops_per_token = None if variant.training_flops is None else variant.training_flops / max(1, variant.tokens)
    positions = [run.position_loss for run in variant.runs if run.position_loss]
    return ShownVariant(
        variant,
        validation=_curve([_validated(each, unit) for each in rows], flops_per_token),
        training=_curve([_averaged(each) for each in rows], flops_per_token),
        position=tuple(_mean(values) for values in zip(*positions, strict=True)),
        sample=runs[0].last_sample() if runs else "",
        origin=_origin(runs[0]) if runs else None,
        stamps=tuple(_stamp(RunFolder(folder / run.run)) for run in variant.runs),
    )


def _stamp(run: RunFolder) -> str:
    return run.stamp() if run.exists() else ""


def _measured_runs(variant: VariantResult, folder: Path, unit: Unit) -> list[RunFolder]:
    """The folders of the runs that have a loss.

    Raises:
        RunError: A run is missing, or is not the run that was measured.
    """
    runs = []
    for result in variant.runs:
        if result.loss is None:
            continue
        run = RunFolder(folder / result.run)
        if not run.exists():
            raise RunError(f"{run.path} is missing, but {variant.name} was measured in it; call minigpt compare again")
        if run.later_segments() and variant.verdict != NOT_COMPARED:
            raise RunError(f"{run.path} was continued with changes since it was compared; call minigpt compare again")
        if result.is_finished and result.loss != _last(run, unit):
            raise RunError(f"{run.path} is not the run that {variant.name} was measured in; call minigpt compare again")
        runs.append(run)
    return runs


def _last(run: RunFolder, unit: Unit) -> float | None:
    points = _validated(run.rows(), unit)
    return points[-1].loss if points else None


def _origin(run: RunFolder) -> ShownOrigin:
    recorded = run.provenance()
    versions, machine, git = recorded.versions, recorded.machine, recorded.git
    return ShownOrigin(
        started=recorded.started,
        versions=f"minigpt {versions.minigpt}, torch {versions.torch}, Python {versions.python}",
        machine=f"{machine.processor}, {machine.threads} threads, {machine.device}",
        code=recorded.core,
        data=recorded.data.fingerprint,
        commit="" if git is None else git.commit[:12] + (" with changes" if git.uncommitted else ""),
    )


@dataclass(frozen=True)
class _Point:
    """A loss, with the record of its update."""

    row: MetricsRow
    loss: float


def _validated(rows: Sequence[MetricsRow], unit: Unit) -> list[_Point]:
    return [_Point(row, loss) for row in rows if (loss := validation_loss(row, unit)) is not None]


def _averaged(rows: Sequence[MetricsRow]) -> list[_Point]:
    """The training loss averaged over intervals of updates, because the loss of a single batch is noisy."""
    length = max(1, len(rows) // _POINTS)
    points = []
    for start in range(0, len(rows) - length + 1, length):
        # A skipped update has no loss.
        part = [_Point(row, row.train_loss) for row in rows[start : start + length] if row.train_loss is not None]
        if part:
            points.append(_Point(part[-1].row, statistics.fmean(point.loss for point in part)))
    return points


def _curve(points: Sequence[Sequence[_Point]], flops_per_token: float | None) -> Curve | None:
    """A curve over the updates that every seed has; None if there is no such update."""
    by_step = [{point.row.step: point for point in each} for each in points]
    shared = sorted(set.intersection(*(set(each) for each in by_step))) if by_step else []
    if not shared:
        return None
    values = [[each[step].loss for each in by_step] for step in shared]
    tokens = [by_step[0][step].row.tokens for step in shared]
    return Curve(
        steps=tuple(shared),
        tokens=tuple(tokens),
        flops=None if flops_per_token is None else tuple(flops_per_token * seen for seen in tokens),
        seconds=tuple(statistics.median(each[step].row.seconds for each in by_step) for step in shared),
        low=tuple(map(min, values)),
        mean=tuple(map(statistics.fmean, values)),
        high=tuple(map(max, values)),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
