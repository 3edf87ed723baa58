"""Load the plugins that an experiment names: all are read and checked before the first is executed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from minigpt.errors import ExperimentError, PluginError, Problem
from minigpt.experiment import Experiment
from minigpt.reading.files import plugins_in, read_chain
from minigpt.reading.options import AS_WRITTEN, Reading
from minigpt.registry import plugins, trust
from minigpt.registry.paths import NamedByRun
from minigpt.registry.plugin_files import PluginFiles, read_plugin
from minigpt.registry.problems import quote


def is_list_of_paths(named: Any) -> TypeGuard[list[str]]:
    """Whether the value of "plugins" has the right form."""
    return isinstance(named, list) and all(isinstance(file, str) for file in named)


def load_named(named: Sequence[str], reading: Reading) -> list[str]:
    """Load installed plugins, those that an experiment names, and more files.

    Returns the absolute paths of all files.

    Raises:
        PluginError: A plugin cannot be loaded, or plugins are not allowed.
        TrustError: A run folder's file names a plugin that is not trusted.
    """
    files = _by_person(named, reading.plugin_files)
    if not reading.allow_plugins:
        if files:
            raise PluginError(f"plugins are refused (--no-plugins), but it names {next(iter(files))}")
        return []
    sources = read_named(named, reading)
    plugins.load_installed()
    for source in sources:
        plugins.load(source)
    return list(files)


def read_named(named: Sequence[str], reading: Reading) -> list[PluginFiles]:
    """Read and announce plugins, and check that those which no person named are trusted; executes none.

    Raises:
        PluginError: A plugin cannot be read.
        TrustError: A run folder's file names a plugin that is not trusted.
    """
    files = _by_person(named, reading.plugin_files)
    sources = [read_plugin(Path(file)) for file in files]
    trust.allow([(each.path, each.sha256) for each in sources if not files[str(each.path)]], trust=reading.trust)
    for each in (source for source in sources if files[str(source.path)]):
        trust.announce([(each.path, each.sha256)])
        trust.remember(each.sha256, each.path)
    return sources


def named_plugins(path: Path, reading: Reading = AS_WRITTEN, *, of_run: bool = False) -> list[Any]:
    """The plugins that a file, and the files that it extends, name; none is loaded.

    Args:
        path: The file.
        reading: States whether plugins that a run names are trusted.
        of_run: Whether the file is in a run folder.

    Raises:
        ExperimentError: The file cannot be read.
        TrustError: A run folder's file names a plugin that is not trusted.
    """
    named = plugins_in(read_chain(path, (), of_run))
    if is_list_of_paths(named):
        read_named(named, replace(reading, plugin_files=()))
    return named if isinstance(named, list) else [named]


def refuse_edited(experiment: Experiment) -> None:
    """Refuse an experiment whose plugin files were edited after its components were loaded.

    Raises:
        PluginError: A plugin file was edited, and perhaps loaded again by another experiment.
    """
    for spec in experiment.specs():
        plugin = plugins.plugin_of(spec.cls)
        if plugin is not None and not any(plugins.is_copy_of(file, plugin) for file in experiment.plugins):
            raise PluginError(f"{plugin.path} changed since it was loaded: load the experiment again")


def _by_person(named: Sequence[str], extra: Sequence[str | Path]) -> dict[str, bool]:
    """Map the real path of each plugin to whether a person named it.

    A person names a plugin on the command line, or in a file outside a run folder.
    """
    for file in named:
        if "\0" in file:
            raise ExperimentError([Problem(("plugins",), f"{quote(file)} is not a valid path")])
    files = {_place(file): False for file in (*named, *extra)}
    return files | {_place(file): True for file in (*named, *extra) if not isinstance(file, NamedByRun)}


def _place(file: str | Path) -> str:
    return os.path.realpath(os.path.expanduser(file))
