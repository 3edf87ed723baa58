"""Reading an experiment: from a JSON file to an `Experiment` in which nothing is left to go wrong by name or number.

Strict JSON, then the `extends` chain merged over the defaults, then overrides, then plugins loaded, then every name and
parameter validated, then the model built once on the meta device, so that impossible combinations are found before any
memory is taken. Whatever is wrong is told as one line each, with its JSON path.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from minigpt.errors import ExperimentError, PluginError, Problem, nearest
from minigpt.experiment import Experiment
from minigpt.model import build_model_on_meta
from minigpt.reading.documents import merged
from minigpt.reading.options import AS_WRITTEN, Reading
from minigpt.reading.plugins import is_list_of_paths, load_named, read_named
from minigpt.registry import plugins
from minigpt.registry.overlay import lay_over
from minigpt.registry.paths import LocatedText, NamedByRun, run_folder_of
from minigpt.registry.problems import found, problems_of
from minigpt.system.files import refuse_surrogates

_MAX_BYTES, _MAX_CHAIN = 1 << 20, 50


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
        trust: Execute plugins that a run folder's file names, and trust them from now on; known ones need no word.

    Raises:
        ExperimentError: Anything wrong with it, a line each.
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
        documents = _with_parents(document, Path("experiment"), (), of_run=False)
    else:
        documents = _read_chain(Path(source), ())
    return _resolved(documents, where, reading)


def load_recorded(file: Path, reading: Reading = AS_WRITTEN) -> Experiment:
    """Read the experiment of a run folder; no person here has named its plugins. Errors as for `load_experiment`."""
    return _resolved(_read_chain(file, (), of_run=True), str(file), reading)


def load_without_plugins(document: Mapping[str, Any], file: Path) -> Experiment | None:
    """A run's recorded experiment from parts that are shipped or installed; None where it needs its own plugins.

    Args:
        document: What was recorded; nothing that it names is executed.
        file: Where, for messages.

    Raises:
        ExperimentError: It names no plugins, and something is wrong with it.
    """
    alone = {key: value for key, value in document.items() if key not in Experiment.file_keys}
    try:
        return _resolved([{**alone, "plugins": []}], str(file), AS_WRITTEN)
    except (ExperimentError, PluginError):
        if document.get("plugins") or document.get("extends"):
            return None
        raise


def _resolved(documents: Sequence[dict[str, Any]], where: str, reading: Reading) -> Experiment:
    changes: dict[str, Any] = {}
    for override in reading.overrides:  # one document: a name may come after the parameters
        changes = lay_over(changes, _spelled_out(changes, _override(override)))
    try:
        named = changes.get("plugins", _named_in(documents))
        if is_list_of_paths(named):  # else validation says what is wrong with it
            named = load_named(named, reading)
        experiment = _with_plugins_used(_validate([*documents, changes, {"plugins": named}]), reading.allow_plugins)
        _build_on_meta(experiment)
    except ExperimentError as error:
        raise ExperimentError(error.problems, where) from error
    except PluginError as error:
        raise PluginError(f"{where}: {error}") from error
    return experiment


def _with_plugins_used(experiment: Experiment, allowed: bool) -> Experiment:
    """Name every plugin file whose components are used, also those that this process had loaded before."""
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


def _spelled_out(before: Any, said: Any) -> Any:
    """A component's name in its short form, spelled out where its parameters were set before: both are of one component."""
    if isinstance(before, dict) and isinstance(said, dict):
        return {key: _spelled_out(before.get(key), value) for key, value in said.items()}
    return {"name": said} if isinstance(before, dict) and isinstance(said, str) else said


def _override(text: str) -> dict[str, Any]:
    """`a.b=1` as `{"a": {"b": 1}}`."""
    path, equals, raw = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ExperimentError([Problem((), f'found "{text}"; allowed: path=value, such as training.max_iters=100')], "--set")
    try:
        value = _strict_json(raw)
    except (ValueError, RecursionError):
        value = raw
    try:
        refuse_surrogates([keys, value])
    except ValueError as error:
        raise ExperimentError([Problem((), f"{'.'.join(map(repr, keys))}: {error}")], "--set") from error
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


# ------------------------------------------------------------------------------------------------------------- reading


def _read_chain(path: Path, seen: tuple[Path, ...], of_run: bool = False) -> list[dict[str, Any]]:
    """Read a file and what it extends; the furthest ancestor comes first.

    Args:
        path: The file.
        seen: Those that led to it.
        of_run: Whether one of those, or it, lies in a run folder.
    """
    here = Path(os.path.realpath(path))  # and not Path.resolve, which raises on a loop of links
    if here in seen:
        cycle = " -> ".join(file.name for file in (*seen[seen.index(here) :], here))
        raise ExperimentError([Problem(("extends",), f"goes round in a circle: {cycle}")], str(path))
    if len(seen) >= _MAX_CHAIN:
        raise ExperimentError([Problem(("extends",), f"goes over more than {_MAX_CHAIN} files")], str(path))
    document = _read_file(path)
    return _with_parents(document, path, (*seen, here), of_run or run_folder_of(path) is not None)


