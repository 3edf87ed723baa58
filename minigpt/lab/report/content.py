"""What a report shows, gathered from comparison.json and the run folders."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minigpt.errors import RunError
from minigpt.lab.compare.record import read_record
from minigpt.lab.compare.results import COLUMN, Spread, result_of, speed_spread
from minigpt.lab.compare.times import why_not_comparable
from minigpt.lab.compare.variants import runs_in
from minigpt.lab.cost import measure_cost
from minigpt.lab.differences import differences
from minigpt.model import build_model
from minigpt.run import RunFolder
from minigpt.run.recorded import MetricsRow, Provenance
from minigpt.run.status import Status

NOT_COMPARED = "not compared"
"""The verdict on runs that are only shown."""

_POINTS = 120  # of a training curve: more cannot be seen


@dataclass(frozen=True)
class Curve:
    """A loss over training, the same places for every seed.

    Attributes:
        steps: Updates.
        tokens: Tokens seen by then.
        flops: Operations by then; None where they were not counted.
        seconds: Of training by then, the median over seeds.
        low, mean, high: Over seeds.
    """

    steps: tuple[int, ...]
    tokens: tuple[float, ...]
    flops: tuple[float, ...] | None
    seconds: tuple[float, ...]
    low: tuple[float, ...]
    mean: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Shown:
    """One variant.

    Attributes:
        json: As it stands in comparison.json.
        validation: Its validation loss, in the report's unit.
        training: Its training loss in nats, averaged over stretches of updates.
        position: Mean loss at each place in the window; empty where it was not measured.
        sample: The last text it wrote, with its first seed.
        provenance: Of its first finished run; None where it has none.
    """

    json: dict[str, Any]
    validation: Curve | None
    training: Curve | None
    position: tuple[float | None, ...]
    sample: str
    provenance: Provenance | None

    @property
    def name(self) -> str:
        """Of the variant."""
        return str(self.json["name"])

    @property
    def finished(self) -> list[dict[str, Any]]:
        """Its finished runs."""
        return [run for run in self.json["runs"] if run["outcome"] == Status.FINISHED]

    @property
    def seconds(self) -> Spread | None:
        """Of training, over its finished runs."""
        return Spread.of([run["seconds"] for run in self.finished if run["seconds"] is not None])

    @property
    def tokens_per_second(self) -> Spread | None:
        """Over its finished runs, and the updates of each."""
        return speed_spread(self.finished)


@dataclass(frozen=True)
class Content:
    """A report: its title, what was asked for, the variants with the base first, and those that could not be compared."""

    name: str
    settings: dict[str, Any]
    variants: tuple[Shown, ...]
    changes: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)
    lost: tuple[dict[str, str], ...] = ()

    @property
    def why_no_times(self) -> str | None:
        """Why nothing is drawn against seconds, in a sentence; None where they can be compared."""
        return why_not_comparable({variant.name: variant.json["runs"] for variant in self.variants})

    @property
    def family(self) -> int:
        """Variants whose intervals hold together."""
        found = [variant.json["difference"] for variant in self.variants if variant.json["difference"] is not None]
        return max((int(each["family"]) for each in found if None not in each["interval"]), default=0)


def read_content(folder: Path) -> Content:
    """Gather what a comparison's folder tells.

    Raises:
        RunError: There is no comparison, or runs of it are gone.
    """
    file = folder / "comparison.json"
    if not file.is_file():
        raise RunError(f"{folder} holds no comparison.json; minigpt compare writes one when it ends")
    return content_of(read_record(file), folder)


def content_of_runs(folders: Sequence[Path]) -> Content:
    """Gather runs that nobody compared: each folder, of one run or of several seeds, is a variant without a verdict.

    Nothing of a run is executed. What a model with parts of a plugin costs is unknown, therefore.

    Raises:
        RunError: One of them is no run.
    """
    variants = [_uncompared(folder) for folder in folders]
    seeds = sorted({run["seed"] for variant in variants for run in variant["runs"]})
    settings = {"seeds": seeds, "unit": "nats", "delta": 0.01, "budget": None, "match": None}
    return content_of(
        {"name": ", ".join(variant["name"] for variant in variants), "settings": settings, "variants": variants}, Path()
    )


def _seed(run: RunFolder) -> int:
    """Raises ValueError where experiment.json has none."""
    seed = run.document()["seed"]
    if not isinstance(seed, int):
        raise ValueError(f"seed is {seed!r}")
    return seed


def _uncompared(folder: Path) -> dict[str, Any]:
    """A variant as comparison.json has it, from what its runs recorded."""
    runs = runs_in(folder)
    document: dict[str, Any] = runs[0].document()
    try:
        training, context = document["training"], int(document["model"]["block_size"])
        tokens = int(training["max_iters"]) * int(training["batch_size"]) * context
        results = [result_of(run, _seed(run), "nats") for run in runs]
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{runs[0].path / 'experiment.json'} is damaged: {type(error).__name__}: {error}") from error
    experiment = runs[0].without_plugins()
    cost = None if experiment is None else measure_cost(build_model(experiment, runs[0].vocab_size()))
    losses = [result.loss for result in results if result.loss is not None]
    return {
        "name": _name(folder),
        "source": str(folder),
        "description": document.get("description", ""),
        "adjusted": [],
        "experiment": document,
        "tokens": tokens,
        "training_flops": None if cost is None else cost.train_flops * tokens,
        "cost": {**dict.fromkeys(_COSTS), "context": context} if cost is None else cost.to_json(),
        "mean": statistics.fmean(losses) if losses else None,
        "sd": statistics.stdev(losses) if len(losses) > 1 else None,
        "verdict": NOT_COMPARED,
        "difference": None,
        "runs": [{**vars(result), "position_loss": []} for result in results],
    }


_COSTS = ("total", "active", "train_flops", "activation_bytes", "state_bytes_token", "state_bytes")


def _name(folder: Path) -> str:
    """`runs/quickstart/seed-1` is quickstart/seed-1, and `runs/quickstart` is quickstart."""
    parts = folder.resolve().parts
    return "/".join(parts[-2:]) if parts[-1].startswith("seed-") else parts[-1]


def content_of(document: dict[str, Any], folder: Path) -> Content:
    """Gather it from a comparison's document, whose runs' paths start from `folder`."""
    unit = document["settings"]["unit"]
    variants = tuple(_shown(variant, folder, COLUMN[unit]) for variant in document["variants"])
    base = variants[0].json["experiment"]
    changes = {variant.name: differences(base, variant.json["experiment"]) for variant in variants[1:]}
    return Content(document["name"], document["settings"], variants, changes, tuple(document.get("lost", [])))


def _shown(variant: dict[str, Any], folder: Path, column: str) -> Shown:
    runs = []
    for each in variant["runs"]:
        if each["loss"] is not None:
            run = RunFolder(folder / each["run"])
            if not run.exists():
                raise RunError(f"{run.path} is gone, and {variant['name']} was measured in it; call minigpt compare again")
            if run.later_segments() and variant["verdict"] != NOT_COMPARED:
                raise RunError(f"{run.path} was continued with changes since it was compared; call minigpt compare again")
            if each["outcome"] == Status.FINISHED and each["loss"] != _last(run, column):
                raise RunError(
                    f"{run.path} is another run than {variant['name']} was measured in; call minigpt compare again"
                )
            runs.append(run)
    rows = [run.rows() for run in runs]
    of_a_token = None if variant["training_flops"] is None else variant["training_flops"] / max(1, variant["tokens"])
    positions = [each["position_loss"] for each in variant["runs"] if each["position_loss"]]
    return Shown(
        variant,
        validation=_curve([[row for row in each if getattr(row, column) is not None] for each in rows], column, of_a_token),
        training=_curve([_averaged(each) for each in rows], "train_loss", of_a_token),
        position=tuple(_mean(values) for values in zip(*positions, strict=True)),
        sample=runs[0].last_sample() if runs else "",
        provenance=runs[0].provenance() if runs else None,
    )


def _last(run: RunFolder, column: str) -> float | None:
    return next((value for row in reversed(run.rows()) if (value := getattr(row, column)) is not None), None)


def _curve(rows: Sequence[Sequence[MetricsRow]], column: str, of_a_token: float | None) -> Curve | None:
    """Over the updates that every seed has."""
    shared = sorted(set.intersection(*({row.step for row in each} for each in rows))) if rows else []
    if not shared:
        return None
    by_step = [{row.step: row for row in each} for each in rows]
    values = [[getattr(each[step], column) for each in by_step] for step in shared]
    tokens = [by_step[0][step].tokens for step in shared]
    return Curve(
        steps=tuple(shared),
        tokens=tuple(tokens),
        flops=None if of_a_token is None else tuple(of_a_token * seen for seen in tokens),
        seconds=tuple(statistics.median(each[step].seconds for each in by_step) for step in shared),
        low=tuple(map(min, values)),
        mean=tuple(map(statistics.fmean, values)),
        high=tuple(map(max, values)),
    )


def _averaged(rows: Sequence[MetricsRow]) -> list[MetricsRow]:
    """The training loss of a single batch jumps: its mean over each of some stretches, told at their ends."""
    size = max(1, len(rows) // _POINTS)
    stretches = [rows[start : start + size] for start in range(0, len(rows) - size + 1, size)]
    averaged = []
    for part in stretches:
        losses = [(row, row.train_loss) for row in part if row.train_loss is not None]  # None: left out
        if losses:
            averaged.append(losses[-1][0].model_copy(update={"train_loss": statistics.fmean(loss for _, loss in losses)}))
    return averaged


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
