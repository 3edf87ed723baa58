"""What `minigpt new` writes: a working component, an experiment that uses it, and a test of both.

The component and the test are copies of Python files in `templates/` with the name filled in.
"""

from __future__ import annotations

import importlib.resources
import json
import keyword
import os
import re
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt.errors import MinigptError, nearest
from minigpt.experiment import Experiment
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY, plugins

_SCHEMA = Path("docs/experiment.schema.json")
_BASELINE = Path("experiments/baseline.json")
_MOST_LETTERS = 40
_OUTSIDE_THE_MODEL = {
    "tokenizer": ("tokenizer",),
    "dataset": ("data",),
    "batching": ("training", "batching"),
    "optimizer": ("training", "optimizer"),
    "schedule": ("training", "schedule"),
    "sampler": ("sampling", "sampler"),
}


class ScaffoldError(MinigptError):
    """The requested files cannot be written; nothing was."""


@dataclass(frozen=True)
class Scaffold:
    """The files that were written.

    Attributes:
        family: The component's family.
        name: The component's name.
        plugin: The file of the component.
        experiment: The experiment that names it.
        test: The file of its tests.
        base: The file that the experiment extends; None for the defaults.
        seed: The seed of the experiment, which names its run folder.
    """

    family: str
    name: str
    plugin: Path
    experiment: Path
    test: Path
    base: Path | None
    seed: int


def create(family: str, name: str, *, into: Path = Path(), base: Path | None = None) -> Scaffold:
    """Write `plugins/NAME.py`, `experiments/NAME.json` and `tests/test_NAME.py`: all three, or nothing.

    Args:
        family: Such as `attention`.
        name: Name of the component, the files and the run.
        into: The folder of `plugins`, `experiments` and `tests`; missing folders are created.
        base: The experiment to extend; None for `experiments/baseline.json` if it exists, else for the defaults.

    Raises:
        RegistryError: There is no such family.
        ScaffoldError: The name cannot be used, a file exists already, or the part does not fit the base.
    """
    plugins.load_installed()
    kind = REGISTRY.family(family)
    _check_name(family, name)
    if base is None:
        base = into / _BASELINE if (into / _BASELINE).is_file() else None
    elif not base.is_file():
        known = [file.name for file in base.parent.glob("*.json")] if base.parent.is_dir() else []
        raise ScaffoldError(f"--base {base}: there is no such file{nearest(base.name, known)}")
    plugin, experiment = into / "plugins" / f"{name}.py", into / "experiments" / f"{name}.json"
    test = into / "tests" / f"test_{name}.py"
    files = {
        plugin: _filled_in(f"{family}.py", name, _class_name(name, kind.base.__name__)),
        experiment: _experiment(family, plugin, experiment.parent, into / _SCHEMA, base),
        test: _filled_in(f"tests/{family}.py", name, ""),
    }
    taken = [str(file) for file in files if os.path.lexists(file)]
    if taken:
        raise ScaffoldError(f"{', '.join(taken)} exists already; nothing was written. Choose another name, or --into FOLDER")
    _check_test_name(test, into / "tests")
    with ExitStack() as undo:
        for file, text in files.items():
            _write(file, text, undo)
        loaded = _loaded(experiment, family, name, base)
        undo.pop_all()  # success: keep the files
    return Scaffold(family, name, plugin, experiment, test, base, loaded.seed)


# --------------------------------------------------------------------------------------------------------------- names


def _check_name(family: str, name: str) -> None:
    objection = _objection(name)
    if objection:
        raise ScaffoldError(f'the name "{name}" {objection}{_suggestion(family, name)}')
    if REGISTRY.has(family, name):
        place = REGISTRY.entry(family, name).place
        raise ScaffoldError(f'{family} "{name}" is registered already, by {place}{_suggestion(family, f"my_{name}")}')


