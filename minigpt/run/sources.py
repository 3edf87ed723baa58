"""Which source files a run's numbers follow from: what its parts and the training import inside this package, and so on.

Imports are read from the text of the files and nothing is executed. A name that a package only passes on (`from
minigpt.contracts import Norm`) leads to the module that defines it, so that a run depends on what it executes and not on
all that stands beside it. The `__init__` files above a module count with their text: importing the module executes them.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import minigpt
from minigpt.registry import plugins
from minigpt.registry.spec import source_file
from minigpt.run.imports import Imports, imports_in
from minigpt.run.outside import Followed, follow

PACKAGE = Path(minigpt.__file__).parent
CORE_ROOT = "minigpt.training.session"
"""What every training begins with. It reaches the parts by their names in the experiment, never by an import."""

NO_NUMBERS: Mapping[str, str] = {
    "minigpt.training.observer": "prints what it is given",
    "minigpt.training.tensorboard": "writes down what it is given",
    "minigpt.system.lock": "holds the folder against other processes",
}
"""Modules that a training executes and that change none of its numbers, each with the reason."""


class Sources:
    """The package's source as it is now: each file is read once, so that all fingerprints are of one state.

    Args:
        texts: The text of modules, in place of that of their files.
    """

    def __init__(self, texts: Mapping[str, bytes] | None = None):
        self._texts: dict[str, bytes | None] = dict(texts or {})

    @functools.cached_property
    def core(self) -> frozenset[str]:
        """The modules that every training goes through."""
        return self.closure([CORE_ROOT])

    @functools.cached_property
    def core_fingerprint(self) -> str:
        """SHA-256 of the source that every training goes through."""
        return _digest(self._lines(self.core))

    def part_fingerprint(self, cls: type) -> str:
        """SHA-256 of the source that a component's class stands on, beside what every training goes through.

        A plugin file counts as it was when it was loaded, a package that is not ours as a whole, and both with what they
        import: of ours, and from outside (outside.py).
        """
        lines: list[str] = []
        references: set[str] = set()
        for kind in cls.__mro__:
            top = kind.__module__.partition(".")[0]
            if top in ("builtins", "abc", "typing", "torch"):
                continue
            if top == "minigpt":
                references.add(kind.__module__)
                continue
            first, found = _from_outside(kind, top)
            lines += [
                *first,
                *(f"{name} {hashlib.sha256(text).hexdigest()}" for name, text in sorted(found.files.items())),
                *sorted(found.versions),
            ]
            references |= found.references
        return _digest([*dict.fromkeys(lines), *self._lines(self.closure(references) - self.core)])

    def closure(self, references: Iterable[str]) -> frozenset[str]:
        """The modules that dotted names lead to, what those import, and the packages that all of them stand in."""
        found: set[str] = set()
        pending = list(references)
        seen: set[str] = set()
        while pending:
            reference = pending.pop()
            if reference in seen:
                continue
            seen.add(reference)
            module = self._defining_module(reference)
            if module is not None and module not in found and module not in NO_NUMBERS:
                found.add(module)
                pending += self._imports(module).used
        above = {name.rsplit(".", depth)[0] for name in found for depth in range(1, name.count(".") + 1)}
        return frozenset(found | above)

    def _defining_module(self, reference: str) -> str | None:
        """The module that a dotted name leads to; None for one that is not ours."""
        words = reference.split(".")
        if words[0] != "minigpt":
            return None
        length = next(n for n in range(len(words), 0, -1) if self._text(".".join(words[:n])) is not None)
        module, rest = ".".join(words[:length]), words[length:]
        if rest and _is_package(module):
            passed_on = self._imports(module).bound.get(rest[0])
            if passed_on is not None:
                return self._defining_module(".".join([passed_on, *rest[1:]]))
        return module

    def _imports(self, module: str) -> Imports:
        return imports_in(self._text(module) or b"", module, is_package=_is_package(module))

    def _text(self, module: str) -> bytes | None:
        """A module's source; None where there is no such module."""
        if module not in self._texts:
            path = _path(module)
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            self._texts[module] = file.read_bytes() if file.is_file() else None
        return self._texts[module]

    def _lines(self, modules: Iterable[str]) -> list[str]:
        return [f"{name} {hashlib.sha256(self._text(name) or b'').hexdigest()}" for name in sorted(modules)]


@functools.cache
def _is_package(module: str) -> bool:
    return _path(module).is_dir()


def _path(module: str) -> Path:
    return PACKAGE.joinpath(*module.split(".")[1:])


def _from_outside(cls: type, top: str) -> tuple[list[str], Followed]:
    """What a class that is not ours stands on: lines for its plugin or package as a whole, and the modules beside that."""
    if plugin := plugins.plugin_of(cls):  # as it was executed: the file may be another since, or gone
        texts = {f"{plugins.FILE_PACKAGE}/plugin/{name}": text for name, text in plugin.files.files.items()}
        return [f"plugin {plugin.sha256}"], follow(references_in(texts))
    own = plugins.distributions_of(top)
    package = sys.modules.get(top)
    if hasattr(package, "__path__") and (start := getattr(package, "__file__", None)):
        folder = Path(start).parent
        files = (file for file in sorted(folder.rglob("*.py")) if file.is_file())
        texts = {f"{top}/{file.relative_to(folder).as_posix()}": file.read_bytes() for file in files}
        line = f"{top} {plugins.source_fingerprint(folder)}"
        return [line], follow(references_in(texts), own=own, counted=[top])
    file = source_file(cls)
    lines = [f"{top} {plugins.source_fingerprint(file)}"] if file else []
    return lines, follow([cls.__module__], own=own)


def references_in(texts: Mapping[str, bytes]) -> Iterator[str]:
    """What files from outside import, as dotted names.

    Args:
        texts: Contents by the path of the file below the folder that is on `sys.path`. Only Python files are read.
    """
    for path, text in texts.items():
        words = PurePosixPath(path).with_suffix("").parts
        is_package = words[-1] == "__init__"
        if path.endswith(".py"):
            yield from imports_in(text, ".".join(words[:-1] if is_package else words), is_package=is_package).used


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