def _with_parents(document: dict[str, Any], path: Path, seen: tuple[Path, ...], of_run: bool) -> list[dict[str, Any]]:
    """A document, said in the file `path`, after those it extends."""
    parent = document.pop("extends", None)
    document.pop("$schema", None)
    document.setdefault("description", "")  # a parent's would not be true of its child
    if "name" not in document:
        document["name"] = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:100] or "experiment"
    plugin_files = document.get("plugins", [])
    if isinstance(plugin_files, list):
        kind = NamedByRun if of_run else str
        document["plugins"] = [kind(_beside(path, file)) if isinstance(file, str) else file for file in plugin_files]
    if parent is None:
        return [document]
    if not isinstance(parent, str):
        raise ExperimentError([Problem(("extends",), f"found {found(parent)}; allowed: the path of a JSON file")], str(path))
    parent_path = Path(_beside(path, parent))
    if not os.path.exists(parent_path):  # and not Path.exists, which raises on a name that is too long
        raise ExperimentError([Problem(("extends",), f"{found(parent)}: {_no_such_file(parent_path)}")], str(path))
    return [*_read_chain(parent_path, seen, of_run), document]


def _named_in(documents: Sequence[dict[str, Any]]) -> Any:
    """The plugins of all documents: a parent's parts need the parent's."""
    named: Any = []
    for document in documents:
        files = document["plugins"]
        named = [*named, *files] if isinstance(named, list) and isinstance(files, list) else files
    return named


def _beside(path: Path, other: str) -> str:
    """Where `other` is, said in the file `path`."""
    return str(path.parent / os.path.expanduser(other))


def _read_file(path: Path) -> dict[str, Any]:
    source = str(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):  # a pipe or a device may never end
            raise ExperimentError([Problem((), "no ordinary file")], source)
        if status.st_size > _MAX_BYTES:
            raise ExperimentError([Problem((), f"larger than {_MAX_BYTES:,} bytes: not an experiment")], source)
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ExperimentError([Problem((), f"not UTF-8 (byte {error.start}); save the file as UTF-8")], source) from error
    except OSError as error:
        raise ExperimentError([Problem((), _missing(path, error))], source) from error
    except ValueError as error:  # a NUL in the path
        raise ExperimentError([Problem((), f"is no path: {error}")], source) from error
    try:
        document = _strict_json(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ExperimentError([Problem((), f"not JSON: {error.msg} ({place})")], source) from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ExperimentError([Problem((), f"not JSON as experiments use it: {reason}")], source) from error
    if not isinstance(document, dict):
        raise ExperimentError([Problem((), f"found {found(document)}; allowed: an object in {{ }}")], source)
    try:
        return dict(_locate(document, path.absolute().parent))
    except RecursionError as error:
        raise ExperimentError([Problem((), "nested too deeply")], source) from error


def _missing(path: Path, error: OSError) -> str:
    return _no_such_file(path) if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"


def _no_such_file(path: Path) -> str:
    folder = path.parent
    files = [file.name for file in folder.glob("*.json")] if os.path.isdir(folder) else []
    return f"there is no such file{nearest(path.name, files)}"


def _strict_json(text: str) -> Any:
    """JSON to the letter: no duplicate keys, no NaN, no numbers that overflow to infinity, no halves of characters."""

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f'the key "{key}" stands twice in one object')
            seen.add(key)
        return dict(pairs)

    def no_constants(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    def finite(digits: str) -> float:
        number = float(digits)
        if not math.isfinite(number):
            raise ValueError(f"{digits} is too large a number")
        return number

    value = json.loads(text, object_pairs_hook=no_duplicates, parse_constant=no_constants, parse_float=finite)
    refuse_surrogates(value)
    return value


def _locate(value: Any, folder: Path) -> Any:
    """Texts remember the folder of the file they stood in, so that path parameters can start there."""
    if isinstance(value, str):
        return LocatedText.of(value, folder)
    if isinstance(value, list):
        return [_locate(item, folder) for item in value]
    if isinstance(value, dict):
        return {key: _locate(item, folder) for key, item in value.items()}
    return value


def named_plugins(path: Path, reading: Reading = AS_WRITTEN, *, of_run: bool = False) -> list[Any]:
    """What a file and those that it extends have under "plugins", as paths from here; nothing is loaded.

    Args:
        path: The file.
        reading: Whether plugins that a run names are trusted.
        of_run: Whether it is a run's.

    Raises:
        ExperimentError: It cannot be read.
        TrustError: A run folder's file names a plugin that is not trusted.
    """
    named = _named_in(_read_chain(path, (), of_run))
    if is_list_of_paths(named):
        read_named(named, replace(reading, plugin_files=()))
    return named if isinstance(named, list) else [named]


# ------------------------------------------------------------------------------------------------------------- loading


def _build_on_meta(experiment: Experiment) -> None:
    """Build everything once without memory, so that what constructors refuse is found now."""
    training = experiment.training
    builds: tuple[Callable[[], object], ...] = (
        experiment.data.build,
        experiment.tokenizer.build,
        training.optimizer.build,
        lambda: training.schedule.build(training.max_iters),
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
