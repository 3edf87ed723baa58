"""Run a ladder: a comparison at each size, then a joint fit for each variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from minigpt.errors import MinigptError, listing
from minigpt.experiment import Experiment, refusal_of_name
from minigpt.lab.compare.comparing import Compared, ComparisonWatcher, compare
from minigpt.lab.compare.grid import Corpora
from minigpt.lab.compare.plan import ComparisonPlan, Settings, make_plan
from minigpt.lab.compare.rehearsal import Rehearsed, rehearse
from minigpt.lab.compare.variants import Source, read_variant, read_variants
from minigpt.lab.ladder.judging import judge
from minigpt.lab.ladder.record import Ladder
from minigpt.lab.ladder.sizes import Growth, Size, growth_of_updates, learning_rate, resized, sizes_of, updates
from minigpt.lab.ledger import FILE
from minigpt.model import build_model_on_meta
from minigpt.reading import AS_WRITTEN, Reading


@dataclass(frozen=True)
class Rung:
    """The comparison at one size.

    Attributes:
        size: The size.
        sources: The variants at this size, the base first.
        plan: The comparison's plan, as it was before any training.
    """

    size: Size
    sources: tuple[Source, ...]
    plan: ComparisonPlan


@dataclass(frozen=True)
class Laddered:
    """The outcome of a call of `ladder`.

    Attributes:
        folder: The ladder's folder, with a comparison for each size and ladder.json.
        rungs: What is compared at each size.
        results: The results; None if the ladder was only planned, or was stopped.
        stop_signal: The signal that stopped it; None if none did.
    """

    folder: Path
    rungs: tuple[Rung, ...]
    results: Ladder | None = None
    stop_signal: int | None = None

    @property
    def file(self) -> Path:
        """The path of ladder.json, which contains all results."""
        return self.folder / "ladder.json"


class LadderWatcher(Protocol):
    """Is notified as a ladder proceeds."""

    def ladder_planned(self, folder: Path, rungs: Sequence[Rung]) -> None:
        """All sizes are planned; nothing is trained yet."""

    def size(self, rung: Rung) -> ComparisonWatcher | None:
        """The comparison at a size begins. Returns what is notified as it proceeds."""


def ladder(
    sources: Sequence[Path | Source],
    growth: Growth | None = None,
    settings: Settings | None = None,
    *,
    out: Path = Path("comparisons"),
    name: str | None = None,
    reading: Reading = AS_WRITTEN,
    only_plan: bool = False,
    retry: bool = False,
    patience: float = 900.0,
    watcher: LadderWatcher | None = None,
) -> Laddered:
    """Compare variants with a base at several sizes, and fit how losses fall with training compute.

        laddered = ladder([Path("base.json"), Path("variant.json")], Growth(sizes=("64x2", "96x3", "128x4")))
        print(laddered.results.findings[0].statement)

    Each size is a comparison (`minigpt.lab.compare.compare`) with the same seeds, in its own folder within the ladder's.
    A ladder that was stopped continues when `ladder` is called again.

    Args:
        sources: Experiment files, and these with settings; the base first.
        growth: The sizes, and how training grows with them.
        settings: Of each comparison. What they tune is tuned at each size. The base is not compared with itself.
        out: The folder in which ladders get their folders.
        name: The name of this ladder's folder; by default the base's name with `-ladder`.
        reading: How the sources are read.
        only_plan: Stop after the plan: train and judge nothing.
        retry: Train crashed and diverged runs again.
        patience: A run without progress for this many seconds is killed.
        watcher: Is notified as the ladder proceeds.

    Raises:
        MinigptError: The sources cannot be compared, or not at these sizes.
    """
    growth, settings = growth or Growth(), replace(settings or Settings(), noise=False)
    tried = _tried(sources, settings, reading, patience)
    folder, rungs = _planned(_without(sources, tried), growth, settings, out, name, reading)
    if watcher is not None:
        watcher.ladder_planned(folder, rungs)
    if only_plan:
        return Laddered(folder, rungs)
    comparisons = []
    for rung in rungs:
        shown = None if watcher is None else watcher.size(rung)
        compared = _compared(rung, settings, folder, reading, out / FILE, retry=retry, patience=patience, watcher=shown)
        if compared.comparison is None:
            return Laddered(folder, rungs, stop_signal=compared.stop_signal)
        comparisons.append(compared.comparison)
    results = judge(folder.name, growth, comparisons, tried.failed)
    results.write(folder / "ladder.json")
    return Laddered(folder, rungs, results)


def _tried(sources: Sequence[Path | Source], settings: Settings, reading: Reading, patience: float) -> Rehearsed:
    """Try the variants that have plugins, at the size of their files.

    Raises:
        MinigptError: A source is no experiment file, there is only one, or as for `rehearse`.
    """
    if len(sources) < 2:
        raise MinigptError("ladder needs a base and at least one variant: minigpt ladder BASE VARIANT...")
    if folders := [str(path) for path in (Source.of(source).path for source in sources) if path.is_dir()]:
        raise MinigptError(f"{listing(folders)}: a run has one size; name its experiment file")
    if not reading.allow_plugins:
        return Rehearsed()
    return rehearse(sources, reading, device=settings.device, seconds=patience)


def _without(sources: Sequence[Path | Source], tried: Rehearsed) -> list[Source]:
    """The sources whose trial did not fail."""
    left_out = {variant.source for variant in tried.failed}
    return [source for source in map(Source.of, sources) if str(source) not in left_out]


def _compared(
    rung: Rung,
    settings: Settings,
    folder: Path,
    reading: Reading,
    ledger: Path,
    *,
    retry: bool,
    patience: float,
    watcher: ComparisonWatcher | None,
) -> Compared:
    """The comparison at one size."""
    return compare(
        rung.sources,
        settings,
        out=folder,
        name=rung.size.name,
        reading=reading,
        retry=retry,
        patience=patience,
        watcher=watcher,
        ledger=ledger,
    )


def _planned(
    sources: Sequence[Source], growth: Growth, settings: Settings, out: Path, name: str | None, reading: Reading
) -> tuple[Path, tuple[Rung, ...]]:
    """The ladder's folder, and a plan for each size.

    Raises:
        MinigptError: A source cannot be read, resized, or compared.
    """
    if name is not None and (refusal := refusal_of_name(name)):
        raise MinigptError(f"--name: {refusal}")
    variants = read_variants(sources, reading)
    base, folder = variants[0].experiment, out / (name or f"{variants[0].name}-ladder")
    sizes = sizes_of(growth, base)
    vocab_size = Corpora().of(variants[0]).vocab_size

    def parameters(experiment: Experiment) -> int:
        return build_model_on_meta(experiment.model, vocab_size).n_parameters()

    bases = [read_variant(_with(sources[0], resized(base, base, size)), reading).experiment for size in sizes]
    factors = growth_of_updates(growth, base, [parameters(each) for each in bases], parameters(base))
    rungs: list[Rung] = []
    automatic = [index for index, variant in enumerate(variants) if variant.experiment.training.precision == "auto"]
    precision: list[str] = []
    for size, factor in zip(sizes, factors, strict=True):
        at_size = []
        for index, variant in enumerate(variants):
            own = variant.experiment
            added = [*resized(own, base, size), *learning_rate(own, base, size, growth.rate), updates(own, factor)]
            at_size.append(_with(variant.source, [*added, *(precision if index in automatic else [])]))
        try:
            plan = make_plan(at_size, settings, out=folder, name=size.name, reading=reading)
        except MinigptError as error:
            lines = (f"at the size {size.name}: {line}" for line in str(error).splitlines())
            raise MinigptError("\n".join(lines)) from error
        # What "auto" means is measured at the first size only, so that all sizes are trained in one precision.
        precision = [f"training.precision={plan.variants[index].experiment.training.precision}" for index in automatic[:1]]
        rungs.append(Rung(size, tuple(at_size), plan))
    return folder, tuple(rungs)


def _with(source: Source, settings: Sequence[str]) -> Source:
    """The source with further settings."""
    return replace(source, settings=(*source.settings, *settings))
