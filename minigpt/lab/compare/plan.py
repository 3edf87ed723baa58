"""Plan a comparison: read variants, match sizes and budgets, choose seeds, estimate the time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from minigpt.data import sequence_length, tokens_trained
from minigpt.errors import MinigptError
from minigpt.experiment import Experiment, refusal_of_name
from minigpt.lab.compare.costs import Costs
from minigpt.lab.compare.grid import Corpora, Grid
from minigpt.lab.compare.matching import matched_budget, matched_size
from minigpt.lab.compare.noise import against_itself, expected_noise, measured_noise
from minigpt.lab.compare.over_text import with_text_intervals
from minigpt.lab.compare.record import Comparison, ComparisonSettings, FailedVariant, NoiseFloor
from minigpt.lab.compare.results import judge, read_result
from minigpt.lab.compare.seeds import SeedRange, parse_seeds, seeds_of
from minigpt.lab.compare.speeds import Speeds, described, using_threads
from minigpt.lab.compare.trials import Tuning
from minigpt.lab.compare.variants import (
    Budget,
    Size,
    Source,
    Unit,
    Variant,
    check_comparable,
    check_same_data,
    read_variants,
    settled,
)
from minigpt.lab.cost import Cost
from minigpt.model import build_model_on_meta
from minigpt.reading import AS_WRITTEN, Reading
from minigpt.run.teaching import refuse_unfit_teachers
from minigpt.system.files import read_object, write_json
from minigpt.training.machine import choose_device, choose_precision


@dataclass(frozen=True)
class Settings:
    """The settings of a comparison.

    Attributes:
        seeds: Number of seeds, or a range: then seeds are added one at a time until every variant has a verdict. None
            means 3, or the seeds that all variants share if all of them are runs.
        budget: The budget that is made equal to the base's. None refuses variants that differ in tokens.
        match: The size that is made equal to the base's; None for none.
        knobs: The settings that `match` changes, one after another.
        unit: Unit of the losses.
        delta: Smaller differences count as equivalent; in the same unit.
        device: As for `minigpt run`.
        jobs: Number of runs at the same time.
        noise: Whether the base is also compared with itself, with further seeds (not if all variants are runs and `seeds`
            is None: then nothing is trained).
        family: Number of variants that are judged together, if other comparisons belong to the question; None for those of
            this one.
        tuning: How each variant is tuned before the runs that are judged; None for no tuning.
    """

    seeds: int | SeedRange | None = None
    budget: Budget | None = None
    match: Size | None = None
    knobs: tuple[str, ...] = ("model.ffn.expansion",)
    unit: Unit = "nats"
    delta: float = 0.01
    device: str = "auto"
    jobs: int = 1
    noise: bool = True
    family: int | None = None
    tuning: Tuning | None = None

    def __post_init__(self) -> None:
        if isinstance(self.seeds, int):
            parse_seeds(str(self.seeds))
        if not 0 < self.delta < math.inf:
            raise MinigptError(f"delta: found {self.delta:g}; allowed: a number above 0")
        if self.jobs < 1:
            raise MinigptError(f"jobs: found {self.jobs}; allowed: 1 or more")


@dataclass(frozen=True)
class ComparisonPlan:
    """The plan of a comparison.

    Attributes:
        folder: The comparison's folder.
        settings: The settings, as the user chose them.
        variants: The adjusted variants, the base first.
        grid: The cells: variants by seeds.
        costs: The cost of each variant's model.
        threads: Threads of each run; None for torch's choice.
        failed: Variants that the user named and that cannot be compared.
        reading: How the variants were read.
        measured: The folder of measured speeds and of the precision that was chosen.
        counted: The costs that were counted.
    """

    folder: Path
    settings: Settings
    variants: tuple[Variant, ...]
    grid: Grid
    costs: tuple[Cost, ...]
    threads: int | None
    failed: tuple[FailedVariant, ...]
    reading: Reading
    measured: Path
    counted: Costs

    def seconds(self, *, further: bool = False) -> tuple[float, float, float]:
        """Estimate the time of the missing runs on this machine: estimate, lower bound, upper bound.

        A few updates of each variant with missing runs are timed, once. `further` is as for `Grid.missing_runs`.
        """
        speeds, missing = self._speeds(), self.grid.missing_runs(further=further)
        at_once = min(self.settings.jobs, max(1, len(missing)))
        median, low, high = 0.0, 0.0, 0.0
        for experiment, speed in ((cell.variant.experiment, speeds.of(cell.variant)) for cell in missing):
            median += speed.seconds(experiment) / at_once
            low += speed.seconds(experiment, update=speed.spread[0]) / at_once
            high += speed.seconds(experiment, update=speed.spread[1]) / at_once
        return median, low, high

    def _speeds(self) -> Speeds:
        return _speeds(self.measured, self.settings, self.grid.corpora, self.threads, self.reading)

    def judge(self) -> Comparison:
        """Results and verdicts from the cells that have an outcome."""
        asked, grid, looking = self.settings, self.grid, bool(self.grid.planned.further)
        variants = judge(
            self.variants,
            self.costs,
            grid.cells,
            unit=asked.unit,
            delta=asked.delta,
            looking=looking,
            family=asked.family,
        )
        variants = with_text_intervals(variants, grid.cells, asked.unit)
        again = None
        if grid.again:
            again = against_itself(variants[0], [read_result(cell, asked.unit) for cell in grid.again], asked.delta)
            variants, again = ([*variants, again], None) if len(variants) == 1 else (variants, again)
        return Comparison(
            name=self.folder.name,
            settings=ComparisonSettings(
                seeds=tuple(grid.seeds),
                most_seeds=grid.planned.most if looking else None,
                unit=asked.unit,
                delta=asked.delta,
                budget=asked.budget,
                match=asked.match,
                knobs=asked.knobs,
                device=asked.device,
                jobs=asked.jobs,
            ),
            failed=self.failed,
            variants=tuple(variants),
            base_again=again,
            noise=measured_noise(variants[1:], grid.planned.most, asked.delta, looking=looking) or self.noise(),
        )

    def noise(self) -> NoiseFloor | None:
        """The smallest difference that can be found, from earlier comparisons or runs of the base; None without these."""
        base, asked = self.variants[0], self.settings
        return expected_noise(
            base.experiment,
            self.folder.parent,
            self.grid.earlier(base),
            unit=asked.unit,
            seeds=self.grid.planned.most,
            delta=asked.delta,
            family=asked.family or max(1, len(self.variants) - 1),
            looking=bool(self.grid.planned.further),
        )

    def undecided(self, comparison: Comparison) -> list[str]:
        """The names of the variants that may get a verdict from further seeds."""
        found = [(variant.name, variant.difference) for variant in comparison.variants[1:]]
        return [name for name, each in found if each is not None and each.kind in ("cannot tell", "no verdict")]

    def write(self, comparison: Comparison) -> None:
        """Write comparison.json, with paths of runs relative to its folder."""
        comparison.seen_from(self.folder).write(self.folder / "comparison.json")


def make_plan(
    sources: Sequence[Path | Source],
    settings: Settings,
    *,
    out: Path = Path("comparisons"),
    name: str | None = None,
    reading: Reading = AS_WRITTEN,
    runs: Sequence[Path] = (Path("runs"),),
    failed: Sequence[FailedVariant] = (),
    within: ComparisonPlan | None = None,
) -> ComparisonPlan:
    """Read the variants, make them comparable, and find the runs that exist already.

    Args:
        sources: Experiment files, run folders, and these with settings; the base first.
        settings: The settings of the comparison.
        out: The folder in which comparisons get their folders.
        name: The name of this comparison's folder; by default the base's name.
        reading: How the files are read.
        runs: Folders that are searched for finished runs.
        failed: Sources that are left out, with the reason; they are reported with the results.
        within: A plan of the same comparison; what it has loaded, counted and measured is used.

    Raises:
        MinigptError: The sources cannot be compared.
    """
    if name is not None and (refusal := refusal_of_name(name)):
        raise MinigptError(f"--name: {refusal}")
    excluded = {variant.source for variant in failed}
    variants = read_variants([source for source in sources if str(source) not in excluded], reading)
    _check_runs_are_not_adjusted(variants, settings, reading)
    folder = out / (name or variants[0].name)
    measured, counted = (folder, Costs(reading)) if within is None else (within.measured, within.counted)
    seeds = seeds_of(variants, settings.seeds, noise=settings.noise)
    check_comparable(variants, unit=settings.unit, budget=settings.budget)
    threads = max(1, torch.get_num_threads() // settings.jobs) if settings.jobs > 1 else None
    device = choose_device(settings.device)
    variants = settled(variants, lambda: _measured_precision(measured, device, threads))
    corpora = Corpora() if within is None else within.grid.corpora
    check_same_data(variants, corpora.of, settings.unit)
    for variant in variants:
        corpus = corpora.of(variant)
        refuse_unfit_teachers(variant.experiment, corpus.tokenizer, corpus.vocab_size, reading)
    if settings.match is not None:
        variants = _same_size(variants, settings, corpora, counted)
    if settings.budget is not None:
        speeds = _speeds(measured, settings, corpora, threads, reading)
        relative_cost = _relative_cost_of_update(settings.budget, corpora, counted, speeds)
        variants = [
            variants[0],
            *(
                matched_budget(variants[0], variant, settings.budget, *relative_cost(variants[0], variant))
                for variant in variants[1:]
            ),
        ]
    grid = Grid(folder, variants, seeds, corpora, other_runs=runs, device=device)
    costs = tuple(counted.of(variant.experiment, corpora.of(variant)) for variant in variants)
    return ComparisonPlan(folder, settings, tuple(variants), grid, costs, threads, tuple(failed), reading, measured, counted)


def _measured_precision(folder: Path, device: torch.device, threads: int | None) -> str:
    """The precision that `auto` means in this comparison. It is measured once, and kept in the comparison's folder."""
    file = folder / "precision.json"
    known = read_object(file) if file.is_file() else {}
    if known.get(device.type) not in ("fp32", "bf16"):
        with using_threads(threads):
            known[device.type] = choose_precision("auto", device)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, known)
    return str(known[device.type])


