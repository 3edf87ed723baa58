"""What can be checked: from the words on the command line to components and experiments."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minigpt.errors import CheckError, PluginError, listing, nearest
from minigpt.experiment import Experiment
from minigpt.reading import AS_WRITTEN, Reading, read_experiment
from minigpt.registry import REGISTRY, Spec, plugins
from minigpt.registry.entry import Entry
from minigpt.registry.paths import run_folder_of
from minigpt.registry.spec import is_shipped
from minigpt.run import RunFolder

EXPERIMENT = "experiment"
PARTS_OF_A_MODEL = ("attention", "position", "norm", "ffn", "block")


@dataclass(frozen=True)
class Target:
    """A component, or the model of an experiment.

    Attributes:
        label: `attention/gqa`, or the experiment's file.
        family: The component's; `experiment` for an experiment.
        entry: The component's registry entry; None for an experiment.
        experiment: The experiment; None for a component.
        reading: How it is read again: what must be loaded to find it, and what an experiment has otherwise than its file.
    """

    label: str
    family: str
    entry: Entry | None = None
    experiment: Experiment | None = None
    reading: Reading = AS_WRITTEN

    def spec(self, params: Mapping[str, Any]) -> Spec[Any]:
        """The component with these parameters.

        Raises:
            ExperimentError: They are not allowed.
        """
        assert self.entry is not None
        return REGISTRY.resolve(self.family, {"name": self.entry.name, **params})


def component_target(family: str, name: str, reading: Reading = AS_WRITTEN) -> Target:
    """A registered component; of `reading` the settings are left out, which are an experiment's.

    Raises:
        RegistryError: There is none of that name.
    """
    return Target(f"{family}/{name}", family, REGISTRY.entry(family, name), reading=reading.as_recorded())


def experiment_target(experiment: Experiment, label: str, reading: Reading = AS_WRITTEN) -> Target:
    """The model that an experiment describes."""
    return Target(label, EXPERIMENT, experiment=experiment, reading=_with_plugins_of(experiment, reading))


def _with_plugins_of(experiment: Experiment, reading: Reading) -> Reading:
    return replace(reading, plugin_files=tuple(map(Path, experiment.plugins)))


def find_targets(words: Sequence[str], reading: Reading = AS_WRITTEN, *, everything: bool = False) -> list[Target]:
    """What the words mean: `family/name`, a family, a plugin file or folder, an experiment file, a run; each target once.

    Args:
        words: As on the command line.
        reading: The plugins to load beforehand, and the settings of experiments to change.
        everything: Every registered component as well.

    Raises:
        CheckError: A word means none of these.
        RegistryError: A component that is not registered.
        PluginError: A plugin file does not load.
        ExperimentError: An experiment cannot be read.
        RunError: A run cannot be read.
        TrustError: A run's plugin is not trusted.
    """
    reading = replace(reading, plugin_files=tuple(file.absolute() for file in reading.plugin_files))
    _load(reading)
    targets = list(_every_component(reading)) if everything else []
    for word in words:
        targets += _meaning(word, reading)
    return list({target.label: target for target in targets}.values())


def find_again(family: str, name: str, reading: Reading) -> Target:
    """The target that another process found by a word; what the word means is not asked again.

    Args:
        family: The target's.
        name: The component's, or the file or folder of an experiment.
        reading: The target's.
    """
    _load(reading)
    return component_target(family, name, reading) if family != EXPERIMENT else _experiment(name, reading)


def _load(reading: Reading) -> None:
    if reading.allow_plugins:
        plugins.load_installed()
    elif reading.plugin_files:
        raise PluginError(f"plugins are refused (--no-plugins), and {reading.plugin_files[0]} is one")
    for file in reading.plugin_files:
        plugins.load_file(file)


def _experiment(word: str, reading: Reading) -> Target:
    """The model of an experiment file, or of a run folder."""
    experiment = RunFolder(Path(word)).experiment(reading) if os.path.isdir(word) else read_experiment(word, reading)
    return experiment_target(experiment, word, reading)


def _every_component(reading: Reading, family: str | None = None) -> Iterator[Target]:
    for each in REGISTRY.families():
        if family in (None, each.name):
            for entry in REGISTRY.entries(each.name):
                yield component_target(each.name, entry.name, reading)


def _meaning(word: str, reading: Reading) -> list[Target]:
    """What is registered always wins over what lies in the working folder: `./norm/none` is the folder."""
    families = [family.name for family in REGISTRY.families()]
    if word in families:
        return list(_every_component(reading, word))
    family, slash, name = word.partition("/")
    if family in families and REGISTRY.has(family, name):
        return [component_target(family, name, reading)]
    path = Path(word)
    if os.path.lexists(path / "experiment.json") or path.suffix == ".json":
        return [_experiment(word, reading)]
    if path.suffix == ".py" or path.is_dir():
        if not reading.allow_plugins:
            raise PluginError(f"plugins are refused (--no-plugins), and {path} is one")
        _refuse_folder_of_runs(path)
        labels = [label.split("/", 1) for label in plugins.load_file(path.absolute()).registered]
        reading = replace(reading, plugin_files=(*reading.plugin_files, path.absolute()))
        return [component_target(family, name, reading) for family, name in labels]
    if slash and family in families:
        return [component_target(family, name, reading)]
    if slash:
        raise CheckError(
            f'"{word}": there is no family "{family}"; families: {listing(families)}{nearest(family, families)}'
        )
    homes = [f"{family}/{word}" for family in families if REGISTRY.has(family, word)]
    hint = f"; did you mean {' or '.join(homes)}?" if homes else nearest(word, families)
    raise CheckError(
        f'"{word}" is nothing to check: name a component (attention/gqa), a family ({listing(families)}), a plugin file '
        f"(mine.py) or an experiment (mine.json){hint}"
    )


def _refuse_folder_of_runs(path: Path) -> None:
    """A folder of runs, or a comparison, is data whatever lies in it: a plugin in it is executed where it is named as one.

    Raises:
        CheckError: It is such a folder.
    """
    if not path.is_dir():
        return
    within = [file for pattern in ("*/experiment.json", "*/*/experiment.json") for file in path.glob(pattern)]
    if within or run_folder_of(path / "__init__.py") is not None:
        raise CheckError(f"{path} is a folder of runs, which is data; name one of its runs, or a plugin: --plugin FILE")


def plugin_targets(experiment: Experiment, label: str, reading: Reading = AS_WRITTEN) -> list[Target]:
    """The components of an experiment that are not shipped, and its model as composed where they are parts of it."""
    foreign = [spec for spec in experiment.specs() if not is_shipped(spec.cls)]
    targets = [component_target(spec.family, spec.name, _with_plugins_of(experiment, reading)) for spec in foreign]
    if any(spec.family in PARTS_OF_A_MODEL for spec in foreign):
        targets.append(experiment_target(experiment, label, reading))
    return list({target.label: target for target in targets}.values())
