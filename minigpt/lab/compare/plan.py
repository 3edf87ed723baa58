"""From what was asked for to a grid: arms with matched sizes and budgets, seeds, and the time it will take."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from minigpt.errors import MinigptError
from minigpt.experiment import Experiment
from minigpt.lab.compare.arms import (
    Arm,
    Budget,
    Lost,
    Size,
    Unit,
    check_comparable,
    check_same_data,
    matched_budget,
    matched_size,
    read_arms,
    settled,
)
from minigpt.lab.compare.grid import Corpora, Grid
from minigpt.lab.compare.record import write_record
from minigpt.lab.compare.results import ArmResult, judge, to_json
from minigpt.lab.compare.speeds import Speeds, described, using_threads
from minigpt.lab.cost import Cost, measure_cost
from minigpt.model import build_model, build_model_on_meta
from minigpt.system.files import read_object, write_json
from minigpt.training.machine import choose_device, choose_precision

_SEEDS = 3


@dataclass(frozen=True)
class Settings:
    """What was asked for.

    Attributes:
        seeds: Runs of each arm; None for 3, or for those there are where all arms are runs.
        budget: What every arm gets as much of as the base; None refuses arms that differ in tokens.
        match: The size that is made equal; None for none.
        knobs: The settings that `match` changes, one after another.
        unit: Of the losses.
        delta: What counts as equivalent, in that unit.
        device: As for `minigpt run`.
        jobs: Runs at a time.
    """

    seeds: int | None = None
    budget: Budget | None = None
    match: Size | None = None
    knobs: tuple[str, ...] = ("model.ffn.expansion",)
    unit: Unit = "nats"
    delta: float = 0.01
    device: str = "auto"
    jobs: int = 1


@dataclass(frozen=True)
class ComparisonPlan:
    """What is compared, and how.

    Attributes:
        folder: Of the comparison.
        settings: As asked for.
        arms: The base first, adjusted.
        grid: Arms by seeds.
        costs: Of each arm's model.
        threads: Of each run; None for torch's choice.
        lost: What was named and cannot be compared.
    """

    folder: Path
    settings: Settings
    arms: tuple[Arm, ...]
    grid: Grid
    costs: tuple[Cost, ...]
    threads: int | None
    lost: tuple[Lost, ...] = ()

    def seconds(self) -> tuple[float, float, float]:
        """About how long what is missing takes on this machine, and from where to where that may be.

        A few updates of each arm concerned are timed, once.
        """
        speeds, missing = self._speeds(), self.grid.missing()
        at_once = min(self.settings.jobs, max(1, len(missing)))
        median, low, high = 0.0, 0.0, 0.0
        for experiment, speed in ((cell.arm.experiment, speeds.of(cell.arm)) for cell in missing):
            median += speed.seconds(experiment) / at_once
            low += speed.seconds(experiment, update=speed.spread[0]) / at_once
            high += speed.seconds(experiment, update=speed.spread[1]) / at_once
        return median, low, high

    def _speeds(self) -> Speeds:
        return _speeds(self.folder, self.settings, self.grid.corpora, self.threads)

    def judge(self) -> list[ArmResult]:
        """Results and verdicts, as far as the grid has come."""
        return judge(self.arms, self.costs, self.grid.cells, unit=self.settings.unit, delta=self.settings.delta)

    def write(self, results: Sequence[ArmResult]) -> dict[str, Any]:
        """comparison.json: what the report is made from, beside the runs, whose paths start from the folder."""
        settings = {**asdict(self.settings), "seeds": self.grid.seeds}
        lost = [vars(lost) for lost in self.lost]
        document = to_json(results, {"name": self.folder.name, "settings": settings, "lost": lost})
        for arm in document["arms"]:
            for run in arm["runs"]:
                run["run"] = Path(os.path.relpath(run["run"], self.folder)).as_posix()
        return write_record(self.folder / "comparison.json", document)


def make_plan(
    sources: Sequence[Path],
    settings: Settings,
    *,
    out: Path = Path("comparisons"),
    name: str | None = None,
    overrides: Sequence[str] = (),
    plugin_files: Sequence[Path] = (),
    allow_plugins: bool = True,
    trust: bool = False,
    runs: Path = Path("runs"),
    lost: Sequence[Lost] = (),
) -> ComparisonPlan:
    """Read the arms, make them comparable, and look what is there already.

    Args:
        sources: Experiment files and run folders, the base first.
        settings: As asked for.
        out: Where folders of comparisons are made.
        name: Of this one's; the base's name without it.
        overrides: As for `load_experiment`.
        plugin_files: Likewise.
        allow_plugins: Likewise.
        trust: Likewise.
        runs: Where finished runs are looked for.
        lost: Arms that were named and are left out, to be told with the results.

    Raises:
        MinigptError: They cannot be compared.
    """
    arms = read_arms(sources, overrides=overrides, plugin_files=plugin_files, allow_plugins=allow_plugins, trust=trust)
    _check_runs_are_left_alone(arms, settings)
    folder = out / (name or arms[0].name)
    seeds = _seeds(arms, settings.seeds)
    check_comparable(arms, unit=settings.unit, budget=settings.budget)
    threads = max(1, torch.get_num_threads() // settings.jobs) if settings.jobs > 1 else None
    device = choose_device(settings.device)
    arms = settled(arms, lambda: _settled_precision(folder, device, threads))
    corpora = Corpora()
    check_same_data(arms, corpora.of, settings.unit)
    if settings.match is not None:
        arms = _same_size(arms, settings, lambda arm: corpora.of(arm).vocab_size)
    if settings.budget is not None:
        each = _of_an_update(settings.budget, corpora, _speeds(folder, settings, corpora, threads))
        arms = [arms[0], *(matched_budget(arms[0], arm, settings.budget, *each(arms[0], arm)) for arm in arms[1:])]
    grid = Grid(folder, arms, seeds, corpora, elsewhere=[runs], device=device)
    costs = tuple(_cost(arm.experiment, corpora.of(arm).vocab_size) for arm in arms)
    return ComparisonPlan(folder, settings, tuple(arms), grid, costs, threads, tuple(lost))


def _settled_precision(folder: Path, device: torch.device, threads: int | None) -> str:
    """What precision `auto` is in this comparison: measured when it is planned first, and kept in its folder."""
    file = folder / "precision.json"
    known = read_object(file) if file.is_file() else {}
    if known.get(device.type) not in ("fp32", "bf16"):
        with using_threads(threads):
            known[device.type] = choose_precision("auto", device)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, known)
    return str(known[device.type])


def _seeds(arms: Sequence[Arm], number: int | None) -> list[int]:
    """From the base's own seed on; where all arms are runs, the seeds they share."""
    of_runs = [{run.experiment().seed for run in arm.runs} for arm in arms]
    if number is None and all(of_runs):
        shared = sorted(set.intersection(*of_runs))
        if not shared:
            raise MinigptError(
                "the runs share no seed, so nothing is paired: "
                + "; ".join(f"{arm.name} {sorted(seeds)}" for arm, seeds in zip(arms, of_runs, strict=True))
                + ". --seeds N trains what is missing"
            )
        return shared
    first = arms[0].experiment.seed
    return list(range(first, first + (number or _SEEDS)))


