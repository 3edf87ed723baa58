"""Load an `Experiment` from a JSON file and validate every name and number.

The order: strict JSON; the `extends` chain laid over the defaults; overrides; the plugins loaded; every name and parameter
validated; the model built once on the meta device. So impossible combinations are reported before memory is allocated. Each
error is one line with its JSON path.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from minigpt.errors import ExperimentError, PluginError, Problem
from minigpt.experiment import Experiment
from minigpt.model import build_model_on_meta
from minigpt.reading.documents import merged, overrides_as_document
from minigpt.reading.files import plugins_in, read_chain, with_parents
from minigpt.reading.moved import refuse_moved
from minigpt.reading.named_plugins import is_list_of_paths, load_named
from minigpt.reading.options import AS_WRITTEN, Reading
from minigpt.registry import plugins
from minigpt.registry.problems import problems_of
from minigpt.system.files import refuse_surrogates


def load_experiment(
    source: str | Path | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    plugin_files: Sequence[str | Path] = (),
    allow_plugins: bool = True,
    trust: bool = False,
) -> Experiment:
    """Read an experiment and check all of it.

    Args:
        source: A file, or the JSON object itself.
        overrides: `model.attention.name=gqa` and the like; the value is JSON, or text where it is no JSON.
        plugin_files: Plugins to load beside those that the experiment names.
        allow_plugins: False loads no plugin, and refuses an experiment that names one.
        trust: Execute plugins that a run folder's file names, and trust them from now on; known ones are executed anyway.

    Raises:
        ExperimentError: The experiment is invalid; the message has one line per problem.
        PluginError: A plugin cannot be loaded.
        TrustError: A run folder's file names a plugin that is not trusted.
    """
    return read_experiment(source, Reading(tuple(overrides), tuple(map(Path, plugin_files)), allow_plugins, trust))


def read_experiment(source: str | Path | Mapping[str, Any], reading: Reading = AS_WRITTEN) -> Experiment:
    """The same as `load_experiment`, with its options in one value."""
    where = str(source) if isinstance(source, str | Path) else "experiment"
    if isinstance(source, Mapping):
        document = json.loads(json.dumps(source, default=str))
        try:
            refuse_surrogates(document)
        except ValueError as error:
            raise ExperimentError([Problem((), str(error))], where) from error
        documents = with_parents(document, Path("experiment"), (), of_run=False)
    else:
        documents = read_chain(Path(source), ())
    return _resolved(documents, where, reading)


def load_recorded(file: Path, reading: Reading = AS_WRITTEN) -> Experiment:
    """Read the experiment of a run folder, whose plugins no person has named.

    Errors as for `load_experiment`.
    """
    return _resolved(read_chain(file, (), of_run=True), str(file), reading)


def load_without_plugins(document: Mapping[str, Any], file: Path) -> Experiment | None:
    """Load a run's recorded experiment from shipped and installed components.

    None if it needs its own plugins.

    Args:
        document: The recorded experiment; no plugin that it names is executed.
        file: Its path, for messages.

    Raises:
        ExperimentError: It names no plugins, and is invalid.
    """
    own = {key: value for key, value in document.items() if key not in Experiment.file_keys}
    try:
        return _resolved([{**own, "plugins": []}], str(file), AS_WRITTEN)
    except (ExperimentError, PluginError):
        if document.get("plugins") or document.get("extends"):
            return None
        raise


def _resolved(documents: Sequence[dict[str, Any]], where: str, reading: Reading) -> Experiment:
    changes = overrides_as_document(reading.overrides)
    refuse_moved(changes, "--set")
    try:
        named = changes.get("plugins", plugins_in(documents))
        if is_list_of_paths(named):  # otherwise validation reports the problem
            named = load_named(named, reading)
        experiment = _with_plugins_used(_validate([*documents, changes, {"plugins": named}]), reading.allow_plugins)
        _build_on_meta(experiment)
    except ExperimentError as error:
        raise ExperimentError(error.problems, where) from error
    except PluginError as error:
        raise PluginError(f"{where}: {error}") from error
    return experiment


def _with_plugins_used(experiment: Experiment, allowed: bool) -> Experiment:
    """Add every plugin file whose components are used, including files that this process loaded before."""
    used = {plugin.sha256: plugin for spec in experiment.specs() if (plugin := plugins.plugin_of(spec.cls))}
    named = experiment.plugins
    missing = [str(p.path) for p in used.values() if not any(plugins.is_copy_of(file, p) for file in named)]
    if missing and not allowed:
        raise PluginError(f"plugins are refused (--no-plugins), but it uses {missing[0]}")
    return experiment.model_copy(update={"plugins": [*experiment.plugins, *missing]}) if missing else experiment


def _validate(documents: Sequence[dict[str, Any]]) -> Experiment:
    try:
        return Experiment.model_validate(merged(documents))
    except ValidationError as error:
        raise ExperimentError(problems_of(error, Experiment)) from error
    except RecursionError as error:
        raise ExperimentError([Problem((), "nested too deeply")]) from error


def _build_on_meta(experiment: Experiment) -> None:
    """Build everything once without allocating memory, so that constructor errors are reported now."""
    training = experiment.training
    builds: tuple[Callable[[], object], ...] = (
        experiment.data.build,
        experiment.tokenizer.build,
        training.batching.build,
        training.optimizer.build,
        lambda: training.schedule.build(training.max_iters),
        experiment.sampling.sampler.build,
        lambda: build_model_on_meta(experiment.model),
    )
    problems: list[Problem] = []
    for build in builds:
        try:
            build()
        except ExperimentError as error:
            problems += error.problems
    if problems:
        raise ExperimentError(problems)