def _objection(name: str) -> str | None:
    """The reason why a name cannot be used; None if it can."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or len(name) > _MOST_LETTERS:
        allowed = f'lower-case letters, digits and "_", a letter first, {_MOST_LETTERS} at most'
        return f"cannot name a component, a file and a test; allowed: {allowed}"
    if keyword.iskeyword(name):
        return "is a Python keyword"
    if re.fullmatch(r"conftest|test_.*|.*_test", name):
        return f"would make plugins/{name}.py a file that pytest takes for tests"
    # If plugins/ is on the import path (pytest --doctest-modules, mypy), plugins/NAME.py is the module NAME.
    if name in sys.stdlib_module_names or plugins.distributions_of(name):
        return f"is the name of a Python module, which plugins/{name}.py would hide"
    return None


def _suggestion(family: str, name: str) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()  # CamelCase
    plain = re.sub(r"[^a-z0-9]+", "_", words).strip("_")[: _MOST_LETTERS - len(family) - 1].strip("_")
    own = (plain, f"{plain}_{family}", f"{family}_{plain}") if plain else ()
    for candidate in (*own, f"my_{family}"):
        if not _objection(candidate) and not REGISTRY.has(family, candidate):
            return f'; how about "{candidate}"?'
    return ""


def _class_name(name: str, kind: str) -> str:
    """`TokenShiftAttention` from `token_shift` and `Attention`; the ending avoids names of imports."""
    camel = "".join(word.capitalize() for word in name.split("_"))
    return camel if camel.endswith(kind) and camel != kind else camel + kind


def _check_test_name(test: Path, folder: Path) -> None:
    """Refuse a test file that pytest would take for the same module as another; it cannot collect both."""
    for other in sorted(folder.rglob(test.name)):
        if _module(other) == _module(test):
            raise ScaffoldError(
                f"pytest would take {test} for the same module {_module(test)} as {other}; nothing was written. "
                f"Choose another name, or put an __init__.py into {other.parent}"
            )


def _module(file: Path) -> str:
    """The module name that pytest gives a test file: its path from the outermost package."""
    parts, folder = [file.stem], file.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.absolute().name)
        folder = folder.absolute().parent
    return ".".join(parts)


# --------------------------------------------------------------------------------------------------------------- texts


def _filled_in(template: str, name: str, class_name: str) -> str:
    text = (importlib.resources.files(__name__) / "templates" / template).read_text("utf-8")
    return text.replace("MyPart", class_name).replace("my_part", name)


def _experiment(family: str, plugin: Path, folder: Path, schema: Path, base: Path | None) -> str:
    """An experiment that differs from the base in one part; its paths are relative to its own folder."""
    name = plugin.stem
    part: Any = name
    for key in reversed(_OUTSIDE_THE_MODEL.get(family, ("model", family))):
        part = {key: part}
    document = {
        **({"$schema": _seen_from(folder, schema)} if schema.is_file() else {}),
        **({"extends": _seen_from(folder, base)} if base else {}),
        "name": name,
        "description": f"{base.name if base else 'The documented defaults'} with the {family} of plugins/{plugin.name}.",
        "plugins": [_seen_from(folder, plugin)],
        **part,
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in document.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _seen_from(folder: Path, file: Path) -> str:
    """The path of a file relative to `folder`, with links resolved."""
    parent = os.path.realpath(file.parent)  # not of the file itself: its own `extends` is relative to where the link is
    return Path(os.path.relpath(os.path.join(parent, file.name), os.path.realpath(folder))).as_posix()


# ------------------------------------------------------------------------------------------------------------- writing


def _write(file: Path, text: str, undo: ExitStack) -> None:
    """Write a new file; `undo` removes it, and the folders created for it."""
    missing = [folder for folder in (file.parent, *file.parent.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir()
        undo.callback(_remove_if_empty, folder)
    try:
        with file.open("x", encoding="utf-8", newline="\n") as handle:
            undo.callback(file.unlink)
            handle.write(text)
    except FileExistsError as error:  # created since the check
        raise ScaffoldError(f"{file} exists already; nothing was written") from error


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # it has other files
        folder.rmdir()


def _loaded(file: Path, family: str, name: str, base: Path | None) -> Experiment:
    """Load the written experiment, to check that the part loads, fits the base and is used."""
    try:
        with REGISTRY.temporarily():
            experiment = load_experiment(file)
    except MinigptError as error:
        hint = f"nothing was written, because it cannot load over {base or 'the defaults'}; choose another with --base FILE"
        raise ScaffoldError(f"{error}\n{hint}") from error
    if not any((spec.family, spec.name) == (family, name) for spec in experiment.specs()):
        raise ScaffoldError(
            f"{base}: its model.layers choose the {family} of every layer, so {name} would not be used: "
            "nothing was written; choose another with --base FILE"
        )
    return experiment