def _check_runs_are_left_alone(arms: Sequence[Arm], settings: Settings) -> None:
    """A run is what it is: what would have to be changed about it cannot be."""
    for arm in arms[1:]:
        if arm.runs and (settings.match or settings.budget):
            option = "--match" if settings.match else "--budget"
            raise MinigptError(f"{option} changes arms, and {arm.source} is trained already; name its experiment file")


def _same_size(arms: Sequence[Arm], settings: Settings, vocab_size: Callable[[Arm], int]) -> list[Arm]:
    base, *variants = arms
    assert settings.match is not None

    def size_of(arm: Arm) -> Callable[[Experiment], int]:
        size = vocab_size(arm)
        match settings.match:
            case "params":
                return lambda experiment: build_model_on_meta(experiment.model, size).n_parameters()
            case "state":
                return lambda experiment: build_model_on_meta(experiment.model, size).state_bytes(
                    experiment.model.block_size
                )
            case _:
                return lambda experiment: _cost(experiment, size).train_flops

    aim = size_of(base)(base.experiment)
    return [base, *(matched_size(aim, arm, settings.knobs, size_of(arm), settings.match) for arm in variants)]


def _speeds(folder: Path, settings: Settings, corpora: Corpora, threads: int | None) -> Speeds:
    return Speeds(folder / "speeds.json", corpora.of, settings.device, threads)


def _of_an_update(budget: Budget, corpora: Corpora, speeds: Speeds) -> Callable[[Arm, Arm], tuple[float, str]]:
    """What an update of a variant takes, one of the base being 1; and how well that is known, where it was measured."""

    def flops(arm: Arm) -> float:
        experiment = arm.experiment
        tokens = experiment.training.batch_size * experiment.model.block_size
        return tokens * _cost(experiment, corpora.of(arm).vocab_size).train_flops

    def ratio(base: Arm, variant: Arm) -> tuple[float, str]:
        match budget:
            case "time":
                measured = speeds.ratio(base, variant)
                return measured.value, described(measured)
            case "flops":
                return flops(variant) / flops(base), ""
            case _:
                return 1.0, ""

    return ratio


def _cost(experiment: Experiment, vocab_size: int) -> Cost:
    return measure_cost(build_model(experiment, vocab_size))
