"""The changes from a base to a recipe, and the variants that have one of them less or one of them alone."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import JsonValue

from minigpt.data import tokens_trained
from minigpt.errors import MinigptError, command_line
from minigpt.experiment import Experiment
from minigpt.lab.compare.plan import Settings
from minigpt.lab.compare.variants import Source, Variant, check_comparable, read_variant
from minigpt.reading import Reading, parent_of, read_experiment
from minigpt.run.identity import differing, settings_of

_DEFAULTS = "defaults"
_LONGEST = 80  # characters of a change in the name of a folder
Setting = tuple[str, JsonValue, JsonValue]


@dataclass(frozen=True)
class Change:
    """One change from the base to the recipe: settings that are changed together.

    Attributes:
        name: Its name, which can be part of a folder's name.
        settings: Path, value in the base, value in the recipe. A component with another name is one value.
    """

    name: str
    settings: tuple[Setting, ...]

    def reverted(self) -> Change:
        """The change from the recipe back to the base."""
        return replace(self, settings=tuple((path, now, before) for path, before, now in self.settings))

    def of(self, start: Variant, prefix: str) -> Source:
        """What a variant with this change is read from."""
        values = (_set(path, now) for path, _, now in self.settings)
        return Source(start.source.path, (*start.source.settings, *values), f"{prefix}-{self.name}")


@dataclass(frozen=True)
class Attempt:
    """A variant that differs from the base or from the recipe by one change.

    Attributes:
        change: The change that makes it.
        source: What the variant is read from; None if the change cannot be made alone.
        refusal: Why it cannot; empty if it can.
    """

    change: Change
    source: Source | None
    refusal: str = ""


@dataclass(frozen=True)
class Recipe:
    """A recipe taken apart.

    Attributes:
        name: The recipe's name.
        base: The base.
        recipe: The recipe, with the base's seed.
        chosen: Why this base was chosen, in words.
        without: For each change, the recipe without it.
        alone: For each change, the base with it.
        notes: Differences that are no changes.
        reading: How all variants are read.
    """

    name: str
    base: Source
    recipe: Source
    chosen: str
    without: tuple[Attempt, ...]
    alone: tuple[Attempt, ...]
    notes: tuple[str, ...]
    reading: Reading

    @property
    def family(self) -> int:
        """Number of rows with a verdict: each variant, and the recipe itself."""
        return 1 + sum(attempt.source is not None for attempt in (*self.without, *self.alone))


def take_apart(recipe_file: Path, base_file: Path | None, settings: Settings, reading: Reading) -> Recipe:
    """Find the changes between two files, and the variants that show what each is worth.

    Args:
        recipe_file: The recipe's experiment file.
        base_file: The base's; None for the file that the recipe extends, or else the defaults.
        settings: The settings of the comparisons.
        reading: How the files are read.

    Raises:
        MinigptError: A file cannot be read, the two cannot be compared, or they differ in fewer than two changes.
    """
    for file in (recipe_file, *([base_file] if base_file else [])):
        if file.is_dir():
            raise MinigptError(f"{file} is a folder: ablate trains variants of a recipe, so name an experiment file")
    source, chosen = _base(recipe_file, base_file, reading)
    base = read_variant(source, reading)
    recipe = read_variant(recipe_file, reading)
    if recipe.experiment.seed != base.experiment.seed:
        recipe = read_variant(Source(recipe_file, (f"seed={base.experiment.seed}",)), reading)
    check_comparable([base, recipe], unit=settings.unit, budget=settings.budget)
    reading = _with_plugins_of_both(reading, base.experiment, recipe.experiment)
    changes, notes = _changes(base.experiment, recipe.experiment, is_matched=settings.budget is not None)
    if settings.budget is None:
        changes = _joined(changes, base, reading)
    if len(changes) < 2:
        found = f"in one change ({changes[0].name})" if changes else "in nothing that changes a number"
        raise MinigptError(
            f"{recipe.name} and {base.name} differ {found}, so there is nothing to take apart; "
            f"{command_line('compare', source.path, recipe_file)} compares them"
        )
    return Recipe(
        name=recipe.name,
        base=base.source,
        recipe=recipe.source,
        chosen=chosen,
        without=tuple(_attempt(change.reverted(), recipe, "without", settings, reading) for change in changes),
        alone=tuple(_attempt(change, base, "with", settings, reading) for change in changes),
        notes=notes,
        reading=reading,
    )


def _base(recipe: Path, base: Path | None, reading: Reading) -> tuple[Source, str]:
    if base is not None:
        return Source(base), "named by --from"
    parent = parent_of(recipe)
    if parent is not None:
        return Source(parent), f"{recipe} extends it"
    changes, _ = _changes(read_experiment({}, reading), read_experiment(recipe, reading))
    settings = tuple(_set(path, before) for change in changes for path, before, _ in change.settings)
    return Source(recipe, settings, _DEFAULTS), f"{recipe} extends no file, so the defaults of minigpt are the base"


def _with_plugins_of_both(reading: Reading, one: Experiment, other: Experiment) -> Reading:
    """A variant may need a plugin that only one of the two files names."""
    only_one = sorted(set(one.plugins) ^ set(other.plugins))
    return replace(reading, plugin_files=(*reading.plugin_files, *map(Path, only_one)))


def _document(experiment: Experiment) -> dict[str, JsonValue]:
    """The settings that can change a number; a layer has only what differs from the model."""
    return settings_of({**experiment.to_file_json(), "seed": 0})


def _changes(base: Experiment, recipe: Experiment, *, is_matched: bool = False) -> tuple[list[Change], tuple[str, ...]]:
    """The changes, each of one setting, and notes about differences that are left out."""
    changes: list[Change] = []
    notes = []
    for index, setting in enumerate(differing(_document(base), _document(recipe))):
        path, before, now = setting
        if is_matched and path == "training.max_iters":
            notes.append(f"training.max_iters {before} → {now} is no change: --budget sets it")
            continue
        name = re.sub(r"[^A-Za-z0-9._-]", "_", path)
        is_short = name == path and len(name) <= _LONGEST
        changes.append(Change(name if is_short else f"{name[:_LONGEST]}-{index}", (setting,)))
    return changes, tuple(notes)


def _set(path: str, value: JsonValue) -> str:
    return f"{path}={json.dumps(value)}"


def _joined(changes: list[Change], base: Variant, reading: Reading) -> list[Change]:
    """The changes, with those as one that change the number of tokens: only together they keep it."""
    tokens = tokens_trained(base.experiment)
    together = []
    for change in changes:
        with suppress(MinigptError):  # it is reported as a change that cannot be made alone
            if tokens_trained(read_variant(change.of(base, "with"), reading).experiment) != tokens:
                together.append(change)
    if len(together) < 2:
        return changes
    name = "-".join(change.name for change in together)[:_LONGEST]
    joined = Change(name, tuple(setting for change in together for setting in change.settings))
    return [joined if change is together[0] else change for change in changes if change not in together[1:]]


def _attempt(change: Change, start: Variant, prefix: str, settings: Settings, reading: Reading) -> Attempt:
    """The variant that differs from another by one change and nothing else."""
    source = change.of(start, prefix)
    try:
        made = read_variant(source, reading)
        check_comparable([start, made], unit=settings.unit, budget=settings.budget)
    except MinigptError as error:
        return Attempt(change, None, str(error).splitlines()[0].removeprefix(f"{source.path}: "))
    found = differing(_document(start.experiment), _document(made.experiment))
    if {path: now for path, _, now in found} == {path: now for path, _, now in change.settings}:
        return Attempt(change, source)
    paths = ", ".join(path for path, *_ in found)
    return Attempt(change, None, f"it would change {paths or 'nothing'}")
