"""The targets of a check: components, experiments and runs, found from words on the command line."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from minigpt.data import Corpus
from minigpt.errors import CheckError, PluginError, listing, nearest
from minigpt.experiment import Experiment
from minigpt.model import GPT
from minigpt.reading import AS_WRITTEN, Reading, read_experiment
from minigpt.registry import REGISTRY, Spec, plugins
from minigpt.registry.entry import Entry
from minigpt.registry.paths import run_folder_of
from minigpt.registry.spec import is_shipped
from minigpt.run import RunFolder
from minigpt.run.evaluation import Scorer
from minigpt.run.opening import load_scorer

EXPERIMENT = "experiment"
RUN = "run"
PARTS_OF_A_MODEL = ("attention", "position", "norm", "ffn", "block", "embedding")


@dataclass(frozen=True)
class Target:
    """A component, the model of an experiment, or the trained model of a finished run.

    Attributes:
        label: `attention/gqa`, the path of the experiment's file, or the run folder.
        family: The component's family, `experiment`, or `run`.
        entry: The component's registry entry; None for an experiment and for a run.
        experiment: The experiment; None for a component.
        reading: The plugins that must be loaded to find it, and the settings that override an experiment's file.
        run: The run folder; None unless the family is `run`.
        corpus: The run's data; None if they have to be loaded.
        model: The run's model at the end of its training; None if there is only the saved one.
        trained: Models after the updates of a case, by the case; several properties try the same cases.
    """

    label: str
    family: str
    entry: Entry | None = None
    experiment: Experiment | None = None
    reading: Reading = AS_WRITTEN
    run: RunFolder | None = None
    corpus: Corpus | None = None
    model: GPT | None = None
    trained: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def saved(self) -> Scorer:
        """The run's trained model as it was saved, and its data; read when it is first used.

        Raises:
            RunError: The run cannot be read.
            DataError: Its data are not available.
        """
        assert self.run is not None
        assert self.experiment is not None
        return load_scorer(self.run, self.experiment, self.corpus)

    def spec(self, params: Mapping[str, Any]) -> Spec[Any]:
        """Return the component with these parameters.

        Raises:
            ExperimentError: The parameters are not allowed.
        """
        assert self.entry is not None
        return REGISTRY.resolve(self.family, {"name": self.entry.name, **params})


def component_target(family: str, name: str, reading: Reading = AS_WRITTEN) -> Target:
    """Return the target of a registered component; overrides in `reading` do not apply to it.

    Raises:
        RegistryError: No component of the family has this name.
    """
    return Target(f"{family}/{name}", family, REGISTRY.entry(family, name), reading=reading.as_recorded())


def experiment_target(experiment: Experiment, label: str, reading: Reading = AS_WRITTEN) -> Target:
    """Return the target of the model that an experiment describes."""
    return Target(label, EXPERIMENT, experiment=experiment, reading=_with_plugins_of(experiment, reading))


def run_target(
    run: RunFolder,
    experiment: Experiment,
    reading: Reading = AS_WRITTEN,
    *,
    corpus: Corpus | None = None,
    model: GPT | None = None,
) -> Target:
    """Return the target of the trained model of a finished run, which has copies of its plugins."""
    return Target(str(run.path), RUN, None, experiment, reading, run, corpus, model)


def _with_plugins_of(experiment: Experiment, reading: Reading) -> Reading:
    return replace(reading, plugin_files=tuple(map(Path, experiment.plugins)))


def find_targets(words: Sequence[str], reading: Reading = AS_WRITTEN, *, everything: bool = False) -> list[Target]:
    """Return the targets that the words name, each once.

    A word is `family/name`, a family, a plugin file or folder, an experiment file, or a run folder.

    Args:
        words: Arguments of the command line.
        reading: The plugins to load first, and the overrides for experiments.
        everything: Add every registered component.

    Raises:
        CheckError: A word does not name a target.
        RegistryError: A component is not registered.
        PluginError: A plugin file cannot be loaded.
        ExperimentError: An experiment cannot be read.
        RunError: A run cannot be read.
        TrustError: A run's plugin is not trusted.
    """
    reading = replace(reading, plugin_files=tuple(file.absolute() for file in reading.plugin_files))
    _load(reading)
    targets = list(_every_component(reading)) if everything else []
    for word in words:
        targets += _targets_of(word, reading)
    return list({target.label: target for target in targets}.values())


def find_again(family: str, name: str, reading: Reading) -> Target:
    """Return a target that another process has found, without interpreting words again.

    Args:
        family: The target's family.
        name: The component's name, or the file or folder of an experiment.
        reading: The target's reading.
    """
    _load(reading)
    return _experiment(name, reading) if family in (EXPERIMENT, RUN) else component_target(family, name, reading)


def _load(reading: Reading) -> None:
    if reading.allow_plugins:
        plugins.load_installed()
    elif reading.plugin_files:
        raise PluginError(f"plugins are refused (--no-plugins), but {reading.plugin_files[0]} is a plugin")
    for file in reading.plugin_files:
        plugins.load_file(file)


def _experiment(word: str, reading: Reading) -> Target:
    """Return the target of an experiment file or of a run folder: of its trained model, if the run is finished."""
    if not os.path.isdir(word):
        return experiment_target(read_experiment(word, reading), word, reading)
    run = RunFolder(Path(word))
    if reading.overrides or not run.is_finished():  # with other settings, it is not the model that was trained
        return experiment_target(run.experiment(reading), word, reading)
    return run_target(run, run.experiment(replace(reading, overrides=tuple(run.moved_data()))), reading)


def _every_component(reading: Reading, family: str | None = None) -> Iterator[Target]:
    for registered in REGISTRY.families():
        if family in (None, registered.name):
            for entry in REGISTRY.entries(registered.name):
                yield component_target(registered.name, entry.name, reading)


def _targets_of(word: str, reading: Reading) -> list[Target]:
    """Return the targets of one word; a registered name wins over a folder of that name (`./norm/none`)."""
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
            raise PluginError(f"plugins are refused (--no-plugins), but {path} is a plugin")
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
        f'"{word}" is not a target: name a component (attention/gqa), a family ({listing(families)}), a plugin file '
        f"(mine.py) or an experiment (mine.json){hint}"
    )


def _refuse_folder_of_runs(path: Path) -> None:
    """Refuse a folder of runs or a comparison: it is data, so a plugin inside must be named explicitly.

    Raises:
        CheckError: The path is a folder of runs.
    """
    if not path.is_dir():
        return
    experiments = [file for pattern in ("*/experiment.json", "*/*/experiment.json") for file in path.glob(pattern)]
    if experiments or run_folder_of(path / "__init__.py") is not None:
        raise CheckError(f"{path} is a folder of runs, which is data; name one of its runs, or a plugin: --plugin FILE")


def plugin_targets(experiment: Experiment, label: str, reading: Reading = AS_WRITTEN) -> list[Target]:
    """Return an experiment's components that are not shipped, and its model if it contains one of them."""
    foreign = [spec for spec in experiment.specs() if not is_shipped(spec.cls)]
    targets = [component_target(spec.family, spec.name, _with_plugins_of(experiment, reading)) for spec in foreign]
    if any(spec.family in PARTS_OF_A_MODEL for spec in foreign):
        targets.append(experiment_target(experiment, label, reading))
    return list({target.label: target for target in targets}.values())
