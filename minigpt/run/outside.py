"""The modules that a part from outside imports, which its numbers follow from as well.

Imports are read from the text and nothing is executed. A module counts by its content wherever it lies: beside the part, in
its distribution, in a namespace package, or in a folder that the part put on `sys.path`. What another distribution has
installed counts by that distribution's version. The standard library, torch and numpy are left out: a run records their
versions itself.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from minigpt.registry import plugins
from minigpt.run.imports import imports_in

NOT_FOLLOWED = frozenset({*sys.stdlib_module_names, "minigpt", plugins.FILE_PACKAGE, "torch", "numpy"})
"""Top-level modules that are counted elsewhere, or not at all."""


@dataclass(frozen=True)
class Followed:
    """What references to modules from outside lead to.

    Attributes:
        files: The content of each module, by its dotted name.
        versions: Other distributions, as `name version`.
        references: The dotted names that the modules use, those of this package among them.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    versions: set[str] = field(default_factory=set)
    references: set[str] = field(default_factory=set)


def follow(references: Iterable[str], *, own: Collection[str] = (), counted: Collection[str] = ()) -> Followed:
    """The modules that dotted names lead to, the packages above them, and what all of these import.

    Args:
        references: Dotted names.
        own: Distributions whose modules count by their content although they are installed.
        counted: Top-level modules that are counted already.
    """
    found, pending = Followed(), list(references)
    while pending:
        reference = pending.pop()
        top = reference.partition(".")[0]
        if reference in found.references:
            continue
        found.references.add(reference)
        if top in NOT_FOLLOWED or top in counted:
            continue
        for module in _along(reference):
            installed = _installed_by(module, own)
            if installed:
                found.versions.add(installed)
                break
            if module.file is None or module.name in found.files:
                continue
            found.files[module.name] = module.file.read_bytes()
            pending += module.imports(found.files[module.name])
    return found


@dataclass(frozen=True)
class _Module:
    """A module as the import system finds it.

    Attributes:
        name: Its dotted name.
        file: Its file; None for a namespace package and for one that is compiled in.
        folders: Where its own modules are looked for; None unless it is a package.
    """

    name: str
    file: Path | None
    folders: Sequence[str] | None

    def imports(self, text: bytes) -> Iterable[str]:
        """The dotted names that its text uses."""
        is_source = self.file is not None and self.file.suffix == ".py"
        return imports_in(text, self.name, is_package=self.folders is not None).used if is_source else ()


def _along(reference: str) -> Iterator[_Module]:
    """The modules that a dotted name goes through, until a word of it is no module."""
    words, folders = reference.split("."), None
    for length in range(1, len(words) + 1):
        module = _find(".".join(words[:length]), folders)
        if module is None:
            return
        yield module
        if module.folders is None:
            return
        folders = module.folders


def _find(name: str, folders: Sequence[str] | None) -> _Module | None:
    """A module that is imported, or that would be; it is not imported for this."""
    module = sys.modules.get(name)
    if module is not None:
        return _Module(name, _file(getattr(module, "__file__", None)), _folders(getattr(module, "__path__", None)))
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, folders)
        except (ImportError, AttributeError, ValueError):  # a finder of an older form, or a name that it refuses
            continue
        if spec is not None:
            return _Module(name, _file(spec.origin), _folders(spec.submodule_search_locations))
    return None


def _file(place: str | None) -> Path | None:
    return Path(place) if place and Path(place).is_file() else None


def _folders(places: Iterable[str] | None) -> list[str] | None:
    return None if places is None else list(places)


def _installed_by(module: _Module, own: Collection[str]) -> str:
    """The distributions, other than the part's own, that have installed a module's package: `name version`, or nothing."""
    if module.file is None:
        return ""
    names = [name for name in plugins.distributions_of(module.name.partition(".")[0]) if name not in own]
    file = module.file
    return ", ".join(found for name in sorted(set(names)) if (found := _installed_in(name, file)))


@functools.lru_cache(maxsize=4096)
def _installed_in(name: str, file: Path) -> str | None:
    """`name version` if the file lies where the distribution was installed to, and not in a folder that is worked on."""
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return None
    is_copy = found.read_text("RECORD") is not None and file.is_relative_to(str(found.locate_file("")))
    return f"{name} {found.version}" if is_copy else None
