"""Take a recipe apart: two comparisons that share runs, judged together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from minigpt.errors import MinigptError
from minigpt.experiment import refusal_of_name
from minigpt.lab.ablate.changes import Attempt, Recipe, take_apart
from minigpt.lab.ablate.record import Ablation, ChangedSetting, ChangeResult, Effect
from minigpt.lab.compare.comparing import Compared, ComparisonWatcher, compare
from minigpt.lab.compare.plan import Settings
from minigpt.lab.compare.record import Comparison
from minigpt.lab.compare.variants import Source
from minigpt.lab.ledger import FILE
from minigpt.reading import AS_WRITTEN, Reading
from minigpt.system.files import read_bytes, write_bytes

ALONE, WITHOUT = "alone", "without"
_MOST_BYTES = 1 << 16


@dataclass(frozen=True)
class Ablated:
    """The outcome of a call of `ablate`.

    Attributes:
        folder: The folder of the study, with a folder for each comparison.
        recipe: The recipe taken apart.
        parts: The comparisons, as far as they were planned or made.
        ablation: The results; None if it was only planned, or was stopped.
    """

    folder: Path
    recipe: Recipe
    parts: tuple[Compared, ...]
    ablation: Ablation | None = None

    @property
    def file(self) -> Path:
        """The path of ablation.json."""
        return self.folder / "ablation.json"

    @property
    def stop_signal(self) -> int | None:
        """The signal that stopped it; None if none did."""
        return self.parts[-1].stop_signal

    def refusals(self) -> list[str]:
        """The changes that cannot be made alone, one per line."""
        sides = (("removed", self.recipe.without), ("added", self.recipe.alone))
        return [
            f"{attempt.change.name} cannot be {how} alone: {attempt.refusal}"
            for how, attempts in sides
            for attempt in attempts
            if attempt.source is None
        ]

    def runs_to_train(self) -> int:
        """Number of runs that are missing; a run that both comparisons use counts once."""
        return len({cell.key for part in self.parts for cell in part.plan.grid.missing_runs()})


def ablate(
    recipe: Path,
    base: Path | None = None,
    settings: Settings | None = None,
    *,
    out: Path = Path("comparisons"),
    name: str | None = None,
    reading: Reading = AS_WRITTEN,
    only_plan: bool = False,
    retry: bool = False,
    patience: float = 900.0,
    watcher: ComparisonWatcher | None = None,
) -> Ablated:
    """Find out what each change of a recipe is worth: removed from the recipe, and added alone to the base.

    A study that was stopped continues when `ablate` is called again. `base` is None for the file that the recipe extends, or
    else for the defaults. `reading` says how the files are read. The study's folder has the recipe's name with `-ablation`,
    unless `name` is given. The other arguments are as for `compare`.

    Raises:
        MinigptError: The files cannot be compared, or differ in fewer than two changes.
    """
    if name is not None and (refusal := refusal_of_name(name)):
        raise MinigptError(f"--name: {refusal}")
    parts = take_apart(recipe, base, settings or Settings(), reading)
    folder = out / (name or f"{parts.name}-ablation")
    judged = replace(settings or Settings(), family=parts.family, noise=False)
    done: list[Compared] = []
    for part, sources in _comparisons(parts):
        (other,) = (folder / each for each in (ALONE, WITHOUT) if each != part)
        _share_precision(folder)
        compared = compare(
            sources,
            judged,
            out=folder,
            name=part,
            reading=parts.reading,
            only_plan=only_plan,
            retry=retry,
            patience=patience,
            watcher=watcher,
            runs=[Path("runs"), other / "runs", *sorted(other.glob("tuning*/runs"))],
            ledger=out / FILE,
        )
        done.append(compared)
        if compared.stop_signal is not None:
            return Ablated(folder, parts, tuple(done))
    if only_plan:
        return Ablated(folder, parts, tuple(done))
    found = {part.plan.folder.name: part.comparison for part in done}
    alone = found[ALONE]
    assert alone is not None
    ablation = summary(folder.name, parts, alone, found.get(WITHOUT))
    ablated = Ablated(folder, parts, tuple(done), ablation)
    ablation.write(ablated.file)
    return ablated


def _comparisons(parts: Recipe) -> list[tuple[str, list[Source]]]:
    """The comparisons by name, with what they compare: the base first."""
    alone, without = _made(parts.alone), _made(parts.without)
    comparisons = [(ALONE, [parts.base, parts.recipe, *alone])]
    return [*comparisons, (WITHOUT, [parts.recipe, *without])] if without else comparisons


def _made(attempts: Sequence[Attempt]) -> list[Source]:
    return [attempt.source for attempt in attempts if attempt.source is not None]


def _share_precision(folder: Path) -> None:
    """Let `auto` mean in the second comparison what was measured in the first, so that they can share runs."""
    measured, other = (folder / part / "precision.json" for part in (ALONE, WITHOUT))
    if measured.is_file() and not other.exists():
        other.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(other, read_bytes(measured, _MOST_BYTES))


def summary(name: str, parts: Recipe, alone: Comparison, without: Comparison | None) -> Ablation:
    """The record of a recipe from its two comparisons; the second is None if no change can be removed alone."""
    changes = []
    for removed, added in zip(parts.without, parts.alone, strict=True):
        settings = tuple(ChangedSetting(path=path, base=before, recipe=now) for path, before, now in added.change.settings)
        effects = {"without": _effect(removed, without), "alone": _effect(added, alone)}
        changes.append(ChangeResult(name=added.change.name, settings=settings, **effects))
    return Ablation(
        name=name,
        recipe=parts.name,
        base=alone.base.name,
        chosen=parts.chosen,
        settings=alone.settings,
        family=parts.family,
        base_mean=alone.base.mean,
        whole=Effect.of(alone, parts.name),
        changes=tuple(changes),
        notes=parts.notes,
    )


def _effect(attempt: Attempt, comparison: Comparison | None) -> Effect:
    if attempt.source is None or attempt.source.name is None:
        return Effect(variant=None, verdict=f"cannot be made alone: {attempt.refusal}")
    return Effect.of(comparison, attempt.source.name)