def _check_runs_are_not_adjusted(variants: Sequence[Variant], settings: Settings, reading: Reading) -> None:
    """Refuse options that change experiments for runs, because a trained run cannot be adjusted.

    --match and --budget adjust all variants to the base; --set and --tune change the base too.
    """
    base = variants[0]
    for variant in (variant for variant in variants if variant.runs):
        option = "--tune" if settings.tuning else "--set" if reading.overrides else ""
        if variant is not base:
            option = "--match" if settings.match else "--budget" if settings.budget else option
        if option:
            raise MinigptError(
                f"{option} changes variants, but {variant.source} is trained already; name its experiment file"
            )


def _same_size(variants: Sequence[Variant], settings: Settings, corpora: Corpora, counted: Costs) -> list[Variant]:
    base, *others = variants
    assert settings.match is not None

    def size_of(variant: Variant) -> Callable[[Experiment], int]:
        corpus = corpora.of(variant)
        size = corpus.vocab_size
        match settings.match:
            case "params":
                return lambda experiment: build_model_on_meta(experiment.model, size).n_parameters()
            case "state":
                return lambda experiment: build_model_on_meta(experiment.model, size).state_bytes(
                    sequence_length(corpus, experiment)
                )
            case _:
                return lambda experiment: counted.of(experiment, corpus).train_flops

    target = size_of(base)(base.experiment)
    return [base, *(matched_size(target, variant, settings.knobs, size_of(variant), settings.match) for variant in others)]


def _speeds(folder: Path, settings: Settings, corpora: Corpora, threads: int | None, reading: Reading) -> Speeds:
    return Speeds(folder / "speeds.json", corpora.of, settings.device, threads, reading)


def _relative_cost_of_update(
    budget: Budget, corpora: Corpora, counted: Costs, speeds: Speeds
) -> Callable[[Variant, Variant], tuple[float, str]]:
    """A function for the cost of a variant's update relative to the base's, with the precision if it is measured."""

    def flops(variant: Variant) -> float:
        experiment, cost = variant.experiment, counted.of(variant.experiment, corpora.of(variant))
        return tokens_trained(experiment, cost.context) / experiment.training.max_iters * cost.train_flops

    def ratio(base: Variant, variant: Variant) -> tuple[float, str]:
        match budget:
            case "time":
                measured = speeds.ratio(base, variant)
                return measured.value, described(measured)
            case "flops":
                return flops(variant) / flops(base), ""
            case _:
                return 1.0, ""

    return ratio
