"""Find the source files that a run's numbers depend on: its parts, the training, and everything that they import.

Imports are read from the text of the files, and no code is executed. A name that a package re-exports (`from
minigpt.contracts import Norm`) leads to the module that defines it. So a run depends only on modules that it uses, not on
their neighbours. The text of the `__init__` files above a module counts too, because importing the module executes them.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import minigpt
from minigpt.errors import RunError
from minigpt.registry import REGISTRY, Spec, plugins
from minigpt.registry.spec import source_file
from minigpt.run.imports import Imports, imports_in
from minigpt.run.outside import Followed, follow

PACKAGE = Path(minigpt.__file__).parent
CORE_ROOT = "minigpt.training.session"
"""The module that every training starts in. It finds parts by their names in the experiment, never by an import."""

NO_NUMBERS: Mapping[str, str] = {
    "minigpt.training.observer": "only prints values",
    "minigpt.training.tensorboard": "only records values",
    "minigpt.system.lock": "only locks the folder against other processes",
}
"""Modules that a training executes but that do not change its numbers, each with the reason."""


class Sources:
    """The package's present source. Each file is read only once, so that all fingerprints are from the same state.

    Args:
        texts: Texts of modules, used in place of their files.
    """

    def __init__(self, texts: Mapping[str, bytes] | None = None):
        self._texts: dict[str, bytes | None] = dict(texts or {})

    @functools.cached_property
    def core(self) -> frozenset[str]:
        """The modules that every training executes."""
        return self.closure([CORE_ROOT])

    @functools.cached_property
    def core_fingerprint(self) -> str:
        """SHA-256 of the source that every training executes."""
        return _digest(self._lines(self.core))

    def part_fingerprint(self, cls: type) -> str:
        """SHA-256 of the source that a component's class depends on, without the source that every training executes.

        A plugin file is counted as it was when it was loaded, and a package from outside as a whole. Both are counted
        with everything that they import, from this package and from outside (outside.py).
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
            own_lines, followed = _from_outside(kind, top)
            lines += [
                *own_lines,
                *(f"{name} {hashlib.sha256(text).hexdigest()}" for name, text in sorted(followed.files.items())),
                *sorted(followed.versions),
            ]
            references |= followed.references
        return _digest([*dict.fromkeys(lines), *self._lines(self.closure(references, without=self.core))])

    def closure(self, references: Iterable[str], *, without: frozenset[str] = frozenset()) -> frozenset[str]:
        """The modules that dotted names lead to, everything that they import, and the packages that contain them.

        Args:
            references: The dotted names.
            without: A closure to leave out.
        """
        modules: set[str] = set()
        pending = list(references)
        seen: set[str] = set()
        while pending:
            reference = pending.pop()
            if reference in seen:
                continue
            seen.add(reference)
            module = self._defining_module(reference)
            if module is not None and module not in modules and module not in NO_NUMBERS and module not in without:
                modules.add(module)
                pending += self._imports(module).used
        above = {name.rsplit(".", depth)[0] for name in modules for depth in range(1, name.count(".") + 1)}
        return frozenset((modules | above) - without)

    def _defining_module(self, reference: str) -> str | None:
        """The module that a dotted name leads to; None if it is not in this package."""
        words = reference.split(".")
        if words[0] != "minigpt":
            return None
        length = next(n for n in range(len(words), 0, -1) if self._text(".".join(words[:n])) is not None)
        module, rest = ".".join(words[:length]), words[length:]
        if rest and _is_package(module):
            reexported = self._imports(module).bound.get(rest[0])
            if reexported is not None:
                return self._defining_module(".".join([reexported, *rest[1:]]))
        return module

    def _imports(self, module: str) -> Imports:
        return imports_in(self._text(module) or b"", module, is_package=_is_package(module))

    def _text(self, module: str) -> bytes | None:
        """A module's source; None if the module does not exist."""
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


def refuse_edited_modules(specs: Iterable[Spec[object]]) -> None:
    """Refuse components from outside if a module that they have imported was edited since they were registered.

    Raises:
        RunError: Its file is newer than the registration, so the text on the disk is not what this process executes.
    """
    for spec in specs:
        registered = REGISTRY.registered_ns(spec.cls)
        top = spec.cls.__module__.partition(".")[0]
        if registered is None or top == "minigpt":
            continue
        for file in _imported_files(spec.cls, top):
            if file.stat().st_mtime_ns > registered:
                raise RunError(
                    f'{file} changed since {spec.family} "{spec.name}" was loaded, and this process uses the earlier text; '
                    "start it again"
                )


def _imported_files(cls: type, top: str) -> Iterator[Path]:
    """The files that a class from outside depends on and that this process has imported."""
    if top != plugins.FILE_PACKAGE:
        of_package = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == top]
        files = (Path(place) for module in of_package if (place := getattr(module, "__file__", None)))
        yield from (file for file in files if file.is_file())
    yield from (file for name, file in _from_outside(cls, top)[1].places.items() if name in sys.modules)


def _from_outside(cls: type, top: str) -> tuple[list[str], Followed]:
    """The source of a class from outside: lines for its whole plugin or package, and the other modules it uses."""
    if plugin := plugins.plugin_of(cls):  # as it was executed, because the file may have changed since
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
    """The imports of files from outside, as dotted names.

    Args:
        texts: Contents of the files by their paths, relative to a folder on `sys.path`. Only Python files are read.
    """
    for path, text in texts.items():
        words = PurePosixPath(path).with_suffix("").parts
        is_package = words[-1] == "__init__"
        if path.endswith(".py"):
            yield from imports_in(text, ".".join(words[:-1] if is_package else words), is_package=is_package).used


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
